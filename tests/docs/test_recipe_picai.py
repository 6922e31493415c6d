"""docs/recipes/picai.md, run on phantoms in PI-CAI's own layout: to the score of picai_eval and an ONNX file."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from picai_tree import PicaiStudy, write_picai_tree
from recipe_pages import RECIPES, ROOT, Ran, RecipePage, smaller

from prostate_mim import LesionClassifier, OnnxClassifier, read_volume
from prostate_mim.config import read_config
from prostate_mim.errors import UsageError
from prostate_mim.manifest import read_manifest
from prostate_mim.pretraining import PretrainConfig
from prostate_mim.studies import open_all
from prostate_mim.study import read_study

picai_eval = pytest.importorskip("picai_eval", reason="picai_eval is not installed; pip install picai_eval")

# What is smaller than on the page, so that it takes seconds on a CPU; nothing else differs. Three of the five archives
# are unpacked, and the network is one that is exported fast: five of the page's take a minute.
THERE = 3
SMALLER_PAGE = {
    "--workers 8": "--workers 0",
    '--size "20 128 128" --epochs 20 --freeze-epochs 2': '--size "8 32 32" --epochs 2 --freeze-epochs 1',
}
SMALLER_CONFIG = {
    'architecture = "resenc-s"': 'architecture = "resnet10"',
    "size_zyx = [16, 96, 96]": "size_zyx = [8, 32, 32]", "steps = 20000": "steps = 3", "batch = 32": "batch = 4",
    "warmup = 1000": "warmup = 1", "workers = 4": "workers = 0", "health_every = 1000": "health_every = 3",
}  # fmt: skip
SMALLER_HEALTH = "\n[health]\nstudies = 2\nwindows = 2\n"

Made = tuple[RecipePage, dict[str, Ran], list[PicaiStudy]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The page, run; what became of each line, by its first words; the studies."""
    folder = tmp_path_factory.mktemp("picai")
    studies = write_picai_tree(folder, folds=THERE)
    smaller(RECIPES / "picai.toml", folder / "picai.toml", SMALLER_CONFIG, SMALLER_HEALTH)
    page = RecipePage(
        "picai", folder, SMALLER_PAGE, left_out={"prostate-mim study": "five pretrainings; its configuration is read"}
    )
    return page, {" ".join(one.text.split()[:3]): one for one in page.run()}, studies


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_folds_and_labels_are_the_publishers(made: Made) -> None:
    """The manifest's folds are those of splits.json, its labels the marksheet's, its delineations of both sets."""
    page, ran, studies = made
    rows = {row["study_id"]: row for row in rows_of(page.folder / "picai.csv")}
    splits = json.loads((page.folder / "splits.json").read_text())
    official = {key: fold for fold, parts in enumerate(splits) for key in parts["val"]}
    assert {key: int(row["fold"]) for key, row in rows.items()} == official
    assert {key: row["label"] == "1" for key, row in rows.items()} == {one.key: one.positive for one in studies}
    assert all(bool(row["lesion_mask"]) == (row["label"] == "1") for row in rows.values())
    others = {row["lesion_source"] for key, row in rows.items() for one in studies if one.key == key and not one.expert}
    assert others == {"human_expert/Pooch25"}
    assert "but no file in this label source" not in ran["prostate-mim data import"].out
    assert "7 studies of 6 patients" in ran["prostate-mim data import"].out
    assert "left out: none\n" in ran["prostate-mim data import"].out and "`left out: none`" in page.text
    assert not (page.folder / "picai-skipped.csv").exists()
    assert "nothing flagged" in ran["prostate-mim data check"].out


def test_probabilities_are_out_of_fold(made: Made) -> None:
    """A row a study, in the manifest's folds; that pretraining saw the images stands in the results."""
    page, ran, studies = made
    predictions = rows_of(page.folder / "runs/csPCa/predictions.csv")
    manifest = rows_of(page.folder / "picai.csv")
    assert [(row["fold"], row["label"]) for row in predictions] == [(row["fold"], row["label"]) for row in manifest]
    results = json.loads((page.folder / "runs/csPCa/results.json").read_text())
    assert len(results["auroc_folds"]) == THERE
    assert len(results["allowed_overlap"]) == len(studies)
    assert all("the model was trained on this study" in line for line in results["allowed_overlap"])
    said = [line for line in ran["prostate-mim finetune --manifest"].err.splitlines() if "allowed overlap" in line]
    assert len(said) == 1 and f"{len(studies)} findings ({len(studies)} model saw it): row 1; row 2; row 3" in said[0]
    assert (page.folder / "runs/mim/report.html").is_file()


def test_picai_evals_figure_is_ours(made: Made) -> None:
    """AUROC of the files by picai_eval, of the results, and as printed; a file too many or too few would show."""
    page, ran, studies = made
    results = json.loads((page.folder / "runs/csPCa/results.json").read_text())
    metrics = picai_eval.evaluate_folder(page.folder / "picai_out", verbose=0, num_parallel_calls=1)
    assert metrics.num_cases == len(studies)
    assert metrics.num_lesions >= sum(one.positive for one in studies)
    assert metrics.auroc == pytest.approx(results["auroc_pooled"]["value"], abs=1e-6)
    assert metrics.score == pytest.approx((metrics.auroc + metrics.AP) / 2)
    said = ran["prostate-mim picai runs/csPCa"].out
    assert f"prostate-mim: AUROC {metrics.auroc:.4f}\n" in said
    assert f"picai_eval: AUROC {metrics.auroc:.4f}, AP {metrics.AP + 0.0:.4f}, score {metrics.score:.4f} " in said
    assert f"{len(studies)} studies, {sum(one.positive for one in studies)} of them positive" in said
    assert "left out, positive but without a delineation: no study" in said  # Pooch25 has what the experts have not
    assert len(list((page.folder / "picai_out").iterdir())) == 2 * len(studies)


def test_every_probability_is_by_the_model_that_had_not_seen_the_patient(made: Made) -> None:
    """A member a fold, by fold: its probability is that of predictions.csv and of the files; another's is not."""
    page, _, _ = made
    members = LesionClassifier.from_pretrained(page.folder / "runs/csPCa").members
    assert len(members) == THERE
    predictions = rows_of(page.folder / "runs/csPCa/predictions.csv")
    listed = read_manifest(page.folder / "picai.csv", level="study")
    for study, row in list(zip(open_all(listed), predictions, strict=True))[:3]:
        found = [member.predict(study.volume, study.centre_mm_lps).probability for member in members]
        own, told = found.pop(int(row["fold"])), float(row["probability"])
        assert own == pytest.approx(told, abs=1e-4)
        assert max(abs(other - told) for other in found) > 1e-3
        drawn = read_volume(page.folder / f"picai_out/{row['row']}_detection_map.nii.gz")
        assert float(drawn.voxels.max()) == pytest.approx(told, abs=1e-6)


def test_the_file_is_the_ensemble(made: Made) -> None:
    """ONNX Runtime gives torch's probability of a whole study; verify says so of the golden sample."""
    page, ran, _ = made
    assert "differs from torch by" in ran["prostate-mim verify csPCa.onnx"].out
    study = next(open_all(read_manifest(page.folder / "picai.csv", level="study")))
    model = LesionClassifier.from_pretrained(page.folder / "runs/csPCa")
    assert len(model.others) == THERE - 1
    expected = model.predict(study.volume, study.centre_mm_lps).probability
    deployed = OnnxClassifier(page.folder / "csPCa.onnx", device="cpu")
    assert deployed.predict(study.volume, study.centre_mm_lps).probability == pytest.approx(expected, abs=1e-5)


def test_the_strict_study_is_the_same_recipe() -> None:
    """It is read as a study, pretrains per fold, and differs in nothing from picai.toml and the page's command."""
    study = read_study(RECIPES / "picai-strict.toml")
    alone = read_config(RECIPES / "picai.toml", PretrainConfig)
    (task,) = study.tasks
    assert (task.level, task.pretraining_scope, Path(task.manifest).name) == ("study", "per-fold", "picai.csv")
    (own,) = study.arms[1].pretrain_configs("resenc-s", alone.loop.seed)
    for name in ("spec", "region_zyx", "jitter_zyx", "block_mm_zyx", "method", "augmentation"):
        assert getattr(own, name) == getattr(alone, name), name
    for name in ("steps", "batch", "learning_rate", "warmup", "precision"):
        assert getattr(own.loop, name) == getattr(alone.loop, name), name
    (command,) = [text for _, text in RecipePage("picai", Path()).steps() if text.startswith("prostate-mim finetune")]
    options = dict(re.findall(r'--([a-z-]+) ("[^"]+"|[^-\s]\S*)', command))
    tuned = study.finetune
    assert " ".join(map(str, task.spec.size_zyx)) == options["size"].strip('"')
    said = [options[name] for name in ("epochs", "freeze-epochs", "batch", "layer-decay")]
    assert said == [str(n) for n in (tuned.epochs, tuned.freeze_epochs, tuned.loop.batch, tuned.loop.layer_decay)]


def estimate() -> ModuleType:
    """docs/recipes/estimate.py."""
    spec = importlib.util.spec_from_file_location("estimate", RECIPES / "estimate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["estimate"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_table_of_costs_is_what_its_script_computes(made: Made) -> None:
    """On the page as printed; each measured figure stands on the page it names; a GPU's speed is asked for."""
    page, _, _ = made
    script = estimate()
    config = read_config(RECIPES / "picai.toml", PretrainConfig)
    found = script.rows(config)
    rest = page.text.partition(script.MARKS[0])[2]
    assert rest.partition(script.MARKS[1])[0] == script.table(found), "run python docs/recipes/estimate.py --write"
    for figure in script.FIGURES:
        assert figure.text in " ".join((ROOT / figure.page).read_text().split()), figure
    told = {what: value for what, value, _ in found}
    assert told["hours: `pretrain`, 1 GPU"] == "not measured"
    assert told["disk: `data prepare`"] == "2.8 GB"
    with pytest.raises(UsageError, match="its architecture is resnet10, that of the estimate resenc-s"):
        script.read_tried(page.folder / "runs/mim", config)


def test_a_run_fills_the_row_of_its_own_machine(made: Made, tmp_path: Path) -> None:
    """CPU hours by a run on a CPU, with its batch; GPU hours by one on a GPU; a run of no step is refused."""
    page, _, _ = made
    script = estimate()
    run, own = page.folder / "runs/mim", read_config(page.folder / "picai.toml", PretrainConfig)
    tried = script.read_tried(run, own)
    assert (tried.batch, tried.precision) == (4, "bf16")
    if tried.cores is None:
        pytest.skip("this machine trained it on a GPU: the row of CPUs is not filled")
    seen = own.loop.steps * own.loop.batch / 3600
    rows = {what: (value, how) for what, value, how in script.rows(own, replace(tried, crops_a_second=0.0153))}
    hours, how = rows[f"hours: `pretrain`, {tried.cores} CPU cores, no GPU"]
    assert hours == f"{seen / 0.0153:.1f}" and "at 0.015 crops a second, your run of 4 crops a step, bf16" in how
    assert rows["hours: `pretrain`, 1 GPU"][0] == "not measured"
    shown = {
        what: (value, how) for what, value, how in script.rows(own, replace(tried, crops_a_second=123.4, cores=None))
    }
    assert "at 120 crops a second" in shown["hours: `pretrain`, 1 GPU"][1]
    assert shown["hours: `pretrain`, 2 CPU cores, no GPU"][1].endswith("(docs/masked-engine.md)")
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("metrics.jsonl", "checkpoints", "release"))
    with pytest.raises(UsageError, match="no step"):
        script.read_tried(tmp_path / "run", own)


def test_the_scripts_crop_is_the_pages() -> None:
    """Its constants are those of the page's command."""
    script, text = estimate(), RecipePage("picai", Path()).text
    assert f'--size "{" ".join(map(str, script.CROP_ZYX))}" --epochs {script.EPOCHS}' in text

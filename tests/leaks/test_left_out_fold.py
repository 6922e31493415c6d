"""An encoder that was pretrained without a fold: it has not seen it, may be tested on it, and on no other."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from prostate_mim import LesionClassifier, PreMIM, finetune, pretrain, read_volume
from prostate_mim.config import read_config
from prostate_mim.engine.settings import LoopConfig
from prostate_mim.errors import ManifestError, UsageError
from prostate_mim.finetuning import FinetuneConfig
from prostate_mim.pretraining import PretrainConfig
from prostate_mim.spec import InputSpec
from prostate_mim.volume.voxel_hash import voxel_hash

LOOP = LoopConfig(steps=1, batch=2, warmup=1, device="cpu", trackers=())
WITHOUT_1 = PretrainConfig(
    spec=InputSpec(size_zyx=(8, 32, 32)), region_zyx=(8, 32, 32), jitter_zyx=(0, 0, 0), loop=LOOP, leave_out_fold=1
)
LINEAR = FinetuneConfig(penalties=(0.01, 0.1), loop=dataclasses.replace(LOOP, steps=LoopConfig().steps))
Edit = Callable[[dict[str, str]], None]


@pytest.fixture(scope="module")
def table(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a lesion of each of nine patients, in folds 0, 1 and 2, both labels in each; edited."""
    folder = tmp_path_factory.mktemp("tables")
    with cohort.open(newline="") as stream:
        found = list({row["patient_id"]: row for row in csv.DictReader(stream)}.values())[:9]
    names = ("study_id", "patient_id", "t2w", "lesion_id", "position_mm_lps")

    def write(name: str, edit: Edit = lambda row: None) -> Path:
        with (folder / name).open("w", newline="") as stream:
            writer = csv.DictWriter(stream, [*names, "label", "fold"])
            writer.writeheader()
            for n, row in enumerate(found):
                made = {key: row[key] for key in names} | {"t2w": str(cohort.parent / row["t2w"])}
                made |= {"label": str(n // 3 % 2), "fold": str(n % 3)}
                edit(made)
                writer.writerow(made)
        return folder / name

    return write


@pytest.fixture(scope="module")
def manifest(table: Callable[..., Path]) -> Path:
    return table("m.csv")


@pytest.fixture(scope="module")
def run(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretraining without fold 1."""
    folder = tmp_path_factory.mktemp("runs") / "mim"
    pretrain(manifest, folder, WITHOUT_1)
    return folder


def model_of(run: Path) -> LesionClassifier:
    return LesionClassifier(PreMIM.from_pretrained(run))


def test_the_release_knows_only_what_was_seen(manifest: Path, run: Path) -> None:
    """studies.json lists six of nine studies; card, record and configuration say what was left out."""
    seen = PreMIM.from_pretrained(run).studies.pretraining
    assert seen is not None and len(seen.digests) == 6
    assert len(json.loads((run / "release" / "studies.json").read_text())["pretraining"]["digests"]) == 6
    with manifest.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [seen.contains(voxel_hash(read_volume(row["t2w"]))) for row in rows] == [row["fold"] != "1" for row in rows]
    training = json.loads((run / "release" / "config.json").read_text())["details"]["training"]
    assert (training["leave_out_fold"], training["studies"]) == (1, 6)
    assert json.loads((run / "run.json").read_text())["counts"]["studies"] == 6
    assert read_config(run / "config.toml", PretrainConfig) == WITHOUT_1


def test_it_is_tested_on_that_fold_and_on_no_other(manifest: Path, run: Path, tmp_path: Path) -> None:
    """All folds in turn, or one that it has seen: refused for their rows. The left-out one: no overlap, and no word."""
    model = model_of(run)
    with pytest.raises(ManifestError, match=r"row 1: the model was trained on this study.*first of 6 findings"):
        finetune(model, manifest, tmp_path / "a", LINEAR)
    with pytest.raises(ManifestError, match=r"row 3: the model was trained on this study.*first of 3 findings"):
        finetune(model, manifest, tmp_path / "a", dataclasses.replace(LINEAR, test_fold=2))
    done = finetune(model, manifest, tmp_path / "b", dataclasses.replace(LINEAR, test_fold=1))
    assert done.allowed_overlap == ()
    # What comes out has learnt from the other two folds, and can be tested on that one again, but not on theirs.
    studies = LesionClassifier.from_pretrained(done.release).studies
    assert studies.pretraining == model.studies.pretraining
    assert studies.fine_tuning is not None and len(studies.fine_tuning.digests) == 6
    again = LesionClassifier.from_pretrained(done.release)
    assert finetune(again, manifest, tmp_path / "c", dataclasses.replace(LINEAR, test_fold=1)).allowed_overlap == ()
    with pytest.raises(ManifestError, match="the model was trained on this study"):
        finetune(again, manifest, tmp_path / "d", dataclasses.replace(LINEAR, test_fold=0))
    allowed = finetune(model, manifest, tmp_path / "e", dataclasses.replace(LINEAR, test_fold=2), allow_overlap=True)
    assert [message.split(":")[0] for message in allowed.allowed_overlap] == ["row 3", "row 6", "row 9"]


def test_an_encoder_that_has_seen_the_fold_is_refused(manifest: Path, tmp_path: Path) -> None:
    """The control: the same pretraining with nothing left out."""
    pretrain(manifest, tmp_path / "mim", dataclasses.replace(WITHOUT_1, leave_out_fold=None))
    with pytest.raises(ManifestError, match=r"row 2: the model was trained on this study"):
        finetune(model_of(tmp_path / "mim"), manifest, tmp_path / "a", dataclasses.replace(LINEAR, test_fold=1))


def test_a_fold_seen_before_stays_seen(manifest: Path, run: Path, tmp_path: Path) -> None:
    """Weights that begin at an encoder of fold 1 and leave it out later have seen it all the same."""
    seen = dataclasses.replace(WITHOUT_1, leave_out_fold=0, begin="release", begin_source=str(run / "release"))
    pretrain(manifest, tmp_path / "mim", seen)
    with pytest.raises(ManifestError, match=r"row 1: the model was trained on this study"):
        finetune(model_of(tmp_path / "mim"), manifest, tmp_path / "a", dataclasses.replace(LINEAR, test_fold=0))


def test_the_same_image_or_person_on_both_sides(
    table: Callable[..., Path], manifest: Path, run: Path, tmp_path: Path
) -> None:
    """A copy of a training image in the test fold, under another patient: refused. Nobody is in two folds here."""
    with manifest.open(newline="") as stream:
        first = next(csv.DictReader(stream))
    copied = table(
        "copied.csv",
        lambda row: (
            row.update(t2w=first["t2w"], position_mm_lps=first["position_mm_lps"])
            if row["fold"] == "1" and row["label"] == "1"
            else None
        ),
    )
    config = dataclasses.replace(LINEAR, test_fold=1)
    with pytest.raises(ManifestError, match=r"rows 1, 5: the same voxels under 2 patient ids.*of 2 findings"):
        finetune(model_of(run), copied, tmp_path / "a", config)

    labels = tmp_path / "picai_labels"
    labels.mkdir()
    (labels / "ProstateX-mapping.json").write_text(json.dumps({"ProstateX-0000_07-07-2011": "11373_1001396"}))

    def person(first: str, second: str) -> Path:
        """Two ids of one person: the first patients of two folds."""
        names = {first: "ProstateX-0000", second: "11373"}
        done: set[str] = set()

        def edit(row: dict[str, str]) -> None:
            if row["fold"] in names and row["fold"] not in done:
                done.add(row["fold"])
                row["patient_id"] = names[row["fold"]]

        return table(f"person-{first}-{second}.csv", edit)

    with pytest.raises(ManifestError, match=r"rows 1, 2: one person under several patient ids in 2 folds"):
        finetune(model_of(run), person("0", "1"), tmp_path / "b", config, picai_labels=labels)
    # Both ids learnt from, none tested on: as good as one id. Without a test fold it would be a finding.
    both = person("0", "2")
    assert finetune(model_of(run), both, tmp_path / "c", config, picai_labels=labels).allowed_overlap == ()
    with pytest.raises(ManifestError, match=r"rows 1, 3: one person under several patient ids"):
        finetune(model_of(run), both, tmp_path / "d", LINEAR, picai_labels=labels)


def test_what_cannot_be_left_out(table: Callable[..., Path], manifest: Path, tmp_path: Path) -> None:
    """No fold at all, one row without, no such fold, nothing else: refused before a folder is made."""
    cases = {
        r"no row has a fold, so fold 1 cannot be left out": (lambda row: row.update(fold=""), ManifestError, 1),
        r"row 5: fold is empty": (
            lambda row: row.update(fold="") if (row["fold"], row["label"]) == ("1", "1") else None, ManifestError, 1,
        ),
        r"fold is 1 in every row": (lambda row: row.update(fold="1"), ManifestError, 1),
        r"no row is in fold 3; its folds are 0, 1, 2": (lambda row: None, UsageError, 3),
    }  # fmt: skip
    for message, (edit, kind, fold) in cases.items():
        with pytest.raises(kind, match=message):
            pretrain(table("bad.csv", edit), tmp_path / "run", dataclasses.replace(WITHOUT_1, leave_out_fold=fold))
    with pytest.raises(UsageError, match="leave_out_fold is -1"):
        dataclasses.replace(WITHOUT_1, leave_out_fold=-1)
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_leaves_out_the_same_fold(manifest: Path, run: Path, tmp_path: Path) -> None:
    """Another fold is another run; the control: its own goes on."""
    for name in ("checkpoint-00000001.safetensors", "config.toml", "run.json", "metrics.jsonl"):
        assert (run / name).exists(), sorted(path.name for path in run.iterdir())
    copy = tmp_path / "run"
    copy.mkdir()
    for path in run.iterdir():
        if path.is_file():
            os.link(path, copy / path.name)
    with pytest.raises(UsageError, match=r"--resume with another configuration \(.*leave_out_fold 1 -> 2"):
        pretrain(manifest, copy, dataclasses.replace(WITHOUT_1, leave_out_fold=2), resume=True)
    with pytest.raises(UsageError, match=r"--resume with another configuration \(.*leave_out_fold 1 -> None"):
        pretrain(manifest, copy, dataclasses.replace(WITHOUT_1, leave_out_fold=None), resume=True)
    assert pretrain(manifest, copy, read_config(copy / "config.toml", PretrainConfig), resume=True).is_dir()

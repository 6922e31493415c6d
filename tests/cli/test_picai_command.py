"""``prostate-mim picai``: a run on whole studies as picai_eval's folder; by rows, by the right member, whole or not."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from outcomes import refused
from picai_tree import write_picai_tree

from prostate_mim import LesionClassifier, PreMIM, finetune
from prostate_mim.cli.picai import _lines as summary
from prostate_mim.datasets import import_dataset
from prostate_mim.engine.settings import LoopConfig
from prostate_mim.errors import ManifestError
from prostate_mim.finetuning import FinetuneConfig
from prostate_mim.hub.release import write_sums
from prostate_mim.manifest import read_manifest
from prostate_mim.metrics import auroc
from prostate_mim.saliency import explain
from prostate_mim.saliency.picai import PicaiRun, write_run_picai
from prostate_mim.spec import InputSpec
from prostate_mim.studies import open_all
from prostate_mim.volume import Volume, read_mask, read_volume, write_volume

Run = Callable[..., object]
LINEAR = FinetuneConfig(
    level="study", penalties=(10.0,), flips=True, ensemble=True, loop=LoopConfig(device="cpu", seed=3, trackers=())
)
HERE = importlib.util.find_spec("picai_eval") is not None


@dataclass
class Made:
    """Five studies in the publisher's two folds, the positive one of fold 1 without a delineation; two runs on them."""

    manifest: Path
    run: Path
    single: Path

    @property
    def rows(self) -> list[dict[str, str]]:
        with self.manifest.open(newline="") as stream:
            return list(csv.DictReader(stream))

    @property
    def told(self) -> dict[str, dict[str, str]]:
        with (self.run / "predictions.csv").open(newline="") as stream:
            return {row["row"]: row for row in csv.DictReader(stream)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("picai")
    write_picai_tree(folder, folds=2)
    import_dataset(
        "picai", folder / "images", folder / "picai.csv", labels=folder / "picai_labels",
        label_source="human_expert/resampled",
    )  # fmt: skip
    torch.manual_seed(0)
    encoder = PreMIM("resnet10", InputSpec(size_zyx=(8, 48, 48)), name="small").eval()
    for name, ensemble in (("run", True), ("single", False)):
        model = LesionClassifier(encoder, pooling="mean")
        finetune(model, folder / "picai.csv", folder / name, replace(LINEAR, ensemble=ensemble))
    return Made(folder / "picai.csv", folder / "run", folder / "single")


@pytest.fixture(scope="module")
def written(made: Made, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PicaiRun]:
    """The run's folder, made once."""
    folder = tmp_path_factory.mktemp("written") / "out"
    return folder, write_run_picai(made.run, made.manifest, folder, device="cpu")


def beside(out: Path) -> list[str]:
    """What lies in the folder around ``out``, hidden files too."""
    return sorted(os.listdir(out.parent))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_folder_is_the_run(made: Made, run: Run, tmp_path: Path) -> None:
    """Two files a study, of its row: the out-of-fold probability, the delineation; names and words tell no patient."""
    got = run("picai", made.run, "--manifest", made.manifest, "--out", tmp_path / "out", "--device", "cpu", "--json")
    assert got.code == 0, got.err
    if HERE:  # what it prints of itself is not on stdout
        figures = got.json["picai_eval"]
        assert figures["auroc"] == pytest.approx(got.json["auroc"])
        assert figures["score"] == pytest.approx((figures["auroc"] + figures["average_precision"]) / 2)
        assert figures["cases"] == got.json["studies"]
    (left_out,) = [n for n, row in enumerate(made.rows, 1) if row["label"] == "1" and not row["lesion_mask"]]
    assert (got.json["studies"], got.json["positives"], got.json["left_out"]) == (4, 2, [left_out])
    kept = [number for number in range(1, 6) if number != left_out]
    assert set(files_of(tmp_path / "out")) == {f"{n}_{end}.nii.gz" for n in kept for end in ("detection_map", "label")}
    assert beside(tmp_path / "out") == ["out"]
    labels, scores = [], []
    for number, study in enumerate(open_all(read_manifest(made.manifest, level="study")), 1):
        if number == left_out:
            continue
        detection = read_volume(tmp_path / "out" / f"{number}_detection_map.nii.gz")
        marked = read_mask(tmp_path / "out" / f"{number}_label.nii.gz").voxels
        lesion = study.read_mask("lesion")
        assert np.array_equal(marked > 0, np.zeros(marked.shape) if lesion is None else lesion.voxels > 0)
        assert set(np.unique(marked)) <= {0, 1} and bool(marked.any()) == (study.row.label == 1)
        labels.append(study.row.label)
        scores.append(float(made.told[str(number)]["probability"]))
        assert set(np.unique(detection.voxels)) == {0, np.float32(scores[-1])}
    assert got.json["auroc"] == pytest.approx(auroc(labels, scores))
    told = got.out + got.err
    assert not any(row[name] in told for row in made.rows for name in ("study_id", "patient_id"))


def test_places_are_by_the_member_that_had_not_seen_the_patient(made: Made, written: tuple[Path, PicaiRun]) -> None:
    """The candidate's middle is the hottest place for that member, not for the other."""
    model = LesionClassifier.from_pretrained(made.run)
    away: dict[str, list[float]] = {"own": [], "other": []}
    for number, study in enumerate(open_all(read_manifest(made.manifest, level="study")), 1):
        path = written[0] / f"{number}_detection_map.nii.gz"
        if not path.exists():
            continue
        detection = read_volume(path)
        fold = int(made.told[str(number)]["fold"])
        judges = {"own": model.members[fold], "other": model.members[1 - fold]}
        for name, judge in judges.items():
            place = explain(judge, study.volume, study.centre_mm_lps, method="hirescam").hottest_mm_lps
            index = np.rint(detection.geometry.position_to_index(place or study.centre_mm_lps)).astype(int)
            middle = np.argwhere(detection.voxels > 0).mean(0)
            away[name].append(float(np.abs(middle - index).max()))
    assert max(away["own"]) <= 2
    assert max(away["other"]) > 4


@pytest.mark.skipif(not HERE, reason="picai_eval is not installed; pip install picai_eval")
def test_picai_evals_auroc_is_printed_beside_ours(made: Made, run: Run, tmp_path: Path) -> None:
    """The same number twice, and a score, in lines for a person."""
    got = run("picai", made.run, "--manifest", made.manifest, "--out", tmp_path / "a")
    (ours,) = re.findall(r"^prostate-mim: AUROC (\S+)$", got.out, re.M)
    (theirs, score) = re.findall(r"^picai_eval: AUROC (\S+), AP \S+, score (\S+) \(4 studies, ", got.out, re.M)[0]
    assert ours == theirs and 0 <= float(score) <= 1
    assert "left out, positive but without a delineation: 1 study (row 4)" in got.out


def test_an_empty_map_is_said_with_what_it_means() -> None:
    """Which studies, what is unaffected and what is not; nothing where there is none."""
    made = PicaiRun(Path("out"), 4, 2, (), (), (2, 3), 0.75)
    (line,) = [line for line in summary(made, None) if "empty map" in line]
    assert line.startswith("2 studies (row 2, 3): empty map") and "probability is unaffected, AP suffers" in line
    assert not any("empty map" in line for line in summary(replace(made, unplaced=()), None))


def test_without_picai_eval_one_line_says_how(
    made: Made, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is complete, and our AUROC is printed."""
    monkeypatch.setitem(sys.modules, "picai_eval", None)  # what Python itself does where an import is forbidden
    got = run("picai", made.run, "--manifest", made.manifest, "--out", tmp_path / "a")
    assert got.code == 0 and len(files_of(tmp_path / "a")) == 8
    assert "prostate-mim: AUROC " in got.out and "picai_eval: AUROC" not in got.out
    assert "pip install picai_eval" in got.out.splitlines()[-1]


def copied(made: Made, folder: Path) -> Made:
    """A run and a manifest to be damaged; paths of images stay where they are."""
    folder.mkdir(exist_ok=True)
    shutil.copytree(made.run, folder / "run")
    rows = [
        {name: str(made.manifest.parent / cell) if cell and (name == "t2w" or name.endswith("_mask")) else cell
         for name, cell in row.items()}
        for row in made.rows
    ]  # fmt: skip
    found = Made(folder / "picai.csv", folder / "run", made.single)
    write_rows(found.manifest, rows)
    return found


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def test_rows_are_told_by_number_and_masks_by_place(made: Made, written: tuple[Path, PicaiRun], tmp_path: Path) -> None:
    """Lines of predictions.csv the other way round, a mask on a smaller grid: the same folder, bit for bit."""
    twin = copied(made, tmp_path)
    lines = (twin.run / "predictions.csv").read_text().splitlines()
    (twin.run / "predictions.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    rows = twin.rows
    number = next(n for n, row in enumerate(rows, 1) if row["lesion_mask"])
    lesion = read_volume(rows[number - 1]["lesion_mask"])
    z, y, x = (slice(*found) for found in _bounds(lesion))
    origin = lesion.geometry.index_to_position((z.start, y.start, x.start))
    cut = Volume(lesion.voxels[z, y, x], replace(lesion.geometry, origin_mm_lps=tuple(map(float, origin))))
    write_volume(cut, tmp_path / "cut.nii.gz")
    rows[number - 1]["lesion_mask"] = str(tmp_path / "cut.nii.gz")
    write_rows(twin.manifest, rows)
    folder, plain = written
    moved = write_run_picai(twin.run, twin.manifest, tmp_path / "moved", device="cpu")
    assert files_of(folder) == files_of(tmp_path / "moved")
    assert (plain.moved, moved.moved) == ((), (number,))


def _bounds(lesion: Volume) -> list[tuple[int, int]]:
    places = np.argwhere(lesion.voxels > 0)
    return [(int(a), int(b) + 1) for a, b in zip(places.min(0), places.max(0), strict=True)]


def test_a_stop_leaves_nothing(made: Made, run: Run, tmp_path: Path) -> None:
    """Ctrl-C at the third study, and a damaged image at the last: files were there, and then none is."""
    seen: list[int] = []

    def stop(done: int, total: int) -> None:
        seen.append(sum(len(files) for _, _, files in os.walk(tmp_path)))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_run_picai(made.run, made.manifest, tmp_path / "out", device="cpu", progress=stop)
    assert seen == [0, 2, 4]
    assert beside(tmp_path / "out") == []
    twin = copied(made, tmp_path)
    rows = twin.rows
    whole = Path(rows[-1]["t2w"]).read_bytes()
    (tmp_path / "cut.mha").write_bytes(whole[: len(whole) // 2])
    rows[-1]["t2w"] = str(tmp_path / "cut.mha")
    write_rows(twin.manifest, rows)
    refused(run("picai", twin.run, "--manifest", twin.manifest, "--out", tmp_path / "out"), 9, "row 5 (t2w)")
    assert beside(tmp_path / "out") == ["cut.mha", "picai.csv", "run"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    refused(run("picai", made.run, "--manifest", made.manifest, "--out", tmp_path / "out"), 2, "not empty")
    assert beside(tmp_path / "out" / "mine") == ["mine"]


def test_runs_that_have_no_such_models_are_refused(made: Made, run: Run, tmp_path: Path) -> None:
    """One line that says which option of finetune is missing; a folder that is no run."""
    out = tmp_path / "out"
    refused(
        run("picai", made.single, "--manifest", made.manifest, "--out", out), 2, "trained on every patient",
        "run finetune with --ensemble",
    )  # fmt: skip
    refused(run("picai", tmp_path, "--manifest", made.manifest, "--out", out), 3, "no finished finetune run is here")
    refused(run("picai", made.run, "--manifest", tmp_path / "no.csv", "--out", out), 3, "no such manifest")
    twin = copied(made, tmp_path)
    config = json.loads((twin.run / "release/config.json").read_text())
    config["details"]["finetuning"]["level"] = "lesion"
    (twin.run / "release/config.json").write_text(json.dumps(config))
    write_sums(twin.run / "release")
    refused(run("picai", twin.run, "--manifest", made.manifest, "--out", out), 2, "use finetune --level study")
    assert not out.exists()


def test_a_run_that_tested_one_fold(made: Made, tmp_path: Path) -> None:
    """Its own studies are written, and no others; a manifest without that fold is refused."""
    model = LesionClassifier(LesionClassifier.from_pretrained(made.run).members[0].encoder, pooling="mean")
    model.details.pop("finetuning", None)
    finetune(model, made.manifest, tmp_path / "run", replace(LINEAR, ensemble=False, test_fold=0), allow_overlap=True)
    found = write_run_picai(tmp_path / "run", made.manifest, tmp_path / "out", device="cpu")
    assert [row["fold"] for row in made.rows] == ["0", "0", "0", "1", "1"]
    assert (found.studies, found.positives, found.left_out) == (3, 2, ())
    assert {name.split("_")[0] for name in files_of(tmp_path / "out")} == {"1", "2", "3"}
    twin = copied(made, tmp_path / "twin")
    write_rows(twin.manifest, [{**row, "fold": "1"} for row in twin.rows])
    with pytest.raises(ManifestError, match="has no row 1 in fold 0, which"):
        write_run_picai(tmp_path / "run", twin.manifest, tmp_path / "no", device="cpu")


def test_another_manifest_is_refused(made: Made, run: Run, tmp_path: Path) -> None:
    """A row more, a row less, another label or fold; other images under the same labels; rows, never a patient."""
    out, twin = tmp_path / "out", copied(made, tmp_path)
    rows = twin.rows
    benign = [n for n, row in enumerate(rows) if row["label"] == "0"]
    swapped = [dict(row) for row in rows]
    for name in rows[0]:
        if name not in ("fold", "patient_id"):
            swapped[benign[0]][name], swapped[benign[1]][name] = rows[benign[1]][name], rows[benign[0]][name]
    other = next(row["fold"] for row in rows if row["fold"] != rows[benign[0]]["fold"])
    changes = {
        "picai.csv row 6: ": [*rows, {**rows[0], "study_id": "new", "patient_id": "new"}],
        "has no row 5, which": rows[:-1],
        f"row {benign[0] + 1}: label 1, but 0 in": _with(rows, benign[0], label="1", isup=""),
        f"row {benign[0] + 1}: fold {other}, but": _with(rows, benign[0], fold=other),
        "the model of fold": swapped,
        "no positive study has a lesion_mask": [{**row, "lesion_mask": ""} for row in rows],
    }
    for words, changed in changes.items():
        write_rows(twin.manifest, changed)
        got = run("picai", made.run, "--manifest", twin.manifest, "--out", out)
        refused(got, 9, words)
        assert not any(row[name] in got.err for row in rows for name in ("study_id", "patient_id"))
        assert not out.exists()


def _with(rows: list[dict[str, str]], place: int, **cells: str) -> list[dict[str, str]]:
    """With other cells of a row, where the manifest has such a column."""
    return [{**row, **{k: v for k, v in cells.items() if k in row and n == place}} for n, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda text: text.replace("probability", "p"), "line 2: expected row,fold,label,probability"),
        (lambda text: re.sub(r"0\.\d+\n", "nan\n", text, count=1), "line 2: expected"),
        (lambda text: re.sub(r"0\.\d+\n", "1.5\n", text, count=1), "line 2: expected"),
        (lambda text: text + text.splitlines()[1] + "\n", "line 7: row 1 is there twice"),
        (lambda text: text.splitlines()[0] + "\n", "holds no row"),
        (lambda text: "".join(re.sub(r"^(\d+),1,", r"\1,0,", line) for line in text.splitlines(True)), "has 1 folds"),
    ],
)  # fmt: skip
def test_damaged_predictions_are_refused(
    edit: Callable[[str], str], words: str, made: Made, run: Run, tmp_path: Path
) -> None:
    """Each with its line; nothing is written."""
    twin = copied(made, tmp_path)
    path = twin.run / "predictions.csv"
    path.write_text(edit(path.read_text()))
    got = run("picai", twin.run, "--manifest", made.manifest, "--out", tmp_path / "out")
    refused(got, 2 if "folds" in words else 9, words)
    assert not (tmp_path / "out").exists()

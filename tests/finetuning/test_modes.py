"""finetune from a manifest to a release: every target, level and mode, and what the results say of them."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from prostate_mim import LesionClassifier, PreMIM, finetune
from prostate_mim.engine.runs import prepare_rows, region_of
from prostate_mim.engine.settings import LoopConfig
from prostate_mim.errors import ManifestError, UsageError
from prostate_mim.finetuning import FinetuneConfig, predict_regions
from prostate_mim.finetuning.linear import at_limit
from prostate_mim.manifest import read_manifest
from prostate_mim.metrics import auroc
from prostate_mim.studies import open_all

LOOP = LoopConfig(batch=8, warmup=1, device="cpu", seed=3, trackers=())
LINEAR = FinetuneConfig(folds=2, penalties=(0.01, 0.1), loop=LOOP)
Edit = Callable[[dict[str, str]], dict[str, str]]


@pytest.fixture(scope="module")
def model(small_encoder: Path) -> LesionClassifier:
    return LesionClassifier(PreMIM.from_pretrained(small_encoder))


def edited(cohort: Path, folder: Path, edit: Edit) -> Path:
    """The cohort's manifest with further columns."""
    with cohort.open(newline="") as stream:
        rows = [edit({**row, "t2w": str(cohort.parent / row["t2w"])}) for row in csv.DictReader(stream)]
    for row in rows:
        row.update({name: str(cohort.parent / cell) for name, cell in row.items() if name.endswith("_mask") and cell})
    with (folder / "m.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "m.csv"


def graded(row: dict[str, str]) -> dict[str, str]:
    return {**row, "isup": "3" if row["label"] == "1" else "1"}


def test_a_linear_probe_with_everything(
    cohort: Path, model: LesionClassifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ordinal, calibrated, mirrored, an ensemble: the release is the folds' classifiers, and gives their mean."""
    manifest = edited(cohort, tmp_path, graded)
    config = dataclasses.replace(
        LINEAR, target="isup", calibrate=True, flips=True, ensemble=True, aggregate="noisy-or", class_weight=True
    )
    run = finetune(model, manifest, tmp_path / "run", config)
    warned = [line for line in capsys.readouterr().err.splitlines() if " is the limit" in line]
    assert len(warned) == len({value > 1 for value in run.temperatures if at_limit(value)})
    released = LesionClassifier.from_pretrained(run.release)
    assert [float(member.temperature) for member in released.members] == list(run.temperatures)
    assert (released.layout.members, released.layout.target) == (2, "isup")
    assert released.details["finetuning"]["penalties"] == [0.01, 0.1]
    assert {float(member.temperature) for member in released.members} != {1.0}
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["aggregate"] == "noisy-or"
    assert found["temperatures"] == {"folds": list(run.temperatures), "release": None}  # it is the folds' classifiers
    assert found["evaluation"]["lesion"]["overall"]["auroc"]["value"] == pytest.approx(run.pooled.value)
    by_patient = {}
    patients = [row.patient_id for row in read_manifest(manifest).rows]
    for patient, label, probability in zip(patients, run.labels, run.probabilities, strict=True):
        most, none = by_patient.get(patient, (0, 1.0))
        by_patient[patient] = max(most, label), none * (1 - probability)
    labels, none = (np.array(values) for values in zip(*by_patient.values(), strict=True))
    assert found["evaluation"]["patient"]["overall"]["auroc"]["value"] == pytest.approx(auroc(labels, 1 - none))
    # Each out-of-fold probability is that of the member of its fold, with flips; the release's is the mean of both.
    wide = model.spec.with_size((10, 44, 44))
    regions = [region_of(one) for one in prepare_rows(read_manifest(manifest), wide).rows]
    alone = np.stack([predict_regions(one, regions, "cpu", flips=True) for one in released.members])
    own = np.abs(alone - np.array(run.probabilities)) < 1e-4
    folds = read_folds(tmp_path / "run")
    assert own[folds, np.arange(len(folds))].all()
    assert not own[1 - folds, np.arange(len(folds))].any()
    study = next(open_all(read_manifest(manifest)))
    each = [one.predict(study.volume, study.centre_mm_lps, flips=True).probability for one in released.members]
    together = released.predict(study.volume, study.centre_mm_lps, flips=True).probability
    assert together == pytest.approx(np.mean(each), abs=1e-5)


def read_folds(run: Path) -> np.ndarray:
    with (run / "predictions.csv").open(newline="") as stream:
        return np.array([int(row["fold"]) for row in csv.DictReader(stream)])


def test_full_with_everything(cohort: Path, model: LesionClassifier, tmp_path: Path) -> None:
    """Zones, focal loss, class weights, freezing, patience, calibration, an average of weights, few labels."""
    manifest = edited(cohort, tmp_path, lambda row: {**row, "zone": "PZ" if row["label"] == "1" else ""})
    config = dataclasses.replace(
        LINEAR, mode="full", epochs=2, freeze_epochs=1, patience=1, inner_folds=2, loss="focal", class_weight=True,
        zone_auxiliary=0.3, calibrate=True, loop=dataclasses.replace(LOOP, ema=0.9, layer_decay=0.7),
    )  # fmt: skip
    run = finetune(model, manifest, tmp_path / "run", config)
    names = {path.name for path in (tmp_path / "run").iterdir() if path.is_dir()}
    assert names >= {"fold-0", "fold-0-frozen", "fold-1", "fold-1-frozen", "final", "final-frozen", "release"}
    released = LesionClassifier.from_pretrained(run.release)
    assert not any("zone" in name for name in released.state_dict())
    assert float(released.temperature) != 1
    lines = [json.loads(line) for line in (tmp_path / "run" / "final" / "metrics.jsonl").read_text().splitlines()]
    assert sum("held_out_loss" in line for line in lines) == 1
    assert not list((tmp_path / "run").glob("*/checkpoint-*"))


def test_whole_studies(cohort: Path, small_encoder: Path, tmp_path: Path) -> None:
    """One row a study without any place; two rows of one study are refused."""
    encoder = PreMIM.from_pretrained(small_encoder)
    seen: set[str] = set()

    def first(row: dict[str, str]) -> dict[str, str]:
        seen.add(row["study_id"])
        return {**row, "lesion_id": "", "position_mm_lps": "", "lesion_mask": "", "label": str(len(seen) % 2)}

    config = dataclasses.replace(LINEAR, level="study")
    with pytest.raises(ManifestError, match="row"):
        finetune(LesionClassifier(encoder, pooling="mean"), edited(cohort, tmp_path, dict), tmp_path / "a", config)
    manifest = edited(cohort, tmp_path, first)
    lines = manifest.read_text().splitlines()
    kept = {line.split(",")[0]: line for line in reversed(lines[1:])}
    manifest.write_text("\n".join([lines[0], *reversed(kept.values())]) + "\n")
    run = finetune(LesionClassifier(encoder, pooling="mean"), manifest, tmp_path / "run", config)
    assert len(run.labels) == len(kept) == run.pooled.lesions
    assert LesionClassifier.from_pretrained(run.release).layout.pooling == "mean"
    assert set(json.loads((tmp_path / "run" / "results.json").read_text())["evaluation"]) == {"study", "patient"}


def test_few_labels_and_masks(cohort: Path, small_encoder: Path, tmp_path: Path) -> None:
    """A share of the patients teaches, all are predicted; a gland mask is a channel, and needed in every row."""
    encoder = PreMIM.from_pretrained(small_encoder)
    plain, few = (
        finetune(LesionClassifier(encoder), cohort, tmp_path / str(share), dataclasses.replace(LINEAR, fraction=share))
        for share in (1.0, 0.3)
    )
    assert len(few.probabilities) == len(plain.probabilities)
    assert few.probabilities != plain.probabilities
    wide = LesionClassifier(encoder, encoder.spec.with_channels("t2w", "gland"))
    seen = finetune(wide, cohort, tmp_path / "gland", LINEAR)
    assert seen.probabilities == pytest.approx(plain.probabilities, abs=1e-4)  # new channels begin at nothing
    with pytest.raises(UsageError, match="row 1: the gland mask is missing"):
        finetune(wide, edited(cohort, tmp_path, lambda row: {**row, "gland_mask": ""}), tmp_path / "none", LINEAR)


@pytest.mark.parametrize(
    ("change", "edit", "message"),
    [
        ({"target": "isup"}, lambda row: row, "isup is empty"),
        ({"target": "isup"}, lambda row: {**row, "isup": "1"}, "contradict"),
        ({"mode": "full", "zone_auxiliary": 0.1}, lambda row: {**row, "zone": ""}, "no row has a zone"),
    ],
)  # fmt: skip
def test_what_the_manifest_lacks(
    change: dict[str, object], edit: Edit, message: str, cohort: Path, model: LesionClassifier, tmp_path: Path
) -> None:
    """Said before any volume is read."""
    with pytest.raises(ManifestError, match=message):
        finetune(model, edited(cohort, tmp_path, edit), tmp_path / "run", dataclasses.replace(LINEAR, **change))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "half"}, {"target": "grade"}, {"level": "patient"}, {"aggregate": "mean"}, {"loss": "hinge"},
        {"fraction": 0.0}, {"fraction": 1.5}, {"penalties": ()}, {"penalties": (0.0,)}, {"inner_folds": 0},
        {"patience": 1}, {"loss": "focal"}, {"zone_auxiliary": 0.1}, {"freeze_epochs": 1}, {"patience": -1},
        {"mode": "full", "epochs": 2, "freeze_epochs": 2}, {"mode": "full", "patience": 1, "inner_folds": 1},
        {"mode": "attentive", "freeze_epochs": 1}, {"calibrate": True, "inner_folds": 1},
    ],
)  # fmt: skip
def test_impossible_configurations(wrong: dict[str, object]) -> None:
    """Refused when they are made, by their own names."""
    with pytest.raises(UsageError, match="|".join(wrong)):
        FinetuneConfig(**wrong)

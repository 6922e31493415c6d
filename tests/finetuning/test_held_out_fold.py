"""test_fold: one training on the other folds, tested on one; nothing of that one reaches what is released."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from prostate_mim import LesionClassifier, PreMIM, finetune
from prostate_mim.engine.settings import LoopConfig
from prostate_mim.errors import UsageError
from prostate_mim.finetuning import FinetuneConfig
from prostate_mim.finetuning.fit import plain
from prostate_mim.manifest import read_manifest
from prostate_mim.studies import open_all

LOOP = LoopConfig(batch=8, warmup=1, device="cpu", seed=3, trackers=())
LINEAR = FinetuneConfig(penalties=(0.01, 0.1), loop=LOOP)
FULL = FinetuneConfig(mode="full", epochs=1, loop=LOOP)
TEST = 4
Table = Callable[..., Path]


@pytest.fixture(scope="module")
def model(small_encoder: Path) -> LesionClassifier:
    return LesionClassifier(PreMIM.from_pretrained(small_encoder))


@pytest.fixture
def table(cohort: Path, tmp_path: Path) -> Table:
    """Write the cohort's first lesions of its patients: folds 1, 2 and 4 in turn, both labels in each."""
    with cohort.open(newline="") as stream:
        found = {row["patient_id"]: row for row in csv.DictReader(stream)}.values()
    names = ("study_id", "patient_id", "t2w", "lesion_id", "position_mm_lps")
    rows = [
        {**{name: row[name] for name in names}, "t2w": str(cohort.parent / row["t2w"]),
         "label": str(n // 3 % 2), "fold": str((1, 2, TEST)[n % 3])}
        for n, row in enumerate(found)
    ]  # fmt: skip

    def write(name: str, flip: Callable[[str], bool] = lambda fold: False, leave: str = "") -> Path:
        path = tmp_path / name
        chosen = [row for row in rows if row["fold"] != leave]
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            for row in chosen:
                label = str(1 - int(row["label"])) if flip(row["fold"]) else row["label"]
                writer.writerow({**row, "label": label})
        return path

    return write


def state_of(release: Path) -> dict[str, torch.Tensor]:
    return LesionClassifier.from_pretrained(release).state_dict()


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.parametrize("config", [LINEAR, FULL], ids=["linear", "full"])
def test_what_was_tested_is_released(
    table: Table, model: LesionClassifier, tmp_path: Path, config: FinetuneConfig
) -> None:
    """Results are of the test fold's rows alone, and are what the released classifier says of them."""
    manifest = table("m.csv")
    run = finetune(model, manifest, tmp_path / "run", dataclasses.replace(config, test_fold=TEST))
    rows = [row for row in read_manifest(manifest).rows if row.fold == TEST]
    with (tmp_path / "run" / "predictions.csv").open(newline="") as stream:
        written = list(csv.DictReader(stream))
    assert [int(row["row"]) for row in written] == [row.number for row in rows]
    assert {row["fold"] for row in written} == {str(TEST)}
    assert len(run.folds) == 1 and run.folds[0] == run.pooled
    assert run.pooled.lesions == len(rows) < len(read_manifest(manifest).rows)
    released = LesionClassifier.from_pretrained(run.release)
    studies = [study for study in open_all(read_manifest(manifest)) if study.row.fold == TEST]
    said = [released.predict(study.volume, study.centre_mm_lps).probability for study in studies]
    assert said == pytest.approx(list(run.probabilities), abs=1e-3)  # regions are kept as rounded integers
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["test_fold"] == released.details["finetuning"]["test_fold"] == TEST
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if path.is_dir()) == (
        ["fold-4", "release"] if config.mode == "full" else ["release"]
    )


def test_nothing_of_the_test_fold_decides(table: Table, model: LesionClassifier, tmp_path: Path) -> None:
    """With its labels turned round, the same classifier and probabilities; with a training label, another one."""
    config = dataclasses.replace(LINEAR, test_fold=TEST, calibrate=True)
    runs = {
        name: finetune(model, table(f"{name}.csv", flip), tmp_path / name, config)
        for name, flip in {
            "plain": lambda fold: False,
            "test": lambda fold: fold == str(TEST),
            "training": lambda fold: fold != str(TEST),
        }.items()
    }
    plain_state, test, training = (state_of(run.release) for run in runs.values())
    assert same(plain_state, test)
    assert runs["plain"].probabilities == runs["test"].probabilities
    assert runs["plain"].labels == tuple(1 - label for label in runs["test"].labels)
    assert not same(plain_state, training)  # the control
    # Nor do its images: a manifest without these rows ends in the classifier that a run without test fold releases.
    alone = finetune(model, table("alone.csv", leave=str(TEST)), tmp_path / "alone", LINEAR)
    kept = finetune(model, table("m.csv"), tmp_path / "kept", dataclasses.replace(LINEAR, test_fold=TEST))
    assert same(state_of(alone.release), state_of(kept.release))
    every = finetune(model, table("m.csv"), tmp_path / "every", LINEAR)
    assert not same(state_of(every.release), state_of(kept.release))  # the control


def test_folds_that_cannot_be_tested(table: Table, model: LesionClassifier, tmp_path: Path) -> None:
    """Unknown ones are refused by name before a folder is made; and there is no ensemble of one."""
    with pytest.raises(UsageError, match=r"m\.csv: no row is in fold 3; its folds are 1, 2, 4; choose one"):
        finetune(model, table("m.csv"), tmp_path / "run", dataclasses.replace(LINEAR, test_fold=3))
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="an ensemble"):
        dataclasses.replace(LINEAR, test_fold=TEST, ensemble=True)


def test_runs_from_before_are_the_same_runs() -> None:
    """Without a test fold a configuration says nothing of one: not to checkpoints, nor to keys of a study."""
    from prostate_mim.pretraining import PretrainConfig
    from prostate_mim.study.cache import identity_of

    assert "test_fold" not in plain(LINEAR) and "test_fold" not in identity_of(LINEAR)
    assert "leave_out_fold" not in identity_of(PretrainConfig())
    chosen = dataclasses.replace(LINEAR, test_fold=0)
    assert plain(chosen)["test_fold"] == identity_of(chosen)["test_fold"] == 0
    assert identity_of(PretrainConfig(leave_out_fold=0))["leave_out_fold"] == 0

"""The guard: what shares a person or an image with a held-out row is found, whatever it is called; the rest is not."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from prostate_mim.encoder import PreMIM
from prostate_mim.errors import ManifestError
from prostate_mim.folds import assign_folds
from prostate_mim.hub import Studies
from prostate_mim.leaks import StudyHashes
from prostate_mim.manifest import read_manifest
from prostate_mim.spec import InputSpec
from prostate_mim.store import PreparedManifest, prepare_manifest
from prostate_mim.study import StudyConfig, TaskConfig, read_study, run_study
from prostate_mim.study.arms import Planner
from prostate_mim.study.cache import Places
from prostate_mim.study.controls import planted_leak, verdicts
from prostate_mim.study.guard import check_task, manifest_of_rows, prove_data, prove_release, rows_beside
from prostate_mim.study.records import PREDICTIONS, read_table, table_path
from prostate_mim.study.tasks import ALL_FOLDS, OpenTask, open_task

SPEC = InputSpec(size_zyx=(8, 32, 32))
KEY = "0" * 32


@pytest.fixture(scope="module")
def task(study_folder: Path, store: Path) -> OpenTask:
    """The small study's task."""
    return open_task(read_study(study_folder / "study.toml").tasks[0], 0, store)


@pytest.fixture(scope="module")
def everything(study_folder: Path, store: Path) -> PreparedManifest:
    """All twelve studies, as something to pretrain on: ten of them are the task's."""
    listed = read_manifest(study_folder / "studies.csv")
    return prepare_manifest(listed, SPEC.with_size((8, 48, 48)), store)


def people(listed_rows: list[int], path: Path) -> set[str]:
    """Patient ids of some rows."""
    return {row.patient_id for row in read_manifest(path).rows if row.number in listed_rows}


def test_a_fold_is_held_out_of_the_pretraining(
    task: OpenTask, everything: PreparedManifest, study_folder: Path
) -> None:
    """What is left beside a fold has none of its patients and all others; it is proven, and all together is refused."""
    listed = read_manifest(study_folder / "studies.csv")
    for fold in task.tested:
        kept = rows_beside(task, fold, listed, everything)
        held_out = {task.manifest.rows[place].patient_id for place in task.rows_of(fold)}
        assert people(kept, listed.path) == {row.patient_id for row in listed.rows} - held_out
        proof = prove_data(task, fold, listed, everything, kept)
        assert proof.proven and proof.how.startswith(f"fold {fold} held out")
        assert proof.how.endswith(f"({len(listed.rows) - len(kept)} left out)")
        with pytest.raises(ManifestError, match=r"a person belongs to one of the two|the same voxels"):
            prove_data(task, fold, listed, everything, [row.number for row in listed.rows])
    with pytest.raises(ManifestError, match="overlap"):
        prove_data(task, ALL_FOLDS, listed, everything, kept)


def test_another_name_hides_nobody(task: OpenTask, study_folder: Path, store: Path, tmp_path: Path) -> None:
    """A held-out study under a new patient id and study id is found by its voxels; a stranger is not."""
    text = manifest_of_rows(study_folder / "studies.csv", [1])
    renamed = tmp_path / "renamed.csv"
    rows = list(csv.DictReader(text.splitlines()))
    rows[0] |= {"patient_id": "somebody", "study_id": "something"}
    with renamed.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    listed = read_manifest(renamed)
    prepared = prepare_manifest(listed, SPEC.with_size((8, 48, 48)), store)
    with pytest.raises(ManifestError, match="the same voxels as row 1 of the other manifest"):
        prove_data(task, ALL_FOLDS, listed, prepared, [1])
    strangers = read_manifest(study_folder / "others.csv")
    proof = prove_data(
        task, ALL_FOLDS, strangers, prepare_manifest(strangers, SPEC.with_size((8, 48, 48)), store), [1, 2]
    )  # fmt: skip
    assert proof.proven


def test_releases_are_asked(task: OpenTask) -> None:
    """A release that saw a held-out image is refused, one that says nothing too, one that saw others is not."""
    mine = next(iter(task.prepared.voxel_hashes.values()))
    seen = Studies(pretraining=StudyHashes.make([mine, "1" * 64], KEY))
    with pytest.raises(ManifestError, match="the model was trained on this study"):
        prove_release(task, ALL_FOLDS, seen, silent=True)
    with pytest.raises(ManifestError, match="does not say which studies"):
        prove_release(task, ALL_FOLDS, Studies(), silent=True)
    others = Studies(pretraining=StudyHashes.make(["1" * 64], KEY))
    assert prove_release(task, ALL_FOLDS, others, silent=True).proven


def test_allowed_overlap_is_written_down(study_folder: Path, store: Path) -> None:
    """Where a task allows it, the proof is none, and says why."""
    own = read_study(study_folder / "study.toml").tasks[0]
    allowing = TaskConfig(own.name, own.manifest, folds=2, spec=own.spec, allow_overlap=True)
    opened = open_task(allowing, 0, store)
    mine = next(iter(opened.prepared.voxel_hashes.values()))
    proof = prove_release(opened, ALL_FOLDS, Studies(pretraining=StudyHashes.make([mine], KEY)), silent=True)
    assert not proof.proven and len(proof.findings) == 1
    assert check_task(opened) == ()


def test_planted_leaks_are_caught(task: OpenTask, monkeypatch: pytest.MonkeyPatch) -> None:
    """The study's own control passes; with a guard that finds nothing, it fails."""
    assert planted_leak(task)["passed"] is True
    monkeypatch.setattr("prostate_mim.study.controls.same_voxels", lambda *_: [])
    found = planted_leak(task)
    assert found["passed"] is False and found["what"] == "missed: one image under two ids"


def test_one_pretraining_a_fold(study_folder: Path, store: Path, tmp_path: Path, variant: Callable[..., Path]) -> None:
    """Per fold: two encoders of other data, each recorded release free of its fold, and no cell reads the other's."""
    path = variant(
        ('pretraining_manifest = "others.csv"', 'pretraining_manifest = "studies.csv"'),
        ("folds = 2", 'folds = 2\npretraining_scope = "per-fold"'), ("seeds = [0, 1]", "seeds = [0]"),
        ("fractions = [0.5, 1.0]", "fractions = [1.0]"),
    )  # fmt: skip
    config = read_study(path)
    made = run_study(config, tmp_path, store=store)
    assert (made.done, made.failures) == (2, ())
    places, opened = Places(made.out, store), open_task(config.tasks[0], config.seed, store)
    planned = Planner(config, places).encoders(opened, config.arms[1], "resenc-s", 0)
    assert [one.fold for one in planned] == [0, 1] and planned[0].plan.key != planned[1].plan.key
    features = {}
    for one in planned:
        encoder = PreMIM.from_pretrained(one.plan.release(places))
        assert prove_release(opened, one.fold, encoder.studies, silent=True).proven
        with pytest.raises(ManifestError, match="the model was trained on this study"):  # it saw the other fold
            prove_release(opened, 1 - one.fold, encoder.studies, silent=True)
        features[one.fold] = encoder.revision
    assert features[0] != features[1]
    assert len(list((made.out / "features").glob("*.safetensors"))) == 3  # random's, and one a fold
    rows = read_table(table_path(made.out, PREDICTIONS), PREDICTIONS)
    assert {row["arm"] for row in rows} == {"random", "blocks"}
    assert all(load_file(path)["features"].ndim == 2 for path in (made.out / "features").glob("*.safetensors"))


def test_an_external_overlap_stops_before_anything_is_computed(
    store: Path, tmp_path: Path, variant: Callable[..., Path]
) -> None:
    """The task's own patients in the pretraining data: refused at once, and no encoder is made."""
    path = variant(('pretraining_manifest = "others.csv"', 'pretraining_manifest = "studies.csv"'))
    with pytest.raises(ManifestError, match="task lesions, pretraining: row"):
        run_study(read_study(path), tmp_path, store=store)
    assert [path for name in ("encoders", "pretraining", "cells") for path in (tmp_path / name).iterdir()] == []


def test_folds_do_not_follow_the_seed_of_a_cell(study_folder: Path, store: Path, task: OpenTask) -> None:
    """Folds are of the task; another seed of the study may give others."""
    config: StudyConfig = read_study(study_folder / "study.toml")
    assert open_task(config.tasks[0], config.seed, store).table.folds == task.table.folds
    listed = read_manifest(study_folder / "lesions.csv", labels=True)
    assert {tuple(assign_folds(listed, 2, seed)) for seed in range(4)} != {task.table.folds}


def row(arm: str, low: float | None, high: float | None, **values: object) -> dict[str, object]:
    """A row of results, of AUROC."""
    return {
        "task": "t", "arm": arm, "architecture": "a", "mode": "linear", "fraction": 1.0, "seed": "all",
        "metric": "auroc", "level": "lesion", "subset": "all", "value": 0.5, "low": low, "high": high, **values,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "passed"),
    [
        ([row("control:permuted:x", 0.4, 0.6)], True),
        ([row("control:permuted:x", 0.51, 0.6)], False),
        ([row("control:permuted:x", 0.3, 0.49)], False),
        ([row("control:permuted:x", None, None)], None),
        ([row("x", 0.5, 0.7), row("control:duplicated:x", 0.51, 0.7)], True),
        ([row("x", 0.5, 0.7), row("control:duplicated:x", 0.53, 0.67)], False),
        ([row("control:duplicated:x", 0.5, 0.7)], None),
    ],
)
def test_verdicts_by_hand(rows: list[dict[str, object]], passed: bool | None) -> None:
    """Intervals that cover 0.5, or not; intervals as wide as before, or narrower."""
    (found,) = verdicts(rows, {})
    assert found["passed"] is passed

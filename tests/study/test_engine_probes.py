"""Probes within a study: a value per patient, the controls of the pipeline, single folds that are held out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from prostate_mim.errors import ManifestError
from prostate_mim.study import read_study, run_study
from prostate_mim.study.records import CASES, RESULTS, read_table, table_path

PROBE = (
    'folds = 2', 'folds = 2\nkind = "voxels"\n[tasks.probe]\nregion_zyx = [12, 96, 96]\nwindows = 1\nvoxels = 60\n'
    "penalties = [0.01]\ninner_folds = 2",
)  # fmt: skip


def test_a_probe_of_voxels(store: Path, tmp_path: Path, variant: Callable[..., Path]) -> None:
    """One value a patient and metric; shuffled labels cover 0.5; where a voxel lies is no more than a control."""
    path = variant(
        PROBE, ('manifest = "lesions.csv"', 'manifest = "split.csv"'), ('\n[[arms]]\nname = "blocks"\n', ""),
        ("seeds = [0, 1]", "seeds = [0]\ncontrols = true"),
    )  # fmt: skip
    made = run_study(read_study(path), tmp_path, store=store)
    assert (made.cells, made.done) == (4, 4)
    rows = read_table(table_path(made.out, CASES), CASES)
    arms = {"random", "control:permuted:random", "control:place:random", "control:location:random"}
    assert {row["arm"] for row in rows} == arms and {row["mode"] for row in rows} == {"probe"}
    patients = {row["patient"] for row in rows}
    assert len(rows) == 4 * 2 * len(patients) and patients == set(range(len(patients)))
    results = {
        (row["arm"], row["metric"]): row
        for row in read_table(table_path(made.out, RESULTS), RESULTS)
        if row["seed"] == "all"
    }
    values = [row["value"] for row in rows if row["arm"] == "random" and row["metric"] == "auroc"]
    known = [value for value in values if value is not None]
    assert results["random", "auroc"]["value"] == pytest.approx(sum(known) / len(known))
    verdicts = {one["name"]: one for one in made.controls}
    assert set(verdicts) == {"control:permuted:random resenc-s probe", "control:planted leak"}
    assert verdicts["control:planted leak"]["passed"] is True


def test_probes_need_the_column_fold(store: Path, tmp_path: Path, variant: Callable[..., Path]) -> None:
    """Without it, each seed would have folds of its own; the manifest above has it."""
    path = variant(PROBE, ('manifest = "lesions.csv"', 'manifest = "studies.csv"'))
    with pytest.raises(ManifestError, match="row 1: fold is empty; probes need it in every row"):
        run_study(read_study(path), tmp_path, store=store)

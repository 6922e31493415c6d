"""Scores and comparisons from cells by hand; jobs that fail; tables that are damaged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prostate_mim.errors import IntegrityError, NotFoundError, ResourceError, TrainingError, UsageError
from prostate_mim.metrics import holm, mean_over_runs
from prostate_mim.study.assembly import _corrected, _pairs
from prostate_mim.study.cache import Places
from prostate_mim.study.comparisons import CompareJob
from prostate_mim.study.config import LESIONS, VOXELS, ArmConfig, StudyConfig, TaskConfig
from prostate_mim.study.groups import SeedGroup
from prostate_mim.study.jobs import Engine
from prostate_mim.study.plan import Plan
from prostate_mim.study.records import (
    CASES,
    COMPARISONS,
    PREDICTIONS,
    RESULTS,
    is_control,
    read_table,
    write_table,
)
from prostate_mim.study.scores import ScoreJob

pytestmark = pytest.mark.usefixtures("needs_pyarrow")
BLANK = {"task": "", "arm": "", "architecture": "", "mode": "", "fraction": 0.0, "seed": 0}


def cases(path: Path, values: dict[int, float | None]) -> Path:
    """A cell of a probe: one value a patient."""
    write_table(
        path, CASES, [{**BLANK, "patient": p, "metric": "auroc", "value": value} for p, value in values.items()]
    )  # fmt: skip
    return path


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """Of a study."""
    made = Places(tmp_path, tmp_path / "store")
    made.make()
    return made


def probe(places: Places, arm: str, seeds: list[dict[int, float | None]]) -> SeedGroup:
    """A group of a probe."""
    paths = [cases(places.table("cells", f"{arm}{seed}"), values) for seed, values in enumerate(seeds)]
    return SeedGroup("t", arm, "a", "probe", 1.0, VOXELS, tuple(enumerate(paths)))


FIRST: list[dict[int, float | None]] = [{0: 0.9, 1: 0.7, 2: 0.5, 3: None}, {0: 0.7, 1: 0.9, 2: 0.6, 3: 0.8}]
SECOND: list[dict[int, float | None]] = [{0: 0.6, 1: 0.6, 2: 0.5, 3: 0.9}, {0: 0.6, 1: 0.6, 2: 0.5, 3: 0.9}]


def test_a_probe_by_hand(places: Places) -> None:
    """Seeds: 0.7 of 3 patients, 0.75 of 4; together (0.8 + 0.8 + 0.55) / 3 of those with a value in each seed."""
    job = ScoreJob("k", probe(places, "x", FIRST), 200, 0, "max", False, places)
    job.run()
    rows = {row["seed"]: row for row in read_table(job.path, RESULTS)}
    assert rows["0"]["value"] == pytest.approx(0.7) and rows["0"]["patients"] == 3 and rows["0"]["low"] is None
    assert rows["1"]["value"] == pytest.approx(0.75) and rows["1"]["patients"] == 4
    assert rows["all"]["value"] == pytest.approx(2.15 / 3) and rows["all"]["patients"] == 3
    assert rows["all"]["low"] < rows["all"]["value"] < rows["all"]["high"]
    assert {(row["level"], row["subset"], row["metric"]) for row in rows.values()} == {("patient", "all", "auroc")}


def test_a_probe_comparison_by_hand(places: Places) -> None:
    """(0.2 + 0.2 + 0.05) / 3, of the three patients that both have; every draw is above 0."""
    job = CompareJob("k", probe(places, "x", FIRST), probe(places, "y", SECOND), 200, 0, places)
    job.run()
    (row,) = read_table(job.path, COMPARISONS)
    assert row["difference"] == pytest.approx(0.15)
    assert row["low"] > 0 and row["p_delong"] is None and row["p_bootstrap"] == pytest.approx(2 / 201)
    assert row["detectable"] > 0 and 0 < row["p_seeds"] <= 1
    same = CompareJob("same", probe(places, "x", FIRST), probe(places, "x", FIRST), 200, 0, places)
    same.run()
    (none,) = read_table(same.path, COMPARISONS)
    assert (none["difference"], none["low"], none["high"], none["p_bootstrap"]) == (0, 0, 0, 1)


def test_other_patients_cannot_be_compared(places: Places) -> None:
    """Refused, aloud."""
    job = CompareJob("k", probe(places, "x", FIRST), probe(places, "y", [{5: 0.5}, {5: 0.5}]), 10, 0, places)
    with pytest.raises(UsageError, match="not probed on the same patients"):
        job.run()


def lesions(places: Places, arm: str, shift: float) -> SeedGroup:
    """A group of a lesion task with one seed: 40 lesions of 20 patients, positives higher by ``shift``."""
    rng = np.random.default_rng(7)
    rows = []
    for number in range(40):
        label = number // 2 % 2
        value = 1 / (1 + np.exp(-(rng.normal() + shift * label)))
        rows.append(
            {**BLANK, "row": number + 1, "patient": number // 2, "fold": 0, "zone": "PZ" if number % 4 else "TZ",
             "centre": "", "label": label, "probability": float(value)}
        )  # fmt: skip
    path = places.table("cells", arm)
    write_table(path, PREDICTIONS, rows)
    return SeedGroup("t", arm, "a", "linear", 1.0, LESIONS, ((0, path),))


def test_a_control_has_its_interval_over_permutations(places: Places) -> None:
    """Seeds with other labels: each by its own, together their mean, with Student's interval; no zones, no centres."""
    rng = np.random.default_rng(0)
    cells = []
    for seed in range(3):
        rows = [
            {**BLANK, "row": n + 1, "patient": n, "fold": 0, "zone": "PZ", "centre": "", "label": int(label),
             "probability": float(rng.random())} for n, label in enumerate(rng.permutation(np.arange(30) < 10))
        ]  # fmt: skip
        cells.append((seed, places.table("cells", f"shuffled{seed}")))
        write_table(cells[-1][1], PREDICTIONS, rows)
    group = SeedGroup("t", "control:permuted:x", "a", "linear", 1.0, LESIONS, tuple(cells))
    ScoreJob("k", group, 50, 0, "max", False, places).run()
    rows = [row for row in read_table(places.table("scores", "k"), RESULTS) if row["metric"] == "auroc"]
    assert {row["subset"] for row in rows} == {"all"}
    for level in ("lesion", "patient"):
        values = {row["seed"]: row for row in rows if row["level"] == level}
        each = [values[str(seed)]["value"] for seed in range(3)]
        expected = mean_over_runs(each)
        together = values["all"]
        assert (together["value"], together["low"], together["high"]) == (expected.value, expected.low, expected.high)
        assert together["positives"] == 10
    with pytest.raises(IntegrityError, match="other rows"):  # another arm with such seeds is damaged
        ScoreJob("other", replace(group, arm="x"), 50, 0, "max", False, places).run()


def test_rows_counted_twice_change_no_interval(places: Places) -> None:
    """Patients are drawn, not rows: the interval stays. Counted as other patients (the control) it becomes narrower."""
    group = lesions(places, "x", 1.0)
    found = {}
    for twice in (False, True):
        job = ScoreJob(f"k{twice}", group, 400, 0, "max", twice, places)
        job.run()
        found[twice] = next(
            row for row in read_table(job.path, RESULTS)
            if (row["seed"], row["metric"], row["level"], row["subset"]) == ("all", "auroc", "lesion", "all")
        )  # fmt: skip
    assert [found[True][name] for name in ("value", "low", "high")] == pytest.approx(
        [found[False][name] for name in ("value", "low", "high")], abs=1e-12
    )
    assert found[True]["rows"] == 2 * found[False]["rows"] and found[True]["patients"] == found[False]["patients"]
    rows = read_table(group.cells[0][1], PREDICTIONS)
    path = places.table("cells", "others")
    write_table(path, PREDICTIONS, [*rows, *({**row, "patient": row["patient"] + 100} for row in rows)])
    job = ScoreJob("o", SeedGroup("t", "o", "a", "linear", 1.0, LESIONS, ((0, path),)), 400, 0, "max", False, places)
    job.run()
    other = next(
        row for row in read_table(job.path, RESULTS)
        if (row["seed"], row["metric"], row["level"], row["subset"]) == ("all", "auroc", "lesion", "all")
    )  # fmt: skip
    assert other["high"] - other["low"] < 0.9 * (found[False]["high"] - found[False]["low"])


def test_subsets_are_of_their_rows(places: Places) -> None:
    """Zones have rows of their own, which add up."""
    job = ScoreJob("k", lesions(places, "x", 1.0), 50, 0, "max", False, places)
    job.run()
    rows = [row for row in read_table(job.path, RESULTS) if row["seed"] == "all" and row["level"] == "lesion"]
    counts = {row["subset"]: row["rows"] for row in rows}
    assert counts == {"all": 40, "zone=PZ": 30, "zone=TZ": 10}


def test_holm_is_within_a_family() -> None:
    """By hand: of two fractions, each is corrected over its own two comparisons only."""
    values = [(1.0, 0.01), (0.5, 0.04), (1.0, 0.03), (0.5, 0.2), (1.0, None)]
    rows = [
        {"task": "t", "metric": "auroc", "architecture": "a", "mode": "linear", "fraction": part, "p_bootstrap": p,
         "p_holm": None} for part, p in values
    ]  # fmt: skip
    found = [row["p_holm"] for row in _corrected(rows)]
    assert found == [0.02, 0.08, 0.03, 0.2, None]
    assert found != [*holm([p for _, p in values if p is not None]), None]  # the control: over all of them


def test_each_pair_once(places: Places) -> None:
    """Arms with every reference, references among themselves once, controls never."""
    task = TaskConfig("t", "m.csv")
    arms = tuple(ArmConfig(name, "random") for name in ("p", "q", "x"))
    plan = Plan(StudyConfig((task,), arms, references=("p", "q")), places, [])
    groups = [SeedGroup("t", name, "a", "linear", 1.0, LESIONS, ()) for name in ("p", "control:permuted:p", "q", "x")]
    assert [(a.arm, b.arm) for a, b in _pairs(plan, groups)] == [("q", "p"), ("x", "p"), ("x", "q")]
    assert is_control(groups[1].arm) and not is_control("x")


def test_damaged_tables_are_refused(places: Places) -> None:
    """Any cut or turned byte of a cell, and another table in its place."""
    path = cases(places.table("cells", "x"), {0: 0.5, 1: 0.25})
    assert len(read_table(path, CASES)) == 2
    with pytest.raises(IntegrityError, match="is not a table of predictions"):
        read_table(path, PREDICTIONS)
    with pytest.raises(NotFoundError):
        read_table(path.with_name("no.parquet"), CASES)
    whole = path.read_bytes()
    for place in range(4, len(whole) - 8, 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            rows = read_table(path, CASES)
        except IntegrityError:
            continue
        assert [row["value"] for row in rows] == [0.5, 0.25]
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(IntegrityError, match="damaged"):
        read_table(path, CASES)


@dataclass(frozen=True)
class Raising:
    """A job that raises."""

    error: Any
    key: str = "k"
    title: str = "a job"
    has_bar: bool = False

    def run(self) -> None:
        """Raise."""
        if self.error is not None:
            raise self.error


def test_what_a_job_raises_becomes_a_reason() -> None:
    """Errors of ours keep their words, foreign ones lose theirs, and what every job would meet ends the study."""
    with Engine("serial") as engine:
        (fine, ours, foreign) = engine.run(
            [Raising(None, "a"), Raising(TrainingError("no luck"), "b"), Raising(ValueError("/home/x"), "c")], "jobs"
        )
        assert (fine.reason, ours.reason) == ("", "no luck")
        assert foreign.reason.startswith("unexpected ValueError in run, line") and "/home" not in foreign.reason
        with pytest.raises(ResourceError, match="disk"):
            engine.run([Raising(ResourceError("disk"))], "jobs")
    with pytest.raises(UsageError, match="choose serial, process, ray"):
        Engine("dask")

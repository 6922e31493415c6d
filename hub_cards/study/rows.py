"""Rows of a study's tables as the page takes them: by task, arm and seed, with paired differences."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prostate_mim.metrics import METRICS, Comparison, Scored, compare
from prostate_mim.study.groups import mean_over_seeds, mean_value, scored_of
from prostate_mim.study.records import ALL, CASES, CONTROL, PREDICTIONS, read_table, table_path

SAMPLES, SEED = 10_000, 0
Key = tuple[str, str]  # arm, architecture
Rows = list[dict[str, Any]]


def scored(out: Path, task: str, metric: str, fraction: float, *, controls: bool = False) -> dict[Key, Scored]:
    """(arm, architecture) -> what is paired: the rows' mean probabilities, or in probes each patient's mean value."""
    rows = of_task(rows_of(out, PREDICTIONS), task, fraction, controls=controls)
    if rows:
        return {key: mean_over_seeds([scored_of(one) for one in by(own, "seed")]) for key, own in by_arm(rows)}
    rows = of_task(rows_of(out, CASES), task, fraction, controls=controls)
    return {key: per_patient([row for row in own if row["metric"] == metric]) for key, own in by_arm(rows)}


@functools.cache
def rows_of(out: Path, name: str) -> Rows:
    """A table's rows; of a large one, read once."""
    return read_table(table_path(out, name), name)


def of_task(rows: Iterable[Mapping[str, Any]], task: str, fraction: float, *, controls: bool) -> Rows:
    """The rows of one task and share of labels: the controls' own, or all others."""
    kept = (row for row in rows if row["task"] == task and row["fraction"] == fraction)
    return [dict(row) for row in kept if row["arm"].startswith(CONTROL) is controls]


def by(rows: Rows, name: str) -> list[Rows]:
    """Rows that have the same value, together, in the order of the values."""
    return [[row for row in rows if row[name] == value] for value in sorted({row[name] for row in rows})]


def by_arm(rows: Rows) -> Iterable[tuple[Key, Rows]]:
    """Rows of each (arm, architecture)."""
    for arm in by(rows, "arm"):
        for own in by(arm, "architecture"):
            yield (own[0]["arm"], own[0]["architecture"]), own


def per_patient(rows: Rows) -> Scored:
    """One value a patient, the mean over seeds; patients without one are left out."""
    found = {own[0]["patient"]: [row["value"] for row in own] for own in by(rows, "patient")}
    kept = {patient: float(np.mean(values)) for patient, values in found.items() if None not in values}
    return Scored(np.zeros(len(kept), np.int64), np.asarray(list(kept.values())), tuple(kept))


def value(one: Scored, *, probe: bool) -> float:
    """AUROC; in probes the mean over patients."""
    measure = mean_value if probe else METRICS["auroc"]
    return float(measure(one.labels, one.probabilities) or 0)


def difference(first: Scored, second: Scored, *, probe: bool) -> Comparison:
    """First minus second, paired; over patients, in probes those that have a value in both."""
    if probe:
        both = set(first.patients) & set(second.patients)
        first, second = (one.where([who in both for who in one.patients]) for one in (first, second))
    return compare(first, second, metric=mean_value if probe else "auroc", samples=SAMPLES, seed=SEED)


def said(found: Comparison) -> str:
    """Difference and interval."""
    return spanned(dataclasses.asdict(found.difference), "value", "+")


def is_estimate(row: Mapping[str, Any]) -> bool:
    """All seeds and all rows together, and no control."""
    return row["seed"] == ALL and row["subset"] == "all" and not row["arm"].startswith(CONTROL)


def spanned(row: Mapping[str, Any], name: str, sign: str = "") -> str:
    """A value and its interval."""
    return " ".join((f"{row[name]:{sign}.3f}", f"({row['low']:{sign}.3f} to {row['high']:{sign}.3f})"))

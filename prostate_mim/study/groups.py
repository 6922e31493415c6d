"""Cells that differ by their seed only: what is scored and compared together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prostate_mim.errors import IntegrityError
from prostate_mim.metrics import Scored
from prostate_mim.study.config import LESIONS
from prostate_mim.study.records import CASES, PREDICTIONS, read_table

Values = npt.NDArray[np.float64]
Row = dict[str, Any]


@dataclass(frozen=True)
class SeedGroup:
    """All seeds of one arm on one task, at one fraction.

    Attributes:
        task, arm, architecture, mode, fraction: of its cells.
        kind: of the task.
        cells: (seed, path of the cell's file), one a seed.
    """

    task: str
    arm: str
    architecture: str
    mode: str
    fraction: float
    kind: str
    cells: tuple[tuple[int, Path], ...]

    def named(self) -> Row:
        """The columns that all of its rows share."""
        names = ("task", "arm", "architecture", "mode", "fraction")
        return {name: getattr(self, name) for name in names}

    @property
    def title(self) -> str:
        """For the progress bar and failures."""
        return f"{self.task} | {self.arm} | {self.architecture} | {self.mode} | {self.fraction:g}"

    def rows(self, seed: int) -> list[Row]:
        """The rows of one seed's cell, with their names."""
        path = dict(self.cells)[seed]
        found = read_table(path, PREDICTIONS if self.kind == LESIONS else CASES)
        return [{**row, **self.named(), "seed": seed} for row in found]


def scored_of(rows: Sequence[Mapping[str, Any]]) -> Scored:
    """Rows of ``predictions`` as metrics take them."""
    return Scored(
        np.asarray([row["label"] for row in rows]),
        np.asarray([row["probability"] for row in rows]),
        tuple(row["patient"] for row in rows),
        tuple(row["zone"] for row in rows),
        tuple(row["centre"] for row in rows),
    )


def mean_over_seeds(seeds: Sequence[Scored]) -> Scored:
    """The same rows with the mean of the seeds' probabilities.

    Raises:
        IntegrityError: the seeds have other rows.
    """
    first = seeds[0]
    if any(len(one) != len(first) or (one.labels != first.labels).any() for one in seeds):
        raise IntegrityError("the seeds of a cell have other rows than each other; remove the folder cells, run again")
    mean = np.mean([one.probabilities for one in seeds], axis=0)
    return replace(first, probabilities=mean)


def probe_values(group: SeedGroup) -> dict[str, tuple[tuple[int, ...], Values]]:
    """Metric -> (patients, (seeds, patients) values); NaN where a patient has none."""
    found: dict[str, dict[int, dict[int, float]]] = {}
    for seed, _ in group.cells:
        for row in group.rows(seed):
            value = row["value"]
            own = found.setdefault(row["metric"], {}).setdefault(row["patient"], {})
            own[seed] = np.nan if value is None else value
    seeds = [seed for seed, _ in group.cells]
    made = {}
    for metric, by_patient in sorted(found.items()):
        patients = tuple(sorted(by_patient))
        made[metric] = patients, np.array([[by_patient[p].get(seed, np.nan) for p in patients] for seed in seeds])
    return made


def mean_value(_labels: Any, values: Any) -> float | None:
    """The mean over patients, as a metric."""
    return float(np.mean(values)) if len(values) else None


def over_seeds(values: Values) -> Values:
    """(P,) means of the seeds; NaN where a seed has none: patients are compared on equal terms."""
    mean: Values = values.mean(axis=0)
    return mean


def per_patient(names: Sequence[int], values: Values) -> Scored | None:
    """One row a patient, with a value in place of a probability; None where there is nobody."""
    return Scored(np.zeros(len(values), np.int64), values, tuple(names)) if len(values) else None

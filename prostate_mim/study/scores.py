"""From cells to the rows of results and comparisons: seeds together, with intervals over patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prostate_mim.errors import IntegrityError, UsageError
from prostate_mim.metrics import METRICS, Counts, Estimate, Scored, compare, evaluate, interval, permutation_over_seeds
from prostate_mim.study.cache import Places
from prostate_mim.study.config import LESIONS
from prostate_mim.study.records import ALL, CASES, COMPARISONS, PREDICTIONS, RESULTS, read_table, write_table

LESION, PATIENT = "lesion", "patient"
COMPARED = "auroc"
Values = npt.NDArray[np.float64]
Row = dict[str, Any]


@dataclass(frozen=True)
class Group:
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


@dataclass(frozen=True)
class ScoreJob:
    """Rows of ``results`` of one group, without the names of its task and arm.

    Attributes:
        key: of the cells and of how they are scored.
        group: the cells.
        samples, seed: of the bootstrap.
        aggregate: from a patient's lesions to the patient: ``max`` or ``noisy-or``.
        twice: count every row twice, as a control: nothing may become more certain.
        places: of the study.
    """

    key: str
    group: Group
    samples: int
    seed: int
    aggregate: str
    twice: bool
    places: Places
    has_bar: bool = False

    @property
    def title(self) -> str:
        """The group's."""
        return self.group.title

    @property
    def path(self) -> Path:
        """Where its result lies."""
        return self.places.table("scores", self.key)

    def run(self) -> None:
        """Score, and keep the rows, if they are not there."""
        if self.path.is_file():
            return
        found = self._lesions() if self.group.kind == LESIONS else self._probe()
        named = {**self.group.named(), "task": "", "arm": ""}
        write_table(self.path, RESULTS, [{**named, **row} for row in found])

    def _lesions(self) -> list[Row]:
        each = {seed: scored_of(self.group.rows(seed)) for seed, _ in self.group.cells}
        together = mean_over_seeds(list(each.values()))
        if self.twice:
            together = _doubled(together)
        found = []
        for level in (LESION, PATIENT):
            for seed, one in each.items():
                part = one if level == LESION else one.per_patient(self.aggregate)
                found += [_row(str(seed), name, level, Estimate(m(part.labels, part.probabilities)), _counts(part))
                          for name, m in METRICS.items()]  # fmt: skip
            part = together if level == LESION else together.per_patient(self.aggregate)
            result = evaluate(part, samples=self.samples, seed=self.seed)
            subsets = {"all": result.overall}
            subsets |= {f"zone={name}": values for name, values in result.by_zone.items()}
            subsets |= {f"centre={name}": values for name, values in result.by_centre.items()}
            for subset, estimates in subsets.items():
                found += [_row(ALL, name, level, estimate, result.counts[subset], subset)
                          for name, estimate in estimates.items()]  # fmt: skip
        return found

    def _probe(self) -> list[Row]:
        found = []
        for metric, (patients, values) in probe_values(self.group).items():
            for place, (seed, _) in enumerate(self.group.cells):
                own = values[place][np.isfinite(values[place])]
                mean = float(own.mean()) if len(own) else None
                found.append(_row(str(seed), metric, PATIENT, Estimate(mean), Counts(len(own), 0, len(own))))
            means, known = _over_seeds(values), np.isfinite(_over_seeds(values))
            names = [patient for patient, keep in zip(patients, known, strict=True) if keep]
            part = _per_patient(names, means[known])
            estimate = Estimate(None)
            if part is not None:
                estimate = interval(part, mean_value, samples=self.samples, seed=self.seed)
            found.append(_row(ALL, metric, PATIENT, estimate, Counts(len(names), 0, len(names))))
        return found


@dataclass(frozen=True)
class CompareJob:
    """Rows of ``comparisons`` of two groups (one a metric), without names and without correction.

    Attributes:
        key: of the cells and of how they are compared.
        first, second: the groups.
        samples, seed: of the bootstrap.
        places: of the study.
    """

    key: str
    first: Group
    second: Group
    samples: int
    seed: int
    places: Places
    has_bar: bool = False

    @property
    def title(self) -> str:
        """Both arms."""
        return f"{self.first.title} against {self.second.arm}"

    @property
    def path(self) -> Path:
        """Where its result lies."""
        return self.places.table("comparisons", self.key)

    def run(self) -> None:
        """Compare, and keep the rows, if they are not there."""
        if self.path.is_file():
            return
        found = self._lesions() if self.first.kind == LESIONS else self._probe()
        write_table(self.path, COMPARISONS, found)

    def _lesions(self) -> list[Row]:
        each = [[scored_of(group.rows(seed)) for seed, _ in group.cells] for group in (self.first, self.second)]
        first, second = (mean_over_seeds(seeds) for seeds in each)
        runs = [[METRICS[COMPARED](one.labels, one.probabilities) for one in seeds] for seeds in each]
        return [self._row(COMPARED, first, second, COMPARED, runs)]

    def _probe(self) -> list[Row]:
        ours, theirs = probe_values(self.first), probe_values(self.second)
        found = []
        for metric in ours:
            if metric not in theirs or ours[metric][0] != theirs[metric][0]:
                raise UsageError(f"the two arms were not probed on the same patients with {metric}")
            patients, first = ours[metric]
            second = theirs[metric][1]
            known = np.isfinite(_over_seeds(first)) & np.isfinite(_over_seeds(second))
            names = [patient for patient, keep in zip(patients, known, strict=True) if keep]
            parts = [_per_patient(names, _over_seeds(values)[known]) for values in (first, second)]
            if parts[0] is None or parts[1] is None:
                continue
            runs: list[list[float | None]] = [
                [float(np.nanmean(own)) if np.isfinite(own).any() else None for own in values]
                for values in (first, second)
            ]
            found.append(self._row(metric, parts[0], parts[1], mean_value, runs))
        return found

    def _row(self, metric: str, first: Scored, second: Scored, how: Any, runs: Sequence[Sequence[float | None]]) -> Row:
        found = compare(first, second, metric=how, samples=self.samples, seed=self.seed)
        known = [[value for value in seeds if value is not None] for seeds in runs]
        return {
            "task": "", "metric": metric, "first": "", "second": "", "architecture": "", "mode": "", "fraction": 0.0,
            "difference": found.difference.value, "low": found.difference.low, "high": found.difference.high,
            "p_delong": found.p_delong, "p_bootstrap": found.p_bootstrap, "p_holm": None,
            "p_seeds": permutation_over_seeds(*known, seed=self.seed) if all(known) else None,
            "detectable": found.detectable,
        }  # fmt: skip


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
    return Scored(first.labels, mean, first.patients, first.zones, first.centres)


def probe_values(group: Group) -> dict[str, tuple[tuple[int, ...], Values]]:
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


def _over_seeds(values: Values) -> Values:
    """(P,) means of the seeds; NaN where a seed has none: patients are compared on equal terms."""
    mean: Values = values.mean(axis=0)
    return mean


def _per_patient(names: Sequence[int], values: Values) -> Scored | None:
    return Scored(np.zeros(len(values), np.int64), values, tuple(names)) if len(values) else None


def _doubled(scored: Scored) -> Scored:
    twice = np.repeat(np.arange(len(scored)), 2)
    pick = [int(row) for row in twice]
    return Scored(
        scored.labels[twice], scored.probabilities[twice], tuple(scored.patients[row] for row in pick),
        tuple(scored.zones[row] for row in pick), tuple(scored.centres[row] for row in pick),
    )  # fmt: skip


def _counts(scored: Scored) -> Counts:
    return Counts(len(scored), int(scored.labels.sum()), len(set(scored.patients)))


def _row(seed: str, metric: str, level: str, found: Estimate, counts: Counts, subset: str = "all") -> Row:
    return {
        "seed": seed, "metric": metric, "level": level, "subset": subset, "value": found.value, "low": found.low,
        "high": found.high, "rows": counts.rows, "patients": counts.patients, "positives": counts.positives,
    }  # fmt: skip

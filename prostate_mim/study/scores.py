"""Seeds of an arm together, with intervals over patients, and of controls over permutations: rows of ``results``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prostate_mim.metrics import METRICS, Counts, Estimate, Scored, evaluate, interval, mean_over_runs
from prostate_mim.study.cache import Places
from prostate_mim.study.config import LESIONS
from prostate_mim.study.groups import (
    Row,
    SeedGroup,
    mean_over_seeds,
    mean_value,
    over_seeds,
    per_patient,
    probe_values,
    scored_of,
)
from prostate_mim.study.records import ALL, PERMUTED, RESULTS, write_table

LESION, PATIENT = "lesion", "patient"


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
    group: SeedGroup
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
        each, together = self._lesions() if self.group.kind == LESIONS else self._probe()
        if self.group.arm.startswith(PERMUTED):
            together = _over_permutations(each)
        named = {**self.group.named(), "task": "", "arm": ""}
        write_table(self.path, RESULTS, [{**named, **row} for row in (*each, *together)])

    def _lesions(self) -> tuple[list[Row], list[Row]]:
        """Rows of each seed, and of all together."""
        seeds = {seed: scored_of(self.group.rows(seed)) for seed, _ in self.group.cells}
        each = [
            _row(str(seed), name, level, Estimate(m(part.labels, part.probabilities)), Counts.of(part))
            for level in (LESION, PATIENT)
            for seed, one in seeds.items()
            for part in [self._at(level, one)]
            for name, m in METRICS.items()
        ]
        if self.group.arm.startswith(PERMUTED):
            return each, []  # every seed has labels of its own
        mean = mean_over_seeds(list(seeds.values()))
        together = []
        for level in (LESION, PATIENT):
            result = evaluate(
                self._at(level, _doubled(mean) if self.twice else mean), samples=self.samples, seed=self.seed
            )
            subsets = {ALL: result.overall}
            subsets |= {f"zone={name}": values for name, values in result.by_zone.items()}
            subsets |= {f"centre={name}": values for name, values in result.by_centre.items()}
            together += [
                _row(ALL, name, level, estimate, result.counts[subset], subset)
                for subset, estimates in subsets.items()
                for name, estimate in estimates.items()
            ]
        return each, together

    def _at(self, level: str, scored: Scored) -> Scored:
        return scored if level == LESION else scored.per_patient(self.aggregate)

    def _probe(self) -> tuple[list[Row], list[Row]]:
        """Rows of each seed, and of all together."""
        each, together = [], []
        for metric, (patients, values) in probe_values(self.group).items():
            for place, (seed, _) in enumerate(self.group.cells):
                own = values[place][np.isfinite(values[place])]
                mean = float(own.mean()) if len(own) else None
                each.append(_row(str(seed), metric, PATIENT, Estimate(mean), Counts(len(own), 0, len(own))))
            means, known = over_seeds(values), np.isfinite(over_seeds(values))
            names = [patient for patient, keep in zip(patients, known, strict=True) if keep]
            part = per_patient(names, means[known])
            estimate = Estimate(None)
            if part is not None:
                estimate = interval(part, mean_value, samples=self.samples, seed=self.seed)
            together.append(_row(ALL, metric, PATIENT, estimate, Counts(len(names), 0, len(names))))
        return each, together


def _over_permutations(each: Sequence[Row]) -> list[Row]:
    """Of a control whose seeds shuffle labels differently: the mean of their values, its interval over permutations.

    An interval over patients would be that of one permutation, which by chance may help or hurt as a whole.
    """
    made: dict[tuple[str, str], list[Row]] = {}
    for row in each:
        made.setdefault((row["metric"], row["level"]), []).append(row)
    return [
        {**rows[0], "seed": ALL, **mean_over_runs([row["value"] for row in rows]).to_dict()} for rows in made.values()
    ]


def _doubled(scored: Scored) -> Scored:
    twice = np.repeat(np.arange(len(scored)), 2)
    pick = [int(row) for row in twice]
    return Scored(
        scored.labels[twice], scored.probabilities[twice], tuple(scored.patients[row] for row in pick),
        tuple(scored.zones[row] for row in pick), tuple(scored.centres[row] for row in pick),
    )  # fmt: skip


def _row(seed: str, metric: str, level: str, found: Estimate, counts: Counts, subset: str = ALL) -> Row:
    return {
        "seed": seed, "metric": metric, "level": level, "subset": subset, "value": found.value, "low": found.low,
        "high": found.high, "rows": counts.rows, "patients": counts.patients, "positives": counts.positives,
    }  # fmt: skip

"""Two arms on one task, paired: rows of ``comparisons``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prostate_mim.errors import UsageError
from prostate_mim.metrics import METRICS, Scored, compare, permutation_over_seeds
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
from prostate_mim.study.records import COMPARISONS, write_table

COMPARED = "auroc"


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
    first: SeedGroup
    second: SeedGroup
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
            known = np.isfinite(over_seeds(first)) & np.isfinite(over_seeds(second))
            names = [patient for patient, keep in zip(patients, known, strict=True) if keep]
            parts = [per_patient(names, over_seeds(values)[known]) for values in (first, second)]
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

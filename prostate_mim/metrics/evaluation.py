"""evaluate: every metric with its interval, for all rows, for each zone and for each centre."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prostate_mim.metrics.bootstrap import intervals
from prostate_mim.metrics.scored import Estimate, Scored
from prostate_mim.metrics.table import METRICS

Estimates = dict[str, Estimate]


@dataclass(frozen=True)
class Counts:
    """What numbers rest on: rows (lesions or studies), those of label 1, and patients."""

    rows: int
    positives: int
    patients: int

    @classmethod
    def of(cls, scored: Scored) -> Counts:
        """Those of some predictions."""
        return cls(len(scored), int(scored.labels.sum()), scored.patient_count)

    def to_dict(self) -> dict[str, int]:
        """The three numbers by name."""
        return {"rows": self.rows, "positives": self.positives, "patients": self.patients}


@dataclass(frozen=True)
class Evaluation:
    """Metrics with intervals.

    Attributes:
        overall: metric -> estimate, of all rows.
        by_zone: zone -> metric -> estimate; rows of unknown zone are in ``overall`` only.
        by_centre: the same for centres.
        counts: "all", "zone=..." and "centre=..." -> what the estimates rest on.
    """

    overall: Estimates
    by_zone: dict[str, Estimates]
    by_centre: dict[str, Estimates]
    counts: dict[str, Counts]

    def to_dict(self) -> dict[str, Any]:
        """Nested dictionaries of numbers and None, as JSON takes them."""

        def plain(estimates: Estimates) -> dict[str, dict[str, float | None]]:
            return {name: estimate.to_dict() for name, estimate in estimates.items()}

        return {
            "overall": plain(self.overall),
            "by_zone": {zone: plain(found) for zone, found in self.by_zone.items()},
            "by_centre": {centre: plain(found) for centre, found in self.by_centre.items()},
            "counts": {part: counts.to_dict() for part, counts in self.counts.items()},
        }


def evaluate(
    scored: Scored, *, metrics: Sequence[str] = tuple(METRICS), samples: int = 2000, seed: int = 0
) -> Evaluation:
    """Metrics with 95 % percentile bootstrap intervals over patients.

    Args:
        scored: the predictions; their zones and centres, where given, decide the parts.
        metrics: names in ``METRICS``.
        samples: draws of patients.
        seed: of the draws, the same for every metric and part.

    Raises:
        UsageError: an unknown metric, or probabilities outside 0 to 1.
    """

    def estimate(part: Scored) -> Estimates:
        return dict(zip(metrics, intervals(part, list(metrics), samples, seed), strict=True))

    counts = {"all": Counts.of(scored)}
    found: dict[str, dict[str, Estimates]] = {"zone": {}, "centre": {}}
    for kind, names in (("zone", scored.zones), ("centre", scored.centres)):
        for name in sorted({name for name in names if name}):
            part = scored.where(np.array([other == name for other in names]))
            found[kind][name] = estimate(part)
            counts[f"{kind}={name}"] = Counts.of(part)
    return Evaluation(estimate(scored), found["zone"], found["centre"], counts)

"""HealthConfig: how much is measured, and below what a network counts as collapsed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from prostate_mim.errors import UsageError


@dataclass(frozen=True)
class HealthConfig:
    """What a health observation looks at. All values are plain, so that a TOML file can hold them.

    Attributes:
        studies: unlabelled studies that are watched from the first step to the last.
        windows: crops cut from each watched study for the rank and for the gland-voxel probe.
        cells: cells drawn from each window for the gland-voxel probe, at most.
        labelled: studies of the labelled manifest that are embedded, at most; the same ones every time.
        pictured: watched studies whose reconstruction is kept for the report.
        batch: crops per forward pass.
        folds: of the cross-validated probes, grouped by patient.
        regularisation: inverse strength C of the linear probes' L2 penalty, on standardised features.
        neighbours: k of the nearest-neighbour probe, with cosine distance.
        centre_studies: a scanner centre takes part in the centre probe from this many patients.
        least_rank: an effective rank below this is a collapse (1 = all embeddings are parallel).
        least_rank_share: so is a rank of the centred embeddings below this share of the first observation's.
        least_variance: a mean variance per dimension of the embeddings below this is a collapse.
        least_variance_share: so is one below this share of the first observation's.
        least_output_spread: predictions that vary less than this share of their targets' deviation are constant.

    Raises:
        UsageError: a count that is no positive whole number, or a threshold outside its range.
    """

    studies: int = 8
    windows: int = 6
    cells: int = 96
    labelled: int = 128
    pictured: int = 4
    batch: int = 8
    folds: int = 5
    regularisation: float = 0.1
    neighbours: int = 10
    centre_studies: int = 4
    least_rank: float = 1.02
    least_rank_share: float = 0.25
    least_variance: float = 1e-6
    least_variance_share: float = 1e-3
    least_output_spread: float = 0.01

    def __post_init__(self) -> None:
        least = {"studies": 1, "windows": 1, "cells": 1, "labelled": 0, "pictured": 0, "batch": 1, "folds": 2}
        for name, smallest in {**least, "neighbours": 1, "centre_studies": 2}.items():
            if getattr(self, name) < smallest:
                raise UsageError(f"health.{name} is {getattr(self, name)}; use at least {smallest}")
        if not (math.isfinite(self.regularisation) and self.regularisation > 0):
            raise UsageError(f"health.regularisation is {self.regularisation}; use a positive number")
        for name in ("least_rank", "least_variance"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"health.{name} is {getattr(self, name)}; use 0 (never warn) or more")
        for name in ("least_rank_share", "least_variance_share", "least_output_spread"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"health.{name} is {getattr(self, name)}; use a share from 0 (never warn) to 1")

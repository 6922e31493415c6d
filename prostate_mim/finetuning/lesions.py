"""The rows that a fine-tuning learns from: regions of studies, targets, and whose they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from prostate_mim.classifier import SIGNIFICANT
from prostate_mim.engine.data import Region, check_masks
from prostate_mim.engine.runs import region_of
from prostate_mim.errors import ManifestError
from prostate_mim.finetuning.config import FinetuneConfig
from prostate_mim.manifest import Manifest
from prostate_mim.spec import InputSpec
from prostate_mim.store import PreparedManifest

UNKNOWN = -1  # no zone
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Lesions:
    """One entry a row of the manifest; at level ``study``, a study.

    Attributes:
        regions: voxels around it.
        labels: (N,) 0 or 1.
        targets: (N,) the same, or ISUP grades where they are the target.
        patients: whose it is.
        folds: (N,) outer folds.
        zones: (N,) numbers of ``zone_names``; ``UNKNOWN`` where the row has none.
        zone_names: in alphabetical order.
        centres: names; "" where unknown.
    """

    regions: tuple[Region, ...]
    labels: Ints
    targets: Ints
    patients: tuple[str, ...]
    folds: Ints
    zones: Ints
    zone_names: tuple[str, ...]
    centres: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.regions)

    def part(self, rows: Sequence[int]) -> Lesions:
        """Some of the entries, in the order of ``rows``."""
        chosen = list(rows)
        return Lesions(
            regions=tuple(self.regions[i] for i in chosen),
            labels=self.labels[chosen],
            targets=self.targets[chosen],
            patients=tuple(self.patients[i] for i in chosen),
            folds=self.folds[chosen],
            zones=self.zones[chosen],
            zone_names=self.zone_names,
            centres=tuple(self.centres[i] for i in chosen),
        )

    def zone_of(self, place: int) -> str:
        """The zone's name; "" where unknown."""
        return "" if self.zones[place] == UNKNOWN else self.zone_names[self.zones[place]]


def check_targets(listed: Manifest, config: FinetuneConfig) -> None:
    """Refuse a manifest that lacks what the configuration learns from; before any volume is read.

    Raises:
        ManifestError: a grade is missing, or contradicts its label; no row has a zone.
    """
    if config.target == "isup":
        for row in listed.rows:
            if row.isup is None:
                raise ManifestError(f"{listed.where(row)}: isup is empty; with target isup every row needs 0 to 5")
            if int(row.isup >= SIGNIFICANT) != row.label:
                raise ManifestError(
                    f"{listed.where(row)}: isup {row.isup} and label {row.label} contradict each other; csPCa (label "
                    f"1) is ISUP {SIGNIFICANT} and above"
                )
    if config.zone_auxiliary and not any(row.zone for row in listed.rows):
        raise ManifestError(f"{listed.path}: no row has a zone; leave out zone_auxiliary, or fill the column zone")


def gather(
    listed: Manifest, prepared: PreparedManifest, folds: Sequence[int], spec: InputSpec, config: FinetuneConfig
) -> Lesions:
    """The rows with their prepared studies.

    Raises:
        UsageError: a row lacks a mask that is among the network's channels.
    """
    regions = tuple(region_of(one) for one in prepared.rows)
    for region in regions:
        check_masks(region, spec)
    names = tuple(sorted({row.zone for row in listed.rows if row.zone}))
    labels = np.asarray([region.label for region in regions], np.int64)
    grades: list[Any] = [row.isup for row in listed.rows]
    return Lesions(
        regions=regions,
        labels=labels,
        targets=np.asarray(grades, np.int64) if config.target == "isup" else labels,
        patients=tuple(row.patient_id for row in listed.rows),
        folds=np.asarray(folds, np.int64),
        zones=np.asarray([names.index(row.zone) if row.zone else UNKNOWN for row in listed.rows], np.int64),
        zone_names=names,
        centres=tuple(row.centre for row in listed.rows),
    )

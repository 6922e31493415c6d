"""A task as its cells need it: rows with labels, folds and running patient numbers, and its studies on the grid."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prostate_mim.engine.data import Region
from prostate_mim.engine.runs import prepare_rows, region_of
from prostate_mim.engine.seeding import derive_seed, numpy_generator
from prostate_mim.errors import ManifestError
from prostate_mim.finetuning.regions import JITTER_ZYX
from prostate_mim.folds import assign_folds
from prostate_mim.manifest import Manifest, read_manifest
from prostate_mim.spec import InputSpec
from prostate_mim.store import PreparedManifest
from prostate_mim.study.config import CENTRES, LESIONS, TaskConfig

Ints = npt.NDArray[np.int64]
ALL_FOLDS = -1
"""In place of a fold where something is the same for all of them."""


@dataclass(frozen=True)
class TaskTable:
    """What decides a task's numbers beside the voxels; no patient id and no path is in it.

    Attributes:
        rows: manifest row numbers.
        labels: 0, 1, or -1 where the task has none.
        grades: ISUP, or -1 where the manifest gives none.
        patients: running numbers, in the order in which the manifest names them.
        folds: of the manifest's own column; of ``lesions`` without it, assigned.
        zones, centres: "" where the manifest gives none.
        contents: hash of what the prepared studies hold, ``PreparedManifest.contents``.
    """

    rows: tuple[int, ...]
    labels: tuple[int, ...]
    grades: tuple[int, ...]
    patients: tuple[int, ...]
    folds: tuple[int, ...]
    zones: tuple[str, ...]
    centres: tuple[str, ...]
    contents: str

    def digest(self) -> str:
        """A hash of it all."""
        values = [getattr(self, field.name) for field in dataclasses.fields(self)]
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()

    @property
    def names(self) -> list[str]:
        """Patients by name: their numbers, as text."""
        return [str(number) for number in self.patients]

    def targets(self, permutation: int | None = None) -> tuple[Ints, Ints]:
        """(N,) labels and (N,) grades.

        Args:
            permutation: seed with which both are shuffled, so that nothing can be learnt from them. Within each fold:
                folds keep their shares of positives, which, where they differ, alone push an out-of-fold AUROC below
                0.5 (a fold with many leaves few to train on, and so gets low probabilities).
        """
        order = np.arange(len(self.rows))
        if permutation is not None:
            generator, folds = numpy_generator(permutation, "permuted labels"), np.asarray(self.folds)
            for fold in sorted(set(self.folds)):
                own = np.flatnonzero(folds == fold)
                order[own] = generator.permutation(own)
        return np.asarray(self.labels, np.int64)[order], np.asarray(self.grades, np.int64)[order]


@dataclass(frozen=True, eq=False)
class OpenTask:
    """A task with its studies at hand.

    Attributes:
        config: of the task.
        manifest: its rows.
        prepared: their studies.
        table: what decides its numbers.
    """

    config: TaskConfig
    manifest: Manifest
    prepared: PreparedManifest
    table: TaskTable

    @property
    def regions(self) -> list[Region]:
        """One a row: a little larger than the crop; of a probe, what its windows are cut from."""
        return [region_of(one) for one in self.prepared.rows]

    @property
    def tested(self) -> list[int]:
        """Folds that are held out, one after the other."""
        chosen = self.config.probe.test_folds if self.config.kind != LESIONS else ()
        return sorted(set(chosen) or set(self.table.folds))

    @property
    def chance(self) -> float:
        """What a guess is worth: an AUROC of 0.5, or of centres the balanced accuracy of always naming one."""
        return 1 / len(set(self.table.centres)) if self.config.kind == CENTRES else 0.5

    def rows_of(self, fold: int) -> list[int]:
        """Places of the rows of a fold; of all that are ever held out for ``ALL_FOLDS``."""
        held_out = self.tested if fold == ALL_FOLDS else [fold]
        return [place for place, own in enumerate(self.table.folds) if own in held_out]


@lru_cache(maxsize=4)
def open_task(task: TaskConfig, seed: int, store: Path) -> OpenTask:
    """Read, check and prepare a task's manifest; what was opened last stays open in this process.

    Args:
        seed: of the folds, where the manifest has none.
        store: of prepared studies.

    Raises:
        ManifestError, VolumeError, NotFoundError, UsageError: the data, or too few patients for the folds.
    """
    if task.kind == LESIONS:
        listed = read_manifest(task.manifest, labels=True, level=task.level)
        folds = assign_folds(listed, task.folds, derive_seed(seed, "folds"))
    else:
        listed = read_manifest(task.manifest)
        folds = _own_folds(task, listed)
    prepared = prepare_rows(listed, _region(task), store=store)
    return OpenTask(task, listed, prepared, _table(listed, folds, prepared.contents))


def _region(task: TaskConfig) -> InputSpec:
    """All that is looked at of a study: a key of less would not see it change."""
    if task.kind != LESIONS:
        return task.probe_task().region
    z, y, x = (n + 2 * j for n, j in zip(task.spec.size_zyx, JITTER_ZYX, strict=True))
    return task.spec.with_size((z, y, x))


def _own_folds(task: TaskConfig, listed: Manifest) -> list[int]:
    """Of a probe: the manifest's column. Without it, a probe would have other folds for every seed."""
    for row in listed.rows:
        if row.fold is None:
            raise ManifestError(
                f"task {task.name}: {listed.where(row)}: fold is empty; probes need it in every row, and "
                "'prostate-mim data split' writes it"
            )
    return [row.fold for row in listed.rows if row.fold is not None]


def _table(listed: Manifest, folds: list[int], contents: str) -> TaskTable:
    number: dict[str, int] = {}
    for row in listed.rows:
        number.setdefault(row.patient_id, len(number))
    return TaskTable(
        rows=tuple(row.number for row in listed.rows),
        labels=tuple(-1 if row.label is None else row.label for row in listed.rows),
        grades=tuple(-1 if row.isup is None else row.isup for row in listed.rows),
        patients=tuple(number[row.patient_id] for row in listed.rows),
        folds=tuple(folds),
        zones=tuple(row.zone for row in listed.rows),
        centres=tuple(row.centre for row in listed.rows),
        contents=contents,
    )

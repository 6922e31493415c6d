"""The windows a probe looks at: random offsets around the gland, and which of their voxels are asked about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prostate_mim.engine.runs import prepare_rows
from prostate_mim.engine.seeding import numpy_generator
from prostate_mim.errors import ManifestError, UsageError
from prostate_mim.folds import assign_folds
from prostate_mim.health.windows import Watched, Window, random_windows
from prostate_mim.manifest import Manifest, read_manifest
from prostate_mim.probing.task import ProbeTask

BoolArray = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int_]

# kind -> (positive, among): mask of the voxels looked for, and of those asked about (measured ones where None)
ASKED: dict[str, tuple[str, tuple[str, ...] | None]] = {
    "gland": ("gland", None),
    "zone": ("tz", ("tz", "pz")),
    "lesion": ("lesion", ("gland",)),
}


@dataclass(frozen=True, eq=False)
class Questions:
    """Everything a probe is asked.

    Attributes:
        windows: of all studies.
        places: one (V, 3) per window: the voxels asked about, z, y, x within the window.
        labels: one (V,) 0 or 1 per window; empty for ``centre``.
        patients: (windows,) running number of the patient.
        folds: (patients,) of each patient.
        centres: (patients,) number of the scanner centre; -1 where unknown.
    """

    windows: list[Window]
    places: list[Ints]
    labels: list[Ints]
    patients: Ints
    folds: Ints
    centres: Ints


def ask(task: ProbeTask, seed: int, *, store: Path | None = None) -> Questions:
    """Cut the windows of a task and draw its voxels. The same for every encoder.

    Args:
        store: folder of prepared studies; None prepares them in memory.

    Raises:
        ManifestError, VolumeError, NotFoundError: the data, or a study without the mask or centre asked for.
    """
    listed = read_manifest(task.manifest)
    _check(listed, task)
    folds = _folds(listed, task, seed)
    rows = prepare_rows(listed, task.region, store=store).rows
    studies = [Watched(row.study, group=number) for number, row in enumerate(rows)]
    windows = random_windows(studies, task.window, task.windows, seed)
    names = list(dict.fromkeys(row.patient_id for row in listed.rows))
    patient_of = [names.index(row.patient_id) for row in listed.rows]
    places, labels = [], []
    for number, window in enumerate(windows):
        if task.kind == "centre":
            places.append(np.argwhere(window.inside))
            labels.append(np.zeros(0, int))
            continue
        rng = numpy_generator(seed, "probe", "voxels", number)
        place, label = _voxels(studies[window.owner], window, task, rng)
        places.append(place)
        labels.append(label)
    by_patient = np.zeros(len(names), int)
    by_patient[patient_of] = folds
    known = sorted({row.centre for row in listed.rows if row.centre})
    centres = np.full(len(names), -1)
    centres[patient_of] = [known.index(row.centre) if row.centre else -1 for row in listed.rows]
    owners = np.asarray([patient_of[window.owner] for window in windows])
    return Questions(windows, places, labels, owners, by_patient, centres)


def shuffled(questions: Questions, seed: int) -> Questions:
    """The same with labels permuted within each patient, and centres within each fold: nothing is left to be found.

    Within each window they would keep its share of positives, which features tell (how much gland it shows); among all
    patients, a centre that many of the tested have would be one that few are fitted to, and guesses worse than chance.
    """
    rng = numpy_generator(seed, "probe", "permuted")
    labels, centres = list(questions.labels), questions.centres.copy()
    for patient in np.unique(questions.patients):
        own = np.flatnonzero(questions.patients == patient)
        ends = np.cumsum([len(labels[number]) for number in own])[:-1]
        mixed = rng.permutation(np.concatenate([labels[number] for number in own]))
        for number, part in zip(own, np.split(mixed, ends), strict=True):
            labels[number] = part
    for fold in np.unique(questions.folds):
        own = np.flatnonzero(questions.folds == fold)
        centres[own] = rng.permutation(centres[own])
    return replace(questions, labels=labels, centres=centres)


def tested_folds(questions: Questions, task: ProbeTask) -> list[int]:
    """Which folds are tested.

    Raises:
        UsageError: a fold that no patient is in, or nobody is left to fit to.
    """
    found = sorted(set(questions.folds.tolist()))
    asked = list(task.test_folds) or found
    for fold in asked:
        if fold not in found:
            raise UsageError(f"{task.manifest}: test_folds names fold {fold}, found are {found}")
    if len(found) < 2:
        raise UsageError(f"{task.manifest}: all patients are in fold {found[0]}; nobody is left to fit a probe to")
    return asked


def _folds(listed: Manifest, task: ProbeTask, seed: int) -> list[int]:
    """The manifest's own folds; else patients in turn, centre by centre: a probe's labels are its voxels'."""
    if any(row.fold is not None for row in listed.rows):
        return assign_folds(listed, task.folds, seed)
    centres = {row.patient_id: row.centre for row in listed.rows}
    names = numpy_generator(seed, "probe", "folds").permutation(sorted(centres)).tolist()
    if len(names) < task.folds:
        raise UsageError(f"{listed.path}: {len(names)} patients do not make {task.folds} folds; use fewer folds")
    in_turn = sorted(names, key=lambda name: centres[name])
    return [in_turn.index(row.patient_id) % task.folds for row in listed.rows]


def _check(listed: Manifest, task: ProbeTask) -> None:
    """Refuse a study that cannot answer; lesion masks alone may be missing, where a study has no lesion."""
    for row in listed.rows:
        lacks = {
            "gland": row.gland_mask is None,
            "zone": row.zone_mask is None or row.gland_mask is None,
            "lesion": row.gland_mask is None,
            "centre": not row.centre,
        }[task.kind]
        if lacks:
            needed = "a centre" if task.kind == "centre" else "gland_mask" + (" and zone_mask" * (task.kind == "zone"))
            raise ManifestError(
                f"{listed.where(row)}: a {task.kind} probe needs {needed}; add it, or leave the row out"
            )


def _voxels(study: Watched, window: Window, task: ProbeTask, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """(V, 3) places and (V,) labels; fewer than asked for where the window holds fewer."""
    positive, among = ASKED[task.kind]
    wanted = _mask(study, window, positive)
    asked = window.inside if among is None else _union([_mask(study, window, name) for name in among])
    usable = np.argwhere((asked | wanted) & window.inside)
    chosen = usable[np.sort(rng.permutation(len(usable))[: task.voxels])]
    return chosen, wanted[tuple(chosen.T)].astype(int)


def _mask(study: Watched, window: Window, name: str) -> BoolArray:
    z, y, x = (slice(a, a + n) for a, n in zip(window.start_zyx, window.voxels.shape, strict=True))
    found = study.study.mask(name, (z, y, x))
    return np.zeros(window.voxels.shape, bool) if found is None else found


def _union(masks: Sequence[BoolArray]) -> BoolArray:
    return np.asarray(np.logical_or.reduce(masks))

"""run_probe: encoder + task -> one value per tested patient, from probes that saw nobody of the patient's fold."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from prostate_mim.encoder import PreMIM
from prostate_mim.errors import UsageError
from prostate_mim.health.windows import Window
from prostate_mim.initialisations import calibrate_norms
from prostate_mim.metrics import auroc
from prostate_mim.probing.data import Questions, ask, shuffled, tested_folds
from prostate_mim.probing.features import as_batch, place_features, study_features, voxel_features
from prostate_mim.probing.fit import Fitted, best_threshold, choose_penalty, dice, fit
from prostate_mim.probing.location import location_features
from prostate_mim.probing.task import CONTROLS, ProbeTask

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int_]
_CALIBRATION_BATCH = 8


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """What a probe found.

    Attributes:
        patients: (P,) running numbers of the tested patients, in the order of the manifest; equal for equal tasks.
        values: per-patient metrics, each (P,): ``auroc`` and ``dice`` of voxels; of centres ``correct`` (0 or 1), and
            ``balanced_accuracy``, the same weighted so that its mean over patients is the mean of the centres' own;
            NaN where a patient's windows hold one class only.
        penalties: the C chosen for each tested fold.
    """

    patients: Ints
    values: Mapping[str, Floats]
    penalties: tuple[float, ...] = ()


def run_probe(
    encoder: PreMIM,
    task: ProbeTask,
    seed: int = 0,
    *,
    control: str = "",
    store: str | Path | None = None,
    questions: Questions | None = None,
) -> ProbeResult:
    """Fit and test a linear probe on frozen features of random windows.

    Args:
        encoder: left as it is; its own spec is not looked at.
        task: what is asked, on which studies.
        seed: of windows, drawn voxels and inner folds.
        control: ``permuted`` shuffles the labels within each patient (of centres: within each fold). Instead of any
            feature, ``place`` reads where a voxel lies in its window: both show what the pipeline itself gives away.
            ``location`` reads where it lies in the body: what a network knows that knows nothing but places.
        store: folder of prepared studies, so that they are resampled once for all encoders; None keeps none.
        questions: what ``ask`` gave for this task (tested folds aside) and seed, where many encoders are asked the
            same; None asks.

    Raises:
        UsageError: unknown control, or too few patients.
        ManifestError, VolumeError, NotFoundError: the data; a study lacks the mask or centre that the task asks for.
    """
    if control not in CONTROLS:
        raise UsageError(f"control {control!r} is unknown; choose {', '.join(CONTROLS[1:])}")
    if control in ("place", "location") and task.kind == "centre":
        raise UsageError(f"control {control!r} is about voxels; a centre probe has none")
    folder = None if store is None else Path(store)
    if questions is None:
        questions = ask(task, seed, store=folder)
    asked = shuffled(questions, seed) if control == "permuted" else questions
    features = _features(encoder, asked, task, control, folder)
    run = _centres if task.kind == "centre" else _voxels
    return run(asked, task, seed, features)


# Fold tested -> features of every window, from an encoder that met at most the other folds' patients.
_Features = Callable[[int], list[Floats]]


def _features(encoder: PreMIM, asked: Questions, task: ProbeTask, control: str, store: Path | None) -> _Features:
    """Once for all folds, or anew for each where batch norms follow the fitted patients."""
    if control in ("place", "location"):
        in_window = control == "place"
        places = place_features(asked.windows, asked.places) if in_window else location_features(asked, task, store)
        return lambda fold: places
    if not task.calibrate:
        found = _read(encoder, asked, task)
        return lambda fold: found

    def of_fold(fold: int) -> list[Floats]:
        own = copy.deepcopy(encoder)
        fitted = [w for w, who in zip(asked.windows, asked.patients, strict=True) if asked.folds[who] != fold]
        calibrate_norms(own.encoder, list(_in_batches(fitted)))
        return _read(own, asked, task)

    return of_fold


def _read(encoder: PreMIM, asked: Questions, task: ProbeTask) -> list[Floats]:
    if task.kind == "centre":
        return list(study_features(encoder, asked.windows, task.stages)[:, None])
    return voxel_features(encoder, asked.windows, asked.places, task.stages)


def _in_batches(windows: list[Window]) -> Iterator[torch.Tensor]:
    for first in range(0, len(windows), _CALIBRATION_BATCH):
        yield as_batch(windows[first : first + _CALIBRATION_BATCH])


def _voxels(asked: Questions, task: ProbeTask, seed: int, features: _Features) -> ProbeResult:
    owners = np.concatenate([np.full(len(y), who) for y, who in zip(asked.labels, asked.patients, strict=True)])
    labels = np.concatenate(asked.labels)
    folds = tested_folds(asked, task)
    patients = np.flatnonzero(np.isin(asked.folds, folds))
    values = {name: np.full(len(patients), np.nan) for name in ("auroc", "dice")}
    penalties = []
    for fold in folds:
        rows = np.concatenate(features(fold))
        fitted, threshold = _fit_apart(rows, labels, owners, asked.folds[owners] == fold, task, seed)
        penalties.append(fitted.penalty)
        for patient in np.flatnonzero(asked.folds == fold):
            own, at = owners == patient, int(np.searchsorted(patients, patient))
            probabilities = fitted.probabilities(rows[own])[:, 1]
            found = auroc(labels[own], probabilities)
            if found is not None:
                values["auroc"][at] = found
                values["dice"][at] = dice(probabilities > threshold, labels[own])
    return ProbeResult(patients, values, penalties=tuple(penalties))


def _fit_apart(
    rows: Floats, labels: Ints, owners: Ints, test: npt.NDArray[np.bool_], task: ProbeTask, seed: int
) -> tuple[Fitted, float]:
    """A probe of all rows but those tested, and the threshold of its best Dice on them."""
    if len(np.unique(labels[~test])) < 2:
        raise UsageError(f"{task.manifest}: the patients outside a tested fold hold one class only; use fewer folds")
    train = rows[~test], labels[~test]
    penalty = choose_penalty(*train, owners[~test], task.penalties, task.inner_folds, seed)
    fitted = fit(*train, penalty)
    return fitted, best_threshold(fitted.probabilities(train[0])[:, 1], train[1])


def _centres(asked: Questions, task: ProbeTask, seed: int, features: _Features) -> ProbeResult:
    """One row per patient: the mean over the patient's windows."""
    folds = tested_folds(asked, task)
    patients = np.flatnonzero(np.isin(asked.folds, folds))
    guesses, penalties = np.full(len(patients), -1), []
    numbers = np.arange(len(asked.folds))
    for fold in folds:
        of_windows = np.concatenate(features(fold))
        rows = np.stack([of_windows[asked.patients == number].mean(0) for number in numbers])
        test = asked.folds == fold
        train = rows[~test], asked.centres[~test]
        penalty = choose_penalty(*train, numbers[~test], task.penalties, task.inner_folds, seed)
        fitted = fit(*train, penalty)
        penalties.append(penalty)
        found = fitted.model.classes_[fitted.probabilities(rows[test]).argmax(1)]
        guesses[np.searchsorted(patients, np.flatnonzero(test))] = found
    truth = asked.centres[patients]
    correct = (guesses == truth).astype(float)
    _, own, counts = np.unique(truth, return_inverse=True, return_counts=True)
    balanced = correct * len(truth) / (len(counts) * counts[own])
    return ProbeResult(patients, {"correct": correct, "balanced_accuracy": balanced}, tuple(penalties))

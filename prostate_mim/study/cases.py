"""Pictures for the table of cases: each lesion's crop, and what a classifier that never saw its patient looked at."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from prostate_mim.classifier import LesionClassifier
from prostate_mim.errors import UsageError
from prostate_mim.files import make_folder, write_bytes
from prostate_mim.finetuning import fit_linear_probe, region_features
from prostate_mim.finetuning.fit import set_head
from prostate_mim.saliency import explain, saliency_png
from prostate_mim.studies import open_all
from prostate_mim.study.case_table import task_folder
from prostate_mim.study.config import LESIONS
from prostate_mim.study.features import classifier_for
from prostate_mim.study.tasks import OpenTask


def write_cases(
    out: Path,
    task: OpenTask,
    releases: Path | Mapping[int, Path],
    *,
    seed: int = 0,
    method: str = "gradcam",
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write ``out/cases/<task>/<row>.png``: the crop's middle slice beside itself with a saliency map.

    The map is of a linear probe on one arm's frozen encoder, fitted on the other folds' patients: not of the many
    seeds whose mean the table shows.

    Args:
        out: the study's folder.
        task: of kind ``lesions``.
        releases: folder of the arm's encoder; by fold where each has its own pretraining.
        seed: of the probe's inner folds.
        method: ``gradcam`` or ``occlusion``.
        device: of features.
        progress: called with (done, of) after each row.

    Returns:
        The pictures' paths, in the order of the manifest.

    Raises:
        UsageError: not a task of lesions, no release for a fold, or too few labels to fit a probe.
        NotFoundError, IntegrityError: a release cannot be read.
        VolumeError, ManifestError: a row cannot be read.
    """
    if task.config.kind != LESIONS:
        raise UsageError(f"task {task.config.name}: cases are drawn for tasks of kind {LESIONS} only")
    models = fold_classifiers(task, releases, seed=seed, device=device)
    folder = make_folder(task_folder(out, task.config.name))
    written = []
    for study, fold in zip(open_all(task.manifest), task.table.folds, strict=True):
        made = explain(models[fold], study.volume, study.centre_mm_lps, masks=study.masks, method=method)
        _, y, x = made.crop.geometry.spacing_mm_zyx
        data = saliency_png(made.crop.voxels, made.crop_map, spacing_mm_yx=(y, x))
        written.append(folder / f"{study.row.number}.png")
        write_bytes(written[-1], data)
        if progress is not None:
            progress(len(written), len(task.table.rows))
    return written


def fold_classifiers(
    task: OpenTask, releases: Path | Mapping[int, Path], *, seed: int = 0, device: str = "cpu"
) -> dict[int, LesionClassifier]:
    """Per fold, a classifier whose head was fitted on the rows of all other folds.

    Raises:
        UsageError, NotFoundError, IntegrityError: as ``write_cases``.
    """
    folds = np.array(task.table.folds)
    labels, names = np.array(task.table.labels), task.table.names
    fitted = {}
    for fold in sorted(set(task.table.folds)):
        release = releases if isinstance(releases, Path) else releases.get(fold)
        if release is None:
            raise UsageError(f"task {task.config.name}: there is no encoder for fold {fold}; give one per fold")
        learned = np.flatnonzero(folds != fold)
        model = copy.deepcopy(classifier_for(task, release, fold, device))
        features = region_features(model, [task.regions[row] for row in learned], device)
        set_head(model, fit_linear_probe(features, labels[learned], [names[row] for row in learned], seed=seed))
        fitted[fold] = model.eval()
    return fitted

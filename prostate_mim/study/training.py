"""Cells that train with the loop: all weights, or a head with epochs of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prostate_mim.finetuning import FinetuneConfig, predict_regions
from prostate_mim.finetuning.fit import fit, starting_point
from prostate_mim.finetuning.lesions import gather
from prostate_mim.study.features import Features, classifier_for
from prostate_mim.study.tasks import Ints, OpenTask


def fit_and_predict(
    task: OpenTask,
    targets: tuple[Ints, Ints],
    features: Features | None,
    training: Sequence[int],
    held_out: Sequence[int],
    release: Path,
    fold: int,
    folder: Path,
    config: FinetuneConfig,
) -> Features:
    """Train on some rows of a task and predict others.

    Args:
        task: the rows.
        targets: (N,) labels and (N,) grades of all rows; shuffled ones in a control.
        features: (N, F) of all rows, where a linear head is fitted first; else None.
        training, held_out: places of rows.
        release: folder of the encoder that it begins with.
        fold: that is held out.
        folder: of the training; its checkpoints resume an interrupted one.
        config: mode, epochs and so on.

    Returns:
        (len(held_out),) probabilities.

    Raises:
        ProstateMimError: as ``finetuning.finetune``.
    """
    labels, grades = targets
    start = starting_point(classifier_for(task, release, fold, config.loop.device), config)
    lesions = gather(task.manifest, task.prepared, task.table.folds, task.config.spec, config)
    regions = tuple(
        dataclasses.replace(region, label=int(label)) for region, label in zip(lesions.regions, labels, strict=True)
    )
    lesions = dataclasses.replace(
        lesions, regions=regions, labels=labels, targets=np.asarray(grades if config.target == "isup" else labels),
        patients=tuple(task.table.names),
    )  # fmt: skip
    fitted = fit(start, lesions, features, list(training), folder, config, resume=True)
    return predict_regions(fitted, [regions[row] for row in held_out], config.loop.device, flips=config.flips)

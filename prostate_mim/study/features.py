"""Frozen features of an encoder on a task: computed once, kept as safetensors, shared by all of its linear cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from prostate_mim.classifier import LesionClassifier
from prostate_mim.encoder import PreMIM
from prostate_mim.engine.distributed import pick_device
from prostate_mim.errors import IntegrityError
from prostate_mim.files import write_bytes
from prostate_mim.finetuning import region_features
from prostate_mim.finetuning.regions import middle_crops
from prostate_mim.hub.weights import read_tensors
from prostate_mim.initialisations import calibrate_norms
from prostate_mim.study.cache import Places, key_of
from prostate_mim.study.config import TaskConfig
from prostate_mim.study.tasks import ALL_FOLDS, OpenTask, TaskTable, open_task

Features = npt.NDArray[np.float64]
_NAME = "features"
_BATCH = 8


@dataclass(frozen=True)
class FeatureJob:
    """The features of one encoder on every row of a task.

    Attributes:
        key: of everything that decides them; see ``feature_key``.
        title: for the progress bar.
        task: whose rows.
        seed: of the study, for the task's folds.
        fold: whose training rows calibrate the normalisation layers; ``ALL_FOLDS`` where nothing is calibrated.
        mirrored: of the left-right mirror images.
        release: folder of the encoder.
        places: of the study.
        device: ``auto``, ``cpu`` or ``cuda``.
    """

    key: str
    title: str
    task: TaskConfig
    seed: int
    fold: int
    mirrored: bool
    release: Path
    places: Places
    device: str
    has_bar: bool = True

    def run(self) -> None:
        """Compute and keep them, if they are not there."""
        from safetensors.torch import save

        path = self.places.features(self.key)
        if path.is_file():
            return
        opened = open_task(self.task, self.seed, self.places.store)
        model = classifier_for(opened, self.release, self.fold, self.device)
        found = region_features(model, opened.regions, self.device, mirrored=self.mirrored)
        # float32 is what the network gives: nothing is lost.
        write_bytes(path, save({_NAME: torch.from_numpy(found).float().contiguous()}))


def classifier_for(task: OpenTask, release: Path, fold: int, device: str) -> LesionClassifier:
    """An encoder under a task's input contract, its normalisation calibrated on training crops where the task says so.

    Args:
        fold: held out of the calibration.
    """
    encoder = PreMIM.from_pretrained(release)
    model = LesionClassifier(encoder, task.config.spec, pooling=task.config.pooling).eval()
    if task.config.calibrate_norms:
        model.to(pick_device(device))
        calibrate_norms(model.encoder, _training_crops(task, fold))
        model.cpu()
    return model


def _training_crops(task: OpenTask, fold: int) -> Iterator[Tensor]:
    """Unlabelled crops in batches, of the rows outside of a fold; a last one alone has no variance and is left out."""
    regions = [region for region, own in zip(task.regions, task.table.folds, strict=True) if own != fold]
    for first in range(0, len(regions) - 1, _BATCH):
        yield middle_crops(regions[first : first + _BATCH], task.config.spec)


def feature_key(task: TaskConfig, table: TaskTable, weights: str, fold: int, *, mirrored: bool = False) -> str:
    """The key of an encoder's features on a task.

    Args:
        weights: SHA-256 of the encoder's weights.
        fold, mirrored: as in ``FeatureJob``.
    """
    values: dict[str, Any] = {
        "weights": weights,
        "data": table.contents,
        "rows": list(table.rows),
        "spec": task.spec.to_dict(),
        "level": task.level,
        "pooling": task.pooling,
        "mirrored": mirrored,
    }
    if task.calibrate_norms:
        values["calibrated_on"] = [own != fold for own in table.folds]
    return key_of("features", values)


def fold_of_features(task: TaskConfig, fold: int) -> int:
    """Which features a fold's cells read: its own where something in them depends on the fold."""
    return fold if task.calibrate_norms else ALL_FOLDS


def read_features(path: Path, rows: int) -> Features:
    """(N, F) float64 features as they were kept.

    Raises:
        IntegrityError: the file is damaged, or of other rows.
    """
    found = read_tensors(path).get(_NAME)
    if found is None or found.ndim != 2 or len(found) != rows:
        raise IntegrityError(f"{path}: does not hold the features of {rows} rows; remove it and run again")
    return found.double().numpy()

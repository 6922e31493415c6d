"""A network over regions without augmentation: features, logits, probabilities of the middle crops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from prostate_mim.classifier import LesionClassifier, flipped
from prostate_mim.engine.data import Region, crop_of
from prostate_mim.engine.distributed import pick_device
from prostate_mim.engine.tracker import progress_bar
from prostate_mim.spec import InputSpec

Features = npt.NDArray[np.float64]
JITTER_ZYX = (1, 6, 6)
"""Voxels by which a region is wider than the crop at each side, and a training crop may lie off its middle."""
_BATCH = 8


def region_features(
    model: LesionClassifier, regions: Sequence[Region], device: str, *, mirrored: bool = False
) -> Features:
    """(N, C) float64 features of the middle crop of each region, without augmentation.

    Args:
        mirrored: of the left-right mirror image.
    """

    def call(batch: Tensor) -> Tensor:
        return model.features(batch.flip(4) if mirrored else batch)

    return _run(model, call, regions, device)


def predict_regions(
    model: LesionClassifier, regions: Sequence[Region], device: str, *, flips: bool = False
) -> Features:
    """(N,) probabilities of the middle crop of each region.

    Args:
        flips: the mean with its left-right mirror image.
    """

    def call(batch: Tensor) -> Tensor:
        return torch.sigmoid(flipped(model, batch) if flips else model(batch))

    return _run(model, call, regions, device)


@torch.inference_mode()
def _run(model: LesionClassifier, call: Callable[[Tensor], Tensor], regions: Sequence[Region], device: str) -> Features:
    where = pick_device(device)
    model.eval().to(where)
    results: list[npt.NDArray[Any]] = []
    with progress_bar() as bar:
        task = bar.add_task("reading lesions with the network", total=len(regions))
        for first in range(0, len(regions), _BATCH):
            crops = middle_crops(regions[first : first + _BATCH], model.spec)
            results.append(call(crops.to(where)).double().cpu().numpy())
            bar.advance(task, len(crops))
    model.cpu()
    return np.concatenate(results)


def middle_crops(regions: Sequence[Region], spec: InputSpec) -> Tensor:
    """(N, C, D, H, W) float32, as ``preprocess.prepare_input`` gives them."""
    z, y, x = (slice(j, j + n) for j, n in zip(JITTER_ZYX, spec.size_zyx, strict=True))
    return torch.from_numpy(np.stack([crop_of(region, spec, (z, y, x)) for region in regions]))


class HeldOut:
    """Rows that training does not see, kept as crops: what a network makes of them.

    Args:
        model: gives the network's shape; it is held and its weights are replaced at each call.
        regions: the rows.
        spec: their crops'.
        device: where to run.
    """

    def __init__(self, model: nn.Module, regions: Sequence[Region], spec: InputSpec, device: str) -> None:
        self._model, self._device = model, pick_device(device)
        self._crops = middle_crops(regions, spec)
        self.rows = torch.tensor([region.row for region in regions])

    @torch.inference_mode()
    def outputs(self, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Whole weights -> (N, K) cumulative logits and (N, zones) logits, on the CPU."""
        self._model.load_state_dict(weights, strict=True)
        self._model.eval().to(self._device)
        found = [self._model(part.to(self._device)) for part in torch.split(self._crops, _BATCH)]
        logits = torch.cat([one[0].cpu() for one in found])
        return logits, None if found[0][1] is None else torch.cat([one[1].cpu() for one in found])

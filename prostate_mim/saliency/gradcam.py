"""Grad-CAM of a classifier: which cells of a stage speak for label 1 (Selvaraju et al. 2017), by MONAI's ``GradCAM``.

The stage is tapped with the encoder's own ``between``: what comes after it, later stages and pooling alike, gets the
tapped features, and the gradient is that of the whole classifier. The model itself keeps no hook and no gradient.

Grad-CAM averages a channel's gradient over all cells, as if the head pooled them evenly. ``CentrePool`` does not, and a
cell that it hardly counts can still be hot. HiResCAM (Draelos and Carin 2020) multiplies cell by cell instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prostate_mim.classifier import LesionClassifier
from prostate_mim.errors import UsageError
from prostate_mim.nets.encoder import Encoder, unchanged
from prostate_mim.nets.modes import evaluating
from prostate_mim.saliency.cells import FloatArray, over_voxels


class _Tapped(nn.Module):
    """A classifier as MONAI wants one: (N, C, D, H, W) -> (N, 1), with a layer to listen at for each encoder.

    The classifier is no submodule of it: MONAI sets the gradients of all submodules to zero.
    """

    def __init__(self, model: nn.Module, count: int) -> None:
        super().__init__()
        self.taps = nn.ModuleList(nn.Identity() for _ in range(count))
        self._score: Any = model.__call__

    def forward(self, batch: Tensor) -> Tensor:
        """(N, C, D, H, W) -> (N, 1) logits."""
        logits: Tensor = self._score(batch)
        return logits[:, None]


def gradcam(model: LesionClassifier, batch: Tensor, stage: int = -1, *, each_cell: bool = False) -> FloatArray:
    """How much each voxel's cell speaks for label 1: gradient of the logit times features, where positive.

    Args:
        model: the classifier; with several encoders (an ensemble of folds) their maps are added.
        batch: (1, C, D, H, W) as ``LesionClassifier.prepare`` makes it.
        stage: of the encoder: 0 is the finest, -1 the coarsest.
        each_cell: with the cell's own gradient (HiResCAM), not with the channel's mean (Grad-CAM).

    Returns:
        (D, H, W) float32, 0 and above, in logits per cell; all 0 where nothing speaks for label 1.

    Raises:
        UsageError: no such stage.
    """
    encoders = encoders_of(model)
    number = stage_number(encoders[0], stage)
    info = encoders[0].stage_info[number]

    def upsampler(size: Any) -> Any:
        return lambda cells: torch.from_numpy(
            over_voxels(cells[0, 0].detach().cpu().numpy(), info.begin_zyx, info.stride_zyx, size)
        )

    total = np.zeros(tuple(batch.shape[2:]), np.float32)
    with _listening(model, encoders, number) as tapped:
        given = batch.detach().clone().to(next(model.parameters()).device).requires_grad_()
        names = [f"taps.{place}" for place in range(len(encoders))]
        camera = _camera(each_cell)(tapped, names, upsampler=upsampler, postprocessing=lambda found: found)
        for place in range(len(encoders)):
            total += camera(given, class_idx=0, layer_idx=place).numpy()
    return total


def _camera(each_cell: bool) -> Any:
    """MONAI's class, or its variant with the gradient of each cell."""
    from monai.visualize import GradCAM

    class HiResCAM(GradCAM):  # type: ignore[misc]
        def compute_map(self, x: Tensor, class_idx: Any = None, layer_idx: int = -1, **named: Any) -> Tensor:
            _, features, gradients = self.nn_module(x, class_idx=class_idx, **named)
            cells: Tensor = (gradients[layer_idx] * features[layer_idx]).sum(1, keepdim=True)
            return cells.clamp(min=0)

    return HiResCAM if each_cell else GradCAM


def encoders_of(model: nn.Module) -> list[Encoder]:
    """The encoders in a classifier: one, or one for each member of an ensemble."""
    return [module for module in model.modules() if isinstance(module, Encoder)]


def stage_number(encoder: Encoder, stage: int) -> int:
    """0 to 3 for any way of counting.

    Raises:
        UsageError: no such stage.
    """
    count = len(encoder.stage_info)
    if not -count <= stage < count:
        raise UsageError(f"stage {stage} does not exist; 0 (finest) to {count - 1}, or -1 (coarsest) to -{count}")
    return stage % count


@contextmanager
def _listening(model: nn.Module, encoders: list[Encoder], stage: int) -> Iterator[_Tapped]:
    """The classifier in evaluation mode with taps, outside of inference mode; afterwards all is as it was."""
    tapped = _Tapped(model, len(encoders))

    def tap(place: int) -> Any:
        def hook(module: nn.Module, arguments: Any, named: dict[str, Any]) -> Any:
            inner = named.get("between", unchanged)

            def between(resolution: int, features: Tensor) -> Tensor:
                given: Tensor = inner(resolution, features)
                # The clone keeps an in-place layer that follows off what the hooks hold.
                return tapped.taps[place](given).clone() if resolution == stage else given

            return arguments, {**named, "between": between}

        return hook

    wanted = {parameter: parameter.requires_grad for parameter in model.parameters()}
    hooks = [one.register_forward_pre_hook(tap(place), with_kwargs=True) for place, one in enumerate(encoders)]
    try:
        with evaluating(model), torch.inference_mode(False), torch.enable_grad():
            model.requires_grad_(False)
            yield tapped
    finally:
        for registered in hooks:
            registered.remove()
        for parameter, needed in wanted.items():
            parameter.requires_grad_(needed)

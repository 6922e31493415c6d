"""Occlusion: how far the logit falls when a box of the crop is covered (Zeiler and Fergus 2014), by MONAI's tool."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor, nn

from prostate_mim.classifier import LesionClassifier
from prostate_mim.errors import UsageError
from prostate_mim.manifest import Point
from prostate_mim.nets.modes import evaluating
from prostate_mim.saliency.cells import FloatArray

BOX_MM_ZYX = (12.0, 12.0, 12.0)
_OVERLAP = 0.5
_AT_ONCE = 2  # crops a step: more is no faster on a CPU


class _Covered(nn.Module):
    """The image alone as input: mask channels tell the network where to look, and are not covered."""

    def __init__(self, model: nn.Module, others: Tensor) -> None:
        super().__init__()
        self.model, self.others = model, others

    def forward(self, image: Tensor) -> Tensor:
        """(N, 1, D, H, W) -> (N, 1) logits."""
        batch = torch.cat([image, self.others.expand(len(image), -1, -1, -1, -1)], 1)
        logits: Tensor = self.model(batch)
        return logits[:, None]


def occlusion(model: LesionClassifier, batch: Tensor, box_mm_zyx: Point = BOX_MM_ZYX) -> FloatArray:
    """By how much covering a voxel's surroundings lowers the logit, where it does.

    Boxes overlap by half; each is filled with 0, the mean of the crop, and a voxel gets the mean over the boxes that
    cover it. The logit, not the probability: near 0 and 1 the latter hardly moves.

    Args:
        model: the classifier.
        batch: (1, C, D, H, W) as ``LesionClassifier.prepare`` makes it; channel 0 is covered.
        box_mm_zyx: of the covering box; at least one voxel along each axis.

    Returns:
        (D, H, W) float32, 0 and above, in logits; all 0 where every box raises the logit.

    Raises:
        UsageError: the box is larger than the crop, or not above 0.
    """
    from monai.visualize import OcclusionSensitivity

    size = box_voxels(box_mm_zyx, model.spec.spacing_mm_zyx, tuple(batch.shape[2:]))
    with evaluating(model), torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # MONAI 1.6 indexes with lists, which torch announces to end
        given = batch.to(next(model.parameters()).device)
        covered = _Covered(model, given[:, 1:])
        # activate=False: MONAI would choose sigmoid or softmax by the channels of the input.
        tool = OcclusionSensitivity(covered, size, _AT_ONCE, verbose=False, mode=0.0, overlap=_OVERLAP, activate=False)
        image = given[:, :1]
        logits, _ = tool(image)
        fall = covered(image)[0, 0] - torch.as_tensor(logits)[0, 0]
    return np.asarray(fall.clamp(min=0).cpu().numpy(), np.float32)


def box_voxels(box_mm_zyx: Point, spacing_mm_zyx: Point, size_zyx: tuple[int, ...]) -> tuple[int, int, int]:
    """The box in voxels, at least one along each axis.

    Raises:
        UsageError: it is larger than the crop, or not above 0.
    """
    if not all(0 < mm < np.inf for mm in box_mm_zyx):
        raise UsageError(f"box of {_text(box_mm_zyx)} mm: every side must be above 0")
    z, y, x = (max(1, round(mm / spacing)) for mm, spacing in zip(box_mm_zyx, spacing_mm_zyx, strict=True))
    if any(n > most for n, most in zip((z, y, x), size_zyx, strict=True)):
        crop = _text([n * mm for n, mm in zip(size_zyx, spacing_mm_zyx, strict=True)])
        raise UsageError(f"box of {_text(box_mm_zyx)} mm (z y x) is larger than the crop of {crop} mm; choose less")
    return z, y, x


def _text(values: object) -> str:
    return " x ".join(f"{value:g}" for value in values)  # type: ignore[attr-defined]

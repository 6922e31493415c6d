"""How far a prediction is from its target, on hidden cells only.

    prediction (N, F, d, h, w), target (N, F, d, h, w), counted (N, F or 1, d, h, w) bool

Every loss is the mean of an error over counted entries, 0 where none is counted, never NaN. Entries that are not
counted are replaced before anything is computed, so their gradient is exactly 0, whatever was predicted there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from prostate_mim.errors import UsageError
from prostate_mim.mim.layout import Triple, cells_to_voxels, voxels_to_cells
from prostate_mim.mim.lookup import look_up
from prostate_mim.mim.targets import Target

# z-scored voxels, clipped at their percentiles, lie within about three deviations of 0.
DYNAMIC_RANGE = 6.0
# Gaussian windows of about the same 3 mm in-plane and the shortest that has neighbours through-plane.
WINDOW_ZYX = (3, 7, 7)
# Wang et al. 2004: 11 voxels at a deviation of 1.5 are 7.3 deviations; these are 4.7, cut at 0.4 % of the peak.
_WINDOW_DEVIATIONS = 14 / 3


@dataclass(frozen=True)
class Scored:
    """What a loss says.

    Attributes:
        loss: () mean error over all counted entries of the batch.
        cell_error: (N, d, h, w) mean error over each cell's counted entries, 0 where none is; without gradient.
    """

    loss: Tensor
    cell_error: Tensor


# (prediction, target, counted, voxels per cell) -> (N, d, h, w): each cell's error, summed over its counted entries.
CellError = Callable[[Tensor, Tensor, Tensor, Triple], Tensor]


@dataclass(frozen=True)
class Loss:
    """One loss.

    Attributes:
        name: as in ``LOSSES``.
        summed_error: the error of each cell, see ``CellError``.
        needs_voxelwise: it looks at where values lie, so F must be the voxels of a cell.
    """

    name: str
    summed_error: CellError
    needs_voxelwise: bool

    def __call__(self, prediction: Tensor, target: Tensor, counted: Tensor, cell_zyx: Triple) -> Scored:
        """Score a batch.

        Args:
            prediction: (N, F, d, h, w); half precision is computed in float32.
            target: (N, F, d, h, w), without gradient.
            counted: (N, F or 1, d, h, w) bool, from ``counted_cells``.
            cell_zyx: voxels per cell.
        """
        found, wanted = _precise(prediction), _precise(target.detach())
        counted = counted.expand_as(found)
        with torch.autocast(found.device.type, enabled=False):
            error = self.summed_error(found, wanted, counted, cell_zyx)
        count = counted.sum(1)
        return Scored(error.sum() / count.sum().clamp(min=1), error.detach() / count.clamp(min=1))


def l2(prediction: Tensor, target: Tensor, counted: Tensor, cell_zyx: Triple) -> Tensor:
    """Squared difference (He et al. 2022, MAE)."""
    return torch.where(counted, prediction - target, 0).square().sum(1)


def l1(prediction: Tensor, target: Tensor, counted: Tensor, cell_zyx: Triple) -> Tensor:
    """Absolute difference (Xie et al. 2022, SimMIM)."""
    return torch.where(counted, prediction - target, 0).abs().sum(1)


def ssim(prediction: Tensor, target: Tensor, counted: Tensor, cell_zyx: Triple) -> Tensor:
    """1 - structural similarity at each counted voxel (Wang et al. 2004, equation 13), in Gaussian windows.

    The volume that is compared with the truth holds the prediction at counted voxels and the truth elsewhere:
    windows that reach into visible tissue see what is known to be there.
    """
    composed = cells_to_voxels(torch.where(counted, prediction, target), cell_zyx)
    similarity = ssim_map(composed, cells_to_voxels(target, cell_zyx))
    return torch.where(counted, 1 - voxels_to_cells(similarity, cell_zyx), 0).sum(1)


def ssim_map(first: Tensor, second: Tensor, window_zyx: Triple = WINDOW_ZYX) -> Tensor:
    """Structural similarity around each voxel, at most 1: two (N, 1, D, H, W) -> (N, 1, D, H, W).

    At the border a window holds only what lies within the volume. Intensities of z-scored voxels are moved up by
    half their range for the luminance term, which is meant for values that are not negative.
    """
    mean_a, square_a, product = _blur(torch.stack([first, first * first, first * second]), window_zyx)
    mean_b, square_b = _blur(torch.stack([second, second * second]), window_zyx)
    spread = square_a - mean_a.square() + square_b - mean_b.square()
    covariance = product - mean_a * mean_b
    stabiliser_1, stabiliser_2 = (0.01 * DYNAMIC_RANGE) ** 2, (0.03 * DYNAMIC_RANGE) ** 2
    a, b = mean_a + DYNAMIC_RANGE / 2, mean_b + DYNAMIC_RANGE / 2
    luminance: Tensor = (2 * a * b + stabiliser_1) / (a.square() + b.square() + stabiliser_1)
    structure: Tensor = (2 * covariance + stabiliser_2) / (spread + stabiliser_2)
    return luminance * structure


def _blur(volumes: Tensor, window_zyx: Triple) -> Tensor:
    """Gaussian-weighted means of (..., D, H, W), axis by axis, over what of the window lies within the volume.

    Banded matrices: on a CPU, products with them and their backward take a fraction of a one-channel convolution's.
    """
    z, y, x = (_weights(count, length, volumes) for count, length in zip(volumes.shape[-3:], window_zyx, strict=True))
    in_plane = y @ (volumes @ x.T)
    return (z @ in_plane.flatten(-2)).reshape(volumes.shape)


def _weights(count: int, length: int, like: Tensor) -> Tensor:
    """(count, count): row i holds the weights of each place in the window around i; they sum to 1."""
    place = torch.arange(count, device=like.device, dtype=like.dtype)
    far = (place[:, None] - place).abs()
    weight: Tensor = torch.exp(-0.5 * (far * (_WINDOW_DEVIATIONS / length)).square()) * (far <= length // 2)
    return weight / weight.sum(1, keepdim=True)


def focal_frequency(prediction: Tensor, target: Tensor, counted: Tensor, cell_zyx: Triple) -> Tensor:
    """Focal frequency loss of each cell (Jiang et al. 2021, equations 6 to 9, alpha = 1; patches are our cells).

    The squared difference of the orthonormal spectra, weighted by its own size: frequencies the decoder finds hard
    count most. The weight has maximum 1 in every cell and no gradient. Without it this is ``l2``, by Parseval.
    """
    difference = torch.where(counted, prediction - target, 0).movedim(1, -1)
    cells = difference.reshape(*difference.shape[:-1], *cell_zyx)
    spectrum: Tensor = torch.fft.fftn(cells, dim=(-3, -2, -1), norm="ortho").flatten(-3)
    power = spectrum.real.square() + spectrum.imag.square()
    weight: Tensor = power.detach().sqrt()
    weight = weight / weight.amax(-1, keepdim=True).clamp(min=math.sqrt(torch.finfo(power.dtype).tiny))
    error: Tensor = (weight * power).sum(-1)
    return error


LOSSES: dict[str, Loss] = {
    "l2": Loss("l2", l2, needs_voxelwise=False),
    "l1": Loss("l1", l1, needs_voxelwise=False),
    "ssim": Loss("ssim", ssim, needs_voxelwise=True),
    "focal_frequency": Loss("focal_frequency", focal_frequency, needs_voxelwise=True),
}


def build_loss(name: str, target: Target) -> Loss:
    """The loss called ``name``, for this target.

    Raises:
        NotFoundError: unknown name; the nearest known one is suggested.
        UsageError: the loss needs one value per voxel and the target has none, naming both.
    """
    loss = look_up("loss", name, LOSSES)
    if loss.needs_voxelwise and not target.voxelwise:
        fitting = ", ".join(known for known, each in LOSSES.items() if not each.needs_voxelwise)
        raise UsageError(
            f"loss {name!r} compares voxels, but target {target.name!r} is not one value per voxel; "
            f"use one of the losses {fitting}, or a target such as 'block'"
        )
    return loss


def _precise(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()

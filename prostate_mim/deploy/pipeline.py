"""The whole pipeline as one graph: a study's voxels, its affine and lesions' positions -> the network's outputs.

The same steps as ``preprocess`` with the same formulas (``volume.resampling.axis_matrix``), in float64 up to the crop.
A graph cannot refuse: where ``preprocess`` would (a position outside, a constant crop), outputs are NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prostate_mim.spec import InputSpec

REACH = 32  # of the Gaussian, in voxels: enough for voxels 17 times finer than the spec's
_TIE, _SAME, _FLAT, _TRUNCATE = 1e-3, 1e-4, 1e-6, 4.0  # as in ``preprocess`` and ``resampling``


class StudyGraph(nn.Module):
    """``preprocess`` and a network.

    Args:
        network: of ``graph``: crops (N, 1, D, H, W) -> outputs.
        spec: the input contract, of the image alone.
    """

    percentiles: Tensor
    spacing: Tensor

    def __init__(self, network: nn.Module, spec: InputSpec) -> None:
        super().__init__()
        self.network, self.size = network, spec.size_zyx
        self.register_buffer("percentiles", torch.tensor(spec.clip_percentiles, dtype=torch.float64) / 100)
        self.register_buffer("spacing", torch.tensor(spec.spacing_mm_zyx, dtype=torch.float64))

    def forward(self, voxels: Tensor, affine: Tensor, position_mm_lps: Tensor) -> tuple[Tensor, ...]:
        """One study, N lesions.

        Args:
            voxels: (z, y, x) float32, axial, as ``read_volume`` gives them.
            affine: (4, 4) float64: voxel (x, y, z, 1) -> mm, LPS.
            position_mm_lps: (N, 3) float64: x, y, z of each lesion.

        Returns:
            The network's outputs, NaN for lesions that ``preprocess`` refuses.
        """
        crops, good = self.crops(voxels, affine, position_mm_lps)
        nothing = torch.where(good, 0.0, torch.nan).float()
        outputs = self.network(crops)
        return tuple(value + nothing.reshape(-1, *[1] * (value.ndim - 1)) for value in outputs)

    def crops(self, voxels: Tensor, affine: Tensor, position_mm_lps: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 1, D, H, W) float32 as ``preprocess`` gives them, and (N,) bool: those that it does not refuse."""
        matrix = affine[:3, :3]
        spacing = (matrix * matrix).sum(0).sqrt()
        offset = position_mm_lps - affine[:3, 3]
        # Axes are orthogonal, so that the inverse is the transpose, once each column is divided by its length twice.
        centre = ((offset @ matrix) / (spacing * spacing)).flip(1)
        scale = self.spacing / spacing.flip(0)
        scale = torch.where((scale - 1).abs() < _SAME, torch.ones_like(scale), scale)
        values, inside, good = voxels.double()[None], torch.ones_like(centre[:, :1, None, None], dtype=torch.bool), None
        for axis in (2, 1, 0):
            available = voxels.shape[axis]
            index = self._grid(centre[:, axis], scale[axis], axis, available)
            measured = (index > -0.5) & (index < available - 0.5)
            shape = [-1, 1, 1, 1]
            shape[1 + axis] = self.size[axis]
            inside = inside & measured.reshape(shape)
            values = _along(values, _matrices(index, scale[axis], available), axis)
            held = (centre[:, axis] > -0.5) & (centre[:, axis] < available - 0.5)
            good = held if good is None else good & held
        crops, varies = self._normalised(torch.where(inside, values.float().double(), 0.0), inside)
        assert good is not None  # noqa: S101 - there are three axes
        return crops[:, None], good & varies

    def _grid(self, centre: Tensor, scale: Tensor, axis: int, available: int) -> Tensor:
        """(N, size): where grid points lie, in voxels; see ``preprocess._start``."""
        size = self.size[axis]
        middle = size // 2
        start = torch.floor(centre + scale * (middle - (size - 1) / 2) + 0.5 - _TIE) - scale * middle
        steps = torch.arange(size, dtype=torch.float64)
        index = start[:, None] + scale * steps
        any_measured = ((index > -0.5) & (index < available - 0.5)).any(1)
        voxel = centre.round().clamp(min=0).minimum(torch.full_like(centre, 1.0) * (available - 1))
        away = (index - voxel[:, None]).abs()
        nearest = index.gather(1, away.argmin(1, keepdim=True))[:, 0]
        moved = torch.where(any_measured, torch.zeros_like(start), voxel - nearest)
        return (start + moved)[:, None] + scale * steps

    def _normalised(self, values: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
        """Clipped and z-scored over what is inside: (N, D, H, W) float32, and (N,) whether it varies."""
        flat, measured = values.flatten(1), inside.flatten(1)
        count = measured.sum(1, keepdim=True).double()
        ordered = torch.where(measured, flat, torch.inf).sort(1).values
        low, high = (_percentile(ordered, share, count) for share in self.percentiles)
        clipped = torch.where(measured, torch.maximum(torch.minimum(flat, high), low), 0.0)
        mean = clipped.sum(1, keepdim=True) / count
        centred = torch.where(measured, clipped - mean, 0.0)
        deviation = ((centred * centred).sum(1, keepdim=True) / count).sqrt()
        varies = (deviation > _FLAT * mean.abs().clamp(min=1.0))[:, 0]
        return (centred / deviation).float().reshape(values.shape), varies


def _percentile(ordered: Tensor, share: Tensor, count: Tensor) -> Tensor:
    """(N, 1): of the first ``count`` values of each row, interpolated linearly, as NumPy does."""
    place = share * (count - 1)
    below = place.floor()
    first = ordered.gather(1, below.long())
    second = ordered.gather(1, torch.minimum(below + 1, count - 1).long())
    part = place - below
    near = first + (second - first) * part
    far = second - (second - first) * (1 - part)
    return torch.where(part < 0.5, near, far)


def _matrices(index: Tensor, scale: Tensor, available: int) -> Tensor:
    """(N, size, available) float64: ``axis_matrix`` of each lesion."""
    last = available - 1
    place = index.clamp(min=0).minimum(torch.ones_like(index) * last)
    below = place.floor()
    sigma = ((scale - 1) / 2).clamp(min=0)
    taps = torch.arange(-REACH, REACH + 1, dtype=torch.float64)
    width = torch.where(sigma > 0, sigma, torch.ones_like(sigma))
    kernel = torch.exp(-0.5 * (taps / width) ** 2)
    kernel = torch.where(taps.abs() <= torch.floor(_TRUNCATE * sigma + 0.5), kernel, 0.0)
    kernel = kernel / kernel.sum()
    limit = torch.ones_like(below) * last
    voxels, weights = [], []
    for step in (0, 1):
        beside = torch.minimum(below + step, limit)
        voxel = (beside[..., None] + taps).clamp(min=0).minimum(limit[..., None])
        share = (1 - place + below) if step == 0 else place - below
        voxels.append(voxel)
        weights.append(share[..., None] * kernel)
    empty = torch.zeros(index.shape[0], index.shape[1], available, dtype=torch.float64)
    return empty.scatter_add(2, torch.cat(voxels, 2).long(), torch.cat(weights, 2))


def _along(values: Tensor, matrices: Tensor, axis: int) -> Tensor:
    """(1 or N, z, y, x) and (N, size, available) -> the product along one axis."""
    moved = values.movedim(1 + axis, 3)
    product = torch.matmul(moved, matrices.transpose(1, 2)[:, None])
    return product.movedim(3, 1 + axis)

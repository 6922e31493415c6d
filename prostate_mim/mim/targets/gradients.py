"""Edges to be predicted: the magnitude of the gradient, and histograms of its orientation; both in mm.

Through-plane steps are about six times longer than in-plane ones on T2w; differences are divided by the spacing, so
that an edge has the same strength and direction whichever way the grid cuts it.
"""

from __future__ import annotations

import itertools
import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from prostate_mim.errors import UsageError
from prostate_mim.mim.blocks import BlockGrid
from prostate_mim.mim.layout import Triple, TripleMm, voxels_to_cells
from prostate_mim.mim.targets.base import TargetSource

# Cells flatter than about this (z-scores per mm) have no orientation; their noise must not become unit vectors.
GRADIENT_FLOOR = 1e-2


def gradient_per_mm(voxels: Tensor, inside: Tensor, spacing_mm_zyx: TripleMm) -> Tensor:
    """Central differences, one-sided beside padding and at the crop's border: the jump to padding is no edge.

    Args:
        voxels: (N, 1, D, H, W).
        inside: (N, 1, D, H, W) bool, True = measured.
        spacing_mm_zyx: voxel size.

    Returns:
        (N, 3, D, H, W) along z, y, x, per mm; 0 at padding and where no neighbour was measured.
    """
    components = []
    for axis, step in enumerate(spacing_mm_zyx, 2):
        length = voxels.shape[axis]
        ahead, behind = (0, 1), (1, 0)
        both = inside.narrow(axis, 1, length - 1) & inside.narrow(axis, 0, length - 1)
        difference = torch.where(both, voxels.diff(dim=axis) / step, 0)
        total = _padded(difference, axis, ahead) + _padded(difference, axis, behind)
        count = _padded(both.to(voxels.dtype), axis, ahead) + _padded(both.to(voxels.dtype), axis, behind)
        components.append(total / count.clamp(min=1))
    return torch.cat(components, 1)


def _padded(values: Tensor, axis: int, ends: tuple[int, int]) -> Tensor:
    # functional.pad names the last axis first.
    return functional.pad(values, (0, 0) * (values.ndim - 1 - axis) + ends)


def dodecahedron_directions() -> Tensor:
    """(20, 3) float64 unit vectors (z, y, x): a dodecahedron's vertices, an icosahedron's faces; 10 + k opposes k."""
    golden = (1 + math.sqrt(5)) / 2
    corners = [(1.0, y, x) for y, x in itertools.product((-1.0, 1.0), repeat=2)]
    for short in (-1 / golden, 1 / golden):
        corners += [(0.0, short, golden), (short, golden, 0.0), (golden, 0.0, short)]
    half = torch.tensor(corners, dtype=torch.float64) / math.sqrt(3)
    return torch.cat([half, -half])


def _length(vectors: Tensor) -> Tensor:
    # torch.linalg.vector_norm over channels takes 3 to 100 times as long on a CPU.
    return vectors.square().sum(1, keepdim=True).sqrt()


class GradientTarget:
    """Magnitude of the gradient at each voxel, z-scores per mm.

    Args:
        spacing_mm_zyx: voxel size of the crops.
    """

    name: ClassVar[str] = "gradient"
    voxelwise: ClassVar[bool] = True

    def __init__(self, spacing_mm_zyx: TripleMm) -> None:
        self.spacing_mm_zyx = spacing_mm_zyx

    def channels(self, cell_zyx: Triple) -> int:
        """One value a voxel."""
        return math.prod(cell_zyx)

    def values(self, source: TargetSource, grid: BlockGrid, cell_zyx: Triple) -> Tensor:
        """(N, z*y*x, d, h, w), not negative."""
        gradient = gradient_per_mm(source.voxels, source.inside, self.spacing_mm_zyx)
        return voxels_to_cells(_length(gradient), cell_zyx)

    def to_voxels(self, prediction: Tensor, source: TargetSource, grid: BlockGrid, cell_zyx: Triple) -> Tensor | None:
        """None: magnitudes do not determine voxels."""
        return None


class HogTarget:
    """3D histogram of oriented gradients of each cell, L2-normalised (as a MIM target: Wei et al. 2022, MaskFeat).

    Orientation is quantised on a regular polyhedron (Klaeser, Marszalek and Schmid 2008, section 3.2): a gradient is
    projected on 20 directions, the inner product of two neighbouring directions is subtracted so that a gradient
    along a direction votes for that one alone, negatives are cut, and the votes are scaled to the gradient's length.
    Opposite directions stay apart: dark-to-bright is not bright-to-dark on T2w.

    Args:
        spacing_mm_zyx: voxel size of the crops.
        parts_zyx: histograms per cell along each axis; in-plane two by default, for 4 x 16 x 16 voxels say little
            in one histogram.
    """

    name: ClassVar[str] = "hog"
    voxelwise: ClassVar[bool] = False

    def __init__(self, spacing_mm_zyx: TripleMm, parts_zyx: Triple = (1, 2, 2)) -> None:
        self.spacing_mm_zyx = spacing_mm_zyx
        self.parts_zyx = parts_zyx
        self.directions = dodecahedron_directions()
        # The second largest of a direction's inner products: the largest is 1, with itself.
        self.threshold = float((self.directions[0] @ self.directions.T).sort().values[-2])

    def channels(self, cell_zyx: Triple) -> int:
        """20 directions a part."""
        return len(self.directions) * math.prod(self.parts_zyx)

    def values(self, source: TargetSource, grid: BlockGrid, cell_zyx: Triple) -> Tensor:
        """(N, 20 * parts, d, h, w), direction-major; length 1 per cell, less where it is nearly flat.

        Raises:
            UsageError: the cell does not divide into the parts.
        """
        part: list[int] = []
        for axis, cell, parts in zip("zyx", cell_zyx, self.parts_zyx, strict=True):
            if cell % parts:
                raise UsageError(
                    f"target 'hog' divides cells into {parts} parts along {axis}, but a cell has {cell} voxels; "
                    "use parts_zyx that divide it"
                )
            part.append(cell // parts)
        votes = self.votes(gradient_per_mm(source.voxels, source.inside, self.spacing_mm_zyx))
        histograms = voxels_to_cells(functional.avg_pool3d(votes, part), self.parts_zyx)
        length = histograms.square().sum(1, keepdim=True)
        normalised: Tensor = histograms / (length + GRADIENT_FLOOR**2).sqrt()
        return normalised

    def votes(self, gradient: Tensor) -> Tensor:
        """(N, 3, D, H, W) -> (N, 20, D, H, W): each gradient shared between the directions near its own."""
        size = _length(gradient)
        tiny = torch.finfo(gradient.dtype).tiny
        unit = (gradient / size.clamp(min=tiny)).flatten(2)
        half = self.directions[: len(self.directions) // 2].to(gradient)
        with torch.autocast(gradient.device.type, enabled=False):  # it would project in half precision
            projected = half @ unit
        # Of two opposite directions at most one gets a vote, so half of them need computing.
        shares = (projected.abs() - self.threshold).clamp_(min=0)
        shares *= size.flatten(2) / _length(shares).clamp(min=tiny)
        ahead = projected > 0
        votes = torch.cat([shares * ahead, shares * ~ahead], 1)
        return votes.reshape(len(gradient), -1, *gradient.shape[2:])

    def to_voxels(self, prediction: Tensor, source: TargetSource, grid: BlockGrid, cell_zyx: Triple) -> Tensor | None:
        """None: a histogram does not determine voxels."""
        return None

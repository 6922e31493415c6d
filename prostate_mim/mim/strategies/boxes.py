"""Boxes of blocks: drawn sizes, places, and a cut to an exact count. Shared by blockwise and inverse_blockwise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from prostate_mim.mim.layout import Triple
from prostate_mim.mim.strategies.base import first_of, uniform

NARROWEST = 0.3  # in-plane aspect ratios lie between this and its inverse (Bao et al. 2022, BEiT, algorithm 1)


def draw_extent(volume: int, grid_zyx: Triple, generator: torch.Generator) -> Triple:
    """Size of a box that fits the grid and holds ``volume`` blocks, or a few more where that has no such divisors.

    The depth is uniform over what fits, because grids of anisotropic crops are flat; the in-plane aspect ratio is
    log-uniform, as in BEiT.
    """
    gz, gy, gx = grid_zyx
    thinnest, deepest = math.ceil(volume / (gy * gx)), min(gz, volume)
    z = thinnest + int(uniform(generator) * (deepest - thinnest + 1))
    area = math.ceil(volume / z)
    aspect = math.exp(math.log(NARROWEST) * (1 - 2 * uniform(generator)))
    y = max(min(round(math.sqrt(area * aspect)), gy, area), math.ceil(area / gx))
    return z, y, math.ceil(area / y)


def place_box(extent: Triple, grid_zyx: Triple, generator: torch.Generator, around: Triple | None = None) -> Tensor:
    """(gz, gy, gx) bool, True in a box at a uniformly drawn place; it covers block ``around`` where one is given."""
    box = torch.zeros(grid_zyx, dtype=torch.bool)
    spans = []
    for axis, (length, blocks) in enumerate(zip(extent, grid_zyx, strict=True)):
        first, last = 0, blocks - length
        if around is not None:
            first, last = max(first, around[axis] - length + 1), min(last, around[axis])
        corner = first + int(uniform(generator) * (last - first + 1))
        spans.append(slice(corner, corner + length))
    box[spans[0], spans[1], spans[2]] = True
    return box


def cut(chosen: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Keep ``count`` of the True blocks: the first in rows of a drawn direction, so that a box stays connected."""
    turn = torch.randperm(3, generator=generator).tolist()
    flipped = [axis for axis in range(3) if uniform(generator) < 0.5]
    turned = chosen.permute(turn).flip(flipped)
    order = turned.flatten().to(torch.uint8).argsort(descending=True, stable=True)
    kept = first_of(order, min(count, int(chosen.sum())), turned.shape).flip(flipped)
    return kept.permute([turn.index(axis) for axis in range(3)])

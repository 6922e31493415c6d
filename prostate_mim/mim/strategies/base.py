"""What every strategy shares: what it may look at, what it decides, and exact counting.

A strategy decides for ONE sample with that sample's own generator, so a sample's hidden blocks depend neither on its
batch mates nor on the number of workers. Everything here is on the CPU, but guides may live on any device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from prostate_mim.errors import UsageError
from prostate_mim.mim.blocks import BlockGrid
from prostate_mim.mim.layout import to_blocks


@dataclass(frozen=True, eq=False)
class Guide:
    """What a strategy may look at for one sample; all of it optional.

    Attributes:
        voxels: (1, D, H, W) float, z-scored.
        gland: (D, H, W) bool at voxel resolution, True = prostate.
        lesion: (D, H, W) bool, True = lesion: a label, so whoever uses it is not self-supervised.
        difficulty: (gz, gy, gx) float: an EMA teacher's reconstruction loss per block.
        progress: share of the training that is done, 0 to 1.
    """

    voxels: Tensor | None = None
    gland: Tensor | None = None
    lesion: Tensor | None = None
    difficulty: Tensor | None = None
    progress: float = 0.0


@dataclass(frozen=True, eq=False)
class Hiding:
    """The decision for one sample.

    Attributes:
        blocks: (gz, gy, gx) bool on the CPU, True = hidden; all False where frequencies are hidden instead.
        strategy: the name of the strategy that really was used.
        voxels: (1, D, H, W) corrupted input where the strategy changes voxels, else None.
        frequencies: (H, W) bool in the order of ``torch.fft.fft2``, True = dropped from every slice, else None.
        instead_of: the name that was asked for where it could not be used (no gland mask, say), else "".
    """

    blocks: Tensor
    strategy: str
    voxels: Tensor | None = None
    frequencies: Tensor | None = None
    instead_of: str = ""


class Strategy(Protocol):
    """A way to choose what is hidden."""

    @property
    def name(self) -> str:
        """Key in ``STRATEGIES``."""

    @property
    def self_supervised(self) -> bool:
        """False where labels are looked at: such a pre-training may not be compared as label-free."""

    @property
    def needs(self) -> frozenset[str]:
        """Fields of ``Guide`` that are looked at."""

    def hidden_count(self, grid: BlockGrid, ratio: float) -> int:
        """The exact number of hidden blocks.

        Raises:
            UsageError: the ratio would hide no unit or all of them.
        """

    def hide(self, grid: BlockGrid, ratio: float, generator: torch.Generator, guide: Guide) -> Hiding:
        """Decide for one sample; ``generator`` is the only source of randomness.

        Raises:
            UsageError: the ratio would hide no unit or all of them, or a guide does not fit the grid.
        """


class BlockStrategy:
    """Hides single blocks and looks at nothing, unless a subclass says otherwise."""

    self_supervised: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset()

    def hidden_count(self, grid: BlockGrid, ratio: float) -> int:
        """Exactly ``round(ratio * blocks)``."""
        return exact_count(ratio, grid.count, "blocks")


def exact_count(ratio: float, units: int, what: str) -> int:
    """``round(ratio * units)``, the number of hidden units.

    Raises:
        UsageError: that is none of them or all of them (or the ratio is no number).
    """
    count = round(ratio * units) if math.isfinite(ratio) else 0
    if not 0 < count < units:
        raise UsageError(f"mask ratio {ratio} hides {count} of {units} {what}; choose one that hides some, not all")
    return count


def first_of(order: Tensor, count: int, shape: Sequence[int]) -> Tensor:
    """Bool tensor of ``shape``: True at the first ``count`` of the flat indices in ``order``."""
    hidden = torch.zeros(len(order), dtype=torch.bool)
    hidden[order[:count]] = True
    return hidden.reshape(tuple(shape))


def draw_weighted(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw exactly ``count`` units without replacement, heavier ones sooner (Efraimidis and Spirakis 2006).

    Unit i waits an exponential time of rate ``weights[i]``; the first ``count`` are drawn. Equal weights give exactly
    the draw of ``random_hidden_blocks``, which the same uniform numbers put in the same order.

    Args:
        weights: any shape, positive.
        count: how many to draw.
        generator: the only source of randomness.

    Returns:
        bool, the shape of ``weights``, True = drawn.
    """
    uniform = torch.rand(1, weights.numel(), generator=generator)[0].double()
    waits = -torch.log1p(-uniform) / weights.flatten().double().cpu()
    return first_of(waits.argsort(), count, weights.shape)


def uniform(generator: torch.Generator) -> float:
    """A number in [0, 1)."""
    return float(torch.rand((), generator=generator, dtype=torch.float64))


def check_shape(name: str, values: Tensor, shape: Sequence[int]) -> Tensor:
    """``values`` as it is.

    Raises:
        UsageError: another shape than the grid asks for, naming both.
    """
    if tuple(values.shape) != tuple(shape):
        raise UsageError(
            f"guide {name} has shape {tuple(values.shape)}, but the grid needs {tuple(shape)}; give that of the crop"
        )
    return values


def blocks_of(voxels: Tensor, grid: BlockGrid) -> Tensor:
    """(D, H, W) -> (blocks, voxels per block), blocks in (z, y, x) order."""
    return to_blocks(voxels[None, None], grid.block_zyx)[0]


def voxels_of(guide: Guide, grid: BlockGrid, strategy: str) -> Tensor:
    """The (1, D, H, W) voxels of a guide, for a strategy that cannot do without.

    Raises:
        UsageError: there are none, or they do not fit the grid.
    """
    if guide.voxels is None:
        raise UsageError(f"strategy {strategy} looks at the image, but the guide holds no voxels; give Guide(voxels)")
    return check_shape("voxels", guide.voxels, (1, *grid.size_zyx))


def check_weight(strategy: str, weight: float) -> None:
    """Refuse a preference that is no finite number of at least 1.

    Raises:
        UsageError: naming the strategy and the weight.
    """
    if not (math.isfinite(weight) and weight >= 1):
        raise UsageError(f"strategy {strategy} has weight {weight}; use a finite number of at least 1 (1 = random)")

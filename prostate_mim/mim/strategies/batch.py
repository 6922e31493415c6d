"""A strategy over a batch, one generator per sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prostate_mim.errors import UsageError
from prostate_mim.mim.blocks import BlockGrid
from prostate_mim.mim.strategies.base import Guide, Hiding, Strategy
from prostate_mim.mim.strategies.ratio import Ratio


@dataclass(frozen=True, eq=False)
class BatchHiding:
    """The decisions for a batch.

    Attributes:
        blocks: (N, gz, gy, gx) bool on the CPU, True = hidden; samples may hide different numbers of blocks.
        strategies: per sample, the name of the strategy that really was used.
        voxels: (N, 1, D, H, W) input where any sample's voxels were changed (the others' as they were), else None.
        frequencies: (N, H, W) bool, True = dropped, where any sample dropped some, else None.
    """

    blocks: Tensor
    strategies: tuple[str, ...]
    voxels: Tensor | None = None
    frequencies: Tensor | None = None


def hide_batch(
    strategy: Strategy,
    grid: BlockGrid,
    ratio: Ratio,
    generators: Sequence[torch.Generator],
    guides: Sequence[Guide],
) -> BatchHiding:
    """Decide for every sample by itself: first its ratio, then what is hidden, both from its own generator.

    Args:
        strategy: see ``build_strategy``.
        grid: how the crops divide into blocks.
        ratio: see ``parse_ratio``.
        generators: one per sample; the only source of randomness.
        guides: one per sample.

    Raises:
        UsageError: no sample, or not as many generators as guides; or what ``Strategy.hide`` refuses.
    """
    if not guides or len(generators) != len(guides):
        raise UsageError(f"{len(generators)} generators for {len(guides)} samples; give one generator to each sample")
    hidings = [
        strategy.hide(grid, ratio.draw(generator), generator, guide)
        for generator, guide in zip(generators, guides, strict=True)
    ]
    return BatchHiding(
        torch.stack([hiding.blocks for hiding in hidings]),
        tuple(hiding.strategy for hiding in hidings),
        _stacked_voxels(hidings, guides),
        _stacked_frequencies(hidings, grid),
    )


def _stacked_voxels(hidings: Sequence[Hiding], guides: Sequence[Guide]) -> Tensor | None:
    if all(hiding.voxels is None for hiding in hidings):
        return None
    found: list[Tensor] = []
    for index, (hiding, guide) in enumerate(zip(hidings, guides, strict=True)):
        voxels = guide.voxels if hiding.voxels is None else hiding.voxels
        if voxels is None:
            raise UsageError(f"sample {index} of the batch has no voxels where others have; give Guide(voxels) to all")
        found.append(voxels)
    return torch.stack(found)


def _stacked_frequencies(hidings: Sequence[Hiding], grid: BlockGrid) -> Tensor | None:
    if all(hiding.frequencies is None for hiding in hidings):
        return None
    _, height, width = grid.size_zyx
    none = torch.zeros(height, width, dtype=torch.bool)
    return torch.stack([none if hiding.frequencies is None else hiding.frequencies for hiding in hidings])

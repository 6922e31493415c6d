"""What a training step hides: the method's strategy, asked once per sample with that sample's own generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prostate_mim.mim.strategies import Guide, hide_batch
from prostate_mim.mim.teacher import block_difficulty

if TYPE_CHECKING:
    from prostate_mim.mim.model import MaskedImageModel, MimBatch


def hide(
    model: MaskedImageModel,
    batch: MimBatch,
    generators: Sequence[torch.Generator],
    *,
    lesion: Tensor | None = None,
    progress: float = 0.0,
) -> tuple[MimBatch, tuple[str, ...]]:
    """Decide what is hidden in a batch.

    Args:
        model: its method names strategy and ratio; its teacher, where it has one, says which blocks are hard.
        batch: crops; ``hidden_blocks`` is replaced.
        generators: one per sample, the only source of randomness.
        lesion: (N, 1, D, H, W) bool labels, for strategies that are not self-supervised.
        progress: share of the training that is done, 0 to 1.

    Returns:
        The batch with what is hidden, and for each sample the name of the strategy that was really used.

    Raises:
        UsageError: the ratio hides no block or all of them, or the strategy lacks what it looks at.
    """
    strategy = model.strategy
    difficulty = None
    if "difficulty" in strategy.needs and model.teacher is not None:
        difficulty = block_difficulty(model, batch, _covers(generators, model.grid.grid_zyx))
    guides = [
        Guide(
            voxels=batch.voxels[sample],
            gland=None if batch.gland is None or not batch.gland[sample].any() else batch.gland[sample, 0],
            lesion=None if lesion is None or not lesion[sample].any() else lesion[sample, 0],
            difficulty=None if difficulty is None else difficulty[sample],
            progress=progress,
        )
        for sample in range(len(batch.voxels))
    ]
    decided = hide_batch(strategy, model.grid, model.ratio, generators, guides)
    device = batch.voxels.device
    hidden = type(batch)(
        batch.voxels,
        batch.inside,
        decided.blocks.to(device),
        batch.gland,
        None if decided.voxels is None else decided.voxels.to(device),
        None if decided.frequencies is None else decided.frequencies.to(device),
    )
    return hidden, decided.strategies


def _covers(generators: Sequence[torch.Generator], grid_zyx: tuple[int, int, int]) -> list[Tensor]:
    """Two complementary random halves per sample: (N, gz, gy, gx) bool each, every block hidden in one of them."""
    first = []
    for generator in generators:
        order = torch.rand(grid_zyx, generator=generator).flatten().argsort()
        first.append((order < len(order) // 2).view(grid_zyx))
    half = torch.stack(first)
    return [half, ~half]

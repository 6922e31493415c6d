"""What a training step hides: the method's strategy, asked once per sample with that sample's own generator."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from prostate_mim.mim.model import MaskedImageModel, MimBatch, MimOutput
from prostate_mim.mim.strategies import Guide, hide_batch


def hide(
    model: MaskedImageModel,
    batch: MimBatch,
    generators: Sequence[torch.Generator],
    *,
    lesion: Tensor | None = None,
    progress: float = 0.0,
    ask_teacher: bool = True,
) -> tuple[MimBatch, tuple[str, ...]]:
    """Decide what is hidden in a batch.

    Args:
        model: its method names strategy and ratio; its teacher, where it has one, says which blocks are hard.
        batch: crops; ``hidden_blocks`` is replaced.
        generators: one per sample, the only source of randomness.
        lesion: (N, 1, D, H, W) bool labels, for strategies that are not self-supervised.
        progress: share of the training that is done, 0 to 1.
        ask_teacher: False where what is hidden must not depend on how far training is; a strategy that has no other
            guide then hides random blocks.

    Returns:
        The batch with what is hidden, and for each sample the name of the strategy that was really used.

    Raises:
        UsageError: the ratio hides no block or all of them, or the strategy lacks what it looks at.
    """
    strategy = model.strategy
    difficulty = None
    if ask_teacher and "difficulty" in strategy.needs and model.teacher is not None:
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
    hidden = dataclasses.replace(
        batch,
        hidden_blocks=decided.blocks.to(device),
        changed=None if decided.voxels is None else decided.voxels.to(device),
        frequencies=None if decided.frequencies is None else decided.frequencies.to(device),
    )
    return hidden, decided.strategies


@torch.no_grad()
def block_difficulty(model: MaskedImageModel, batch: MimBatch, covers: Sequence[Tensor]) -> Tensor:
    """The teacher's reconstruction error of every block: (N, gz, gy, gx).

    Args:
        model: with a teacher.
        batch: its hidden blocks are not used.
        covers: (N, gz, gy, gx) bool each; together they hide every block at least once.
    """
    assert model.teacher is not None  # noqa: S101 - who asks has looked
    view = copy.copy(model)  # the same model with the teacher's parts in the place of its own
    view._modules = {**model._modules, "encoding": model.teacher.encoding, "decoder": model.teacher.decoder}
    total, times = torch.zeros(covers[0].shape), torch.zeros(covers[0].shape)
    for hidden_blocks in covers:
        shown = MimBatch(batch.voxels, batch.inside, hidden_blocks.to(batch.voxels.device), batch.gland)
        output: MimOutput = view(shown)
        total += output.block_error.cpu().float() * hidden_blocks.cpu()
        times += hidden_blocks.cpu()
    return total / times.clamp(min=1)


def _covers(generators: Sequence[torch.Generator], grid_zyx: tuple[int, int, int]) -> list[Tensor]:
    """Two complementary random halves per sample: (N, gz, gy, gx) bool each, every block hidden in one of them."""
    first = []
    for generator in generators:
        order = torch.rand(grid_zyx, generator=generator).flatten().argsort()
        first.append((order < len(order) // 2).view(grid_zyx))
    half = torch.stack(first)
    return [half, ~half]

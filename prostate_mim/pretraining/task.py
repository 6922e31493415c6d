"""Masked image modelling as the training loop sees it: a loss of a batch, and a teacher that follows."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn

from prostate_mim.engine.augment import Augmentation, crop_places
from prostate_mim.engine.batch import Batch
from prostate_mim.engine.distributed import unwrapped
from prostate_mim.engine.seeding import torch_generator
from prostate_mim.engine.step import StepLoss
from prostate_mim.mim import MaskedImageModel, MimBatch, MimOutput, hide


class MimTask:
    """Hides, encodes, decodes and scores batches.

    Args:
        seed: of the run; hidden blocks derive from it and the draw's number.
        steps: of the run, for strategies that change with its progress.
        masks_per_crop: how often each crop is hidden in another way.
        augmentation: of the crops, for targets that ask where a crop lies; None: nothing was varied.
    """

    def __init__(
        self, seed: int, steps: int, masks_per_crop: int = 1, augmentation: Augmentation | None = None
    ) -> None:
        self.seed, self.steps, self.masks_per_crop = seed, steps, masks_per_crop
        self.augmentation = augmentation or Augmentation.none()

    def compile(self, model: nn.Module) -> None:
        """The encoder alone: decoding and scoring pick out what is hidden, each time another number of cells."""
        unwrapped(model, MaskedImageModel).encoding.compile()

    def begin_step(self, model: nn.Module, step: int) -> None:
        """The teacher, where there is one, follows the weights of the steps before."""
        bare = unwrapped(model, MaskedImageModel)
        if bare.teacher is not None and step:
            bare.teacher.follow(bare.encoding, bare.decoder, step / self.steps)

    def loss(self, model: nn.Module, batch: Batch, step: int) -> StepLoss:
        """Fresh hidden blocks for every crop; the loss is a mean over counted values, and weighs as many."""
        bare = unwrapped(model, MaskedImageModel)
        crops = MimBatch(
            self._times(batch["voxels"]),
            self._times(batch["inside"]),
            bare.grid.all_visible(len(batch["voxels"]) * self.masks_per_crop),
            self._times(batch["gland"]) if bool(batch["has_gland"].any()) else None,
            place=self._times(self._place(batch)) if bare.target.name == "position" else None,
        )
        lesion = self._times(batch["lesion"]) if bool(batch["has_lesion"].any()) else None
        generators = [self._generator(int(draw), k) for draw in batch["draw"] for k in range(self.masks_per_crop)]
        hidden, names = hide(bare, crops, generators, lesion=lesion, progress=step / self.steps)
        output: MimOutput = model(hidden)
        counted = output.counted
        weight = counted.sum(dtype=torch.float64) / counted[0].numel()
        return StepLoss(output.loss, weight, _used(names, bare.method.strategy))

    def _place(self, batch: Batch) -> Tensor:
        depth, height, width = batch["voxels"].shape[2:]
        size, draws = (depth, height, width), [int(draw) for draw in batch["draw"]]
        found = crop_places(batch["place"], batch["box"], size, self.augmentation, self.seed, draws)
        return found.to(batch["voxels"].device, non_blocking=True)

    def _times(self, values: Tensor) -> Tensor:
        return values if self.masks_per_crop == 1 else values.repeat_interleave(self.masks_per_crop, 0)

    def _generator(self, draw: int, k: int) -> torch.Generator:
        return torch_generator(self.seed, "hidden", draw) if k == 0 else torch_generator(self.seed, "hidden", draw, k)


def _used(names: tuple[str, ...], asked: str) -> dict[str, float]:
    """Share of samples for which each strategy was used, where it is not simply the one that was asked for."""
    counts = Counter(names)
    if set(counts) == {asked}:
        return {}
    return {f"strategy/{name}": count / len(names) for name, count in sorted(counts.items())}

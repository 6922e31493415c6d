"""SimCLR as the training loop sees it: a loss of all views of a step, over all processes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, distributed, nn

from prostate_mim.contrastive.loss import view_losses, views_matched
from prostate_mim.contrastive.model import ContrastiveModel
from prostate_mim.engine.batch import Batch
from prostate_mim.engine.distributed import unwrapped
from prostate_mim.engine.step import StepLoss
from prostate_mim.errors import ResourceError
from prostate_mim.masked.over_ranks import sum_over_ranks

_MEASURED = [0, 1]  # draws of the batch on which the loop measures memory formats, before any step


class ContrastiveTask:
    """Projects and compares views.

    Every view of every process is a counter-example to those of other patients, so a step cannot be divided into
    micro-batches: with less memory it would be another loss.

    Args:
        temperature: of NT-Xent.
        share: views of a step on this process.
        owners: manifest row -> number of its patient.
    """

    def __init__(self, temperature: float, share: int, owners: Mapping[int, int]) -> None:
        self.temperature, self.share, self.owners = temperature, share, dict(owners)

    def compile(self, model: nn.Module) -> None:
        """The encoder alone."""
        unwrapped(model, ContrastiveModel).encoder.compile()

    def loss(self, model: nn.Module, batch: Batch, step: int) -> StepLoss:
        """NT-Xent of this process's views; the loss weighs as many as have a counter-example.

        Raises:
            ResourceError: the batch was divided, because memory ran out.
        """
        draws = batch["draw"].tolist()
        if len(draws) != self.share and draws != _MEASURED:
            raise ResourceError(
                f"step {step + 1}: out of memory, and a contrastive step cannot be divided; use a smaller --batch or "
                "--size, or a device with more memory"
            )
        own: Tensor = model(batch["voxels"])
        rows = torch.tensor([self.owners[int(row)] for row in batch["row"]], device=own.device)
        views, owners, anchors = _over_ranks(own, rows)
        losses, counted = view_losses(views, owners, self.temperature, anchors)
        share, _ = views_matched(views.detach(), owners, anchors)
        count = counted.sum()
        return StepLoss(losses.sum() / count.clamp(min=1), count.double(), {"views_matched": float(share)})


def _over_ranks(own: Tensor, owners: Tensor) -> tuple[Tensor, Tensor, slice]:
    """Views and owners of all processes, with gradients to each one's own, and where this one's stand."""
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return own, owners, slice(None)
    rank, ranks, count = distributed.get_rank(), distributed.get_world_size(), len(own)
    place = slice(rank * count, (rank + 1) * count)
    before, after = own.new_zeros(rank * count, own.shape[1]), own.new_zeros((ranks - rank - 1) * count, own.shape[1])
    views = sum_over_ranks(torch.cat([before, own, after]), distributed.group.WORLD)
    everyone = owners.new_zeros(ranks * count)
    everyone[place] = owners
    distributed.all_reduce(everyone)
    return views, everyone, place

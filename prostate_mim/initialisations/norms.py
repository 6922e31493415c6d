"""Batch norm statistics of a frozen encoder from unlabelled crops."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from prostate_mim.errors import TrainingError, UsageError
from prostate_mim.nets.modes import evaluating


@torch.no_grad()
def calibrate_norms(model: nn.Module, batches: Iterable[Tensor]) -> int:
    """Set the running statistics of every batch norm to those of the given crops; no weight is touched.

    A frozen encoder normalises with the statistics it carries: random weights carry 0 and 1, inflated ones those of
    photographs, pretrained ones those of their own crops. Doing this for every arm alike removes that difference
    between arms. It does not make features better by itself: it also widens channels that hardly vary on T2w images,
    and with them their noise. So measure with and without, and treat all arms alike. Networks without batch norm
    (resenc, convnext) stay as they are.

    The statistics are means over the batches of each batch's own mean and (unbiased) variance, every batch counting
    alike, computed while each layer normalises by the batch, as in training (Izmailov et al. 2018, section 3.2, do the
    same after averaging weights). So they depend on the size of the batches: use the same batches for every arm, whole
    ones, of unlabelled crops of the *training* patients. Same crops in the same order, same statistics.

    Args:
        model: a ``PreMIM``, a ``LesionClassifier`` or any other module; on return in the mode it was in.
        batches: (N, C, D, H, W) float32, z-scored, each with at least two crops; moved to the model's device.

    Returns:
        How many batch norms were set.

    Raises:
        UsageError: no batch, or a batch of one crop (its variance is that of a single crop).
        TrainingError: the statistics are not finite; the old ones are kept.
    """
    norms = [part for part in model.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    tracked = [norm for norm in norms if norm.track_running_stats and norm.running_mean is not None]
    if not tracked:
        return 0
    device = next((value.device for value in model.parameters()), torch.device("cpu"))
    before = [{key: value.clone() for key, value in norm.state_dict().items()} for norm in tracked]
    momenta = [norm.momentum for norm in tracked]
    done = False
    try:
        with evaluating(model):
            for norm in tracked:
                norm.reset_running_stats()
                norm.momentum = None  # torch's word for a plain mean over batches
                norm.train()
            _pass_through(model, batches, device)
        _check(tracked)
        done = True
    finally:
        for norm, momentum, old in zip(tracked, momenta, before, strict=True):
            norm.momentum = momentum
            if not done:
                norm.load_state_dict(old)
    return len(tracked)


def _pass_through(model: nn.Module, batches: Iterable[Tensor], device: torch.device) -> None:
    seen = 0
    for batch in batches:
        if batch.shape[0] < 2:
            raise UsageError("a batch of one crop; give whole batches of two crops or more, the same for every arm")
        model(batch.to(device))
        seen += 1
    if not seen:
        raise UsageError("no crops were given; batch norm statistics need some batches of unlabelled crops")


def _check(norms: Iterable[nn.modules.batchnorm._BatchNorm]) -> None:
    for norm in norms:
        for values in (norm.running_mean, norm.running_var):
            if values is not None and not torch.isfinite(values).all():
                raise TrainingError("batch norm statistics are not finite; the crops or the weights hold such values")

"""Channels last or not: which one a model trains faster in, measured on its own first crops."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from prostate_mim.engine.distributed import total

_FORMATS = {"channels_last": torch.channels_last_3d, "contiguous": torch.contiguous_format}
_ROUNDS = 3


def choose_memory_format(
    model: nn.Module, call: Callable[[nn.Module], Tensor], accelerator: Accelerator, asked: str
) -> str:
    """``channels_last`` or ``contiguous``.

    Args:
        model: left as it is.
        call: model -> () loss on a small batch.
        accelerator: where it will train; ranks agree, because gradients of another layout cannot be averaged.
        asked: one of the two, or ``auto``: measured on accelerators. On CPUs the masked rows multiply by kernels in
            channels-last order, and a measured choice would make a run and its repetition differ in the last bits.
    """
    if asked != "auto":
        return asked
    device = accelerator.device
    if device.type == "cpu":
        return "channels_last"
    own = torch.tensor([_seconds(model, call, device, layout) for layout in _FORMATS.values()], device=device)
    seconds = dict(zip(_FORMATS, total(accelerator, own).tolist(), strict=True))
    chosen = min(seconds, key=seconds.__getitem__)
    took = ", ".join(f"{name} {1000 * value:.1f} ms" for name, value in seconds.items())
    sys.stderr.write(f"memory format: {chosen} (forward and backward of two crops: {took})\n")
    return chosen


def _seconds(
    model: nn.Module, call: Callable[[nn.Module], Tensor], device: torch.device, layout: torch.memory_format
) -> float:
    """The fastest of some passes, after one that warms up."""
    candidate = copy.deepcopy(model).to(device).train()
    candidate.to(memory_format=layout)  # type: ignore[call-overload]
    best = float("inf")
    for _ in range(_ROUNDS + 1):
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        call(candidate).backward()  # type: ignore[no-untyped-call]
        torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best

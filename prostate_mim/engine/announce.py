"""What a training says before anything else: where it computes and in which precision."""

from __future__ import annotations

import sys

import torch

from prostate_mim.engine.distributed import pick_device
from prostate_mim.engine.launched import launched_rank
from prostate_mim.engine.loader import usable_workers
from prostate_mim.engine.settings import LoopConfig


def announce(config: LoopConfig, *, steps: bool = True) -> None:
    """One line on stderr, of the first process: the device that training will use, and why no other.

    A second line where fewer loader processes are started than asked for.

    Args:
        config: what is asked for.
        steps: whether the loop takes steps at all; else the network only computes features, in fp32, without loaders.

    Raises:
        BackendError, UsageError: as ``pick_device``.
    """
    device = pick_device(config.device).type
    if launched_rank():
        return
    why = _why_no_cuda() if (device, config.device) == ("cpu", "auto") else ""
    sys.stderr.write(f"device {device}, {config.precision if steps else 'fp32'}{why}\n")
    used = usable_workers(config.workers)
    if steps and used < config.workers:
        sys.stderr.write(
            f"loader workers: {used} of {config.workers}, as this process may use no more cores; no number changes\n"
        )


def _why_no_cuda() -> str:
    built = torch.version.cuda or torch.version.hip
    reason = "torch finds no usable GPU" if built else "this torch is built for CPUs only"
    return f"; no CUDA: {reason}"

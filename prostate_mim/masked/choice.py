"""Which kernel a layer runs on, and which path a network: by rule on CPUs, by measurement elsewhere.

On a CPU a rule decides, so that a run repeats bit for bit. On other devices libraries differ too much for a rule: the
candidates are timed once for each layer and size, forward and backward, and the choice is logged.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from prostate_mim.masked.context import Level, MaskContext
from prostate_mim.masked.rows import RowConvolution, convolve_rows
from prostate_mim.masked.windows import WindowKey

# From this many outputs per block on, a dense kernel on bricks beats a matrix product on im2col rows, in which every
# input stands as often as it is seen. Measured for all convolutions of resenc-s and resnet18, both block shapes.
FEWEST_PER_BRICK = 12
_REPEATS = 3
PATHS = ("rows", "dense")
_log = logging.getLogger(__name__)


class KernelChoice:
    """The kernels of one layer.

    Args:
        how: ``rule``, ``measure``, or ``auto``: the rule on CPUs, measurement elsewhere.
    """

    def __init__(self, how: str = "auto") -> None:
        self.how = how
        self._found: dict[tuple[Any, ...], bool] = {}

    def by_block(self, source: Level, target: Level, key: WindowKey, rows: Tensor, weight: Tensor, groups: int) -> bool:
        """Whether the layer runs on bricks, not on single outputs."""
        if not target.whole or prod(key.kernel) == 1:
            return False
        if groups > 1 or rows.numel() == 0:
            return prod(target.cells_zyx) > 1  # no matrix product to choose
        if self.how == "rule" or (self.how == "auto" and rows.device.type == "cpu"):
            return prod(target.cells_zyx) >= FEWEST_PER_BRICK
        # Sizes within a factor of two share a measurement, so that ragged batches do not measure for ever.
        situation = (key.kernel, key.stride, weight.shape, target.cells_zyx, target.rows.bit_length(), rows.dtype)
        if situation not in self._found:
            self._found[situation] = self._measure(source, target, key, rows, weight)
        return self._found[situation]

    def _measure(self, source: Level, target: Level, key: WindowKey, rows: Tensor, weight: Tensor) -> bool:
        seconds = {}
        for by_block in (True, False):
            windows = source.windows(target, WindowKey(key.kernel, key.stride, key.dilation, key.padding, by_block))
            plan = RowConvolution(windows, 1, symmetric(key))
            given, kernel = (values.detach().requires_grad_() for values in (rows, weight))

            def step(given: Tensor = given, kernel: Tensor = kernel, plan: RowConvolution = plan) -> None:
                with torch.enable_grad():
                    convolve_rows(given, kernel, None, plan).sum().backward()  # type: ignore[no-untyped-call]

            seconds[by_block] = seconds_of(step, rows.device)
        _log.info(
            "convolution %s, stride %s, %d rows: bricks %.2f ms, matrix product %.2f ms",
            tuple(weight.shape), key.stride, target.rows, 1e3 * seconds[True], 1e3 * seconds[False],
        )  # fmt: skip
        return seconds[True] <= seconds[False]


def symmetric(key: WindowKey) -> bool:
    """Stride 1 and "same" padding: inputs are seen by the outputs they would see."""
    same = (2 * p == d * (k - 1) for p, d, k in zip(key.padding, key.dilation, key.kernel, strict=True))
    return key.stride == (1, 1, 1) and all(same)


def measure_path(network: nn.Module, context: MaskContext, voxels: Tensor) -> str:
    """The faster path for a network on this batch, forward and backward; the choice is logged.

    The network is copied: its statistics and gradients are left alone, and so is the random state.

    Args:
        network: a masked twin that returns features, or a list of them.
        context: what is hidden.
        voxels: (N, C, D, H, W).
    """
    trial, seconds = copy.deepcopy(network), {}
    devices = [voxels.device] if voxels.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        for path in PATHS:

            def step(path: str = path) -> None:
                # A context of its own each time, because building tables is part of the cost.
                fresh = MaskContext(context.hidden_blocks, context.block_zyx, context.size_zyx)
                with torch.enable_grad():
                    out = trial(fresh.hide(voxels, path))
                    last = out[-1] if isinstance(out, list | tuple) else out
                    last.values.float().sum().backward()

            seconds[path] = seconds_of(step, voxels.device)
    best = min(PATHS, key=lambda path: seconds[path])
    _log.info("masked path: rows %.1f ms, dense %.1f ms; %s", *(1e3 * seconds[path] for path in PATHS), best)
    return best


def seconds_of(step: Callable[[], None], device: torch.device) -> float:
    """The shortest of a few runs after one that warms up."""
    found = []
    for _ in range(_REPEATS + 1):
        _wait(device)
        start = time.perf_counter()
        step()
        _wait(device)
        found.append(time.perf_counter() - start)
    return min(found[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

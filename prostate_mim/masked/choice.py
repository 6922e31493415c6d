"""Which kernel a layer runs on, and which path a network: by rule on CPUs, by measurement elsewhere.

On a CPU a rule decides, so that a run repeats bit for bit. On other devices libraries differ too much for a rule: the
candidates are timed once for each layer and size, forward and backward, and the choice is logged.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from prostate_mim.masked.context import Level, MaskContext
from prostate_mim.masked.rows import RowConvolution, convolve_rows, working_type
from prostate_mim.masked.windows import WindowKey, Windows

# From this many outputs per block on, a dense kernel on bricks beats a matrix product on im2col rows, in which every
# input stands as often as it is seen. Measured for all convolutions of resenc-s and resnet18, both block shapes.
FEWEST_PER_BRICK = 12
_REPEATS = 3
_TRITON_TYPES = (torch.float32, torch.bfloat16, torch.float16)
_FARTHEST = 0.05  # of two kernels, relative to the largest value: bfloat16 rounds to 1/256, a wrong kernel misses it
PATHS = ("rows", "dense")
_log = logging.getLogger(__name__)


class KernelChoice:
    """The kernels of one layer: ``bricks``, ``matrix``, ``triton`` or ``taps`` (see ``rows``).

    Args:
        how: ``rule``, ``measure``, or ``auto``: the rule on CPUs, measurement elsewhere.
    """

    def __init__(self, how: str = "auto") -> None:
        self.how = how
        self._found: dict[tuple[Any, ...], str] = {}

    def plan(
        self, source: Level, target: Level, key: WindowKey, rows: Tensor, weight: Tensor, groups: int
    ) -> RowConvolution:
        """How the layer runs.

        Args:
            source, target: the levels of inputs and outputs.
            key: its geometry; ``by_block`` is decided here.
            rows: (source rows, Ci).
            weight: (Co, Ci / groups, kz, ky, kx).
            groups: of channels.
        """
        if rows.device.type == "cpu" and groups == len(weight) > 1 == weight.shape[1]:
            return RowConvolution(_windows(source, target, key, False), groups, symmetric(key), "taps")
        if groups > 1:  # no matrix product to choose
            by_block = target.whole and prod(key.kernel) > 1 and prod(target.cells_zyx) > 1
            return RowConvolution(_windows(source, target, key, by_block), groups, symmetric(key), "bricks")
        return _plan(source, target, key, self._kernel(source, target, key, rows, weight))

    def candidates(self, target: Level, device: torch.device, kind: torch.dtype) -> list[str]:
        """The kernels that can compute a layer without groups, the most trusted first."""
        found = ["matrix", "bricks"] if target.whole else ["matrix"]
        if device.type == "cuda" and kind in _TRITON_TYPES and find_spec("triton") is not None:
            found.append("triton")
        return found

    def _kernel(self, source: Level, target: Level, key: WindowKey, rows: Tensor, weight: Tensor) -> str:
        if prod(key.kernel) == 1 or rows.numel() == 0:
            return "matrix"
        if self.how == "rule" or (self.how == "auto" and rows.device.type == "cpu"):
            return "bricks" if target.whole and prod(target.cells_zyx) >= FEWEST_PER_BRICK else "matrix"
        # Sizes within a factor of two share a measurement, so that ragged batches do not measure for ever.
        size, kind = (target.whole, target.cells_zyx, target.rows.bit_length()), working_type(rows)
        situation = (key, weight.shape, size, kind, rows.device)
        if situation not in self._found:
            candidates = self.candidates(target, rows.device, kind)
            measure = partial(_fastest, candidates, source, target, key, rows, weight)
            self._found[situation] = measure() if len(candidates) > 1 else candidates[0]
        return self._found[situation]


def _fastest(candidates: list[str], source: Level, target: Level, key: WindowKey, rows: Tensor, weight: Tensor) -> str:
    """Times the kernels forward and backward; those that fail, or disagree with the first that ran, are dropped."""
    name = f"convolution {tuple(weight.shape)}, stride {key.stride}, {target.rows} rows"
    seconds: dict[str, float] = {}
    first: list[Tensor] = []
    failure: Exception | None = None
    for kernel in candidates:
        step = partial(_step, rows, weight, _plan(source, target, key, kernel))
        try:
            found = step()
            far = _distance(found, first) if first else 0.0
            if not far <= _FARTHEST:
                _log.warning("%s: kernel %s dropped, it is %.2g away from %s", name, kernel, far, next(iter(seconds)))
                continue
            seconds[kernel] = seconds_of(step, rows.device)
            first = first or found
        except Exception as error:  # out of memory, or a kernel that does not compile here: the others run
            _log.warning("%s: kernel %s dropped: %s", name, kernel, " ".join(str(error).split()) or type(error))
            failure = error
    if not seconds and failure is not None:
        raise failure
    best = min(seconds, key=lambda kernel: seconds[kernel])
    _log.info("%s: %s; %s", name, ", ".join(f"{k} {1e3 * s:.2f} ms" for k, s in seconds.items()), best)
    return best


def _step(rows: Tensor, weight: Tensor, plan: RowConvolution) -> list[Tensor]:
    """Output, gradient of the rows, gradient of the weight; outputs, made smaller, serve as their own gradient."""
    given, kernel = rows.detach().requires_grad_(), weight.detach().requires_grad_()
    with torch.enable_grad():
        out = convolve_rows(given, kernel, None, plan)
        # The root keeps both gradients within float16.
        return [out.detach(), *torch.autograd.grad(out, (given, kernel), out.detach() / max(1, len(out)) ** 0.5)]


def _distance(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference, relative to the largest value of its tensor; NaN where either holds one."""
    pairs = [(a, b) for a, b in zip(found, expected, strict=True) if b.numel()]
    far = [((a - b).abs().max() / b.abs().max().clamp(min=1e-7)).float() for a, b in pairs]
    return float(torch.stack(far).max()) if far else 0.0


def _plan(source: Level, target: Level, key: WindowKey, kernel: str) -> RowConvolution:
    return RowConvolution(_windows(source, target, key, kernel == "bricks"), 1, symmetric(key), kernel)


def _windows(source: Level, target: Level, key: WindowKey, by_block: bool) -> Windows:
    return source.windows(target, replace(key, by_block=by_block))


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


def seconds_of(step: Callable[[], object], device: torch.device) -> float:
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

"""What the benchmark compares: five ways to take the same pretraining step with the same weights."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from spark_style import SparkEncoding
from torch import nn

from prostate_mim.mim import METHODS, BlockGrid, MaskedImageModel, MimBatch, random_hidden_blocks
from prostate_mim.nets import build_encoder

SPACING_MM_ZYX = (3.0, 0.5, 0.5)
BLOCKS_MM_ZYX = {"12x8x8": (12.0, 8.0, 8.0), "column": (math.inf, 8.0, 8.0)}
PATHS = ("rows", "dense", "spark_style", "spark_style_channels_last", "plain")
SPARK_PATHS = ("spark_style", "spark_style_channels_last")
# All but the plain one compute the same features; so close they must be in float32, relative to the largest.
TOLERANCE = 1e-4
_SEED = 20221214


@dataclass(frozen=True)
class Case:
    """One cell of the grid.

    Attributes:
        arch: key of ``ARCHITECTURES``.
        ratio: mask ratio.
        block: key of ``BLOCKS_MM_ZYX``.
        crops: samples per step.
        size_zyx: voxels per crop.
        device: ``cpu`` (float32) or ``cuda`` (bfloat16 autocast).
    """

    arch: str
    ratio: float
    block: str = "12x8x8"
    crops: int = 4
    size_zyx: tuple[int, int, int] = (16, 96, 96)
    device: str = "cpu"


class Arm:
    """A model, an optimiser, and the crops they see.

    Args:
        path: one of ``PATHS``.
        case: what is measured.
    """

    def __init__(self, path: str, case: Case) -> None:
        self.path, self.case = path, case
        self.model = build_model(path, case).to(case.device).train()
        self.optimiser = adamw(self.model)
        generator = torch.Generator().manual_seed(_SEED)
        self.voxels = torch.randn(case.crops, 1, *case.size_zyx, generator=generator).to(case.device)
        self.inside = torch.ones_like(self.voxels, dtype=torch.bool)

    def batch(self, number: int) -> MimBatch:
        """The crops with hidden blocks that depend on the number of the step only."""
        generator = torch.Generator().manual_seed(_SEED + number)
        hidden = random_hidden_blocks(self.case.crops, self.model.grid.grid_zyx, self.case.ratio, generator)
        return MimBatch(self.voxels, self.inside, hidden.to(self.case.device))

    def step(self, number: int) -> tuple[float, float]:
        """One whole step: tables, encode, decode, loss, backward, optimiser. Wall and processor seconds."""
        batch = self.batch(number)
        self.synchronise()
        wall, processor = time.perf_counter(), time.process_time()
        self.optimiser.zero_grad(set_to_none=True)
        with self.precision():
            loss = self.model(batch).loss
        loss.backward()
        self.optimiser.step()
        self.synchronise()
        return time.perf_counter() - wall, time.process_time() - processor

    def precision(self) -> contextlib.AbstractContextManager[object]:
        """float32 on CPUs, bfloat16 autocast on CUDA."""
        if self.case.device == "cpu":
            return contextlib.nullcontext()
        return torch.autocast(self.case.device, torch.bfloat16)

    def synchronise(self) -> None:
        """Wait for the device."""
        if self.case.device != "cpu":
            torch.cuda.synchronize()

    def features(self, number: int) -> list[torch.Tensor]:
        """Every stage of step ``number``, float32, without gradient; running moments stay as they are."""
        encoding, batch = copy.deepcopy(self.model.encoding), self.batch(number)
        with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False):
            found: list[torch.Tensor] = encoding(batch.voxels, batch.hidden_blocks, len(encoding.stages))
        return found


def build_model(path: str, case: Case) -> MaskedImageModel:
    """The same initial weights for every path.

    Raises:
        ValueError: an unknown path.
    """
    if path not in PATHS:
        raise ValueError(f"path {path!r} is unknown; choose from {', '.join(PATHS)}")
    torch.manual_seed(_SEED)
    encoder = build_encoder(case.arch)
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.ndim == 1:  # affines of norms begin at 1 and 0, where a mistake in them would not show
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    grid = BlockGrid.from_mm(BLOCKS_MM_ZYX[case.block], SPACING_MM_ZYX, case.size_zyx, encoder.total_stride_zyx)
    encoding = "filled" if path == "plain" else "exact"
    method = dataclasses.replace(METHODS["fcmae"], encoding=encoding)
    model = MaskedImageModel(encoder, grid, method, SPACING_MM_ZYX, path if path in ("rows", "dense") else "dense")
    if path in SPARK_PATHS:
        model.encoding = SparkEncoding(encoder, grid)
    # The reference's own default layout, and ours.
    if path != "spark_style":
        model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return model


def adamw(model: nn.Module) -> torch.optim.AdamW:
    """AdamW, fused where this build of torch can for this device."""
    parameters = list(model.parameters())
    try:
        return torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.05, fused=True)
    except RuntimeError:
        return torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.05)


def require_same_features(arms: Iterable[Arm]) -> None:
    """What is timed is one computation done in several ways: prove it first.

    Raises:
        AssertionError: a stage of one path differs from the first path's by more than ``TOLERANCE``.
    """
    exact = [arm for arm in arms if arm.path != "plain"]
    wanted = exact[0].features(0) if exact else []
    for arm in exact[1:]:
        for stage, (found, expected) in enumerate(zip(arm.features(0), wanted, strict=True)):
            worst = float((found - expected).abs().max() / expected.abs().max().clamp(min=1))
            if not worst <= TOLERANCE:
                raise AssertionError(f"{arm.path} and {exact[0].path} differ by {worst:.1e} at stage {stage}")

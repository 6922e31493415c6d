"""Frozen features of fixed windows: embeddings, and cells beside what lies in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from prostate_mim.engine.seeding import numpy_generator
from prostate_mim.errors import TrainingError
from prostate_mim.health.windows import Window
from prostate_mim.mim.layout import Triple, voxels_to_cells
from prostate_mim.nets.encoder import Encoder
from prostate_mim.nets.pooling import CentrePool

Floats = npt.NDArray[np.float64]

# One before the coarsest: 6 x 4 x 4 mm for the registered encoders, small beside a gland of 40 mm.
PROBED_STAGE = -2


class Encodes(Protocol):
    """What is asked of a module in training, whatever it is trained for."""

    @property
    def encoder(self) -> Encoder:
        """What is pretrained."""

    @property
    def cell_zyx(self) -> Triple:
        """Voxels per cell of the encoder's coarsest stage."""

    @property
    def __call__(self) -> Any:
        """As of any module."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """As of any module."""

    def modules(self) -> Iterator[nn.Module]:
        """As of any module."""

    def eval(self) -> Any:
        """As of any module."""


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells of a stage that lie wholly in measured voxels.

    Attributes:
        features: (M, C).
        places: (M, 9) where in its window a cell lies, -1 to 1 along z, y, x: first, second and fourth powers. A
            classifier of these alone shows how much the place gives away.
        gland: (M,) 0 or 1: at least half of the cell's voxels are gland.
        owners: (M,) the study.
    """

    features: Floats
    places: Floats
    gland: npt.NDArray[np.int_]
    owners: npt.NDArray[np.int_]


@dataclass(frozen=True, eq=False)
class Look:
    """What one pass over the windows gives.

    Attributes:
        embeddings: (N, C) the coarsest stage, averaged over the cells that are at least half measured.
        cells: of the windows whose study has a gland mask; None where none has.
    """

    embeddings: Floats
    cells: Cells | None


def batches(windows: Sequence[Window], size: int) -> Iterator[Sequence[Window]]:
    """``size`` windows at a time, in order."""
    for first in range(0, len(windows), size):
        yield windows[first : first + size]


def to_device(arrays: Sequence[npt.NDArray[np.generic]], device: torch.device) -> Tensor:
    """N arrays of (D, H, W) -> (N, 1, D, H, W) on a device."""
    return torch.from_numpy(np.stack(arrays)[:, None]).to(device)


def device_of(model: Encodes) -> torch.device:
    """Where the model's weights lie."""
    return next(model.parameters()).device


def centre_embeddings(
    model: Encodes, windows: Sequence[Window], spacing_mm_zyx: tuple[float, float, float], size: int
) -> Floats:
    """(N, C): what ``PreMIM.embed`` gives for the middle of each window."""
    pool = CentrePool(model.encoder.stage_info, spacing_mm_zyx)
    found = []
    for part in batches(windows, size):
        stages = model.encoder(to_device([w.voxels for w in part], device_of(model)))
        found.append(pool([stage.float() for stage in stages]).double().cpu().numpy())
    return _finite(np.concatenate(found))


def look(model: Encodes, windows: Sequence[Window], size: int, count: int, seed: int) -> Look:
    """Every window through the encoder once.

    Args:
        model: its encoder is asked.
        windows: at random places.
        size: windows per forward pass.
        count: cells drawn per window, at most.
        seed: of the draw.

    Raises:
        TrainingError: a feature is not finite.
    """
    stages = model.encoder.stage_info
    probed = max(PROBED_STAGE, -len(stages))
    embeddings: list[Floats] = []
    cells: list[Cells] = []
    for number, part in enumerate(batches(windows, size)):
        found = model.encoder(to_device([w.voxels for w in part], device_of(model)))
        embeddings.append(_measured_mean(found[-1].float(), part, model.cell_zyx))
        values = found[probed].double().cpu().numpy()
        for index, window in enumerate(part):
            if window.gland is not None:
                rng = numpy_generator(seed, "health", "cells", number * size + index)
                cells.append(_cells(values[index], window, stages[probed].stride_zyx, count, rng))
    return Look(_finite(np.concatenate(embeddings)), _joined(cells) if cells else None)


def _measured_mean(stage: Tensor, windows: Sequence[Window], cell_zyx: Triple) -> Floats:
    """(N, C, d, h, w) -> (N, C): over the cells that are at least half measured."""
    inside = to_device([w.inside for w in windows], stage.device)
    weight = (voxels_to_cells(inside, cell_zyx).float().mean(1, keepdim=True) >= 0.5).float()
    mean = (stage * weight).sum((2, 3, 4)) / weight.sum((2, 3, 4)).clamp(min=1)
    return np.asarray(mean.double().cpu().numpy())


def _cells(values: Floats, window: Window, stride_zyx: Triple, count: int, rng: np.random.Generator) -> Cells:
    """``count`` drawn cells of one window, of those without padding; ``values``: (C, d, h, w)."""
    usable = np.flatnonzero(_per_cell(window.inside, stride_zyx).all(1))
    chosen = np.sort(rng.permutation(usable)[:count])
    gland = np.zeros(window.inside.shape, bool) if window.gland is None else window.gland
    axes = np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in values.shape[1:]), indexing="ij")
    place = np.stack(axes, -1).reshape(-1, 3)[chosen]
    return Cells(
        _finite(values.reshape(len(values), -1).T[chosen]),
        np.concatenate([place, place**2, place**4], 1),
        (_per_cell(gland, stride_zyx)[chosen].mean(1) >= 0.5).astype(int),
        np.full(len(chosen), window.owner),
    )


def _joined(parts: Sequence[Cells]) -> Cells:
    return Cells(
        np.concatenate([each.features for each in parts]),
        np.concatenate([each.places for each in parts]),
        np.concatenate([each.gland for each in parts]),
        np.concatenate([each.owners for each in parts]),
    )


def _per_cell(voxels: npt.NDArray[np.bool_], stride_zyx: Triple) -> npt.NDArray[np.bool_]:
    """(D, H, W) -> (cells, voxels per cell), cells in (z, y, x) order."""
    cells = voxels_to_cells(torch.from_numpy(np.ascontiguousarray(voxels))[None, None], stride_zyx)
    return cells[0].flatten(1).T.numpy()


def _finite(values: Floats) -> Floats:
    if not np.isfinite(values).all():
        raise TrainingError("the encoder's features of the watched studies are not finite; its weights are damaged")
    return values

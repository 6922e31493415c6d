"""Frozen features at voxels: every stage is read where the voxel lies, between its cells by linear interpolation.

A cell lies where it looks (``StageInfo.begin_zyx``), for most encoders beside the middle of its share of the window.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from prostate_mim.encoder import PreMIM
from prostate_mim.errors import TrainingError
from prostate_mim.health.windows import Window
from prostate_mim.nets import StageInfo

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int_]
_BATCH = 4


@torch.inference_mode()
def voxel_features(encoder: PreMIM, windows: Sequence[Window], places: Sequence[Ints], stages: int) -> list[Floats]:
    """One (V, C) per window: the coarsest ``stages`` together.

    Args:
        encoder: asked in evaluation mode.
        windows: of one size.
        places: one (V, 3) per window, voxels z, y, x.
        stages: how many; an encoder of fewer gives all it has.

    Raises:
        TrainingError: a feature is not finite.
    """
    encoder.eval()
    infos = encoder.encoder.stage_info[-stages:]
    found: list[Floats] = []
    for first in range(0, len(windows), _BATCH):
        part = windows[first : first + _BATCH]
        given = encoder(as_batch(part))[-stages:]
        for index in range(len(part)):
            read = []
            for stage, info in zip(given, infos, strict=True):
                at = _grid(places[first + index], info, tuple(stage.shape[2:]))
                read.append(_sample(stage[index : index + 1].float(), at))
            found.append(_finite(np.concatenate(read, 1)))
    return found


@torch.inference_mode()
def study_features(encoder: PreMIM, windows: Sequence[Window], stages: int) -> Floats:
    """(windows, C): means over each window's cells, of the coarsest ``stages`` together."""
    encoder.eval()
    found = []
    for first in range(0, len(windows), _BATCH):
        given = encoder(as_batch(windows[first : first + _BATCH]))[-stages:]
        found.append(torch.cat([stage.float().mean((2, 3, 4)) for stage in given], 1).double().numpy())
    return _finite(np.concatenate(found))


def place_features(windows: Sequence[Window], places: Sequence[Ints]) -> list[Floats]:
    """One (V, 9) per window: first, second and fourth powers of where a voxel lies, -1 to 1. The control ``place``."""
    found = []
    for window, place in zip(windows, places, strict=True):
        at = (place + 0.5) / np.asarray(window.voxels.shape) * 2 - 1
        found.append(np.concatenate([at, at**2, at**4], 1))
    return found


def as_batch(windows: Sequence[Window]) -> Tensor:
    """(N, 1, D, H, W): the voxels of windows of one size."""
    return torch.from_numpy(np.stack([window.voxels for window in windows])[:, None])


def _grid(places: Ints, info: StageInfo, cells: tuple[int, ...]) -> Tensor:
    """(V, 3) voxels -> (1, V, 1, 1, 3) in grid_sample's terms: x, y, z; -1 and 1 are the stage's borders.

    Args:
        info: of the stage.
        cells: of the stage, along z, y, x.
    """
    cell = (places - np.asarray(info.begin_zyx)) / np.asarray(info.stride_zyx)
    at = (cell + 0.5) / np.asarray(cells) * 2 - 1
    return torch.from_numpy(np.ascontiguousarray(at[:, ::-1], np.float32))[None, :, None, None]


def _sample(stage: Tensor, at: Tensor) -> Floats:
    read = functional.grid_sample(stage, at, mode="bilinear", padding_mode="border", align_corners=False)
    return np.asarray(read[0, :, :, 0, 0].T.double().numpy())


def _finite(values: Floats) -> Floats:
    if not np.isfinite(values).all():
        raise TrainingError("the encoder's features are not finite; its weights are damaged")
    return values

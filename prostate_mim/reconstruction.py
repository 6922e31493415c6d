"""What a pretrained model makes of hidden voxels, and how that compares with guessing and interpolating."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from prostate_mim.encoder import PreMIM
from prostate_mim.engine.seeding import torch_generator
from prostate_mim.errors import UsageError
from prostate_mim.hub import open_release
from prostate_mim.hub.release import DECODER
from prostate_mim.hub.weights import load_strictly, read_tensors
from prostate_mim.mim import METHODS, BlockGrid, MaskedImageModel, Method, MimBatch, expand_blocks, hide
from prostate_mim.mim.layout import to_blocks
from prostate_mim.mim.targets import block_moments
from prostate_mim.mim.teacher import EmaTeacher
from prostate_mim.preprocess import Crop
from prostate_mim.spec import InputSpec

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class MimRelease:
    """A released encoder with its decoder, ready to reconstruct.

    Attributes:
        model: encoder and decoder, evaluation mode.
        spec: the input contract.
        name: of the release.
    """

    model: MaskedImageModel
    spec: InputSpec
    name: str


def load_mim(name: str | Path) -> MimRelease:
    """Encoder and decoder of a release.

    Raises:
        UsageError: the release has no decoder.
        NotFoundError, IntegrityError: as ``PreMIM.from_pretrained``.
    """
    release = open_release(name, kind="encoder")
    path = release.folder / DECODER
    if not path.exists() or "mim" not in release.details:
        raise UsageError(f"{name}: this release has no decoder; only encoders fresh from pretraining can reconstruct")
    encoder = PreMIM.from_pretrained(release.folder).encoder
    spec = release.spec
    block_mm = tuple(release.details["mim"]["block_mm_zyx"])
    grid = BlockGrid.from_mm(block_mm, spec.spacing_mm_zyx, spec.size_zyx, encoder.total_stride_zyx)
    model = MaskedImageModel(encoder, grid, _method(release.details["mim"]), spec.spacing_mm_zyx)
    load_strictly(model.reconstructor(), read_tensors(path), release.weights_dtype, str(path))
    if model.teacher is not None:
        model.teacher = EmaTeacher(model.encoding, model.decoder)  # of what was loaded, not of what was drawn
    return MimRelease(model.eval(), spec, release.name)


def _method(details: dict[str, Any]) -> Method:
    """Releases made before there was a choice were zero-filled and decoded top-down."""
    if "method" in details:
        return Method.from_dict(details["method"])
    return dataclasses.replace(METHODS["zerofill"], ratio=str(float(details["mask_ratio"])))


@torch.inference_mode()
def reconstruct(mim: MimRelease, crop: Crop, seed: int) -> tuple[npt.NDArray[np.bool_], FloatArray]:
    """Hide random blocks of a crop and fill them.

    Returns:
        hidden: (z, y, x) bool, True = hidden from the encoder.
        filled: (z, y, x) float32: the crop with hidden voxels replaced by the prediction, de-normalised with the true
            blocks' mean and deviation (the network predicts shape within a block, not its level).
    """
    batch = _hidden_crop(mim.model, crop, seed)
    picture = mim.model.to_voxels(mim.model(batch), batch)
    if picture is None:
        raise UsageError(f"{mim.name}: target {mim.model.target.name!r} is not an image, so nothing can be drawn")
    hidden = expand_blocks(batch.hidden_blocks, mim.model.grid.block_zyx)
    filled = torch.where(hidden, picture, batch.voxels)
    return hidden[0, 0].numpy(), filled[0, 0].numpy()


def _hidden_crop(model: MaskedImageModel, crop: Crop, seed: int) -> MimBatch:
    """A batch of one crop with blocks hidden by the model's own strategy."""
    voxels, inside = (torch.from_numpy(values)[None, None] for values in (crop.voxels, crop.inside))
    shown = MimBatch(voxels, inside, model.grid.all_visible(1))
    batch, names = hide(model, shown, [torch_generator(seed, "hidden")], progress=1.0)
    if not batch.hidden_blocks.any():
        raise UsageError(f"strategy {names[0]!r} hides no block, so there is nothing to reconstruct")
    return batch


def block_errors(grid: BlockGrid, voxels: Tensor, picture: Tensor, guess: Tensor) -> Tensor:
    """Squared errors of every voxel in units of its own block's variance.

    Args:
        grid: how the crops divide into blocks.
        voxels: (N, 1, D, H, W) the truth, z-scored.
        picture: (N, 1, D, H, W) what the network made of it.
        guess: (N, 1, D, H, W) what an interpolation made of it.

    Returns:
        (4, N, blocks, voxels per block): of the network, of the block's true mean, of the guess, and of the guess
        with each block's mean corrected to the true one.
    """
    truth, found, filled = (to_blocks(values, grid.block_zyx) for values in (voxels, picture, guess))
    mean, deviation = block_moments(truth)
    centred = filled - filled.mean(2, keepdim=True) + mean
    candidates = (found, mean.expand_as(truth), filled, centred)
    return torch.stack([((candidate - truth) / deviation).square() for candidate in candidates])


def interpolate_hidden(
    voxels: FloatArray, hidden: npt.NDArray[np.bool_], spacing_mm_zyx: tuple[float, float, float]
) -> FloatArray:
    """Fill hidden voxels from visible ones: linear along z, y and x, averaged by inverse distance in mm.

    Along each axis a hidden voxel lies between the nearest visible ones on both sides (or takes the only one); the
    three estimates are weighted by one over the distance to the nearer. With no visible voxel on any axis it is 0.
    """
    total, weight = np.zeros(voxels.shape), np.zeros(voxels.shape)
    for axis, spacing in enumerate(spacing_mm_zyx):
        estimate, distance = _along(voxels, hidden, axis)
        share = np.where(np.isfinite(distance), 1 / (np.maximum(distance, 1) * spacing), 0)
        total += share * np.where(share > 0, estimate, 0)
        weight += share
    filled = np.divide(total, weight, out=np.zeros(voxels.shape), where=weight > 0)
    return np.where(hidden, filled, voxels).astype(np.float32)


def _along(voxels: FloatArray, hidden: npt.NDArray[np.bool_], axis: int) -> tuple[FloatArray, FloatArray]:
    """Linear estimate along one axis, and voxels to the nearer visible neighbour (inf where there is none)."""
    values, gone = np.moveaxis(voxels, axis, 0), np.moveaxis(hidden, axis, 0)
    count = len(values)
    place = np.arange(count, dtype=float).reshape(-1, 1, 1)
    before = np.maximum.accumulate(np.where(gone, -np.inf, place), 0)
    after = np.minimum.accumulate(np.where(gone, np.inf, place)[::-1], 0)[::-1]
    left = np.take_along_axis(values, np.clip(before, 0, count - 1).astype(int), 0)
    right = np.take_along_axis(values, np.clip(after, 0, count - 1).astype(int), 0)
    down, up = place - before, after - place
    with np.errstate(invalid="ignore"):
        share = np.where(np.isinf(up), 0.0, np.where(np.isinf(down), 1.0, down / np.maximum(down + up, 1)))
    estimate = left * (1 - share) + right * share
    return np.moveaxis(estimate, 0, axis), np.moveaxis(np.minimum(down, up), 0, axis)

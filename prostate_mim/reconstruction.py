"""What a pretrained model makes of hidden voxels, and how that compares with guessing and interpolating."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from prostate_mim.encoder import PreMIM
from prostate_mim.engine.seeding import torch_generator
from prostate_mim.errors import UsageError
from prostate_mim.hub import read_release, resolve
from prostate_mim.hub.release import DECODER
from prostate_mim.hub.weights import load_strictly, read_tensors
from prostate_mim.mim import BlockGrid, MaskedImageModel, expand_blocks, random_hidden_blocks
from prostate_mim.preprocess import Crop
from prostate_mim.spec import InputSpec

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class MimRelease:
    """A released encoder with its decoder, ready to reconstruct.

    Attributes:
        model: encoder and decoder, evaluation mode.
        spec: the input contract.
        mask_ratio: share of blocks hidden in pretraining.
        name: of the release.
    """

    model: MaskedImageModel
    spec: InputSpec
    mask_ratio: float
    name: str


@dataclass(frozen=True)
class ReconstructionError:
    """Mean squared error on hidden voxels, in units of each block's own variance.

    Attributes:
        model: of the network.
        block_mean: of predicting every block's true mean (close to 1 by construction).
        interpolation: of linear interpolation from visible voxels.
        interpolation_centred: the same with each block's mean corrected to the true one, which is all that a
            network trained on block-normalised targets is spared.
        blocks: hidden blocks counted.
    """

    model: float
    block_mean: float
    interpolation: float
    interpolation_centred: float
    blocks: int


def load_mim(name: str | Path) -> MimRelease:
    """Encoder and decoder of a release.

    Raises:
        UsageError: the release has no decoder.
        NotFoundError, IntegrityError: as ``PreMIM.from_pretrained``.
    """
    folder = resolve(name)
    release = read_release(folder, kind="encoder")
    path = folder / DECODER
    if not path.exists() or "mim" not in release.details:
        raise UsageError(f"{name}: this release has no decoder; only encoders fresh from pretraining can reconstruct")
    encoder = PreMIM.from_pretrained(folder).encoder
    block_mm = release.details["mim"]["block_mm_zyx"]
    spec = release.spec
    grid = BlockGrid.from_mm(tuple(block_mm), spec.spacing_mm_zyx, spec.size_zyx, encoder.total_stride_zyx)
    model = MaskedImageModel(encoder, grid)
    load_strictly(model.decoder, read_tensors(path), release.weights_dtype, str(path))
    return MimRelease(model.eval(), spec, float(release.details["mim"]["mask_ratio"]), release.name)


@torch.inference_mode()
def reconstruct(mim: MimRelease, crop: Crop, seed: int) -> tuple[npt.NDArray[np.bool_], FloatArray]:
    """Hide random blocks of a crop and fill them.

    Returns:
        hidden: (z, y, x) bool, True = hidden from the encoder.
        filled: (z, y, x) float32: the crop with hidden voxels replaced by the prediction, de-normalised with the true
            blocks' mean and deviation (the network predicts shape within a block, not its level).
    """
    voxels, inside, hidden_blocks = _inputs(mim, crop, seed)
    output = mim.model(voxels, hidden_blocks, inside)
    hidden = expand_blocks(hidden_blocks, mim.model.grid.block_zyx)
    filled = torch.where(hidden, mim.model.to_voxels(output, voxels), voxels)
    return hidden[0, 0].numpy(), filled[0, 0].numpy()


@torch.inference_mode()
def score_reconstruction(mim: MimRelease, crops: Sequence[Crop], seed: int) -> ReconstructionError:
    """The network's error on crops beside two baselines; every block hidden once with its own generator."""
    sums = np.zeros(5)
    for number, crop in enumerate(crops):
        voxels, inside, hidden_blocks = _inputs(mim, crop, seed + number)
        hidden = expand_blocks(hidden_blocks, mim.model.grid.block_zyx)
        output = mim.model(voxels, hidden_blocks, inside)
        guess = interpolate_hidden(voxels[0, 0].numpy(), hidden[0, 0].numpy(), mim.spec.spacing_mm_zyx)
        errors = _baseline_errors(mim.model, voxels, torch.from_numpy(guess)[None, None], output.counted)
        sums += [float((output.block_error * output.counted.sum(2)).sum()), *errors, float(output.counted.sum())]
    model, mean, linear, centred = (float(v) for v in sums[:4] / sums[4])
    per_block = int(np.prod(mim.model.grid.block_zyx))
    return ReconstructionError(model, mean, linear, centred, round(sums[4] / per_block))


def _inputs(mim: MimRelease, crop: Crop, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch_generator(seed, "hidden")
    hidden = random_hidden_blocks(1, mim.model.grid.grid_zyx, mim.mask_ratio, generator)
    return torch.from_numpy(crop.voxels)[None, None], torch.from_numpy(crop.inside)[None, None], hidden


def _baseline_errors(model: MaskedImageModel, voxels: Tensor, guess: Tensor, counted: Tensor) -> tuple[float, ...]:
    """Summed squared errors over counted voxels: block mean, interpolation, interpolation with the true mean."""
    from prostate_mim.mim.layout import to_blocks
    from prostate_mim.mim.targets import block_moments

    block = model.grid.block_zyx
    truth, filled = to_blocks(voxels, block), to_blocks(guess, block)
    mean, deviation = block_moments(truth)
    centred = filled - filled.mean(2, keepdim=True) + mean
    candidates = (mean.expand_as(truth), filled, centred)
    return tuple(float((((c - truth) / deviation).square() * counted).sum()) for c in candidates)


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

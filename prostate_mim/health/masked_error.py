"""How well hidden tissue is reconstructed inside and outside the gland, on the same hidden blocks every time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from prostate_mim.engine.seeding import torch_generator
from prostate_mim.health.features import batches, device_of, to_device
from prostate_mim.health.windows import Window
from prostate_mim.mim import MaskedImageModel, MimBatch, MimOutput, expand_blocks, hide, nothing_hidden
from prostate_mim.mim.layout import to_blocks
from prostate_mim.reconstruction import block_errors, interpolate_hidden

# Rows of ``block_errors``, as they are logged: where blocks are hidden, and where voxels are changed instead.
CANDIDATES = ("error", "block_mean", "interpolation", "interpolation_centred")
_CHANGED = ("error", "block_mean", "unchanged", "unchanged_centred")
# Where voxels are counted: everywhere, and (in studies with a gland mask) inside and outside the gland.
REGIONS = ("", "_gland", "_outside")


@dataclass(frozen=True, eq=False)
class Reconstructions:
    """What became of the windows.

    Attributes:
        truth: (N, D, H, W) float32, z-scored.
        hidden: (N, D, H, W) bool, True = what the network had to restore.
        filled: (N, D, H, W) the truth with hidden voxels replaced by the prediction.
    """

    truth: npt.NDArray[np.float32]
    hidden: npt.NDArray[np.bool_]
    filled: npt.NDArray[np.float32]


def hidden_windows(model: MaskedImageModel, windows: Sequence[Window], first: int, seed: int) -> MimBatch:
    """Windows with blocks hidden by the model's own strategy, decided by the seed and each window's number alone.

    A strategy that asks a teacher which blocks are hard gets no answer and hides random ones, and one that changes
    with training acts as at its end: what is hidden must not depend on how far training is.
    """
    cpu = torch.device("cpu")  # decided there, whatever device is watched
    voxels, inside = to_device([w.voxels for w in windows], cpu), to_device([w.inside for w in windows], cpu)
    none = np.zeros_like(windows[0].inside)
    gland = to_device([none if w.gland is None else w.gland for w in windows], cpu)
    lesion = to_device([none if w.lesion is None else w.lesion for w in windows], cpu)
    generators = [torch_generator(seed, "health", "hidden", first + number) for number in range(len(windows))]
    place = torch.eye(3, 4).repeat(len(windows), 1, 1)
    place[:, :, 3] = torch.tensor([window.offset_zyx for window in windows])
    shown = MimBatch(voxels, inside, model.grid.all_visible(len(windows)), gland, place=place)
    hidden, _ = hide(model, shown, generators, lesion=lesion, progress=1.0, ask_teacher=False)
    return hidden.to(device_of(model))


def masked_errors(
    model: MaskedImageModel,
    windows: Sequence[Window],
    spacing_mm_zyx: tuple[float, float, float],
    size: int,
    seed: int,
) -> tuple[dict[str, float], Reconstructions | None]:
    """Reconstruct every window once.

    Args:
        model: in evaluation mode.
        windows: one a study.
        spacing_mm_zyx: of their voxels, for the interpolation.
        size: windows per forward pass.
        seed: of what is hidden.

    Returns:
        Where the target determines voxels: ``error``, ``block_mean``, ``interpolation`` (linear, from visible
        voxels) and ``interpolation_centred`` (given each block's true mean, as the network is by block-normalised
        targets), mean squared errors in block variances; where no block is hidden but voxels are changed, the changed
        voxels as they are take the place of interpolation: ``unchanged``, ``unchanged_centred``. Elsewhere
        ``loss``, the method's first loss per block. Each also with ``_gland`` and ``_outside`` where gland masks are
        known. Beside them ``output_spread``, and the pictures.
    """
    sums: dict[str, list[float]] = {}
    pictures: list[Reconstructions] = []
    spreads: list[float] = []
    for index, part in enumerate(batches(windows, size)):
        batch = hidden_windows(model, part, index * size, seed)
        output = model(batch)
        spreads += _spread(model, batch, output)
        picture = None if batch.frequencies is not None else model.to_voxels(output, batch)
        has_gland = torch.tensor([window.gland is not None for window in part], device=batch.voxels.device)
        if picture is None:
            found = _block_losses(model, batch, output, has_gland)
        else:
            hidden = _to_restore(model, batch)
            guess = _guess(batch, hidden, spacing_mm_zyx)
            found = _voxel_errors(model, batch, picture, guess, has_gland)
            filled = torch.where(hidden, picture, batch.voxels)
            pictures.append(Reconstructions(*(each[:, 0].cpu().numpy() for each in (batch.voxels, hidden, filled))))
        for name, (total, count) in found.items():
            kept = sums.setdefault(name, [0.0, 0.0])
            kept[0], kept[1] = kept[0] + total, kept[1] + count
    values = {name: total / count for name, (total, count) in sums.items() if count}
    if spreads:
        values["output_spread"] = float(np.mean(spreads))
    return values, _joined(pictures) if len(pictures) else None


def _to_restore(model: MaskedImageModel, batch: MimBatch) -> Tensor:
    """(N, 1, D, H, W) bool: hidden voxels; all of them in a sample that was changed without hiding a block."""
    return expand_blocks(batch.hidden_blocks, model.grid.block_zyx) | nothing_hidden(batch.hidden_blocks)


def _guess(batch: MimBatch, hidden: Tensor, spacing_mm_zyx: tuple[float, float, float]) -> Tensor:
    """What one has without a network: interpolated voxels, or the changed ones as they are."""
    given = batch.voxels if batch.changed is None else batch.changed
    guesses = []
    for voxels, gone in zip(given[:, 0].cpu().numpy(), hidden[:, 0].cpu().numpy(), strict=True):
        guesses.append(voxels if gone.all() else interpolate_hidden(voxels, gone, spacing_mm_zyx))
    return to_device(guesses, batch.voxels.device)


def _voxel_errors(
    model: MaskedImageModel, batch: MimBatch, picture: Tensor, guess: Tensor, has_gland: Tensor
) -> dict[str, tuple[float, float]]:
    """(sum, count) of each candidate's errors in each region."""
    block_zyx = model.grid.block_zyx
    errors = block_errors(model.grid, batch.voxels, picture.float(), guess)
    counted = to_blocks(_to_restore(model, batch) & batch.inside, block_zyx)
    assert batch.gland is not None  # noqa: S101  # hidden_windows gives one
    gland, known = to_blocks(batch.gland, block_zyx), has_gland[:, None, None]
    names = CANDIDATES if batch.hidden_blocks.any() else _CHANGED
    found = {}
    for region, where in zip(REGIONS, (counted, counted & gland, counted & ~gland & known), strict=True):
        totals = (errors * where).double().flatten(1).sum(1).tolist()
        for name, total in zip(names, totals, strict=True):
            found[name + region] = (total, float(where.sum()))
    return found


def _block_losses(
    model: MaskedImageModel, batch: MimBatch, output: MimOutput, has_gland: Tensor
) -> dict[str, tuple[float, float]]:
    """(sum, count) over counted blocks of the first loss; a block is gland where most of it is."""
    assert batch.gland is not None  # noqa: S101
    block_zyx, shape = model.grid.block_zyx, output.block_error.shape
    cells = output.counted.any(1, keepdim=True)
    counted = to_blocks(cells, model.grid.cells_zyx(model.cell_zyx)).any(2).view(shape)
    gland = (to_blocks(batch.gland, block_zyx).float().mean(2) >= 0.5).view(shape)
    known = has_gland[:, None, None, None]
    found = {}
    for region, where in zip(REGIONS, (counted, counted & gland, counted & ~gland & known), strict=True):
        found[f"loss{region}"] = (float((output.block_error * where).double().sum()), float(where.sum()))
    return found


def _spread(model: MaskedImageModel, batch: MimBatch, output: MimOutput) -> list[float]:
    """How much predictions differ between cells, as a share of how much their targets do; empty where none is scored.

    A network that says the same everywhere has 0, whatever that is.
    """
    wanted = model.target.values(model.source(batch), model.grid, model.cell_zyx)
    cells = output.counted.all(1)
    if int(cells.sum()) < 2:
        return []
    found, truth = (values.float().movedim(1, -1)[cells].std(0).mean() for values in (output.prediction, wanted))
    return [float(found / truth)] if truth > 0 else []


def _joined(pictures: Sequence[Reconstructions]) -> Reconstructions:
    return Reconstructions(
        np.concatenate([each.truth for each in pictures]),
        np.concatenate([each.hidden for each in pictures]),
        np.concatenate([each.filled for each in pictures]),
    )

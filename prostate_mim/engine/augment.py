"""Random changes of z-scored crops, batched, on the device.

Left-right is the only flip: a prostate has a front and a top. First comes what the scanner's resolution does (thicker
slices, blur), then geometry (flip, rotation, scale), then intensities (bias field, gamma, contrast, brightness,
noise). Padding stays exactly 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from prostate_mim.engine.amounts import BIAS_DEGREE, BIAS_TERMS, Amounts, Augmentation, Numbers, draw_amounts
from prostate_mim.engine.seeding import derive_seed

__all__ = ["Augmentation", "augment_batch", "box_inside", "crop_places", "zero_outside"]


def box_inside(box: Tensor, size_zyx: tuple[int, int, int], device: torch.device) -> Tensor:
    """(N, 1, D, H, W) bool, True = measured, of boxes (N, 3, 2) on the CPU: half-open ranges in voxels."""
    if bool((box[:, :, 0] == 0).all()) and bool((box[:, :, 1] == torch.tensor(size_zyx)).all()):
        return torch.ones(len(box), 1, *size_zyx, dtype=torch.bool, device=device)
    z, y, x = (profile.to(device) for profile in _profiles(box, size_zyx))
    return (z[:, :, None, None] & y[:, None, :, None] & x[:, None, None, :])[:, None]


def _profiles(box: Tensor, size_zyx: tuple[int, int, int]) -> list[Tensor]:
    """(N, D), (N, H), (N, W) bool: whether a voxel's place along each axis is within the box."""
    places = [torch.arange(count) for count in size_zyx]
    return [(at >= box[:, axis, :1]) & (at < box[:, axis, 1:]) for axis, at in enumerate(places)]


# ----------------------------------------------------------------------------------------------------- the batch


def augment_batch(
    voxels: Tensor, box: Tensor, labels: Tensor, settings: Augmentation, seed: int, draws: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Vary every sample of a batch by itself.

    Args:
        voxels: (N, 1, D, H, W) float32, z-scored, 0 in padding.
        box: (N, 3, 2) int64 on the CPU: the measured box of each sample.
        labels: (N, 1, D, H, W) uint8; they go where the voxels go.
        settings: what may be varied.
        seed: the run's seed.
        draws: (N) draw numbers; all randomness of a sample derives from the seed and its number.

    Returns:
        voxels, 0 in padding; inside (N, 1, D, H, W) bool: what of the crop was measured, less what a rotation or a
        reduction brought in from beyond the crop; labels.
    """
    _, _, depth, height, width = voxels.shape
    size = (depth, height, width)
    amounts = _amounts(settings, box, size, seed, draws)
    inside, profiles = box_inside(box, size, voxels.device), _profiles(box, size)
    voxels, inside, labels = voxels[:, 0], inside[:, 0], labels[:, 0]
    voxels = _resolution(voxels, profiles, amounts)
    voxels, inside, labels = _geometry(voxels, inside, labels, amounts)
    voxels = _noise(_intensity(voxels, inside, amounts), amounts, seed, draws)
    return zero_outside(voxels, inside)[:, None], inside[:, None], labels[:, None]


def crop_places(
    place: Tensor, box: Tensor, size_zyx: tuple[int, int, int], settings: Augmentation, seed: int, draws: Sequence[int]
) -> Tensor:
    """Where the voxels of augmented crops lie in their studies, as ``MimBatch.place``.

    Args:
        place: (N, 3) int64 on the CPU: twice the way from the middle of the region to that of the crop, voxels.
        box: (N, 3, 2) int64 on the CPU: the measured box of each sample.
        size_zyx: voxels of a crop.
        settings, seed, draws: as ``augment_batch`` was given.

    Returns:
        (N, 3, 4) float32 on the CPU: an affine map from (z, y, x) within the crop to (z, y, x) within the study, both
        from the middle, in voxels. Of a mirrored crop the study is mirrored too, so that x tells the side seen.
    """
    amounts = _amounts(settings, box, size_zyx, seed, draws)
    cosine, sine = (f(amounts.angle) * np.exp(-amounts.size) for f in (np.cos, np.sin))
    found = np.zeros((len(place), 3, 4), np.float32)
    found[:, :, 3] = place.numpy() / 2
    found[:, 2, 3] *= np.where(amounts.flip, -1, 1)
    found[:, 0, 0] = 1
    found[:, 1, 1], found[:, 1, 2], found[:, 2, 1], found[:, 2, 2] = cosine, sine, -sine, cosine  # as _source_places
    return torch.from_numpy(found)


def _amounts(
    settings: Augmentation, box: Tensor, size_zyx: tuple[int, int, int], seed: int, draws: Sequence[int]
) -> Amounts:
    return draw_amounts(settings, seed, draws).kept_still(~_mostly_measured(box, size_zyx))


def zero_outside(voxels: Tensor, inside: Tensor) -> Tensor:
    """Voxels with 0 where not inside; the same tensor where all is."""
    return voxels if _all_measured(inside) else voxels.masked_fill(~inside, 0)


def _all_measured(inside: Tensor) -> bool:
    """Whether there is no padding; False where asking would make the host wait for the device."""
    return inside.device.type == "cpu" and bool(inside.contiguous().view(torch.uint8).amin())  # faster than all()


def _mostly_measured(box: Tensor, size_zyx: tuple[int, int, int]) -> Numbers:
    """(N,) bool: at least half of the crop was measured along y and x; turning a sliver could lose all of it."""
    extent = (box[:, 1:, 1] - box[:, 1:, 0]).numpy()
    return np.asarray((2 * extent >= np.asarray(size_zyx[1:])).all(1))


def _where(which: Numbers, change: Callable[..., tuple[Tensor, ...]], *arrays: Tensor) -> tuple[Tensor, ...]:
    """Arrays (N, ...) after a change of the samples chosen.

    Args:
        which: (N,), not 0 or False = chosen.
        change: takes the places chosen and their part of each array; returns as many arrays.
        arrays: over the batch.
    """
    places = np.flatnonzero(which)
    if len(places) == 0:
        return arrays
    if len(places) == len(which):
        return change(places, *arrays)
    chosen = torch.from_numpy(places).to(arrays[0].device, non_blocking=True)
    changed = change(places, *(array[chosen] for array in arrays))
    return tuple(array.index_copy(0, chosen, part) for array, part in zip(arrays, changed, strict=True))


def _column(values: Numbers, like: Tensor) -> Tensor:
    """(n, 1, 1, 1) float32."""
    return torch.from_numpy(values.astype(np.float32)).to(like.device, non_blocking=True)[:, None, None, None]


# ---------------------------------------------------------------------------------------------------- resolution


def _resolution(voxels: Tensor, profiles: list[Tensor], amounts: Amounts) -> Tensor:
    """Thicker slices and in-plane blur of (N, D, H, W), each as a product with one small matrix an axis.

    Rows of the matrices sum to 1 over measured voxels, so padding adds nothing; it stays 0 itself.
    """

    def thicken(places: Numbers, part: Tensor) -> tuple[Tensor]:
        matrices = [_thick(amounts.thickness[n], profiles[0][n].numpy()) for n in places]
        return (torch.bmm(_stack(matrices, part), part.flatten(2)).view_as(part),)

    def blur(places: Numbers, part: Tensor) -> tuple[Tensor]:
        rows, columns = (
            _stack([_blur(amounts.blur[n], profiles[axis][n].numpy()) for n in places], part)[:, None]
            for axis in (1, 2)
        )
        return (rows @ (part @ columns.transpose(2, 3)),)

    (voxels,) = _where(amounts.thickness > 1, thicken, voxels)
    (voxels,) = _where(amounts.blur, blur, voxels)
    return voxels


def _stack(matrices: list[Numbers], like: Tensor) -> Tensor:
    return torch.from_numpy(np.stack(matrices).astype(np.float32)).to(like.device, non_blocking=True)


def _blur(deviation: float, measured: Numbers) -> Numbers:
    """(n, n) matrix of a Gaussian over measured places."""
    at = np.arange(len(measured))
    weights = np.exp(-0.5 * np.square((at[:, None] - at) / deviation)) * measured
    return _rows_to_one(weights) * measured[:, None]


def _thick(thickness: float, measured: Numbers) -> Numbers:
    """(n, n) matrix: mean over slices of a thickness (in old slices) side by side, then linear interpolation."""
    at = np.arange(len(measured))
    count = math.ceil(len(measured) / thickness)
    centres = (np.arange(count) + 0.5) * thickness - 0.5
    low, high = centres[:, None] - thickness / 2, centres[:, None] + thickness / 2
    share = np.clip(np.minimum(at + 0.5, high) - np.maximum(at - 0.5, low), 0, None) * measured
    place = np.clip((at - centres[0]) / thickness, 0, count - 1)
    between = np.clip(1 - np.abs(place[:, None] - np.arange(count)), 0, None) * (share.sum(1) > 0)
    return np.asarray(_rows_to_one(between) @ _rows_to_one(share) * measured[:, None])


def _rows_to_one(weights: Numbers) -> Numbers:
    total = weights.sum(1, keepdims=True)
    return np.asarray(np.divide(weights, total, out=np.zeros_like(weights), where=total > 1e-12))


# ------------------------------------------------------------------------------------------------------ geometry


def _geometry(voxels: Tensor, inside: Tensor, labels: Tensor, amounts: Amounts) -> tuple[Tensor, Tensor, Tensor]:
    """Mirror, rotate and scale (N, D, H, W): voxels bilinearly among measured ones, labels to the nearest voxel."""

    def mirror(places: Numbers, *parts: Tensor) -> tuple[Tensor, ...]:
        return tuple(part.flip(-1) for part in parts)

    def turn(places: Numbers, *parts: Tensor) -> tuple[Tensor, ...]:
        voxels, inside, labels = parts
        return _turn(voxels, inside, labels, _source_places(amounts.angle[places], amounts.size[places], voxels))

    mirrored = _where(amounts.flip, mirror, voxels, inside, labels)
    voxels, inside, labels = _where((amounts.angle != 0) | (amounts.size != 0), turn, *mirrored)
    return voxels, inside, labels


def _source_places(angle: Numbers, size: Numbers, like: Tensor) -> Tensor:
    """(n, H, W, 2): where in the old slice each voxel of the new one lies, x then y, voxels from the middle."""
    height, width = like.shape[-2:]
    y = torch.arange(height, device=like.device) - (height - 1) / 2
    x = torch.arange(width, device=like.device) - (width - 1) / 2
    cosine, sine = (_column(f(angle) * np.exp(-size), like)[..., 0] for f in (np.cos, np.sin))
    return torch.stack((cosine * x - sine * y[:, None], sine * x + cosine * y[:, None]), -1)


def _turn(voxels: Tensor, inside: Tensor, labels: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    samples, depth, height, width = voxels.shape
    scaled = places * places.new_tensor((2 / width, 2 / height))
    # Slices differ only in whether they were measured at all, so one slice tells how much of a place was.
    inside = inside.contiguous().view(torch.uint8)  # amax is faster than any()
    weight = inside.amax(1, keepdim=True).to(voxels.dtype)
    found = torch.nn.functional.grid_sample(
        torch.cat((voxels, weight), 1), scaled, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    share = found[:, depth:]
    measured = (share >= 0.5) & inside.amax((2, 3), keepdim=True).bool()
    turned = torch.where(measured, found[:, :depth] / share.clamp(min=0.5), 0)
    column = (places[..., 0] + (width - 1) / 2).round().long().clamp(0, width - 1)
    row = (places[..., 1] + (height - 1) / 2).round().long().clamp(0, height - 1)
    nearest = (row * width + column).view(samples, 1, -1).expand(-1, depth, -1)
    moved = labels.flatten(2).gather(2, nearest).view_as(labels) * measured
    return turned, measured, moved


# --------------------------------------------------------------------------------------------------- intensities


def _intensity(voxels: Tensor, inside: Tensor, amounts: Amounts) -> Tensor:
    """Bias field and gamma on (N, D, H, W), back to mean 0 and deviation 1; then contrast and brightness.

    Both work on intensities above the crop's darkest voxel (which is about where an MR image has no signal), because
    a z-score of 0 is no absence of signal.
    """

    def bend(places: Numbers, part: Tensor, measured: Tensor) -> tuple[Tensor, Tensor]:
        # Padding is 0, the mean of what was measured, and so neither the darkest nor the brightest.
        dark, bright = part.amin((1, 2, 3), keepdim=True), part.amax((1, 2, 3), keepdim=True)
        signal = (part - dark).div_((bright - dark).clamp(min=1e-6))
        if amounts.gamma[places].any():
            signal = signal.pow_(_column(np.exp(amounts.gamma[places]), part))
        if amounts.bias[places].any():
            signal = signal.mul_(_bias_field(amounts.bias[places], part))
        return _standardise(signal, measured), measured

    def scale(places: Numbers, part: Tensor) -> tuple[Tensor]:
        return (torch.addcmul(_column(amounts.shift[places], part), part, _column(amounts.gain[places], part)),)

    voxels, _ = _where((amounts.gamma != 0) | (amounts.bias != 0).any(1), bend, voxels, inside)
    (voxels,) = _where((amounts.gain != 1) | (amounts.shift != 0), scale, voxels)
    return voxels


def _bias_field(coefficients: Numbers, like: Tensor) -> Tensor:
    """(n, D, H, W) exponential of a polynomial; its logarithm is at most the sum of the coefficients' sizes."""
    count = BIAS_DEGREE + 1
    table = np.zeros((len(coefficients), count, count, count), np.float32)
    for term, place in enumerate(BIAS_TERMS):
        table[(slice(None), *place)] = coefficients[:, term]
    powers = [
        torch.linspace(-1, 1, n, device=like.device)[:, None] ** torch.arange(count, device=like.device)
        for n in like.shape[-3:]
    ]
    field = torch.from_numpy(table).to(like.device, non_blocking=True) @ powers[2].T
    field = powers[1] @ field
    return torch.einsum("dk,nkhw->ndhw", powers[0], field).exp_()


def _standardise(values: Tensor, inside: Tensor) -> Tensor:
    """Mean 0 and deviation 1 over measured voxels of each sample."""
    everything = _all_measured(inside)
    count = values[0].numel() if everything else inside.sum((1, 2, 3), keepdim=True).clamp(min=1)
    total = values if everything else values * inside
    centred = values - total.sum((1, 2, 3), keepdim=True) / count
    if not everything:
        centred.mul_(inside)
    spread = (centred.square().sum((1, 2, 3), keepdim=True) / count).sqrt()
    return centred.div_(spread.clamp(min=1e-6))


def _noise(voxels: Tensor, amounts: Amounts, seed: int, draws: Sequence[int]) -> Tensor:
    """Add Gaussian noise, each sample from its own generator on the device."""

    def disturb(places: Numbers, part: Tensor) -> tuple[Tensor]:
        generator, noise = torch.Generator(part.device), torch.empty_like(part)
        for place, one in zip(places.tolist(), noise, strict=True):
            one.normal_(generator=generator.manual_seed(derive_seed(seed, "noise", draws[place])))
        return (torch.addcmul(part, noise, _column(amounts.noise[places], part)),)

    (voxels,) = _where(amounts.noise, disturb, voxels)
    return voxels

"""Raw int16 crops -> a batch to train on: moved to the device, clipped, z-scored and augmented there, all at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from prostate_mim.engine.augment import Augmentation, augment_batch, box_inside, zero_outside
from prostate_mim.spec import InputSpec
from prostate_mim.store import BITS

Items = dict[str, Tensor]  # of draws, stacked: raw voxels, or what ``finish_crops`` has made of them
Batch = dict[str, Tensor]  # what ``finish_batch`` has made of items: ready to train on

_LOWEST = -(2**15)
_VALUES = 2**16
_SMALLEST_DEVIATION = 1e-6  # of int16 steps; the data set hands out no crop as constant as this


def finish_batch(
    items: Items,
    device: torch.device | str,
    spec: InputSpec,
    augmentation: Augmentation | None,
    seed: int,
) -> Batch:
    """Normalise and augment raw crops on a device.

    Args:
        items: stacked items of ``DrawDataset``: voxels (N, 1, D, H, W) int16, box (N, 3, 2), labels and so on; or
            what ``finish_crops`` has made of them already.
        device: where to.
        spec: the percentiles to clip at, and the channels; every item has the masks among them.
        augmentation: what is varied; nothing if None.
        seed: the run's seed. What happens to a sample depends on it and on the sample's draw number alone.

    Returns:
        voxels (N, C, D, H, W) float32: the image z-scored, then the spec's masks as 0 and 1, all 0 in padding; inside
        and each mask of ``store.BITS`` (N, 1, D, H, W) bool; has_gland and so on for each of them and label (N,), all
        on the device; box, place, row and draw as they were, on the CPU.
    """
    done = items if "inside" in items else finish_crops(items, device, spec, augmentation, seed)
    voxels, inside, labels = (done[name].to(device, non_blocking=True) for name in ("voxels", "inside", "labels"))
    with _one_thread(voxels.device):
        known = {name: bool(items[f"has_{name}"].any()) for name in BITS}  # most data sets have none
        masks = {name: (labels & bit).bool() if known[name] else torch.zeros_like(inside) for name, bit in BITS.items()}
        if spec.masks:  # they went where the voxels went, and have nothing in padding
            voxels = torch.cat([voxels, *(masks[name].to(voxels.dtype) for name in spec.masks)], 1)
    facts = {name: items[name].to(device, non_blocking=True) for name in (*(f"has_{name}" for name in BITS), "label")}
    whence = {name: items[name].cpu() for name in ("box", "place", "row", "draw")}
    return {"voxels": voxels, "inside": inside, **masks, **facts, **whence}


def finish_crops(
    items: Items,
    device: torch.device | str,
    spec: InputSpec,
    augmentation: Augmentation | None,
    seed: int,
) -> dict[str, Tensor]:
    """The part of ``finish_batch`` that takes time; on CPUs the loader's processes do it.

    Returns:
        voxels (N, 1, D, H, W) float32, inside (N, 1, D, H, W) bool, labels (N, 1, D, H, W) uint8, on the device.
    """
    raw = items["voxels"].to(device, non_blocking=True)
    labels = items["labels"].to(device, non_blocking=True)
    box, draws = items["box"].cpu(), [int(draw) for draw in items["draw"]]
    parts, count = [], _samples_at_once(raw)
    with _one_thread(raw.device):
        for part in (slice(first, first + count) for first in range(0, len(raw), count)):
            parts.append(_finish(raw[part], labels[part], box[part], spec, augmentation, seed, draws[part]))
        voxels, inside, labels = (
            torch.cat(found) if len(found) > 1 else found[0] for found in zip(*parts, strict=True)
        )
    return {"voxels": voxels, "inside": inside, "labels": labels}


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU, one thread: each of many small operations would wait for the others, long where cores are shared.

    It also makes the numbers independent of the count of threads.
    """
    before = torch.get_num_threads()
    if device.type != "cpu" or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _samples_at_once(raw: Tensor) -> int:
    """One after the other on a CPU, so that a sample stays in its cache; all together elsewhere."""
    return 1 if raw.device.type == "cpu" else len(raw)


def _finish(
    raw: Tensor,
    labels: Tensor,
    box: Tensor,
    spec: InputSpec,
    augmentation: Augmentation | None,
    seed: int,
    draws: list[int],
) -> tuple[Tensor, Tensor, Tensor]:
    _, _, depth, height, width = raw.shape
    inside = box_inside(box, (depth, height, width), raw.device)
    voxels = normalise_batch(raw, inside, spec)
    if augmentation is None or augmentation.nothing:
        return voxels, inside, labels
    return augment_batch(voxels, box, labels, augmentation, seed, draws)


def normalise_batch(voxels: Tensor, inside: Tensor, spec: InputSpec) -> Tensor:
    """``preprocess.normalise`` of every sample: clip at percentiles, z-score, both over measured voxels.

    Neither step depends on scale and offset of the stored integers, so they are not needed. Percentiles, mean and
    deviation are exact, from counts of every value.

    Args:
        voxels: (N, 1, D, H, W) int16.
        inside: (N, 1, D, H, W) bool, True = measured; at least one voxel of each sample.
        spec: the percentiles.

    Returns:
        (N, 1, D, H, W) float32, 0 where not inside.
    """
    counts, lowest = _count_values(voxels, inside)
    values = torch.arange(counts.shape[1], device=voxels.device, dtype=torch.float64)
    below = counts.cumsum(1)
    low, high = (_percentile(below, percent) for percent in spec.clip_percentiles)
    clipped = values.clamp(low, high)
    total = below[:, -1:].double()
    mean = (counts * clipped).sum(1, keepdim=True) / total
    deviation = ((counts * (clipped - mean).square()).sum(1, keepdim=True) / total).sqrt().clamp(_SMALLEST_DEVIATION)
    # Exact in float32, since all are whole numbers; only then divide.
    middle = mean.round()
    shifted = voxels.float().sub_(_spread(middle + lowest))
    shifted = torch.maximum(torch.minimum(shifted, _spread(high - middle)), _spread(low - middle))
    return zero_outside(shifted.sub_(_spread(mean - middle)).mul_(_spread(1 / deviation)), inside)


def _spread(values: Tensor) -> Tensor:
    """(N, 1) float64 -> (N, 1, 1, 1, 1) float32."""
    return values.float()[:, :, None, None, None]


def _count_values(voxels: Tensor, inside: Tensor) -> tuple[Tensor, int]:
    """How often each sample has each value: (N, values) int64, and the value that column 0 counts."""
    lowest, values = _narrow(voxels)
    if voxels.device.type == "cpu":
        # Column 0 takes the padding. In 32 bits: the range of int16 does not fit into 16.
        places = torch.where(inside, voxels.int() - (lowest - 1), 0).flatten(1)
        return torch.stack([torch.bincount(own, minlength=values + 1)[1:] for own in places]), lowest
    return _count_on_device(voxels, inside), lowest


def _count_on_device(voxels: Tensor, inside: Tensor) -> Tensor:
    """(N, all int16 values) int64, without making the host wait."""
    first = torch.arange(len(voxels), device=voxels.device)[:, None] * (_VALUES + 1)
    column = torch.where(inside, voxels.to(torch.int64) - _LOWEST, _VALUES).flatten(1) + first
    counts = torch.zeros(len(voxels) * (_VALUES + 1), dtype=torch.int64, device=voxels.device)
    counts.scatter_add_(0, column.flatten(), torch.ones_like(column).flatten())
    return counts.view(len(voxels), _VALUES + 1)[:, :_VALUES]


def _narrow(voxels: Tensor) -> tuple[int, int]:
    """Lowest value to count, and how many."""
    if voxels.device.type != "cpu":  # the host would have to wait for the answer
        return _LOWEST, _VALUES
    lowest, highest = voxels.aminmax()
    return int(lowest), int(highest) - int(lowest) + 1


def _percentile(below: Tensor, percent: float) -> Tensor:
    """(N, 1) float64: a percentile of each sample, interpolated linearly between neighbours in order.

    Args:
        below: (N, values) int64: how many voxels have at most this value.
        percent: which percentile.
    """
    place = (below[:, -1:] - 1).double() * (percent / 100)
    under, share = place.floor(), place - place.floor()
    low = torch.searchsorted(below, under.long(), right=True).double()
    high = torch.searchsorted(below, place.ceil().long(), right=True).double()
    return low + (high - low) * share

"""Nothing is hidden: the image is shuffled, re-mapped and painted over, and has to be restored."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prostate_mim.errors import UsageError
from prostate_mim.mim.blocks import BlockGrid
from prostate_mim.mim.layout import Triple
from prostate_mim.mim.strategies.base import Guide, Hiding, exact_count, uniform, voxels_of

INWARD = (1 / 6, 1 / 3)  # sides of painted boxes, shares of the crop's
OUTWARD = (3 / 7, 4 / 7)  # sides of windows that out-painting spares
MOST_BOXES = 256
SHUFFLED_SHARE = 0.1  # longest side of a shuffled box, share of the crop's
DEEPEST_SHUFFLE = 2  # slices: 3 mm each where in-plane voxels are 0.5 mm
CURVE_NODES = 1024


@dataclass(frozen=True, eq=False)
class Corruption:
    """A corrupted sample, and what was done to it.

    Attributes:
        voxels: (1, D, H, W) in the dtype and on the device of the original.
        painted: (D, H, W) bool on the CPU, True = replaced by noise or a constant.
        shuffled: (D, H, W) bool on the CPU, True = took part in the shuffling of a box; never also painted.
        curved: whether intensities were re-mapped.
    """

    voxels: Tensor
    painted: Tensor
    shuffled: Tensor
    curved: bool


@dataclass(frozen=True)
class Genesis:
    """Corrupts the voxels and hides no block (Zhou et al. 2021, Models Genesis: their four transformations).

    In this order, each or not by a draw of its own: voxels change places within small boxes; intensities go through
    a monotone cubic Bezier curve from the crop's lowest to its highest value; boxes are painted over (in-painting), or
    all but some boxes (out-painting). Probabilities and sides of painted boxes are those of the authors' public code.
    Two things are ours: shuffled boxes are at most ``DEEPEST_SHUFFLE`` slices deep, as slices are thick, and a painted
    box may be a constant instead of noise (out-painting is one such region).

    The mask ratio is the share of voxels that are painted or shuffled: exactly ``round(ratio * voxels)``, where the
    authors have as many as a drawn number of boxes happens to cover. A sample that is both painted and shuffled gives
    half of them to each, and no voxel to both. A sample that is neither (one in 20 with the default probabilities) has
    none. Re-mapping acts on all voxels and is not counted. A shuffled voxel counts although it may draw its own place.

    Attributes:
        shuffle: probability of shuffling.
        curve: probability of re-mapping intensities.
        falling: share of curves that fall, from the highest value to the lowest.
        paint: probability of painting.
        outward: share of out-painting in painting.
        constant: share of boxes painted with a constant; the others get uniform noise.
    """

    shuffle: float = 0.5
    curve: float = 0.9
    falling: float = 0.5
    paint: float = 0.9
    outward: float = 0.8
    constant: float = 0.5
    name: ClassVar[str] = "genesis"
    self_supervised: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"voxels"})

    def __post_init__(self) -> None:
        for field in ("shuffle", "curve", "falling", "paint", "outward", "constant"):
            value = getattr(self, field)
            if not 0 <= value <= 1:
                raise UsageError(f"strategy genesis has {field}={value}; a probability is between 0 and 1")
        if not max(self.shuffle, self.curve, self.paint):
            raise UsageError("strategy genesis changes nothing with shuffle, curve and paint 0; raise one of them")

    def hidden_count(self, grid: BlockGrid, ratio: float) -> int:
        """No block is hidden: 0. The ratio is checked against the voxels."""
        exact_count(ratio, math.prod(grid.size_zyx), "voxels")
        return 0

    def hide(self, grid: BlockGrid, ratio: float, generator: torch.Generator, guide: Guide) -> Hiding:
        """All blocks visible; ``voxels`` corrupted.

        Raises:
            UsageError: also where the guide holds no voxels.
        """
        self.hidden_count(grid, ratio)
        corrupted = self.corrupt(voxels_of(guide, grid, self.name), ratio, generator).voxels
        return Hiding(torch.zeros(grid.grid_zyx, dtype=torch.bool), self.name, corrupted)

    def corrupt(self, voxels: Tensor, ratio: float, generator: torch.Generator) -> Corruption:
        """Corrupt a (1, D, H, W) crop; the original is left as it is.

        Raises:
            UsageError: the ratio would touch no voxel or all of them.
        """
        values = voxels[0].to("cpu", torch.promote_types(voxels.dtype, torch.float32))
        low, high = (float(end) for end in values.aminmax())
        shuffles, curves, paints = (uniform(generator) < odds for odds in (self.shuffle, self.curve, self.paint))
        count = exact_count(ratio, values.numel(), "voxels")
        shares = (count // 2 if paints else count) * shuffles, (count - count // 2 if shuffles else count) * paints
        painted, paint = self._painting(values, shares[1], low, high, generator)
        shuffled = torch.zeros_like(painted)
        if shuffles:
            boxes = draw_partition((values.shape[0], values.shape[1], values.shape[2]), generator)
            shuffled = _first_boxes(boxes, shares[0], ~painted, generator)
            values = shuffle_within(values, boxes, shuffled, generator)
        if curves:
            values = bezier(values, low, high, uniform(generator) < self.falling, generator)
        values = torch.where(painted, paint, values)
        return Corruption(values[None].to(voxels), painted, shuffled, curves)

    def _painting(
        self, values: Tensor, count: int, low: float, high: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """(D, H, W) bool with exactly ``count`` True, and the (D, H, W) values to paint there."""
        if not count:
            return torch.zeros(values.shape, dtype=torch.bool), values
        size = (values.shape[0], values.shape[1], values.shape[2])
        if uniform(generator) < self.outward:
            boxes = draw_boxes(size, OUTWARD, 1 - count / values.numel(), generator)
            painted = ~_take(boxes, values.numel() - count)
            boxes = torch.zeros_like(boxes)
        else:
            boxes = draw_boxes(size, INWARD, count / values.numel(), generator)
            painted = _take(boxes, count)
        drawn = torch.rand(2, MOST_BOXES + 1, generator=generator, dtype=values.dtype)
        noise = torch.rand(size, generator=generator, dtype=values.dtype)
        flat = (drawn[0] < self.constant)[boxes]
        return painted, low + (high - low) * torch.where(flat, drawn[1][boxes], noise)


def draw_boxes(size_zyx: Triple, sides: tuple[float, float], share: float, generator: torch.Generator) -> Tensor:
    """Boxes of random sides at random places, about enough to cover a share of the crop.

    Args:
        size_zyx: voxels of the crop.
        sides: shortest and longest side, shares of the crop's side along the same axis.
        share: of the crop that is to be covered.
        generator: the only source of randomness.

    Returns:
        (D, H, W) int64: the number of the first box that covers a voxel; ``MOST_BOXES`` where none does.
    """
    mean = (sum(sides) / 2) ** 3
    boxes = min(MOST_BOXES, 4 + math.ceil(-2 * math.log(1 - share) / mean))
    drawn = torch.rand(2, boxes, 3, generator=generator, dtype=torch.float64)
    size = torch.tensor(size_zyx)
    shortest = (size * sides[0]).floor().clamp(min=1)
    longest = torch.maximum((size * sides[1]).floor(), shortest)
    lengths = (shortest + drawn[0] * (longest - shortest + 1)).floor()
    corners = (drawn[1] * (size - lengths + 1)).floor()
    first = torch.full(size_zyx, MOST_BOXES)
    spans = zip(corners.long().tolist(), (corners + lengths).long().tolist(), strict=True)
    for number, ((z, y, x), (zz, yy, xx)) in reversed(list(enumerate(spans))):
        first[z:zz, y:yy, x:xx] = number
    return first


def draw_partition(size_zyx: Triple, generator: torch.Generator) -> Tensor:
    """Divide a crop into small boxes: each axis is cut at random into lengths of 1 to a tenth of it (rounded up).

    In-plane lengths are at least 2, or nothing would move; through-plane ones at most ``DEEPEST_SHUFFLE``.

    Returns:
        (D, H, W) int64 number of the box that holds a voxel.
    """
    places, total = [], 1
    for axis, size in enumerate(size_zyx):
        longest = math.ceil(size * SHUFFLED_SHARE)
        shortest, longest = (1, min(longest, DEEPEST_SHUFFLE)) if axis == 0 else (2, max(longest, 2))
        lengths = torch.randint(shortest, longest + 1, (math.ceil(size / shortest),), generator=generator)
        ends = lengths.cumsum(0)
        places.append(torch.searchsorted(ends, torch.arange(size), right=True))
    for axis in (2, 1, 0):
        step = int(places[axis].max()) + 1
        places[axis] = places[axis] * total
        total *= step
    return places[0][:, None, None] + places[1][:, None] + places[2]


def shuffle_within(values: Tensor, boxes: Tensor, moved: Tensor, generator: torch.Generator) -> Tensor:
    """Let the ``moved`` voxels of each box change places at random; every order is equally likely.

    Args:
        values: (D, H, W).
        boxes: (D, H, W) int64 number of the box.
        moved: (D, H, W) bool.
        generator: the only source of randomness.
    """
    place = moved.flatten().nonzero()[:, 0]
    turned = place[torch.randperm(len(place), generator=generator)]
    number = boxes.flatten().int()
    # Both lists run through the boxes in order; within a box the one keeps its order and the other has none.
    here, there = (chosen[number[chosen].argsort(stable=True)] for chosen in (place, turned))
    result = values.flatten().clone()
    result[here] = values.flatten()[there]
    return result.reshape(values.shape)


def bezier(values: Tensor, low: float, high: float, falling: bool, generator: torch.Generator) -> Tensor:
    """Send values through a monotone curve that maps the range ``low`` to ``high`` onto itself.

    A cubic Bezier curve from one corner of the unit square to the opposite one is monotone in both coordinates
    wherever in the square its two control points lie, and they are drawn uniformly. It is tabulated at
    ``CURVE_NODES`` + 1 even steps of the range.

    Args:
        values: any shape, from ``low`` to ``high``.
        low: the lowest value.
        high: the highest value; where it equals ``low`` nothing changes.
        falling: mirror the curve, so that dark becomes bright.
        generator: the only source of randomness.
    """
    controls = torch.rand(2, 2, generator=generator, dtype=torch.float64)
    if not high > low:
        return values
    t = torch.linspace(0, 1, CURVE_NODES + 1, dtype=torch.float64)
    x, y = 3 * (1 - t) ** 2 * t * controls[:, :1] + 3 * (1 - t) * t**2 * controls[:, 1:] + t**3
    right = torch.searchsorted(x, t).clamp(1, CURVE_NODES)
    width = (x[right] - x[right - 1]).clamp(min=1e-12)
    table = torch.lerp(y[right - 1], y[right], ((t - x[right - 1]) / width).clamp(0, 1))
    table = (low + (high - low) * (1 - table if falling else table)).to(values.dtype)
    place = ((values - low) * (CURVE_NODES / (high - low))).clamp(0, CURVE_NODES)
    left = place.int().clamp(max=CURVE_NODES - 1)
    return torch.lerp(table[left], table[left + 1], place - left)


def _first_boxes(boxes: Tensor, count: int, allowed: Tensor, generator: torch.Generator) -> Tensor:
    """(D, H, W) bool: exactly ``count`` allowed voxels, whole boxes in random order, the last one in part."""
    turns = torch.randperm(int(boxes.max()) + 1, generator=generator)
    return _take(turns[boxes], count, allowed)


def _take(rank: Tensor, count: int, allowed: Tensor | None = None) -> Tensor:
    """Bool, the shape of ``rank``: the ``count`` lowest ranks among allowed voxels, ties in (z, y, x) order.

    Voxels of no box have the highest rank, so that the count is exact even where the boxes cover too little.
    """
    flat = rank.flatten()
    free = torch.ones_like(flat, dtype=torch.bool) if allowed is None else allowed.flatten()
    reached = torch.bincount(flat[free]).cumsum(0)
    last = int(torch.searchsorted(reached, count))
    missing = count - (int(reached[last - 1]) if last else 0)
    edge = (flat == last) & free
    return (((flat < last) & free) | (edge & (edge.cumsum(0) <= missing))).reshape(rank.shape)

"""What each visible output sees of the rows below: index tables, built once per batch and shared by a stage.

A window belongs to a *unit* of output positions. Where the unit is a whole block, neighbouring outputs share their
inputs and an ordinary dense kernel runs on the gathered bricks; where it is a single position, a window is one row of
a matrix product (im2col). Bricks win where blocks are large against the kernel, positions where they are small.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from prostate_mim.masked.context import Level

Triple = tuple[int, int, int]
_ONE: Triple = (1, 1, 1)


@dataclass(frozen=True)
class WindowKey:
    """Geometry of a sliding operation.

    Attributes:
        kernel, stride, dilation: (z, y, x).
        padding: before the first position, (z, y, x).
        by_block: the unit is a whole block of outputs, not a single output.
    """

    kernel: Triple
    stride: Triple
    dilation: Triple
    padding: Triple
    by_block: bool


class Windows:
    """Tables from the rows of ``source`` to the windows of ``target``'s units, and back.

    Attributes:
        shape_zyx: positions of one window. For single outputs the dilation is already in the table.
        unit_zyx: outputs of one window.
    """

    def __init__(self, source: Level, target: Level, key: WindowKey) -> None:
        self._source, self._target, self.key = source, target, key
        self.unit_zyx: Triple = target.cells_zyx if key.by_block else _ONE
        if key.by_block:
            z, y, x = (
                (u - 1) * s + d * (k - 1) + 1
                for u, s, d, k in zip(self.unit_zyx, key.stride, key.dilation, key.kernel, strict=True)
            )
            self.shape_zyx: Triple = (z, y, x)
            self._spread: Triple = _ONE
        else:
            self.shape_zyx, self._spread = key.kernel, key.dilation

    @cached_property
    def table(self) -> Tensor:
        """(units, window) int32: the source row at every place of every window; ``source.rows`` where none is."""
        source, key = self._source, self.key
        corners = self._corners()
        reach = [s * (n - 1) + 1 for s, n in zip(self._spread, self.shape_zyx, strict=True)]
        last = corners[:, 1:].amax(0).tolist() if len(corners) else [0, 0, 0]
        after = [
            max(0, int(m) + r - (n + p)) for m, r, n, p in zip(last, reach, source.size_zyx, key.padding, strict=True)
        ]
        (pz, py, px), (az, ay, ax) = key.padding, after
        padded = functional.pad(source.row_of, (px, ax, py, ay, pz, az), value=source.rows)
        _, d, h, w = padded.shape
        n, z, y, x = corners.unbind(1)
        base = ((n * d + z) * h + y) * w + x
        oz, oy, ox = (
            torch.arange(c, device=base.device) * s for c, s in zip(self.shape_zyx, self._spread, strict=True)
        )
        offset = ((oz[:, None, None] * h + oy[:, None]) * w + ox).flatten()
        return padded.flatten().take(base[:, None] + offset)

    @cached_property
    def taps(self) -> Tensor:
        """(window, units) int32: ``table`` with the units side by side, as depthwise kernels read it."""
        return self.table.t().contiguous()

    def _corners(self) -> Tensor:
        """(units, 4) int64: sample and first position of every window, counted from the padded corner."""
        target, key = self._target, self.key
        if key.by_block:
            scale = [u * s for u, s in zip(self.unit_zyx, key.stride, strict=True)]
            units = target.blocks
        else:
            scale, units = list(key.stride), target.places
        return units * torch.tensor([1, *scale], device=units.device)

    @cached_property
    def holders(self) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Where each row lies among the windows: places of all rows, and (rows, places) of those that lie in more.

        Most rows lie in one window only, their own block's; so the others are short lists. A place that does not
        exist is the number of places, units * window.
        """
        key, target = self.key, self._target
        unit_of = target.block_row_of if key.by_block else target.row_of
        units = len(target.blocks) if key.by_block else target.rows
        n, *position = self._source.places.unbind(1)
        # Per axis: which units' windows reach this position, and at which place of the window.
        axes = [self._covering(axis, position[axis], unit_of.shape[axis + 1]) for axis in range(3)]
        size = self.shape_zyx[0] * self.shape_zyx[1] * self.shape_zyx[2]
        found: list[Tensor] = []
        for (uz, wz, vz), (uy, wy, vy), (ux, wx, vx) in itertools.product(*axes):
            place = unit_of[n, uz, uy, ux] * size + ((wz * self.shape_zyx[1] + wy) * self.shape_zyx[2] + wx)
            found.append(torch.where(vz & vy & vx, place, units * size).clamp(max=units * size))
        more = [((place < units * size).nonzero()[:, 0], place) for place in found[1:]]
        return found[0], [(rows, place[rows]) for rows, place in more if len(rows)]

    def _covering(self, axis: int, position: Tensor, units: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """For each candidate: (unit, place in its window, valid), each (rows,)."""
        step = self.unit_zyx[axis] * self.key.stride[axis]
        spread, count = self._spread[axis], self.shape_zyx[axis]
        own, padding = position // step, self.key.padding[axis]
        reach = spread * (count - 1)
        candidates = []
        # The own unit first: nearly every row is in its window. A window begins at unit * step - padding.
        for back in sorted(range(-((padding + step - 1) // step), reach // step + 1), key=abs):
            unit = own - back
            offset = position + padding - unit * step
            place = offset // spread
            valid = (unit >= 0) & (unit < units) & (offset >= 0) & (offset % spread == 0) & (place < count)
            candidates.append((unit.clamp(0, units - 1), place.clamp(0, count - 1), valid))
        return candidates

    def gather(self, rows: Tensor, fill: float = 0.0) -> Tensor:
        """(source.rows, C) -> (units, z, y, x, C); places outside or hidden hold ``fill``."""
        channels = rows.shape[1]
        padded = torch.cat([rows, rows.new_full((1, channels), fill)])
        return padded.index_select(0, self.table.flatten()).view(-1, *self.shape_zyx, channels)

    def fold(self, windows: Tensor) -> Tensor:
        """The transpose of ``gather``: (units, z, y, x, C) -> (source.rows, C), places of the same row summed."""
        channels = windows.shape[-1]
        flat = windows.reshape(-1, channels)
        first, more = self.holders
        total = flat.index_select(0, first.clamp(max=len(flat) - 1))
        total.index_fill_(0, (first == len(flat)).nonzero()[:, 0], 0.0)
        for rows, places in more:
            total[rows] += flat.index_select(0, places)  # each row stands in a list once
        return total

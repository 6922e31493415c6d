"""A flow chart as SVG: boxes in layers from top to bottom, arrows that bend around boxes. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from itertools import pairwise

Arrow = tuple[str, str]
_LINE = re.compile(r"^\s*([\w -]+?)\s*-->\s*([\w &-]+?)\s*$")
BOX_HEIGHT, LAYER_GAP, GAP = 30, 46, 18
LETTER, PADDING = 8.0, 22
SWEEPS = 24


def parsed(text: str) -> list[Arrow]:
    """The arrows of a chart ``flowchart TD`` with lines ``a --> b & c``; nothing where it has anything else."""
    first, *lines = [line for line in text.splitlines() if line.strip()] or [""]
    if first.split() not in (["flowchart", "TD"], ["graph", "TD"]):
        return []
    arrows: list[Arrow] = []
    for line in lines:
        found = _LINE.match(line)
        if found is None:
            return []
        arrows += [(found[1], end.strip()) for end in found[2].split("&")]
    return arrows


class Chart:
    """Boxes with their places. An arrow over several layers goes through a point in each of those between."""

    def __init__(self, arrows: Iterable[Arrow]) -> None:
        self.arrows = list(arrows)
        self.layer = _layers(self.arrows)
        self.names = list(self.layer)
        self.chains = [self._chain(begin, end) for begin, end in self.arrows]
        self.rows: list[list[str]] = [[] for _ in range(max(self.layer.values()) + 1)]
        for name in self.layer:
            self.rows[self.layer[name]].append(name)
        pieces = [piece for chain in self.chains for piece in pairwise(chain)]
        self.above: dict[str, list[str]] = {name: [a for a, b in pieces if b == name] for name in self.layer}
        self.below: dict[str, list[str]] = {name: [b for a, b in pieces if a == name] for name in self.layer}
        self.x: dict[str, float] = {}
        self._place()

    def _chain(self, begin: str, end: str) -> list[str]:
        """The points of an arrow; those between its ends are new."""
        between = []
        for layer in range(self.layer[begin] + 1, self.layer[end]):
            point = f"{begin}\n{end}\n{layer}"  # no name of a box has a line break
            self.layer[point] = layer
            between.append(point)
        return [begin, *between, end]

    def width(self, name: str) -> float:
        """Of a box; a point has none."""
        return 0.0 if "\n" in name else LETTER * len(name) + PADDING

    def _place(self) -> None:
        """Rows are sorted by the middle of what they are joined to, up and down, then spread without overlap."""
        for row in self.rows:
            self._spread(row, {name: float(place) for place, name in enumerate(row)})
        for sweep in range(SWEEPS):
            near = self.above if sweep % 2 == 0 else self.below
            for row in self.rows if sweep % 2 == 0 else self.rows[::-1]:
                wanted = {name: _mean([self.x[one] for one in near[name]], self.x[name]) for name in row}
                row.sort(key=lambda name: wanted[name])
                self._spread(row, wanted)
        left = min(self.x[name] - self.width(name) / 2 for name in self.layer)
        self.x = {name: x - left + 2 for name, x in self.x.items()}

    def _spread(self, row: list[str], wanted: dict[str, float]) -> None:
        """Each where it wants to be, but to the right of its neighbour; then the row is centred on what was wanted."""
        right = float("-inf")
        for name in row:
            half = self.width(name) / 2
            self.x[name] = max(wanted[name], right + GAP + half)
            right = self.x[name] + half
        shift = sum(wanted[name] - self.x[name] for name in row) / len(row)
        for name in row:
            self.x[name] += shift

    def svg(self) -> str:
        """The picture; colours are those of the page's text."""
        wide = max(self.x[name] + self.width(name) / 2 for name in self.layer) + 2
        high = self._top(len(self.rows) - 1) + BOX_HEIGHT + 2
        told = "; ".join(f"{begin} to {end}" for begin, end in self.arrows)
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="Flow chart: {escape(told)}" '
            f'viewBox="0 0 {wide:.0f} {high:.0f}" width="{wide:.0f}" height="{high:.0f}">',
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="currentColor"/></marker></defs>',
            *(self._arrow(chain) for chain in self.chains),
            *(self._box(name) for name in self.names),
            "</svg>",
        ]
        return "\n".join(parts)

    def _top(self, layer: int) -> float:
        return 2.0 + layer * (BOX_HEIGHT + LAYER_GAP)

    def _arrow(self, chain: list[str]) -> str:
        x, y = self.x[chain[0]], self._top(self.layer[chain[0]]) + BOX_HEIGHT
        path = f"M{x:.1f} {y:.1f}"
        for name in chain[1:]:
            to_x, to_y = self.x[name], self._top(self.layer[name])
            middle = (y + to_y) / 2
            path += f" C{x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y:.1f}"
            x, y = to_x, to_y
            if name != chain[-1]:
                y += BOX_HEIGHT
                path += f" L{x:.1f} {y:.1f}"
        return f'<path d="{path}" fill="none" stroke="currentColor" stroke-opacity="0.6" marker-end="url(#head)"/>'

    def _box(self, name: str) -> str:
        x, y, wide = self.x[name], self._top(self.layer[name]), self.width(name)
        return (
            f'<rect x="{x - wide / 2:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{BOX_HEIGHT}" rx="5" fill="none" '
            f'stroke="currentColor"/><text x="{x:.1f}" y="{y + BOX_HEIGHT / 2 + 5:.1f}" text-anchor="middle" '
            f'fill="currentColor">{escape(name)}</text>'
        )


def _layers(arrows: list[Arrow]) -> dict[str, int]:
    """Name -> layer: one below the lowest of those that point to it. A circle has no layers.

    Raises:
        ValueError: arrows go in a circle.
    """
    layer = {name: 0 for arrow in arrows for name in arrow}
    for _ in layer:
        moved = False
        for begin, end in arrows:
            if layer[end] <= layer[begin]:
                layer[end], moved = layer[begin] + 1, True
        if not moved:
            return layer
    raise ValueError("the arrows of a flow chart go in a circle; draw it without, or as another diagram")


def _mean(values: list[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise

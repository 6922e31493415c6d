"""How the figures of a study look, and how they become bytes. Legible without colour: marks, dashes and hatching."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prostate_mim.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 11.0  # inches
_MOST_COLUMNS = 5
FRONT = "arm named above"
ARM: dict[str, Any] = {"color": "#1d4e89", "linestyle": "-", "marker": "o", "markerfacecolor": "#1d4e89"}
# Told apart by dash and by mark, not by colour alone; blue, grey and orange stay apart for every kind of colour vision.
BEHIND: tuple[dict[str, Any], ...] = (
    {"color": "#555555", "linestyle": "--", "marker": "s", "markerfacecolor": "white"},
    {"color": "#c05a00", "linestyle": ":", "marker": "^", "markerfacecolor": "white"},
    {"color": "#7a5195", "linestyle": "-.", "marker": "D", "markerfacecolor": "white"},
)
STYLE: dict[str, Any] = {
    "svg.hashsalt": "prostate-mim",  # the same tables give the same bytes
    "svg.fonttype": "path",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#777777",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
}
_DPI = (130, 110, 90, 75, 60)


@dataclass(frozen=True, eq=False)
class Drawing:
    """A figure that can be drawn more than once.

    Attributes:
        name: of its file, without an ending: letters, digits and ``-``.
        title: above it.
        alt: what it shows, with the numbers, for readers who do not see it.
        text: below it.
        size: (width, height) in inches.
        draw: fills a matplotlib figure.
    """

    name: str
    title: str
    alt: str
    text: str
    size: tuple[float, float]
    draw: Callable[[Figure], None]


def svg(drawing: Drawing) -> bytes:
    """Without date and creator; letters are outlines, so that it looks the same everywhere."""
    return _bytes(drawing, format="svg", metadata={"Date": None, "Creator": None})


def png(drawing: Drawing, most_bytes: int = 200_000) -> bytes:
    """At most ``most_bytes``: with fewer pixels, if need be.

    Raises:
        UsageError: too large even at the lowest resolution; leave arms out.
    """
    data = b""
    for dpi in _DPI:
        data = _bytes(drawing, format="png", dpi=dpi, metadata={"Software": None}, pil_kwargs={"optimize": True})
        if len(data) <= most_bytes:
            return data
    raise UsageError(f"{drawing.name}: the figure has {len(data)} bytes, over {most_bytes}; show fewer arms")


def _bytes(drawing: Drawing, **how: Any) -> bytes:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=drawing.size, layout="constrained")
        drawing.draw(figure)
        stream = io.BytesIO()
        figure.savefig(stream, **how)
    return stream.getvalue()


def columns_of(panels: int) -> int:
    """Panels beside one another, so that the last line is as full as can be: 9 are 5 and 4."""
    return -(-panels // -(-panels // _MOST_COLUMNS))


def grid_size(panels: int, panel_height: float, extra: float = 0.0) -> tuple[float, float]:
    """(width, height) in inches of ``panels`` small panels with ``extra`` below them."""
    columns = columns_of(panels)
    return WIDTH * (1 if columns > 2 else 0.6), panel_height * -(-panels // columns) + extra


def grid(figure: Figure, titles: Sequence[str], **shared: Any) -> list[Axes]:
    """One small panel per title; places that are left over stay empty."""
    columns = columns_of(len(titles))
    axes = list(figure.subplots(-(-len(titles) // columns), columns, squeeze=False, **shared).flat)
    for axis in axes[len(titles) :]:
        axis.set_visible(False)
    for place, (axis, title) in enumerate(zip(axes, titles, strict=False)):
        axis.set_title(title)
        if place + columns >= len(titles):  # nothing below it, though the panel may not be in the last line
            axis.tick_params(labelbottom=True)
    return axes[: len(titles)]


def square_size(panels: int) -> tuple[float, float]:
    """As ``grid_size``, for panels that come out about square, with two lines above each, and a legend.

    A fixed aspect would be exact, but matplotlib's layout then cuts off titles of some grids.
    """
    columns = columns_of(panels)
    width, _ = grid_size(panels, 1)
    return width, (0.86 * width / columns + 0.75) * -(-panels // columns) + 0.45


def label_grid(axes: Sequence[Axes], below: str, left: str) -> None:
    """Names of the axes, once a line and once a column of ``grid``."""
    columns = columns_of(len(axes))
    for place, axis in enumerate(axes):
        if place % columns == 0:
            axis.set_ylabel(left)
        if place + columns >= len(axes):
            axis.set_xlabel(below)


def legend(figure: Figure, axes: Sequence[Axes], references: Sequence[str] = ()) -> None:
    """One legend for all panels, below them: the arm in front, the references, then the rest as drawn; each once."""
    named: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    first = [FRONT, *references]
    order = sorted(named, key=lambda name: first.index(name) if name in first else len(first))
    figure.legend([named[name] for name in order], order, loc="outside lower center", ncols=max(1, len(named)))

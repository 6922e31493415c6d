"""The report's pictures: curves as SVG, reconstructions as PNG; bytes, drawn without a display."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from prostate_mim.health.panels import Panel
from prostate_mim.health.run_folder import Curve, Picture
from prostate_mim.pictures import GREY_WINDOW, HIDDEN_COLOUR

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#1d4e89", "#c8553d")
_BASELINES = ("#5b8c5a", "#8a6fae", "#b08d2f", "#777777")
_MOST_POINTS = 600
_STYLE: dict[str, Any] = {
    "svg.hashsalt": "prostate-mim",  # the same run gives the same bytes
    "svg.fonttype": "path",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
}


def curves_svg(panel: Panel, curve: Callable[[str], Curve], last_step: int) -> bytes:
    """One panel.

    Args:
        panel: what to draw; lines and baselines without values are left out.
        curve: key -> (steps, values).
        last_step: right end of the horizontal axis.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.5, 2.9), layout="constrained")
        axis = figure.subplots()
        drawn = [name for name in panel.lines if len(curve(name[0])[0])]
        for (key, label), colour in zip(drawn, COLOURS, strict=False):
            _line(axis, curve(key), label, colour, panel.smoothed)
        for (key, label), colour in zip(panel.baselines, _BASELINES, strict=False):
            steps, values = curve(key)
            if len(steps):
                axis.plot([0, last_step], [values[-1]] * 2, "--", color=colour, linewidth=1.3, label=label)
        for value, label in panel.levels:
            axis.axhline(value, color="#888888", linestyle=":", linewidth=1.3, label=label)
        axis.set_xlim(0, max(1, last_step))
        axis.set_xlabel("step")
        _scale(axis, panel, all((curve(key)[1] > 0).any() for key, _ in drawn))
        named = axis.get_legend_handles_labels()
        if len(named[0]) > 1:
            figure.legend(*named, loc="outside lower center", ncols=2, fontsize=8.5)
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()


def _scale(axis: Axes, panel: Panel, positive: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    if panel.logarithmic and positive:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if panel.span is not None:
        low, high = axis.get_ylim()
        axis.set_ylim(min(low, panel.span[0]) if panel.span[0] else 0.0, max(high, panel.span[1]))


def _line(axis: Axes, curve: Curve, label: str, colour: str, smoothed: bool) -> None:
    steps, values = curve
    if not smoothed or len(values) < 20:
        marker = "o" if len(values) <= 60 else ""
        axis.plot(*thinned(curve), color=colour, linewidth=1.6, marker=marker, markersize=3.5, label=label)
        return
    axis.plot(*thinned(curve), color=colour, alpha=0.22, linewidth=0.8)
    axis.plot(*thinned((steps, running_mean(values))), color=colour, linewidth=1.7, label=label)


def running_mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean over a centred window of a fortieth of the values, at least 5; shorter at both ends."""
    reach = max(5, len(values) // 40) // 2
    total = np.concatenate([[0.0], np.cumsum(values)])
    place = np.arange(len(values))
    low, high = np.maximum(0, place - reach), np.minimum(len(values), place + reach + 1)
    return np.asarray((total[high] - total[low]) / (high - low))


def thinned(curve: Curve) -> Curve:
    """At most 600 points, so that a long run's page stays small; the first and the last are kept."""
    steps, values = curve
    if len(steps) <= _MOST_POINTS:
        return steps, values
    chosen = np.unique(np.linspace(0, len(steps) - 1, _MOST_POINTS).round().astype(int))
    return steps[chosen], values[chosen]


def reconstructions_png(pictures: Sequence[Picture]) -> bytes:
    """Rows: studies. Columns: the study, what the encoder sees, and what it makes of that at each step."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    last = pictures[-1]
    seen = np.where(last.hidden, np.nan, last.truth)
    columns = [("study", last.truth), ("visible", seen), *((f"step {one.step}", one.filled) for one in pictures)]
    rows, height, width = last.truth.shape
    tile = 1.75
    tight = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    figure = Figure(figsize=(tile * len(columns), (tile * height / width + 0.04) * rows + 0.3), layout=tight)
    axes = figure.subplots(rows, len(columns), squeeze=False)
    with mpl.rc_context({"font.size": 10}):
        for row in range(rows):
            for column, (name, values) in enumerate(columns):
                axis = axes[row][column]
                axis.imshow(values[row], cmap="gray", vmin=-GREY_WINDOW, vmax=GREY_WINDOW, interpolation="nearest")
                axis.set_facecolor(HIDDEN_COLOUR)
                axis.set_xticks([])
                axis.set_yticks([])
                for spine in axis.spines.values():
                    spine.set_visible(False)
                if row == 0:
                    axis.set_title(name, fontsize=10, pad=4)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=130, metadata={"Software": None})
    return stream.getvalue()

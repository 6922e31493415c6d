"""Figures of estimates and differences: every arm with its dots, label efficiency, and the forest of comparisons."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from prostate_mim.study.charts import ARM, BEHIND, FRONT, WIDTH, Drawing, grid, grid_size, label_grid, legend
from prostate_mim.study.evidence import Evidence, Group, Row
from prostate_mim.study.wording import heading, interval, metric, p_value, share, signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW = 0.34  # inches of one arm
_INK = "#222222"
_HATCHED: dict[str, Any] = {
    "height": 0.62, "facecolor": "#f1f1f1", "edgecolor": "#b5b5b5", "hatch": "////", "linewidth": 0,
    "label": "below the detectable difference",
}  # fmt: skip


def slug(*words: str) -> str:
    """Words as the name of a file: letters, digits and ``-``."""
    return "-".join(filter(None, (re.sub(r"[^a-z0-9]+", "-", word.lower()).strip("-") for word in words)))


def figure_name(kind: str, group: Group, *more: str) -> str:
    """``roc-lesions-effnet-lite0-linear``."""
    return slug(kind, group.task, group.architecture, group.mode, *more)


def behind(evidence: Evidence, group: Group) -> dict[str, dict[str, Any]]:
    """Reference arm -> how its line and its marks look."""
    return dict(zip(evidence.references(group), BEHIND, strict=False))


def estimates(evidence: Evidence, group: Group, fraction: float) -> Drawing | None:
    """One row an arm: the value with its interval, and the seeds' (in probes: the patients') values as small dots.

    None where no arm has a value of the leading metric.
    """
    span = evidence.spans[group]
    metrics = [name for name in (span.leading, "dice") if name in span.metrics]
    metrics = list(dict.fromkeys(metrics))
    found = {name: [evidence.result(group, arm, fraction, name) for arm in span.arms] for name in metrics}
    if not any(row is not None and row["value"] is not None for row in found[span.leading]):
        return None
    probe = any((group, fraction, arm, span.leading) in evidence.cases for arm in span.arms)

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for axis, name in zip(axes, metrics, strict=True):
            for place, (arm, row) in enumerate(zip(span.arms, found[name], strict=True)):
                dots = evidence.cases.get((group, fraction, arm, name)) if probe else None
                _dots(axis, place, evidence.seeds(group, arm, fraction, name) if dots is None else dots, probe)
                _whisker(axis, place, row, "value")
            _arms_axis(axis, span.arms)
            axis.set_xlabel(metric(name, way=True))

    dots = "patients" if probe else "seeds"
    said = "; ".join(f"{arm} {interval(row)}" for arm, row in zip(span.arms, found[span.leading], strict=True))
    return Drawing(
        figure_name("estimates", group, share(fraction)),
        f"{metric(span.leading)} of every arm, {share(fraction)} of the labels",
        f"{heading(group, task=True)}. {metric(span.leading)} with 95 % intervals: {said}.",
        f"Large marks: the value and its 95 % interval over patients. Small marks: single {dots}.",
        (WIDTH * (0.62 if len(metrics) == 1 else 0.9), 0.9 + _ROW * len(span.arms)),
        draw,
    )


def _dots(axis: Axes, place: int, values: Any, probe: bool) -> None:
    """Below the large mark; patients are spread a little so that they do not hide one another."""
    count = len(values)
    spread = 0.16 * np.cos(np.arange(count) * 2.4) if probe else np.zeros(count)
    axis.plot(values, place + 0.22 + spread * 0.8, linestyle="", marker="|" if not probe else "o",
              markersize=7 if not probe else 3, color="#6f6f6f", markerfacecolor="none")  # fmt: skip


def _whisker(axis: Axes, place: float, row: Row | None, name: str, look: dict[str, Any] | None = None) -> None:
    if row is None or row[name] is None:
        return
    look = look or ARM
    if row["low"] is not None and row["high"] is not None:
        axis.plot([row["low"], row["high"]], [place, place], color=look["color"], linewidth=1.6, solid_capstyle="butt")
        axis.plot(
            [row["low"], row["high"]], [place, place], linestyle="", marker="|", color=look["color"], markersize=7
        )
    axis.plot(row[name], place, marker=look["marker"], color=look["color"], markerfacecolor=look["markerfacecolor"],
              markersize=6, linestyle="")  # fmt: skip


def _arms_axis(axis: Axes, arms: Sequence[str]) -> None:
    axis.set_yticks(range(len(arms)), arms)
    axis.set_ylim(len(arms) - 0.4, -0.6)
    axis.grid(visible=False, axis="y")
    axis.tick_params(axis="y", length=0)


def forest(evidence: Evidence, group: Group, fraction: float) -> Drawing | None:
    """Paired differences of every arm against each reference, with what could have been detected.

    None where nothing was compared.
    """
    references = evidence.references(group)
    rows = {(row["second"], row["first"]): row for row in evidence.compared(group, fraction)}
    rows = {key: row for key, row in rows.items() if key[0] in references and row["difference"] is not None}
    references = [name for name in references if any(key[0] == name for key in rows)]
    if not references:
        return None
    arms = [arm for arm in evidence.spans[group].arms if any((second, arm) in rows for second in references)]
    name = metric(evidence.spans[group].leading)

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, len(references), sharey=True, sharex=True, squeeze=False)[0]
        for axis, second in zip(axes, references, strict=True):
            _forest_panel(axis, arms, {arm: rows[second, arm] for arm in arms if (second, arm) in rows}, second)
            axis.set_xlabel(f"{name} minus that of {second}")
        legend(figure, axes)

    said = "; ".join(f"{first} against {second} {_compared_text(row)}" for (second, first), row in rows.items())
    return Drawing(
        figure_name("forest", group, share(fraction)),
        f"Paired differences of {name}, {share(fraction)} of the labels",
        f"{heading(group, task=True)}. Differences with 95 % intervals: {said}.",
        "Dot and line: the difference on the same patients and its 95 % interval. Hatched: smaller than the detectable "
        "difference; a true difference in there is missed by more than 1 of 5 studies of this size. Beside it: "
        "difference [interval], p after Holm's correction, detectable difference.",
        (WIDTH if len(references) > 1 else WIDTH * 0.7, 1.3 + _ROW * len(arms)),
        draw,
    )


def _compared_text(row: Row) -> str:
    return f"{interval(row, 'difference')}, p {p_value(row['p_holm'])}, detectable {_unsigned(row['detectable'])}"


def _unsigned(value: float | None) -> str:
    return signed(value).lstrip("+")


def _forest_panel(axis: Axes, arms: Sequence[str], rows: dict[str, Row], second: str) -> None:
    from matplotlib.ticker import MaxNLocator
    from matplotlib.transforms import blended_transform_factory

    axis.axvline(0, color=_INK, linewidth=1)
    axis.xaxis.set_major_locator(MaxNLocator(5))
    beside = blended_transform_factory(axis.transAxes, axis.transData)
    for place, arm in enumerate(arms):
        row = rows.get(arm)
        if row is None:
            text = "reference" if arm == second else ""
        else:
            text = (
                f"{interval(row, 'difference')}\np {p_value(row['p_holm'])}, detectable {_unsigned(row['detectable'])}"
            )
            if row["detectable"] is not None:
                axis.barh(place, 2 * row["detectable"], left=-row["detectable"], **_HATCHED)
            _whisker(axis, place, row, "difference")
        axis.text(1.02, place, text, transform=beside, va="center", ha="left", fontsize=7.2, color=_INK)
    _arms_axis(axis, arms)


def efficiency(evidence: Evidence, group: Group) -> Drawing | None:
    """One panel an arm: its value by the share of labels, in front of the references'.

    None where only one share was used.
    """
    span = evidence.spans[group]
    if len(span.fractions) < 2:
        return None
    looks = behind(evidence, group)
    arms = [arm for arm in span.arms if arm not in looks] or list(span.arms)
    lines = {arm: [evidence.result(group, arm, each, span.leading) for each in span.fractions] for arm in span.arms}

    def draw(figure: Figure) -> None:
        axes = grid(figure, arms, sharex=True, sharey=True)
        for axis, arm in zip(axes, arms, strict=True):
            for number, (reference, look) in enumerate(looks.items()):
                _line(axis, span.fractions, lines[reference], look, reference, 0.94 - 0.05 * number)
            _line(axis, span.fractions, lines[arm], ARM, FRONT, 1.04)
            axis.set_xscale("log")
            axis.set_xticks(span.fractions, [share(each).removesuffix(" %") for each in span.fractions])
            axis.minorticks_off()
        label_grid(axes, "share of the training labels, %", metric(span.leading))
        legend(figure, axes, list(looks))

    said = "; ".join(
        f"{arm} " + ", ".join(f"{share(each)} {interval(row)}" for each, row in zip(span.fractions, rows, strict=True))
        for arm, rows in lines.items()
    )
    return Drawing(
        figure_name("efficiency", group),
        f"Label efficiency: {metric(span.leading)} by the share of labels",
        f"{heading(group, task=True)}. {metric(span.leading)} by the share of labels: {said}.",
        "Bars: 95 % intervals over patients (moved apart a little so that they can be seen). Test patients are the "
        "same at every share. Intervals of two arms may overlap while their paired difference is clear: see the "
        "forest.",
        grid_size(len(arms), 2.0, 0.6),
        draw,
    )


def _line(
    axis: Axes, fractions: Sequence[float], rows: Sequence[Row | None], look: dict[str, Any], label: str, moved: float
) -> None:
    kept = [(at, row) for at, row in zip(fractions, rows, strict=True) if row is not None and row["value"] is not None]
    if not kept:
        return
    values = np.array([row["value"] for _, row in kept])
    low = np.array([row["value"] if row["low"] is None else row["low"] for _, row in kept])
    high = np.array([row["value"] if row["high"] is None else row["high"] for _, row in kept])
    axis.errorbar(
        [at * moved for at, _ in kept], values, yerr=[np.maximum(values - low, 0), np.maximum(high - values, 0)],
        label=label, linewidth=1.4, elinewidth=1, capsize=2, markersize=4, **look,
    )  # fmt: skip

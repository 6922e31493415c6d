"""Figures made from the predictions: ROC with bands, reliability diagrams and decision curves, one panel an arm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from prostate_mim.metrics import Scored, decision_curve, reliability_bins, roc_band, roc_curve
from prostate_mim.study.charts import ARM, FRONT, Drawing, grid, grid_size, label_grid, legend, square_size
from prostate_mim.study.evidence import Evidence, Group, Scores
from prostate_mim.study.figures import behind, figure_name
from prostate_mim.study.wording import heading, interval, number, share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BAND_SAMPLES = 1000
_THRESHOLDS = np.arange(0.02, 0.801, 0.02)


def _scored(evidence: Evidence, group: Group, fraction: float) -> dict[str, Scores]:
    """Arms with predictions of both classes, in the fixed order."""
    found = {arm: evidence.scores.get((group, fraction, arm)) for arm in evidence.spans[group].arms}
    return {arm: one for arm, one in found.items() if one is not None and 0 < one.labels.sum() < len(one.labels)}


def roc(evidence: Evidence, group: Group, fraction: float) -> Drawing | None:
    """One panel an arm: the ROC curve of the averaged predictions with its 95 % band, before the references'.

    None where there are no predictions of two classes.
    """
    arms = _scored(evidence, group, fraction)
    if not arms:
        return None
    looks = {arm: look for arm, look in behind(evidence, group).items() if arm in arms}
    said = {arm: interval(evidence.result(group, arm, fraction, "auroc")) for arm in arms}

    def draw(figure: Figure) -> None:
        axes = grid(figure, [f"{arm}\n{text}" for arm, text in said.items()], sharex=True, sharey=True)
        for axis, (arm, one) in zip(axes, arms.items(), strict=True):
            axis.plot([0, 1], [0, 1], color="#aaaaaa", linewidth=0.8)
            for reference, look in looks.items():
                if reference != arm:
                    _curve(axis, arms[reference], _plain(look), reference)
            _band(axis, one)
            _curve(axis, one, {**_plain(ARM), "linewidth": 1.7}, FRONT)
        label_grid(axes, "1 − specificity", "sensitivity")
        legend(figure, axes, list(looks))

    return Drawing(
        figure_name("roc", group, share(fraction)),
        f"ROC curves, {share(fraction)} of the labels",
        f"{heading(group, task=True)}. ROC curve of each arm with a 95 % band over patients. AUROC: "
        + "; ".join(f"{arm} {text}" for arm, text in said.items())
        + ".",
        "Above each panel: AUROC [95 % interval over patients]. Band: 95 % over patients, point by point.",
        square_size(len(arms)),
        draw,
    )


def _plain(look: dict[str, Any]) -> dict[str, Any]:
    return {"color": look["color"], "linestyle": look["linestyle"], "linewidth": 1.2}


def _curve(axis: Axes, one: Scores, look: dict[str, Any], label: str) -> None:
    false, true = roc_curve(one.labels, one.probabilities)
    axis.plot(false, true, label=label, **look)


def _band(axis: Axes, one: Scores) -> None:
    scored = Scored(one.labels, one.probabilities, tuple(map(str, one.patients)))
    band = roc_band(scored, samples=_BAND_SAMPLES, seed=0)
    axis.fill_between(band.false_positive_rate, band.low, band.high, color="#1d4e89", alpha=0.16, linewidth=0,
                      label="95 % band")  # fmt: skip


def reliability(evidence: Evidence, group: Group, fraction: float) -> Drawing | None:
    """One panel an arm: observed share of positives in ten bins of the predicted probability; None as for ``roc``."""
    arms = _scored(evidence, group, fraction)
    if not arms:
        return None
    said = {arm: f"ECE {interval(evidence.result(group, arm, fraction, 'ece'))}" for arm in arms}

    def draw(figure: Figure) -> None:
        axes = grid(figure, [f"{arm}\n{text}" for arm, text in said.items()], sharex=True, sharey=True)
        for axis, one in zip(axes, arms.values(), strict=True):
            axis.plot([0, 1], [0, 1], color="#777777", linestyle="--", linewidth=1, label="calibrated")
            axis.axhline(one.labels.mean(), color="#999999", linestyle=":", linewidth=1, label="share of positives")
            bins = reliability_bins(one.labels, one.probabilities)
            filled = bins.counts > 0
            axis.plot(bins.predicted[filled], bins.observed[filled], color=ARM["color"], linewidth=1)
            axis.scatter(bins.predicted[filled], bins.observed[filled], s=180 * bins.counts[filled] / len(one.labels)
                         + 6, color=ARM["color"], zorder=3, label="bin of predictions")  # fmt: skip
            axis.set_xlim(-0.03, 1.03)
            axis.set_ylim(-0.05, 1.05)
        label_grid(axes, "predicted probability", "observed share")
        legend(figure, axes)

    return Drawing(
        figure_name("reliability", group, share(fraction)),
        f"Reliability, {share(fraction)} of the labels",
        f"{heading(group, task=True)}. Observed share of positives by predicted probability. "
        + "; ".join(f"{arm} {text}" for arm, text in said.items())
        + ".",
        "Above each panel: expected calibration error [95 % interval over patients]. Area of a dot: rows in the bin; a "
        "bin of few rows says little.",
        square_size(len(arms)),
        draw,
    )


def decision(evidence: Evidence, group: Group, fraction: float) -> Drawing | None:
    """One panel an arm: net benefit by threshold, against acting on all rows and on none; None as for ``roc``."""
    arms = _scored(evidence, group, fraction)
    if not arms:
        return None
    looks = {arm: look for arm, look in behind(evidence, group).items() if arm in arms}
    found = {arm: decision_curve(one.labels, one.probabilities, _THRESHOLDS) for arm, one in arms.items()}
    top = max(float(one.labels.mean()) for one in arms.values())

    def draw(figure: Figure) -> None:
        axes = grid(figure, list(arms), sharex=True, sharey=True)
        for axis, (arm, curve) in zip(axes, found.items(), strict=True):
            axis.axhline(0, color="#222222", linewidth=0.9, label="act on none")
            axis.plot(curve.thresholds, curve.treat_all, color="#999999", linewidth=2.4, alpha=0.7, label="act on all")
            for reference, look in looks.items():
                if reference != arm:
                    axis.plot(curve.thresholds, found[reference].net_benefit, label=reference, **_plain(look))
            axis.plot(curve.thresholds, curve.net_benefit, label=FRONT, **{**_plain(ARM), "linewidth": 1.7})
            axis.set_ylim(-0.25 * top, 1.08 * top)
        label_grid(axes, "threshold probability", "net benefit")
        legend(figure, axes, list(looks))

    at = [0.1, 0.2, 0.3]
    said = "; ".join(
        f"{arm} " + ", ".join(f"{number(float(np.interp(each, c.thresholds, c.net_benefit)))} at {each}" for each in at)
        for arm, c in found.items()
    )
    return Drawing(
        figure_name("decision", group, share(fraction)),
        f"Decision curves, {share(fraction)} of the labels",
        f"{heading(group, task=True)}. Net benefit by threshold probability: {said}.",
        "Net benefit: true positives a row, less false positives weighted by the odds of the threshold (Vickers and "
        "Elkin 2006). An arm is of use at a threshold only where it lies above both acting on all and on none.",
        grid_size(len(arms), 2.1, 0.5),
        draw,
    )

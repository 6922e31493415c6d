"""The figures draw what the tables hold, are legible without colour, and are small."""

from __future__ import annotations

import dataclasses
import io
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from study_files import STRENGTHS, Simulation, write_study

from prostate_mim.errors import UsageError
from prostate_mim.study import curves, figures
from prostate_mim.study.charts import ARM, BEHIND, STYLE, Drawing, columns_of, png, svg
from prostate_mim.study.evidence import Evidence, Group, read_evidence
from prostate_mim.study.records import RESULTS, read_table, table_path, write_table
from prostate_mim.study.wording import interval

LESIONS = Group("lesions", "effnet-lite0", "linear")
VOXELS = Group("gland voxels", "effnet-lite0", "probe")
OF_LESIONS = {
    "estimates": lambda evidence: figures.estimates(evidence, LESIONS, 1.0),
    "forest": lambda evidence: figures.forest(evidence, LESIONS, 1.0),
    "efficiency": lambda evidence: figures.efficiency(evidence, LESIONS),
    "roc": lambda evidence: curves.roc(evidence, LESIONS, 1.0),
    "reliability": lambda evidence: curves.reliability(evidence, LESIONS, 1.0),
    "decision": lambda evidence: curves.decision(evidence, LESIONS, 1.0),
}


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return read_evidence(write_study(tmp_path_factory.mktemp("studies") / "small"))


def drawn(drawing: Drawing | None) -> Figure:
    assert drawing is not None
    figure = Figure(figsize=drawing.size)
    drawing.draw(figure)
    return figure


@pytest.mark.parametrize("kind", OF_LESIONS)
def test_a_figure_is_described_and_draws_itself_the_same_twice(kind: str, evidence: Evidence) -> None:
    """SVG that loads nothing, the same bytes each time; a description with every arm; a name that files may have."""
    drawing = OF_LESIONS[kind](evidence)
    assert drawing is not None
    data = svg(drawing)
    assert data == svg(drawing)
    ElementTree.fromstring(data)  # noqa: S314 - our own drawing
    assert b"<script" not in data and not re.search(rb'href="(?!#)', data)
    assert all(arm in drawing.alt for arm in evidence.spans[LESIONS].arms) and "lesions" in drawing.alt
    assert re.fullmatch(r"[a-z0-9-]+", drawing.name) and drawing.title and drawing.text.endswith(".")


@pytest.fixture(scope="module", params=[("random", "imagenet"), tuple(STRENGTHS)], ids=["two arms", "nine arms"])
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """Studies with few and with many panels."""
    simulation = Simulation(patients=12, arms=request.param, fractions=(0.5, 1.0), probe=False, controls=False, seeds=1)
    return read_evidence(write_study(tmp_path_factory.mktemp("studies") / "other", simulation))


def cut_off(drawing: Drawing) -> list[str]:
    """What of a figure lies beyond its edge, or under its legend."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=drawing.size, layout="constrained")
        drawing.draw(figure)
        figure.savefig(io.BytesIO(), format="png", dpi=100)
    whole, found = figure.bbox.padded(2), []
    for axis in figure.axes:
        box = axis.get_tightbbox() if axis.get_visible() else None  # of panels with titles, labels, and words beside
        if box is not None:
            found += [axis.get_title()] * (not all(whole.contains(*corner) for corner in box.corners()))
            found += ["legend"] * any(one.get_window_extent().padded(-2).overlaps(box) for one in figure.legends)
    return found


@pytest.mark.parametrize("kind", OF_LESIONS)
def test_nothing_is_cut_off(kind: str, other: Evidence) -> None:
    """Of two arms and of nine: every word lies within the figure, and the legend on none of the panels."""
    drawing = OF_LESIONS[kind](other)
    assert drawing is not None
    assert cut_off(drawing) == []


def test_what_is_cut_off_is_found(other: Evidence) -> None:
    """The control: the same figure with a sixth of the height."""
    drawing = OF_LESIONS["roc"](other)
    assert drawing is not None
    width, height = drawing.size
    assert cut_off(dataclasses.replace(drawing, size=(width, height / 6))) != []


def test_png_is_kept_small(evidence: Evidence) -> None:
    """Under the limit, with fewer pixels if need be; refused where that cannot be."""
    drawing = OF_LESIONS["estimates"](evidence)
    assert drawing is not None
    data = png(drawing)
    assert data.startswith(b"\x89PNG") and len(data) < 200_000
    smaller = png(drawing, len(data) - 1)
    assert smaller.startswith(b"\x89PNG") and len(smaller) < len(data)
    with pytest.raises(UsageError, match="show fewer arms"):
        png(drawing, 100)


def test_the_forest_draws_interval_and_detectable_difference(evidence: Evidence) -> None:
    """Per row of the table: a dot at the difference, a line over the interval, a bar of twice what can be detected."""
    axes = drawn(OF_LESIONS["forest"](evidence)).axes
    assert [axis.get_xlabel() for axis in axes] == ["AUROC minus that of random", "AUROC minus that of imagenet"]
    for axis, second in zip(axes, ("random", "imagenet"), strict=True):
        rows = [row for row in evidence.compared(LESIONS, 1.0) if row["second"] == second]
        bars = [patch for patch in axis.patches if isinstance(patch, Rectangle)]
        assert sorted(bar.get_width() for bar in bars) == pytest.approx(sorted(2 * row["detectable"] for row in rows))
        assert all(bar.get_x() == pytest.approx(-bar.get_width() / 2) and bar.get_hatch() for bar in bars)
        lines = [tuple(map(float, np.atleast_1d(line.get_xdata()))) for line in axis.lines]
        for row in rows:
            assert any(line == pytest.approx((row["low"], row["high"])) for line in lines if len(line) == 2)
            assert any(line == pytest.approx((row["difference"],)) for line in lines if len(line) == 1)
            assert any(interval(row, "difference") in text.get_text() for text in axis.texts)


def test_efficiency_is_drawn_over_the_logarithm(evidence: Evidence) -> None:
    """A panel for each arm that is no reference; in each, the values of the arm and of both references."""
    axes = drawn(OF_LESIONS["efficiency"](evidence)).axes
    assert [axis.get_title() for axis in axes] == ["mim-block", "simclr"]
    for axis in axes:
        assert axis.get_xscale() == "log"
        assert [text.get_text() for text in axis.get_xticklabels()] == ["10", "50", "100"]
        for arm in (axis.get_title(), "random", "imagenet"):
            rows = [evidence.result(LESIONS, arm, each, "auroc") for each in (0.1, 0.5, 1.0)]
            values = [row["value"] for row in rows if row is not None]
            assert any(list(np.atleast_1d(line.get_ydata())) == values for line in axis.lines), arm


def test_dots_are_seeds_in_lesions_and_patients_in_probes(evidence: Evidence) -> None:
    """Two seeds: two dots an arm. In the probe: a dot for each of its patients, the mean of whom is the large mark."""
    axis = drawn(figures.estimates(evidence, LESIONS, 1.0)).axes[0]
    seeds = evidence.seeds(LESIONS, "mim-block", 1.0, "auroc")
    assert len(seeds) == 2
    assert any(list(np.atleast_1d(line.get_xdata())) == seeds for line in axis.lines)
    assert [one.get_xlabel() for one in drawn(figures.estimates(evidence, VOXELS, 1.0)).axes] == ["AUROC ↑", "Dice ↑"]
    values = evidence.cases[VOXELS, 1.0, "mim-block", "dice"]
    row = evidence.result(VOXELS, "mim-block", 1.0, "dice")
    assert row is not None and len(values) == row["patients"]
    assert values.mean() == pytest.approx(row["value"])


def test_the_band_of_an_roc_curve_holds_the_curve(evidence: Evidence) -> None:
    """The arm's own curve lies within its band at nearly all of the grid, and the panel says its AUROC."""
    figure = drawn(OF_LESIONS["roc"](evidence))
    for axis, arm in zip(figure.axes, evidence.spans[LESIONS].arms, strict=False):
        row = evidence.result(LESIONS, arm, 1.0, "auroc")
        assert axis.get_title() == f"{arm}\n{interval(row)}"
        band = next(each for each in axis.collections if each.get_label() == "95 % band").get_paths()[0].vertices
        curve = next(line for line in axis.lines if line.get_label() == "arm named above")
        assert band[:, 0].min() == 0 and band[:, 0].max() == 1
        middle = [float(np.interp(0.5, curve.get_xdata(), curve.get_ydata()))]
        at_half = band[np.isclose(band[:, 0], 0.5), 1]
        assert at_half.min() - 0.02 <= middle[0] <= at_half.max() + 0.02


def test_reliability_dots_are_the_bins(evidence: Evidence) -> None:
    """Every row is in one dot: observed shares, weighted by the rows, give the share of positives."""
    figure = drawn(OF_LESIONS["reliability"](evidence))
    for axis, arm in zip(figure.axes, evidence.spans[LESIONS].arms, strict=False):
        one = evidence.scores[LESIONS, 1.0, arm]
        dots: Any = axis.collections[0]
        weights = (dots.get_sizes() - 6) / 180
        assert weights.sum() == pytest.approx(1)
        assert (weights * dots.get_offsets()[:, 1]).sum() == pytest.approx(one.labels.mean())
        assert (weights * dots.get_offsets()[:, 0]).sum() == pytest.approx(one.probabilities.mean())


def test_lines_are_told_apart_without_colour() -> None:
    """Every role has its own dash and its own mark; for each kind of colour vision the grey values are readable."""
    looks = (ARM, *BEHIND)
    assert len({look["linestyle"] for look in looks}) == len({look["marker"] for look in looks}) == len(looks)
    for look in looks:
        red, green, blue = to_rgb(look["color"])
        assert 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.5  # dark enough on white


def test_what_there_is_not_is_not_drawn(evidence: Evidence, tmp_path: Path) -> None:
    """Probes have no predictions; one share of labels has no curve; without comparisons there is no forest."""
    assert curves.roc(evidence, VOXELS, 1.0) is None
    assert curves.reliability(evidence, VOXELS, 1.0) is None
    assert curves.decision(evidence, VOXELS, 1.0) is None
    assert figures.efficiency(evidence, VOXELS) is None
    assert figures.forest(evidence, LESIONS, 0.3) is None
    out = write_study(tmp_path / "one", Simulation(patients=10, arms=("mim-block",), fractions=(1.0,), probe=False))
    assert figures.forest(read_evidence(out), LESIONS, 1.0) is None
    rows = [{**row, "value": None, "low": None, "high": None} for row in read_table(table_path(out, RESULTS), RESULTS)]
    write_table(table_path(out, RESULTS), RESULTS, rows)
    assert figures.estimates(read_evidence(out), LESIONS, 1.0) is None


@pytest.mark.parametrize(("panels", "columns"), [(1, 1), (2, 2), (5, 5), (6, 3), (7, 4), (9, 5), (11, 4), (12, 4)])
def test_panels_fill_their_lines(panels: int, columns: int) -> None:
    """By hand: nine are five and four, eleven are four, four and three."""
    assert columns_of(panels) == columns

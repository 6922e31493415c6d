"""Draw the pictures of docs/concepts and fill in the tables of its pages: ``python docs/concepts/figures.py``.

Everything is made of phantoms by the library itself; numbers come from measured.py. PNGs lie beside the pages and are
committed; tests/docs/test_figures.py draws and measures again, and compares.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import measured
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from prostate_mim.files import write_bytes, write_text
from prostate_mim.masked import MaskContext, masked_twin
from prostate_mim.mim.blocks import BlockGrid, expand_blocks
from prostate_mim.preprocess import mask_on_crop

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HERE = Path(__file__).resolve().parent
# Colours that stay apart for colour-blind readers (Okabe and Ito 2008).
BLUE, ORANGE, GREEN, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9"
DPI, COLOURS = 100, 160
WINDOW = {"cmap": "gray", "vmin": -2.5, "vmax": 2.5, "interpolation": "nearest"}
TABLE = re.compile(r"(<!-- table: (\w+) -->\n\n)(.*?)(\n<!-- /table -->)", re.DOTALL)
TABLES: dict[str, Callable[[], str]] = {
    "zero_filling": measured.zero_filling_table,
    "deviation": measured.deviation_table,
    "leakage": measured.leakage_table,
}


# ------------------------------------------------------------------ hidden-and-visible.md


def hidden_and_visible() -> Figure:
    """One crop at the upper end of a study: measured, hidden, visible, counted; then what each stage holds."""
    crop = measured.crop_at_the_end(1)
    encoder = measured.bundled().encoder
    grid = measured.grid_of(encoder.total_stride_zyx)
    hidden = measured.hidden_blocks(grid, 0.6, 1)
    at_voxels = expand_blocks(hidden, grid.block_zyx)[0, 0].numpy()
    context = MaskContext(hidden, grid.block_zyx, grid.size_zyx)
    with torch.no_grad():
        stages = masked_twin(encoder)(context.hide(torch.from_numpy(crop.voxels)[None, None]))
    figure = Figure(figsize=(9.6, 5.3), layout="constrained")
    axes = figure.subplots(2, 4)
    row = crop.voxels.shape[1] // 2
    images = _coronal(crop.voxels, crop.inside, at_voxels, row)
    for axis, (title, voxels, blue, orange) in zip(axes[0], images, strict=True):
        _show(axis, voxels, title)
        _tint(axis, blue, BLUE)
        _tint(axis, orange, ORANGE)
    for axis, (number, stage) in zip(axes[1], enumerate(stages, 1), strict=True):
        z, y, x = stage.level.stride_zyx
        size = stage.dense().abs().mean(1)[0].numpy()
        seen = stage.visible[0, 0].numpy()
        cut = np.where(seen, size, np.nan)[::-1, row // y]
        _show(axis, cut, f"stage {number}: stride {z} x {y} x {x}", cmap="magma", vmin=0, vmax=float(np.nanmax(cut)))
        axis.set_facecolor("#d9d9d9")
    axes[1][0].set_ylabel("features of the\nencoder, mean |x|")
    axes[0][0].set_ylabel("voxels, coronal cut")
    return figure


def _coronal(voxels: Any, inside: Any, hidden: Any, row: int) -> list[tuple[str, Any, Any, Any]]:
    """Title, grey values, what is tinted blue, what is tinted orange; head up."""
    cut, measured_there, away = voxels[::-1, row], inside[::-1, row], hidden[::-1, row]
    nothing = np.zeros_like(away)
    real = np.where(measured_there, cut, np.nan)
    return [
        ("measured (white: padding)", real, nothing, nothing),
        ("hidden (blue)", real, away, nothing),
        ("visible: the encoder's input", np.where(away, np.nan, np.where(measured_there, cut, 0.0)), away, nothing),
        ("counted by the loss (orange)", real, nothing, away & measured_there),
    ]


# ------------------------------------------------------------------ blocks-in-mm.md


def blocks_in_mm() -> Figure:
    """The same crop divided in four ways, from the front and in true proportions."""
    crop = measured.crop_of(0)
    lesion = mask_on_crop(measured.study(0).lesions[0].mask, crop)
    row = crop.voxels.shape[1] // 2
    ways = {
        "16 x 16 x 16 voxels\n= 48 x 8 x 8 mm": (48.0, 8.0, 8.0),
        "4 x 16 x 16 voxels\n= 12 x 8 x 8 mm (default)": (12.0, 8.0, 8.0),
        "4 x 32 x 32 voxels\n= 12 x 16 x 16 mm": (12.0, 16.0, 16.0),
        '"inf 8 8": columns of\nthe whole depth': (float("inf"), 8.0, 8.0),
    }
    figure = Figure(figsize=(9.6, 2.9), layout="constrained")
    for axis, (title, block_mm) in zip(figure.subplots(1, 4), ways.items(), strict=True):
        grid = BlockGrid.from_mm(block_mm, crop.geometry.spacing_mm_zyx, measured.SPEC.size_zyx, (4, 16, 16))
        _show(axis, crop.voxels[::-1, row], title)
        if lesion[:, row].any():
            axis.contour(lesion[::-1, row], [0.5], colors=[ORANGE], linewidths=2)
        _lattice(axis, grid, row)
    return figure


def _lattice(axis: Axes, grid: BlockGrid, row: int) -> None:
    """The blocks' edges in a coronal cut, and one block filled: that of the crop's middle."""
    depth, _, width = grid.block_zyx
    down, _, across = grid.size_zyx
    for z in range(0, down + 1, depth):
        axis.axhline(z - 0.5, color=SKY, linewidth=0.8)
    for x in range(0, across + 1, width):
        axis.axvline(x - 0.5, color=SKY, linewidth=0.8)
    z, x = (down // 2) // depth * depth, (across // 2) // width * width
    axis.add_patch(Rectangle((x - 0.5, z - 0.5), width, depth, color=BLUE, alpha=0.55, linewidth=0))


# ------------------------------------------------------------------ exact-norms.md


def exact_norms() -> Figure:
    """Left: how far a norm that counts zeros is from unit deviation. Right: distance from exact features by stage."""
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    share = np.array([100 * ratio for ratio in measured.RATIOS])
    exact, dense = (
        [measured.first_norm_deviation(ratio, dense=way) for ratio in measured.RATIOS] for way in (False, True)
    )
    curve = np.linspace(0, 0.92, 60)
    left.plot(100 * curve, (1 - curve) ** -0.5, color="0.6", linestyle=":", label="1 / sqrt(visible share)")
    left.plot(share, dense, "o-", color=ORANGE, label="norm over all positions")
    left.plot(share, exact, "s-", color=BLUE, label="exact: visible positions only")
    left.set_xlabel("hidden, % of blocks")
    left.set_ylabel("deviation of visible features\nafter the first norm")
    left.set_ylim(0, 3.6)
    left.legend(frameon=False, fontsize="small")
    _stages(right)
    return figure


def _stages(axis: Axes) -> None:
    encoder = measured.bundled().encoder
    places = np.arange(1, 5)
    for ratio, shade in ((0.5, 0.45), (0.75, 1.0)):
        found = measured.three_ways(encoder, ratio)
        for way, colour, shift in (("dense norms", ORANGE, -0.2), ("zero-filled", PURPLE, 0.2)):
            offset = shift + (0.09 if ratio == 0.75 else -0.09)
            label = f"{way}, {100 * ratio:.0f} % hidden"
            axis.bar(places + offset, measured.distances(found, way), 0.17, color=colour, alpha=shade, label=label)
    axis.set_xticks(places, [f"stage {k}" for k in places])
    axis.set_ylabel("distance from the exact features,\nrelative, visible positions")
    axis.set_ylim(0, 1.35)
    axis.legend(frameon=False, fontsize="small", ncols=2, loc="upper center", handlelength=1.2, columnspacing=1)


def exact_norms_map() -> Figure:
    """Stage 1 of the bundled encoder at one slice: exact, zero-filled, and what differs."""
    found = measured.three_ways(measured.bundled().encoder, 0.6)
    exact, filled = (found[way][0][0].numpy() for way in ("exact", "zero-filled"))
    middle = exact.shape[1] // 2
    visible = (exact != 0).any(0)[middle]
    size = [np.where(visible, np.abs(values[:, middle]).mean(0), np.nan) for values in (exact, filled)]
    apart = np.where(visible, np.abs(filled - exact)[:, middle].mean(0), np.nan)
    top = float(np.nanpercentile(size[1], 99))
    figure = Figure(figsize=(9.6, 2.8), layout="constrained")
    titles = ("the crop, blue: hidden", "exact", "zero-filled", "difference")
    for axis, title, values in zip(figure.subplots(1, 4), titles, (None, *size, apart), strict=True):
        if values is None:
            _show(axis, measured.batch()[0, 0, middle].numpy(), title)
            _tint(axis, np.repeat(np.repeat(~visible, 2, 0), 2, 1), BLUE)
        else:
            image = _show(axis, values, title, cmap="magma", vmin=0, vmax=top)
            axis.set_facecolor("#d9d9d9")
    figure.colorbar(image, ax=figure.axes, shrink=0.75, label="mean |feature|, stage 1")
    return figure


# ------------------------------------------------------------------ leakage.md


def leakage() -> Figure:
    """Left: who is where, by two ways to make folds. Right: the AUROC of labels that mean nothing."""
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=(1, 1, 1.9))
    patients = measured.coin_cohort().patients
    ways = {"lesions dealt out": np.arange(len(patients)), "whole patients": patients}
    for axis, (title, units) in zip(axes, ways.items(), strict=False):
        _who_is_where(axis, patients, measured.folds_of(units), title)
    axes[0].set_ylabel("patient")
    bars = axes[2]
    colours = (BLUE, ORANGE, ORANGE, BLUE)
    for place, ((name, found), colour) in enumerate(zip(measured.leaks().items(), colours, strict=True)):
        bars.errorbar(
            found.value, -place, xerr=[[found.value - found.low], [found.high - found.value]], fmt="o", color=colour,
            capsize=4,
        )  # fmt: skip
        bars.annotate(name, (found.value, -place), (0, 8), textcoords="offset points", ha="center", fontsize="small")
    bars.axvline(0.5, color="0.6", linestyle=":")
    bars.set_ylim(-3.5, 0.8)
    bars.set_xlim(0.2, 1.02)
    bars.set_yticks([])
    bars.set_xlabel("AUROC where labels are coin tosses: should be 0.5")
    return figure


def _who_is_where(axis: Axes, patients: Any, folds: Any, title: str, shown: int = 14) -> None:
    """A square for each lesion, a line for each patient, a colour for each fold."""
    for patient in range(shown):
        own = folds[patients == patient]
        torn = len(set(own.tolist())) > 1
        for place, fold in enumerate(own):
            axis.add_patch(Rectangle((place, -patient), 0.86, 0.8, color=(BLUE, ORANGE, GREEN)[fold]))
        if torn:
            axis.text(len(own) + 0.1, -patient + 0.35, "on two sides", va="center", fontsize="x-small", color="0.3")
    axis.set_xlim(-0.3, 6)
    axis.set_ylim(-shown + 0.6, 1.4)
    axis.set_title(f"{title}\n(colour: fold)", fontsize="medium")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_xlabel("lesions")
    for side in axis.spines.values():
        side.set_visible(False)


# ------------------------------------------------------------------ shared


FIGURES: dict[str, Callable[[], Figure]] = {
    "hidden-and-visible": hidden_and_visible,
    "blocks-in-mm": blocks_in_mm,
    "exact-norms": exact_norms,
    "exact-norms-map": exact_norms_map,
    "leakage": leakage,
}


def _show(axis: Axes, values: Any, title: str, **how: Any) -> Any:
    """A cut of a crop, without ticks. Crops are cubes of 48 mm, so that every cut is a square."""
    rows, columns = values.shape
    image = axis.imshow(values, aspect=columns / rows, **{**WINDOW, **how})
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(title, fontsize="small")
    return image


def _tint(axis: Axes, where: Any, colour: str) -> None:
    layer = np.zeros((*where.shape, 4))
    layer[where] = (*(int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)), 0.6)
    axis.imshow(layer, aspect=axis.get_aspect(), interpolation="nearest")


def png(figure: Figure) -> bytes:
    """The figure as a PNG with a palette, so that it is small."""
    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI, metadata={"Software": None})
    image = Image.open(drawn).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    image.save(packed, format="PNG", optimize=True)
    return packed.getvalue()


def filled_in(text: str) -> str:
    """A page's text with its tables measured anew."""
    return TABLE.sub(lambda found: found[1] + TABLES[found[2]]() + found[4], text)


def main() -> None:
    """Draw every picture and fill in every table; names of pictures may be given to draw only those."""
    for name in sys.argv[1:] or FIGURES:
        write_bytes(HERE / f"{name}.png", png(FIGURES[name]()))
    if not sys.argv[1:]:
        for page in sorted(HERE.glob("*.md")):
            write_text(page, filled_in(page.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()

"""Pictures a person would rather look at: reconstructions and ROC curves, as PNG bytes. Uses no display."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from prostate_mim.errors import UsageError
from prostate_mim.files import make_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FloatArray = npt.NDArray[np.float32]
GREY_WINDOW = 2.5
"""Deviations of a z-scored image on either side of mid-grey, so that all pictures of crops look alike."""
HIDDEN_COLOUR = "#1d4e89"  # in place of voxels that the encoder does not see
# Colours that stay apart for colour-blind readers (Okabe and Ito 2008).
MASK_COLOURS = {"gland": "#F0E442", "lesion": "#D55E00"}


def check_png(out: Path) -> Path:
    """Make the folder of a picture that is about to be drawn, before any work.

    Raises:
        UsageError: not a PNG, or the folder cannot be written.
    """
    if out.suffix.lower() != ".png":
        raise UsageError(f"{out}: only PNG is drawn; choose a name that ends in .png")
    if out.is_dir():
        raise UsageError(f"{out}: is a folder; choose the name of a file")
    make_folder(out.parent)
    return out


def reconstruction_png(
    voxels: FloatArray, hidden: npt.NDArray[np.bool_], filled: FloatArray, *, title: str = "", slices: int = 3
) -> bytes:
    """Rows of slices: the study, what the encoder saw, and what came back.

    Args:
        voxels: (z, y, x) z-scored.
        hidden: (z, y, x) bool, True = hidden.
        filled: (z, y, x) with hidden voxels reconstructed.
        slices: evenly spaced axial slices.
    """
    from matplotlib.figure import Figure

    chosen = np.linspace(0, len(voxels) - 1, slices + 2).round().astype(int)[1:-1]
    seen = np.where(hidden, np.nan, voxels)
    columns = (("study", voxels), ("visible to the encoder", seen), ("reconstructed", filled))
    figure = Figure(figsize=(3 * len(columns), 3 * slices + 0.4), layout="constrained")
    axes = figure.subplots(slices, len(columns), squeeze=False)
    for row, index in enumerate(chosen):
        for column, (name, values) in enumerate(columns):
            axis = axes[row][column]
            axis.imshow(values[index], cmap="gray", vmin=-GREY_WINDOW, vmax=GREY_WINDOW, interpolation="nearest")
            axis.set_facecolor(HIDDEN_COLOUR)
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(name)
            if column == 0:
                axis.set_ylabel(f"slice {index + 1}")
    if title:
        figure.suptitle(title)
    return _png(figure)


def roc_png(curves: Mapping[str, tuple[Sequence[int], Sequence[float]]], *, title: str = "") -> bytes:
    """ROC curves of several models.

    Args:
        curves: legend -> (labels (N,), probabilities (N,)).
    """
    from matplotlib.figure import Figure
    from sklearn.metrics import roc_curve

    figure = Figure(figsize=(4.6, 4.6), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="0.7", linestyle=":")
    for name, (labels, probabilities) in curves.items():
        false, true, _ = roc_curve(labels, probabilities)
        axis.step(false, true, where="post", label=name)
    axis.set_xlabel("1 - specificity")
    axis.set_ylabel("sensitivity")
    axis.set_aspect("equal")
    axis.legend(loc="lower right", fontsize="small")
    if title:
        axis.set_title(title)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    return stream.getvalue()

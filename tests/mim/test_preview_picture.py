"""The picture of masking strategies on made-up rows: scale in mm, orientation, window, padding, long titles."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from prostate_mim.errors import UsageError
from prostate_mim.preview.picture import MaskRow, masks_png

HIDDEN = np.array([0x00, 0x72, 0xB2])
LEFT = [12, 259, 506, 753]  # of the four panels, each 235 wide
TOP = 90


def row(voxels: np.ndarray, hidden: np.ndarray, name: str = "random") -> MaskRow:
    counts = (int(hidden.sum()), hidden.size, "blocks hidden")
    return MaskRow(name, "random", "random", True, counts, 0.5, voxels, hidden, voxels)


def draw(voxels: np.ndarray, hidden: np.ndarray, inside: np.ndarray | None = None, **options) -> np.ndarray:
    settings = {"spacing_mm_zyx": (3.0, 1.0, 1.0), "block_zyx": (2, 4, 4), "title": "t", **options}
    inside = np.ones(voxels.shape, bool) if inside is None else inside
    png = masks_png(voxels, inside, [row(voxels, hidden, settings.pop("name", "random"))], **settings)
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_slices_are_thick_in_the_coronal_cut() -> None:
    """4 slices of 3 mm are 1.5 times as high as 8 voxels of 1 mm; the first slice, the lowest, is at the bottom."""
    voxels = np.zeros((4, 8, 8), np.float32)
    hidden = np.zeros(voxels.shape, bool)
    hidden[:2] = True  # the lower slab
    image = draw(voxels, hidden)
    coloured = (image[:, LEFT[2] + 60] == HIDDEN).all(-1)
    tall = round(235 * 12 / 8)
    assert coloured[TOP : TOP + tall // 2 - 2].sum() == 0
    assert coloured[TOP + tall // 2 + 2 : TOP + tall - 2].all()
    offset = (tall - 235) // 2  # the axial panel, 235 high, stands in the middle of the row
    axial = (image[:, LEFT[1] + 60] == HIDDEN).all(-1)
    assert not axial[TOP : TOP + 2 * tall].any()  # the middle slice is of the upper slab
    grey = (image[:, LEFT[0] + 60] == 255).all(-1)
    assert grey[TOP : TOP + offset - 2].all()
    assert not grey[TOP + offset + 2 : TOP + offset + 233].any()


def test_anterior_and_right_of_the_patient_come_first() -> None:
    """Row 0, column 0 (anterior, the patient's right) is the upper left corner, as radiologists look at it."""
    voxels = np.zeros((4, 8, 8), np.float32)
    voxels[:, :4, :4] = 2.5
    image = draw(voxels, np.zeros(voxels.shape, bool), spacing_mm_zyx=(2.0, 1.0, 1.0))
    panel = image[TOP : TOP + 235, LEFT[0] : LEFT[0] + 235, 0].astype(int)
    quarters = [panel[a : a + 60, b : b + 60].mean() for a in (20, 150) for b in (20, 150)]
    assert quarters[0] > 250
    assert max(quarters[1:]) == pytest.approx(127, abs=4)


def test_one_window_for_every_panel() -> None:
    """A z-score has one grey value in every panel: -1.25 a quarter, 0 a half."""
    voxels = np.full((4, 8, 8), -1.25, np.float32)
    image = draw(voxels, np.zeros(voxels.shape, bool), spacing_mm_zyx=(2.0, 1.0, 1.0))
    found = {tuple(image[TOP + 60, left + 60]) for left in LEFT}
    assert len(found) == 1
    assert found.pop()[0] == pytest.approx(64, abs=3)


def test_padding_stays_white() -> None:
    """Beyond the study nothing is drawn; within, everything is."""
    voxels = np.zeros((4, 8, 8), np.float32)
    inside = np.ones(voxels.shape, bool)
    inside[:, :, 4:] = False
    image = draw(voxels, np.zeros(voxels.shape, bool), inside, spacing_mm_zyx=(2.0, 1.0, 1.0))
    for left in LEFT:
        assert (image[TOP + 40, left + 125 : left + 230] == 255).all()
        assert (image[TOP + 40, left + 5 : left + 110] != 255).all()


def test_long_titles_are_shortened() -> None:
    """A name of 300 letters neither leaves the page nor runs into the count; a short one ends far earlier."""
    voxels, hidden = np.zeros((4, 8, 8), np.float32), np.zeros((4, 8, 8), bool)
    inked = []
    for name in ("mixture:" + "random=0.5," * 30, "random"):
        image = draw(voxels, hidden, name=name, spacing_mm_zyx=(2.0, 1.0, 1.0))
        band = (image[62:86] != 255).any((0, 2))
        assert not band[990:].any()
        gaps = np.flatnonzero(np.diff(np.flatnonzero(band)) > 11)
        assert len(gaps) == 1  # between name and count
        inked.append(int(np.flatnonzero(band)[gaps[0]]))
    assert inked[0] > 500 > 120 > inked[1]


def test_a_picture_too_high_is_refused() -> None:
    """Beyond what can be drawn, the error says what to do."""
    voxels, hidden = np.zeros((4, 8, 8), np.float32), np.zeros((4, 8, 8), bool)
    with pytest.raises(UsageError, match="fewer"):
        masks_png(
            voxels, ~hidden, [row(voxels, hidden)] * 200, spacing_mm_zyx=(3.0, 1.0, 1.0), block_zyx=(2, 4, 4), title=""
        )

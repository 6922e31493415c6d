"""The small picture for tables: sizes, colours where the map is, and refusals."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from prostate_mim.errors import UsageError
from prostate_mim.saliency import saliency_png


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def crop_and_map() -> tuple[np.ndarray, np.ndarray]:
    crop = np.random.default_rng(0).normal(size=(5, 32, 48)).astype(np.float32)
    found = np.zeros_like(crop)
    found[2, 8:16, 32:40] = 0.3
    return crop, found


def test_colour_is_where_the_map_is() -> None:
    """Two panels of 96 x 64; colour in the right one alone, over the hot square; the same bytes twice."""
    crop, found = crop_and_map()
    data = saliency_png(crop, found)
    assert data == saliency_png(crop, found)
    drawn = pixels(data)
    assert drawn.shape == (64, 2 * 96 + 2, 3)
    coloured = np.ptp(drawn, axis=-1) > 20
    assert not coloured[:, :98].any()
    y, x = np.nonzero(coloured[:, 98:])
    assert (y.mean(), x.mean()) == pytest.approx((24, 72), abs=2)
    assert not (np.ptp(pixels(saliency_png(crop, found, slice_index=1)), axis=-1) > 20).any()  # not the hottest slice
    empty = pixels(saliency_png(crop, np.zeros_like(crop)))
    assert np.array_equal(empty[:, :96], empty[:, 98:])


def test_mm_are_equal_along_both_axes() -> None:
    """Rows of 1 mm and columns of 0.5 mm: 32 x 24 mm."""
    crop, found = crop_and_map()
    assert pixels(saliency_png(crop, found, spacing_mm_yx=(1.0, 0.5), pixels=64)).shape == (64, 2 * 48 + 2, 3)


def test_refusals() -> None:
    """Another shape, a slice that does not exist, values below 0 or not finite."""
    crop, found = crop_and_map()
    for wrong in (found[1:], -found, np.full_like(found, np.nan)):
        with pytest.raises(UsageError):
            saliency_png(crop, wrong)
    with pytest.raises(UsageError, match="slices 0 to 4"):
        saliency_png(crop, found, slice_index=5)

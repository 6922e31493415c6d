"""A small picture of a crop with its map, for tables of cases. Uses no display."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt

from prostate_mim.errors import UsageError
from prostate_mim.pictures import GREY_WINDOW

COLOURS = "inferno"
_GAP = 2
_OPACITY = 0.7


def saliency_png(
    crop: npt.NDArray[np.float32],
    found: npt.NDArray[np.float32],
    *,
    slice_index: int | None = None,
    pixels: int = 96,
    spacing_mm_yx: tuple[float, float] = (1.0, 1.0),
) -> bytes:
    """Two panels beside each other: a slice of the crop, and the same slice with the map over it.

    The slice is the lesion's (the middle one), not the hottest: a map that is hot elsewhere shall not look right.
    Colours are those of the map divided by its maximum in the whole crop, the more opaque the hotter.

    Args:
        crop: (z, y, x) z-scored.
        found: (z, y, x), 0 and above, on the same grid.
        slice_index: which slice; the middle one if None.
        pixels: of the longer side of a panel.
        spacing_mm_yx: of the crop's pixels, so that mm are equal along both axes.

    Returns:
        The bytes of a PNG, the same for the same arrays.

    Raises:
        UsageError: arrays of different shapes, no such slice, or a map with negative or non-finite values.
    """
    import matplotlib as mpl
    from PIL import Image

    if crop.ndim != 3 or crop.shape != found.shape:
        raise UsageError(f"the crop has {crop.shape} voxels, its map {found.shape}; both are (z, y, x) on one grid")
    if not np.isfinite(found).all() or found.min() < 0:
        raise UsageError("the map has negative or non-finite values; give the one that crop_saliency returns")
    chosen = (len(crop) - 1) // 2 if slice_index is None else slice_index
    if not 0 <= chosen < len(crop):
        raise UsageError(f"slice {chosen} does not exist; the crop has slices 0 to {len(crop) - 1}")
    extent = [n * mm for n, mm in zip(crop.shape[1:], spacing_mm_yx, strict=True)]
    height, width = (max(1, round(pixels * mm / max(extent))) for mm in extent)

    def sized(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        picture = Image.fromarray(values.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(picture, float)

    grey = sized(np.clip(crop[chosen] / GREY_WINDOW, -1, 1) / 2 + 0.5)[..., None].repeat(3, 2)
    heat = np.clip(sized(found[chosen] / (float(found.max()) or 1.0)), 0, 1)
    colours = mpl.colormaps[COLOURS](heat)[..., :3]
    opacity = _OPACITY * heat[..., None]
    gap = np.ones((height, _GAP, 3))
    drawn = np.concatenate([grey, gap, (1 - opacity) * grey + opacity * colours], 1)
    stream = io.BytesIO()
    Image.fromarray((255 * drawn).round().astype(np.uint8)).save(stream, format="png")
    return stream.getvalue()

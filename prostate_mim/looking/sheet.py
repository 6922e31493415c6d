"""The contact sheet, placed pixel by pixel: slices with outlines, a marker, a scale bar. Uses no display."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from prostate_mim.pictures import MASK_COLOURS
from prostate_mim.spec import InputSpec

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

BoolArray = npt.NDArray[np.bool_]

SLICE_STEP_MM = 9.0  # between the slices of a tile: the same in every study, so that tiles can be compared
CROP_MM_YX = InputSpec().size_mm_zyx[1:]
MARKER = "#4DD2FF"
_GROUND, _TILE, _INK, _PALE, _ALARM, _BOX = "#14171B", "#1D2127", "#E8EAED", "#9AA3AE", "#FF8A70", "#B9C2CC"
_MARGIN, _GAP, _TOP, _CAPTION, _LINE, _NARROWEST = 14, 10, 84, 46, 17, 660
_RING_MM, _BAR_MM = 9.0, 50.0


@dataclass(frozen=True, eq=False)
class Panel:
    """One axial slice.

    Attributes:
        grey: (y, x) uint8, windowed.
        spacing_mm_yx: of its pixels.
        outlines: by name, (y, x) bool.
        marker_yx: index of the lesion's centre, if it is to be marked.
        crop_yx: index around which a crop would be taken; None where the image is itself a crop.
        caption: which slice it is.
    """

    grey: npt.NDArray[np.uint8]
    spacing_mm_yx: tuple[float, float]
    outlines: Mapping[str, BoolArray] = field(default_factory=dict)
    marker_yx: tuple[float, float] | None = None
    crop_yx: tuple[float, float] | None = None
    caption: str = ""


@dataclass(frozen=True)
class Tile:
    """One row of a manifest.

    Attributes:
        heading: ``row 3: PZ, label 1``.
        facts: voxels and mm.
        panels: its slices, from below to above; None beyond the ends of the stack.
        reason: why it cannot be read; then there are no panels.
        remark: what a person should know of it, such as a mask on another grid.
    """

    heading: str
    facts: str
    panels: tuple[Panel | None, ...]
    reason: str = ""
    remark: str = ""


def sheet_png(tiles: Sequence[Tile], title: str, *, columns: int, panel: int) -> bytes:
    """One page.

    Args:
        tiles: at least one, drawn line by line.
        title: which rows these are.
        columns: tiles beside one another.
        panel: pixels of the longer side of a slice.

    Returns:
        The bytes of a PNG, the same for the same tiles.
    """
    from PIL import Image

    count = max((len(tile.panels) for tile in tiles), default=1) or 1
    across = min(columns, len(tiles))
    width = max(2 * 260, count * panel + (count + 1) * 4)
    height = panel + 8 + _CAPTION + (_LINE if any(tile.remark for tile in tiles) else 0)
    lines = -(-len(tiles) // across)
    size = (
        max(_NARROWEST, 2 * _MARGIN + across * width + (across - 1) * _GAP),
        _TOP + lines * height + (lines - 1) * _GAP + _MARGIN,
    )
    drawn = Image.new("RGB", size, _GROUND)
    page = _Page(drawn, panel)
    panels = [one for tile in tiles for one in tile.panels if one]
    page.head(title, panels, count)
    for number, tile in enumerate(tiles):
        line, column = divmod(number, across)
        page.tile(tile, _MARGIN + column * (width + _GAP), _TOP + line * (height + _GAP), width, height)
    stream = io.BytesIO()
    drawn.save(stream, format="png")
    return stream.getvalue()


class _Page:
    """Draws on one picture."""

    def __init__(self, drawn: Image.Image, panel: int) -> None:
        from PIL import ImageDraw

        self.drawn, self.panel_size = drawn, panel
        self.pen: ImageDraw.ImageDraw = ImageDraw.Draw(drawn)
        self.fonts: dict[tuple[int, bool], Any] = {}

    def head(self, title: str, panels: Sequence[Panel], slices: int) -> None:
        """Title, legend, and how to read the pictures."""
        self.text(_MARGIN, 10, title, 17, bold=True)
        left: float = _MARGIN
        outlined = {name for one in panels for name in one.outlines}
        entries = [(MASK_COLOURS[name], f"{name} mask") for name in MASK_COLOURS if name in outlined]
        entries += [(MARKER, "lesion")] if any(one.marker_yx for one in panels) else []
        crop = " × ".join(f"{mm:.0f}" for mm in CROP_MM_YX)
        entries += [(_BOX, f"crop of {crop} mm, the default")] if any(one.crop_yx for one in panels) else []
        entries += [(_INK, f"bar: {_BAR_MM:.0f} mm")]
        for colour, meaning in entries:
            self.pen.rectangle((left, 41, left + 11, 52), outline=colour, width=2)
            left = self.text(left + 18, 38, meaning, 13, _PALE) + 20
        how = "Axial, patient's right on the left."
        how += f" Slices from below to above, {SLICE_STEP_MM:.0f} mm apart." if slices > 1 else ""
        self.text(_MARGIN, 59, how, 13, _PALE)

    def tile(self, tile: Tile, left: int, top: int, width: int, height: int) -> None:
        """One row of the manifest in its box."""
        self.pen.rectangle((left, top, left + width - 1, top + height - 1), fill=_TILE)
        below = top + self.panel_size + 8
        for number, panel in enumerate(tile.panels):
            place = left + 4 + number * (self.panel_size + 4)
            if panel is None:
                self.text(place + 8, top + self.panel_size // 2, "beyond the stack", 12, _PALE)
            else:
                self.panel(panel, place, top + 4)
        self.text(left + 8, below, tile.heading, 14, bold=True)
        self.text(left + 8, below + 40, _cut(tile.remark, (width - 16) // 7), 12, _ALARM)
        self.text(left + 8, below + 21, tile.facts, 13, _PALE)
        if tile.reason:
            self.text(left + 8, top + 8, "cannot be read", 14, _ALARM, bold=True)
            wrapped = textwrap.wrap(tile.reason, max(20, (width - 16) // 8))
            for number, line in enumerate(wrapped[: (self.panel_size - 30) // _LINE]):
                self.text(left + 8, top + 30 + number * _LINE, line, 13)

    def panel(self, panel: Panel, left: int, top: int) -> None:
        """One slice in the middle of its square, in equal mm along both axes."""
        from PIL import Image

        rows, columns = panel.grey.shape
        extent = (rows * panel.spacing_mm_yx[0], columns * panel.spacing_mm_yx[1])
        scale = self.panel_size / max(extent)  # pixels per mm
        height, width = (max(1, round(mm * scale)) for mm in extent)
        left, top = left + (self.panel_size - width) // 2, top + (self.panel_size - height) // 2
        picture = Image.fromarray(panel.grey).resize((width, height), Image.Resampling.LANCZOS).convert("RGB")
        pixels = np.array(picture)
        for name, inside in panel.outlines.items():
            pixels[_edge(_nearest(inside, height, width))] = _rgb(MASK_COLOURS.get(name, _INK))
        self.drawn.paste(Image.fromarray(pixels), (left, top))
        self._signs(panel, left, top, scale, (height, width))

    def _signs(self, panel: Panel, left: int, top: int, scale: float, size: tuple[int, int]) -> None:
        """Crop, lesion, scale bar and slice number over a slice."""

        def place(index_yx: tuple[float, float]) -> tuple[float, float]:
            y, x = ((i + 0.5) * s * scale for i, s in zip(index_yx, panel.spacing_mm_yx, strict=True))
            return left + x, top + y

        height, width = size
        if panel.crop_yx is not None:
            x, y = place(panel.crop_yx)
            half_y, half_x = (mm * scale / 2 for mm in CROP_MM_YX)
            self._corners(x - half_x, y - half_y, x + half_x, y + half_y, (left, top, left + width, top + height))
        if panel.marker_yx is not None:
            x, y = place(panel.marker_yx)
            radius = _RING_MM * scale
            self.pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=MARKER, width=2)
        bar = round(_BAR_MM * scale)
        if bar < width - 10:
            self.pen.rectangle((left + 4, top + height - 8, left + 6 + bar, top + height - 4), fill="#000000")
            self.pen.line((left + 5, top + height - 6, left + 5 + bar, top + height - 6), fill=_INK, width=2)
        self.text(left + 4, top + 2, panel.caption, 11, _INK, halo=True)

    def _corners(self, x0: float, y0: float, x1: float, y1: float, within: tuple[int, int, int, int]) -> None:
        """Corners of a box, where they lie within the picture (left, top, right, bottom)."""
        arm = (x1 - x0) / 6
        left, top, right, bottom = within
        for x, dx in ((x0, arm), (x1, -arm)):
            for y, dy in ((y0, arm), (y1, -arm)):
                if left <= x < right and top <= y < bottom:
                    self.pen.line((x, y, x + dx, y), fill=_BOX)
                    self.pen.line((x, y, x, y + dy), fill=_BOX)

    def text(
        self, left: float, top: float, words: str, size: int, colour: str = _INK, *, bold: bool = False,
        halo: bool = False,
    ) -> float:  # fmt: skip
        """Write; returns where the words end."""
        if (size, bold) not in self.fonts:
            self.fonts[size, bold] = _font(size, bold)
        font = self.fonts[size, bold]
        stroke: dict[str, Any] = {"stroke_width": 2, "stroke_fill": "#000000"} if halo else {}
        self.pen.text((left, top), words, fill=colour, font=font, **stroke)
        return float(left + self.pen.textlength(words, font=font))


def _font(size: int, bold: bool) -> Any:
    """DejaVu Sans, which comes with matplotlib: the same letters on every machine."""
    import matplotlib as mpl
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / name), size)


def _nearest(inside: BoolArray, height: int, width: int) -> BoolArray:
    rows, columns = inside.shape
    y = np.minimum(((np.arange(height) + 0.5) * rows / height).astype(int), rows - 1)
    x = np.minimum(((np.arange(width) + 0.5) * columns / width).astype(int), columns - 1)
    return inside[np.ix_(y, x)]


def _edge(inside: BoolArray) -> BoolArray:
    """Pixels inside with a neighbour outside, or at the picture's border."""
    framed = np.pad(inside, 1)
    return np.asarray(inside & ~(framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]))


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return red, green, blue


def _cut(words: str, letters: int) -> str:
    return words if len(words) <= letters else words[: max(0, letters - 1)] + "\N{HORIZONTAL ELLIPSIS}"

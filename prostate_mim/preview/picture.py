"""The picture of masking strategies, placed pixel by pixel. Uses no display."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from prostate_mim.errors import UsageError
from prostate_mim.pictures import GREY_WINDOW, MASK_COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

# Of the same colours as ``MASK_COLOURS``; nothing else in the pictures has a colour.
HIDDEN = "#0072B2"
_INK, _PALE, _BORDER = "#222222", "#666666", "#6CB4DC"

# Of the strategies' picture, pixels.
_WIDTH, _MARGIN, _GAP, _HEADER, _LINE = 1000, 12, 12, 30, 18
_TALLEST = 480
_TALLEST_PICTURE = 2**16 - 1  # matplotlib's limit
_DPI = 100
_GREYS = 112  # of the palette
_LETTERS = 165  # of the small print in a line


@dataclass(frozen=True, eq=False)
class MaskRow:
    """What one masking strategy did to a crop.

    Attributes:
        name: title of the row.
        asked: the strategy as it was asked for.
        used: the name of the one that was really used.
        self_supervised: False where labels were looked at.
        counts: how many of how many are hidden, and what: (86, 144, "blocks hidden").
        error: of the reconstruction, or None where there is no image.
        remark: printed behind the error.
        given: (z, y, x) what the encoder gets, where it is not hidden.
        hidden: (z, y, x) bool, True = hidden.
        filled: (z, y, x) with the reconstruction, or None where the model predicts no image.
        outlines: by key of ``MASK_COLOURS``, (z, y, x) bool masks the strategy looked at.
    """

    name: str
    asked: str
    used: str
    self_supervised: bool
    counts: tuple[int, int, str]
    error: float | None
    given: FloatArray
    hidden: BoolArray
    filled: FloatArray | None
    remark: str = ""
    outlines: Mapping[str, BoolArray] = field(default_factory=dict)

    @property
    def detail(self) -> str:
        """``86 of 144 blocks hidden (59.7 %), error 0.55``."""
        count, total, what = self.counts
        parts = [f"{count:,} of {total:,} {what} ({100 * count / total:.1f} %)"]
        if self.error is not None:
            parts.append(f"error {self.error:.2f}")
        return ", ".join([*parts, self.remark] if self.remark else parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; no voxels."""
        count, total, what = self.counts
        return {
            "strategy": self.asked, "used": self.used, "self_supervised": self.self_supervised, "count": count,
            "of": total, "what": what, "share": count / total, "error": self.error,
        }  # fmt: skip


def masks_png(
    voxels: FloatArray,
    inside: BoolArray,
    rows: Sequence[MaskRow],
    *,
    spacing_mm_zyx: tuple[float, float, float],
    block_zyx: tuple[int, int, int],
    title: str,
    notes: Sequence[str] = (),
    slices: int = 1,
) -> bytes:
    """One row for each masking strategy: the crop, what the encoder sees from above and from the front, the result.

    All panels have one scale in mm and one grey window. 1000 pixels wide, as high as it takes; a palette of greys and
    tints of four colours keeps the file small and the colours exact.

    Args:
        voxels: (z, y, x) z-scored.
        inside: (z, y, x) bool, False = padding, which is left white.
        rows: what each strategy did.
        spacing_mm_zyx: voxel size in mm.
        block_zyx: voxels per block.
        title: of the whole picture.
        notes: small print below.
        slices: evenly spaced slices (axial and coronal) for each strategy.

    Raises:
        UsageError: the picture would be too high.
    """
    return _MaskFigure(voxels, inside, spacing_mm_zyx, block_zyx, slices).draw(rows, title, notes)


class _MaskFigure:
    """Places every panel on whole pixels, from the top down."""

    def __init__(
        self,
        voxels: FloatArray,
        inside: BoolArray,
        spacing_mm_zyx: tuple[float, float, float],
        block_zyx: tuple[int, int, int],
        slices: int,
    ) -> None:
        self.voxels, self.inside, self.block_zyx = voxels, inside, block_zyx
        depth, rows, _ = voxels.shape
        self.cuts = list(zip(_spread(depth, slices), _spread(rows, slices), strict=True))
        z, y, x = (count * spacing for count, spacing in zip(voxels.shape, spacing_mm_zyx, strict=True))
        self.cell = (_WIDTH - 2 * _MARGIN - 3 * _GAP) // 4
        scale = min(self.cell / x, _TALLEST / max(y, z))
        self.width, self.axial, self.coronal = (max(1, round(scale * mm)) for mm in (x, y, z))
        self.tall = max(self.axial, self.coronal)

    def draw(self, rows: Sequence[MaskRow], title: str, notes: Sequence[str]) -> bytes:
        """The whole picture."""
        from matplotlib.figure import Figure

        lines = [line for note in notes for line in textwrap.wrap(note, _LETTERS)]
        row_height = _HEADER + len(self.cuts) * (self.tall + _GAP)
        top, legend = 2 * _HEADER, _HEADER
        self.height = top + len(rows) * row_height + legend + len(lines) * _LINE + _MARGIN
        if self.height > _TALLEST_PICTURE:
            raise UsageError(f"the picture would be {self.height} pixels high; draw fewer strategies or fewer slices")
        self.figure = Figure(figsize=(_WIDTH / _DPI, self.height / _DPI), dpi=_DPI, facecolor="white")
        self._head(title)
        for number, row in enumerate(rows):
            self._row(row, top + number * row_height)
        below = top + len(rows) * row_height
        self._legend(rows, below)
        for number, line in enumerate(lines):
            self._text(_MARGIN, below + legend + number * _LINE, line, size=8, color=_PALE)
        return _png(self.figure)

    def _head(self, title: str) -> None:
        self._text(_MARGIN, 8, title, size=12, weight="bold")
        names = ("study (ticks: coronal cut)", "the encoder's input, axial", "the encoder's input, coronal")
        for column, name in enumerate((*names, "reconstruction, axial")):
            self._text(self._left(column) + self.width // 2, _HEADER + 10, name, size=9, color=_PALE, ha="center")

    def _row(self, row: MaskRow, top: int) -> None:
        detail = self._text(_WIDTH - _MARGIN, top + 9, row.detail, size=9, ha="right")
        name = self._text(_MARGIN, top + 7, row.name, size=11, weight="bold")
        _shorten(name, _WIDTH - 2 * _MARGIN - _GAP - detail.get_window_extent().width)
        for number, (z, y) in enumerate(self.cuts):
            self._panels(row, z, y, top + _HEADER + number * (self.tall + _GAP))

    def _panels(self, row: MaskRow, z: int, y: int, top: int) -> None:
        """Four panels: slice ``z`` from above, and in the third column the cut along row ``y``, head up."""
        depth, height, width = self.block_zyx
        study = self._panel(0, top, self.voxels[z], self.inside[z])
        for edge in (0.0, 0.96):
            study.axhline(y, edge, edge + 0.04, color="white", linewidth=1.5)
        for name, outline in row.outlines.items():
            if outline[z].any():
                study.contour(outline[z], [0.5], colors=[MASK_COLOURS[name]], linewidths=2)
        if len(self.cuts) > 1:
            study.text(0.03, 0.04, f"slice {z + 1}", size=8, color="white", transform=study.transAxes)
        axial = self._panel(1, top, row.given[z], self.inside[z])
        coronal = self._panel(2, top, row.given[::-1, y], self.inside[::-1, y])
        _blocks(axial, row.hidden[z], (height, width), fill=True)
        _blocks(coronal, row.hidden[::-1, y], (depth, width), fill=True)
        if row.filled is None:
            left, middle = self._left(3) + self.width // 2, top + self.tall // 2
            self._text(left, middle, "this model predicts no image", size=9, color=_PALE, ha="center")
        else:
            _blocks(self._panel(3, top, row.filled[z], self.inside[z]), row.hidden[z], (height, width), fill=False)

    def _panel(self, column: int, top: int, values: FloatArray, inside: BoolArray) -> Axes:
        """Grey values in a box of the figure, one scale in mm for both planes."""
        tall = self.coronal if column == 2 else self.axial
        bottom = self.height - top - (self.tall + tall) // 2
        box = (self._left(column) / _WIDTH, bottom / self.height, self.width / _WIDTH, tall / self.height)
        axis = self.figure.add_axes(box)
        shown = np.where(inside, values, np.nan)
        axis.imshow(shown, cmap="gray", vmin=-GREY_WINDOW, vmax=GREY_WINDOW, interpolation="nearest", aspect="auto")
        axis.set_axis_off()
        return axis

    def _legend(self, rows: Sequence[MaskRow], top: int) -> None:
        """The colours that occur."""
        entries = [("\N{BLACK SQUARE}", HIDDEN, "hidden block"), ("\N{WHITE SQUARE}", HIDDEN, "reconstructed block")]
        used = {name for row in rows for name in row.outlines}
        entries += [("\N{WHITE SQUARE}", MASK_COLOURS[name], f"{name} mask") for name in MASK_COLOURS if name in used]
        left = float(_MARGIN)
        for sign, colour, meaning in entries:
            self._text(left, top + 4, sign, size=11, color=colour, weight="bold")
            written = self._text(left + 18, top + 6, meaning, size=9)
            left += 18 + written.get_window_extent().width + 24

    def _left(self, column: int) -> int:
        return int(_MARGIN + column * (self.cell + _GAP) + (self.cell - self.width) // 2)

    def _text(self, left: float, top: float, words: str, *, color: str = _INK, **style: Any) -> Text:
        return self.figure.text(left / _WIDTH, 1 - top / self.height, words, color=color, va="top", **style)


def _blocks(axis: Axes, hidden: BoolArray, block: tuple[int, int], *, fill: bool) -> None:
    """The hidden blocks of a plane, each with its border; without filling only the borders."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    height, width = block
    corners = np.argwhere(hidden[::height, ::width]) * block - 0.5
    boxes = [Rectangle((column, row), width, height) for row, column in corners]
    face, edge, width_pt = (HIDDEN, _BORDER, 0.8) if fill else ("none", HIDDEN, 0.5)
    axis.add_collection(PatchCollection(boxes, facecolor=face, edgecolor=edge, linewidth=width_pt))


def _spread(count: int, chosen: int) -> list[int]:
    """Evenly spaced indices, the ends left out; one is the middle."""
    return [int(place) for place in np.linspace(0, count - 1, chosen + 2).round()[1:-1]]


def _shorten(text: Text, room: float) -> None:
    """Cut the middle out of a text that is too wide, pixels."""
    words = text.get_text()
    kept = len(words)
    while text.get_window_extent().width > room and kept > 2:
        kept -= 2
        text.set_text(f"{words[: kept // 2]}\N{HORIZONTAL ELLIPSIS}{words[-(kept // 2) :]}")


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[..., :3]
    digits = np.array([1 << 16, 1 << 8, 1], np.int32)
    colours, place = np.unique(drawn.astype(np.int32) @ digits, return_inverse=True)
    palette = _palette()
    difference = colours[:, None, None] // digits % 256 - palette.astype(np.int32)
    nearest = np.square(difference).sum(-1).argmin(1).astype(np.uint8)
    image = Image.fromarray(nearest[place].reshape(drawn.shape[:2]), mode="P")
    image.putpalette(palette.tobytes())
    stream = io.BytesIO()
    image.save(stream, format="png", optimize=True)
    return stream.getvalue()


def _palette() -> npt.NDArray[np.uint8]:
    """(256, 3) RGB: greys, and each colour pure and blended half and half with some of them, for smooth edges."""
    from matplotlib.colors import to_rgb

    greys = np.repeat(np.linspace(0, 1, _GREYS)[:, None], 3, axis=1)
    colours = np.array([to_rgb(colour) for colour in (HIDDEN, _BORDER, *MASK_COLOURS.values())])
    under = np.linspace(0, 1, 9)
    blends = [share * colours[:, None] + (1 - share) * under[:, None] for share in (0.35, 0.65)]
    every = np.concatenate([greys, colours, *(blend.reshape(-1, 3) for blend in blends)])
    padded = np.concatenate([every, np.ones((256 - len(every), 3))])
    return (255 * padded).round().astype(np.uint8)

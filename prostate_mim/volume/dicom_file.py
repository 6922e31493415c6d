"""One DICOM slice: every element is walked to the file's end, so truncation is seen before GDCM reads it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prostate_mim.errors import VolumeError
from prostate_mim.volume.checks import check_size

_IMPLICIT = "1.2.840.10008.1.2"
_NATIVE = (_IMPLICIT, "1.2.840.10008.1.2.1")
_LONG = frozenset((b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UC", b"UR", b"UT", b"UN", b"SV", b"UV"))
_VRS = _LONG | frozenset(
    vr.encode()
    for vr in [
        "AE",
        "AS",
        "AT",
        "CS",
        "DA",
        "DS",
        "DT",
        "FL",
        "FD",
        "IS",
        "LO",
        "LT",
        "PN",
        "SH",
        "SL",
        "SS",
        "ST",
        "TM",
        "UI",
        "UL",
        "US",
    ]
)
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_SYNTAX, _SERIES, _POSITION, _ORIENTATION = 0x00020010, 0x0020000E, 0x00200032, 0x00200037
_SAMPLES, _PHOTOMETRIC, _FRAMES, _ROWS, _COLUMNS = 0x00280002, 0x00280004, 0x00280008, 0x00280010, 0x00280011
_SPACING, _BITS, _PIXELS = 0x00280030, 0x00280100, 0x7FE00010
_KEPT = frozenset(
    (_SYNTAX, _SERIES, _POSITION, _ORIENTATION, _SAMPLES, _PHOTOMETRIC, _FRAMES, _ROWS, _COLUMNS, _SPACING, _BITS)
)
_MAX_BYTES = 1 << 28
_MAX_DEPTH = 16


@dataclass(frozen=True)
class DicomSlice:
    """What decides whether slices form one stack.

    Attributes:
        path: the file.
        series: SeriesInstanceUID; never shown.
        position: (3,) ImagePositionPatient, mm, LPS.
        orientation: (6,) ImageOrientationPatient: patient directions of columns' and rows' increase.
        grid: (columns, rows).
        spacing: (2,) PixelSpacing (between rows, between columns), mm.
    """

    path: Path
    series: str
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    grid: tuple[int, int]
    spacing: tuple[float, ...]

    @property
    def normal(self) -> np.typing.NDArray[np.float64]:
        """(3,) direction of the slice normal, LPS."""
        return np.asarray(np.cross(self.orientation[:3], self.orientation[3:]))


class _Cursor:
    """A position in the bytes of one file; reading past the end is the truncation we look for."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name, self.at, self.implicit = data, name, 132, False

    def take(self, length: int) -> bytes:
        if length > len(self.data) - self.at:
            missing = length - (len(self.data) - self.at)
            raise VolumeError(f"{self.name}: truncated DICOM file, {missing} bytes missing; copy the series again")
        self.at += length
        return self.data[self.at - length : self.at]

    def element(self, implicit: bool) -> tuple[int, bytes, int]:
        """Tag, value representation (empty where implicit or a delimiter) and length of the next element."""
        group, element = struct.unpack("<HH", self.take(4))
        tag = group << 16 | element
        if implicit or group == 0xFFFE:
            return tag, b"", struct.unpack("<I", self.take(4))[0]
        kind = self.take(2)
        if kind not in _VRS:
            raise VolumeError(f"{self.name}: element {tag:08x} has unknown type {kind!r}; the file is damaged")
        if kind in _LONG:
            self.take(2)
            return tag, kind, struct.unpack("<I", self.take(4))[0]
        return tag, kind, struct.unpack("<H", self.take(2))[0]

    def skip_items(self, implicit: bool, depth: int, *, fragments: bool) -> None:
        """Skip to the end of a sequence of undefined length (or of the fragments of compressed pixels)."""
        if depth > _MAX_DEPTH:
            raise VolumeError(f"{self.name}: sequences nested over {_MAX_DEPTH} deep; the file is damaged")
        while True:
            tag, _, length = self.element(implicit)
            if tag == _SEQUENCE_END:
                return
            if tag != _ITEM or (fragments and length == _UNDEFINED):
                raise VolumeError(f"{self.name}: element {tag:08x} where an item was expected; the file is damaged")
            if length != _UNDEFINED:
                self.take(length)
                continue
            while True:
                tag, kind, length = self.element(implicit)
                if tag == _ITEM_END:
                    break
                self.skip_value(kind, length, implicit, depth)

    def skip_value(self, kind: bytes, length: int, implicit: bool, depth: int) -> None:
        """Skip one value, of defined or undefined length."""
        if length == _UNDEFINED:
            self.skip_items(implicit or kind == b"UN", depth + 1, fragments=False)
        else:
            self.take(length)


def parse_slice(path: Path, name: str, max_voxels: int) -> DicomSlice | None:
    """Parse one file to its last byte; None where it is no DICOM file at all.

    Raises:
        VolumeError: truncated, damaged, multi-frame, colour, or without a position.
    """
    with path.open("rb") as stream:
        data = stream.read(_MAX_BYTES + 1)
    if data[128:132] != b"DICM":
        return None
    if len(data) > _MAX_BYTES:
        raise VolumeError(f"{name}: over {_MAX_BYTES} bytes, a slice must be smaller; convert the series to NIfTI")
    values, pixels = _walk(_Cursor(data, name))
    rows, columns = (_short(values, tag, name, field) for tag, field in ((_ROWS, "Rows"), (_COLUMNS, "Columns")))
    pixels_per_slice = check_size(name, "Rows x Columns", (rows, columns), max_voxels)
    frames = values.get(_FRAMES, b"1").strip(b" \0")
    samples = _short(values, _SAMPLES, name, "SamplesPerPixel")
    colour = values.get(_PHOTOMETRIC, b"").strip(b" \0").decode("latin-1")
    if frames not in (b"1", b"") or samples != 1 or colour != "MONOCHROME2":
        raise VolumeError(
            f"{name}: {frames.decode('latin-1')} frames of {samples} samples ({colour}), must be 1 frame of 1 sample"
            " (MONOCHROME2); convert the series to NIfTI"
        )
    bits = _short(values, _BITS, name, "BitsAllocated")
    expected = pixels_per_slice * bits // 8
    if pixels is not None and pixels != expected + expected % 2:
        raise VolumeError(
            f"{name}: PixelData has {pixels} bytes, must be {expected + expected % 2}; copy the series again"
        )
    return DicomSlice(
        path,
        values.get(_SERIES, b"").strip(b" \0").decode("latin-1"),
        _decimals(values, _POSITION, 3, name, "ImagePositionPatient"),
        _decimals(values, _ORIENTATION, 6, name, "ImageOrientationPatient"),
        (columns, rows),
        _decimals(values, _SPACING, 2, name, "PixelSpacing"),
    )


def _walk(cursor: _Cursor) -> tuple[dict[int, bytes], int | None]:
    """The kept elements, and the length of native pixel data (None where compressed)."""
    values: dict[int, bytes] = {}
    pixels: int | None = -1
    while cursor.at < len(cursor.data):
        meta = cursor.data[cursor.at : cursor.at + 2] == b"\x02\x00"
        syntax = values.get(_SYNTAX, b"").strip(b" \0").decode("latin-1")
        if not meta and syntax != _IMPLICIT and not syntax.startswith(_IMPLICIT + "."):
            raise VolumeError(f"{cursor.name}: TransferSyntaxUID is {syntax!r}, not one of DICOM's; convert the series")
        if not meta and syntax in ("1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"):
            raise VolumeError(
                f"{cursor.name}: transfer syntax {syntax} (big-endian or deflated) is not read; convert it"
            )
        implicit = not meta and syntax == _IMPLICIT
        tag, kind, length = cursor.element(implicit)
        if tag == _PIXELS and length == _UNDEFINED:
            if syntax in _NATIVE:
                raise VolumeError(f"{cursor.name}: PixelData of undefined length in transfer syntax {syntax}; damaged")
            cursor.skip_items(implicit, 0, fragments=True)
            pixels = None
        elif tag in _KEPT and length != _UNDEFINED:
            values[tag] = cursor.take(length)
        else:
            cursor.skip_value(kind, length, implicit, 0)
            pixels = length if tag == _PIXELS else pixels
    if pixels == -1:
        raise VolumeError(
            f"{cursor.name}: PixelData is missing; the file is truncated or no image, copy the series again"
        )
    return values, pixels


def _short(values: dict[int, bytes], tag: int, name: str, field: str) -> int:
    raw = values.get(tag, b"")
    if len(raw) != 2:
        raise VolumeError(f"{name}: {field} is missing or damaged; not an image slice, copy the series again")
    return int(struct.unpack("<H", raw)[0])


def _decimals(values: dict[int, bytes], tag: int, length: int, name: str, field: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(word) for word in values.get(tag, b"").strip(b" \0").split(b"\\"))
    except ValueError:
        numbers = ()
    if len(numbers) != length or not np.isfinite(numbers).all():
        raise VolumeError(f"{name}: {field} is missing or damaged, must be {length} numbers; convert the series again")
    return numbers

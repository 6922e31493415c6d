"""The elements of one DICOM file, walked to its last byte, so truncation and damage are seen before GDCM reads it."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from prostate_mim.errors import VolumeError

_IMPLICIT = "1.2.840.10008.1.2"
_SYNTAXES = (_IMPLICIT, "1.2.840.10008.1.2.1")
_LONG = frozenset(b"OB OW OF OD OL OV SQ UC UR UT UN SV UV".split())
_VRS = _LONG | frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_MAX_DEPTH = 16
_MAX_BYTES = 1 << 28

SYNTAX, PIXELS = 0x00020010, 0x7FE00010
# keyword -> tag of every element that decides voxels or geometry; all others are walked over
TAGS = {
    "SeriesInstanceUID": 0x0020000E, "InstanceNumber": 0x00200013, "ImagePositionPatient": 0x00200032,
    "ImageOrientationPatient": 0x00200037, "ImagesInAcquisition": 0x00201002, "SamplesPerPixel": 0x00280002,
    "PhotometricInterpretation": 0x00280004, "NumberOfFrames": 0x00280008, "Rows": 0x00280010, "Columns": 0x00280011,
    "PixelSpacing": 0x00280030, "BitsAllocated": 0x00280100, "BitsStored": 0x00280101, "HighBit": 0x00280102,
    "PixelRepresentation": 0x00280103, "PixelPaddingValue": 0x00280120, "PixelPaddingRangeLimit": 0x00280121,
    "RescaleIntercept": 0x00281052, "RescaleSlope": 0x00281053, "ModalityLUTSequence": 0x00283000,
}  # fmt: skip
_KEPT = frozenset((SYNTAX, PIXELS, *TAGS.values()))


class _Cursor:
    """A position in the bytes of one file; reading past the end is the truncation we look for."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name, self.at = data, name, 132

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

    def skip_items(self, implicit: bool, depth: int) -> None:
        """Skip to the end of a sequence of undefined length."""
        if depth > _MAX_DEPTH:
            raise VolumeError(f"{self.name}: sequences nested over {_MAX_DEPTH} deep; the file is damaged")
        while True:
            tag, _, length = self.element(implicit)
            if tag == _SEQUENCE_END:
                return
            if tag != _ITEM:
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
            self.skip_items(implicit or kind == b"UN", depth + 1)
        else:
            self.take(length)


class Elements:
    """The elements of one slice that decide its voxels and its place, by keyword; see ``TAGS``.

    Attributes:
        name: the file, for messages.
        pixels: the bytes of PixelData.
    """

    def __init__(self, values: Mapping[int, bytes], name: str) -> None:
        self._values, self.name = values, name
        self.pixels = values[PIXELS]

    def __contains__(self, keyword: str) -> bool:
        return TAGS[keyword] in self._values

    def text(self, keyword: str) -> str:
        """The value as text; empty where it is missing."""
        return self._values.get(TAGS[keyword], b"").strip(b" \0").decode("latin-1")

    def short(self, keyword: str) -> int:
        """An unsigned 16-bit number.

        Raises:
            VolumeError: missing, or not two bytes.
        """
        raw = self._values.get(TAGS[keyword], b"")
        if len(raw) != 2:
            raise VolumeError(f"{self.name}: {keyword} is missing or damaged; not an image slice, copy it again")
        return int(struct.unpack("<H", raw)[0])

    def numbers(self, keyword: str, length: int) -> tuple[float, ...]:
        """Finite decimal numbers.

        Raises:
            VolumeError: missing, or not exactly ``length`` of them.
        """
        try:
            found = tuple(float(word) for word in self._values.get(TAGS[keyword], b"").strip(b" \0").split(b"\\"))
        except ValueError:
            found = ()
        if len(found) != length or not np.isfinite(found).all():
            raise VolumeError(
                f"{self.name}: {keyword} is missing or damaged, must be {length} finite numbers; convert it again"
            )
        return found


def read_elements(path: Path, name: str) -> Elements | None:
    """Walk one file to its last byte; None where it is no DICOM file at all.

    Raises:
        VolumeError: truncated, damaged, compressed, without PixelData, or an element repeated that decides the image.
    """
    with path.open("rb") as stream:
        data = stream.read(_MAX_BYTES + 1)
    if data[128:132] != b"DICM":
        return None
    if len(data) > _MAX_BYTES:
        raise VolumeError(f"{name}: over {_MAX_BYTES} bytes, a slice must be smaller; convert the series to NIfTI")
    values = _walk(_Cursor(data, name))
    if PIXELS not in values:
        raise VolumeError(f"{name}: PixelData is missing; the file is truncated or no image, copy the series again")
    return Elements(values, name)


def _walk(cursor: _Cursor) -> dict[int, bytes]:
    """The kept elements of the top level."""
    values: dict[int, bytes] = {}
    implicit = started = False
    while cursor.at < len(cursor.data):
        meta = not started and cursor.data[cursor.at : cursor.at + 2] == b"\x02\x00"
        if not meta and not started:
            started, implicit = True, _syntax(values.get(SYNTAX, b""), cursor.name) == _IMPLICIT
        tag, kind, length = cursor.element(implicit)
        if tag not in _KEPT or kind == b"SQ":
            cursor.skip_value(kind, length, implicit, 0)
            if tag in _KEPT:
                values[tag] = b""
            continue
        if tag in values or length == _UNDEFINED:
            raise VolumeError(f"{cursor.name}: element {tag:08x} is repeated or has no length; the file is damaged")
        values[tag] = cursor.take(length)
    return values


def _syntax(raw: bytes, name: str) -> str:
    """The transfer syntax, one of the two in which every voxel stands as it is.

    Compressed ones hold no checksum, and GDCM decodes damaged ones in silence: of 150 single-bit flips each in
    JPEG-lossless and JPEG-2000 slices 148 were read without an exception, with 1% to 64% of the voxels wrong.
    """
    syntax = raw.strip(b" \0").decode("latin-1")
    if syntax not in _SYNTAXES:
        raise VolumeError(
            f"{name}: TransferSyntaxUID is {syntax[:64]!r}, read are {' and '.join(_SYNTAXES)} (uncompressed, little"
            " endian: nothing in compressed slices tells of damage); decompress the series or convert it to NIfTI"
        )
    return syntax

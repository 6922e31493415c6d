"""One DICOM slice: its place, its number type, and its voxels decoded from the bytes that were walked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prostate_mim.errors import VolumeError
from prostate_mim.volume.checks import Array, check_size, check_spacing
from prostate_mim.volume.dicom_file import Elements, read_elements
from prostate_mim.volume.geometry import FloatArray

_SLOPES = (1e-12, 1e12)


@dataclass(frozen=True)
class Stored:
    """How the voxels of a slice are stored.

    Attributes:
        bits: used of each stored number (BitsStored).
        signed: two's complement (PixelRepresentation 1).
        bytes: of each stored number (BitsAllocated / 8).
        slope: RescaleSlope, 1 where there is none.
        intercept: RescaleIntercept, 0 where there is none.
        padding: lowest and highest stored number that mean "nothing was measured here"; None where not stated.
    """

    bits: int
    signed: bool
    bytes: int
    slope: float
    intercept: float
    padding: tuple[int, int] | None

    @property
    def rescaled(self) -> bool:
        """Whether slope and intercept change anything."""
        return (self.slope, self.intercept) != (1.0, 0.0)


@dataclass(frozen=True, eq=False)
class DicomSlice:
    """What decides whether slices form one stack, and the stored voxels.

    Attributes:
        path: the file.
        series: SeriesInstanceUID; never shown.
        number: InstanceNumber; None where there is none.
        expected: ImagesInAcquisition; None where there is none.
        position: (3,) ImagePositionPatient, mm, LPS.
        orientation: (6,) ImageOrientationPatient: patient directions of columns' and rows' increase.
        spacing: (2,) PixelSpacing (between rows, between columns), mm.
        stored: the number type.
        voxels: (rows, columns) as stored, before slope and intercept.
    """

    path: Path
    series: str
    number: int | None
    expected: int | None
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    stored: Stored
    voxels: Array

    @property
    def normal(self) -> FloatArray:
        """(3,) direction of the slice normal, LPS."""
        return np.asarray(np.cross(self.orientation[:3], self.orientation[3:]))


def parse_slice(path: Path, name: str, max_voxels: int) -> DicomSlice | None:
    """Parse one file to its last byte; None where it is no DICOM file at all.

    Raises:
        VolumeError: truncated, damaged, compressed, multi-frame, colour, inverted, or without a position.
    """
    found = read_elements(path, name)
    if found is None:
        return None
    frames, samples = found.text("NumberOfFrames") or "1", found.short("SamplesPerPixel")
    colour = found.text("PhotometricInterpretation")
    if frames != "1" or samples != 1 or colour != "MONOCHROME2":
        raise VolumeError(
            f"{name}: {frames[:16]!r} frames of {samples} samples ({colour[:16]!r}), must be 1 frame of 1 sample"
            " (MONOCHROME2); convert the series to NIfTI"
        )
    spacing = found.numbers("PixelSpacing", 2)
    check_spacing(name, "PixelSpacing", (*spacing, 1.0))
    stored = _stored(found)
    return DicomSlice(
        path,
        found.text("SeriesInstanceUID"),
        _whole(found, "InstanceNumber"),
        _whole(found, "ImagesInAcquisition"),
        found.numbers("ImagePositionPatient", 3),
        found.numbers("ImageOrientationPatient", 6),
        spacing,
        stored,
        _voxels(found, stored, max_voxels),
    )


def _whole(found: Elements, keyword: str) -> int | None:
    if not found.text(keyword):
        return None
    (value,) = found.numbers(keyword, 1)
    if value != int(value):
        raise VolumeError(f"{found.name}: {keyword} is {value:g}, must be a whole number; copy the series again")
    return int(value)


def _stored(found: Elements) -> Stored:
    allocated, bits, high = (found.short(key) for key in ("BitsAllocated", "BitsStored", "HighBit"))
    signed = found.short("PixelRepresentation")
    if allocated not in (8, 16, 32) or not 1 <= bits <= allocated or high != bits - 1 or signed > 1:
        raise VolumeError(
            f"{found.name}: BitsAllocated {allocated}, BitsStored {bits}, HighBit {high}, PixelRepresentation {signed};"
            " allowed 8, 16 or 32, at most as many, one less, 0 or 1; convert the series to NIfTI"
        )
    if "ModalityLUTSequence" in found:
        raise VolumeError(f"{found.name}: ModalityLUTSequence (a table of intensities) is not read; convert to NIfTI")
    slope = found.numbers("RescaleSlope", 1)[0] if "RescaleSlope" in found else 1.0
    intercept = found.numbers("RescaleIntercept", 1)[0] if "RescaleIntercept" in found else 0.0
    if not (_SLOPES[0] < slope < _SLOPES[1] and abs(intercept) < _SLOPES[1]):
        raise VolumeError(
            f"{found.name}: RescaleSlope {slope:g} and RescaleIntercept {intercept:g}, allowed 1e-12 < slope < 1e12"
            " and |intercept| < 1e12; convert the series to NIfTI"
        )
    padding = None
    if "PixelPaddingValue" in found:
        first = _padding(found, "PixelPaddingValue", bool(signed))
        last = _padding(found, "PixelPaddingRangeLimit", bool(signed)) if "PixelPaddingRangeLimit" in found else first
        padding = min(first, last), max(first, last)
    return Stored(bits, bool(signed), allocated // 8, slope, intercept, padding)


def _padding(found: Elements, keyword: str, signed: bool) -> int:
    value = found.short(keyword)
    return value - 65536 if signed and value > 32767 else value


def _voxels(found: Elements, stored: Stored, max_voxels: int) -> Array:
    """(rows, columns) stored numbers, all within BitsStored and none of them a mark for "not measured"."""
    grid = found.short("Rows"), found.short("Columns")
    expected = check_size(found.name, "Rows x Columns", grid, max_voxels) * stored.bytes
    if len(found.pixels) != expected + expected % 2:
        raise VolumeError(
            f"{found.name}: PixelData has {len(found.pixels)} bytes, must be {expected + expected % 2}; copy the series"
            " again"
        )
    dtype = np.dtype(f"<{'i' if stored.signed else 'u'}{stored.bytes}")
    voxels = np.frombuffer(found.pixels[:expected], dtype).reshape(grid)
    low, high = (-(1 << stored.bits - 1), (1 << stored.bits - 1) - 1) if stored.signed else (0, (1 << stored.bits) - 1)
    if voxels.min() < low or voxels.max() > high:
        raise VolumeError(
            f"{found.name}: voxels run from {voxels.min()} to {voxels.max()}, BitsStored {stored.bits} allows {low} to"
            f" {high}; the file is damaged or holds overlays, convert the series to NIfTI"
        )
    if stored.padding is not None and stored.padding != (0, 0):  # 0 is what air measures
        first, last = stored.padding
        marked = int(np.count_nonzero((voxels >= first) & (voxels <= last)))
        if marked:
            raise VolumeError(
                f"{found.name}: {marked} voxels hold the PixelPaddingValue {first} to {last}, which is no intensity;"
                " replace them by 0 and convert the series to NIfTI"
            )
    return voxels

"""A folder with exactly one axial DICOM series: slices complete, evenly spaced, one orientation, one number type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from prostate_mim.errors import VolumeError
from prostate_mim.volume.checks import check_size
from prostate_mim.volume.dicom_slice import DicomSlice, Stored, parse_slice
from prostate_mim.volume.geometry import FloatArray
from prostate_mim.volume.itk import read_series
from prostate_mim.volume.orient import RawImage, stack_of

POSITION_TOLERANCE_MM = 0.1
TILT_TOLERANCE_MM = 0.5
MAX_FILES = 4096
_OTHER = frozenset((".txt", ".json", ".csv", ".xml", ".md", ".pdf", ".html", ".bval", ".bvec"))
_OTHER_NAMES = frozenset(("dicomdir", "thumbs.db", "license", "readme"))


def read_dicom(folder: Path, name: str, max_voxels: int) -> RawImage:
    """Read the one series of a folder (not of its sub-folders); voxels keep their type, float32 where rescaled.

    Every slice is decoded from the bytes that were checked, and GDCM must read the very same. Whatever decides the
    image must be equal in all slices: a slice with its own RescaleSlope cannot be told from a damaged one.

    Raises:
        VolumeError: no series or several, a damaged or missing slice, sheared slices, or not an axial stack.
    """
    slices = _slices(folder, name, max_voxels)
    _same_in_all(slices, name)
    _numbered(slices, name)
    first = slices[0]
    normal = first.normal
    slices.sort(key=lambda item: float(np.dot(item.position, normal)))
    positions = np.array([item.position for item in slices])
    spacing = _even(positions, normal, name)
    i, j = first.spacing[1], first.spacing[0]
    stack = stack_of(_direction(first), (i, j, spacing))
    if stack != "axial":
        raise VolumeError(
            f"{name}: ImageOrientationPatient describes a {stack} stack, only axial series are read; give the axial one"
        )
    x, y, z = slices[0].position
    voxels = np.stack([item.voxels for item in slices])
    image = RawImage(voxels, (i, j, spacing), (x, y, z), _direction(first), "ImageOrientationPatient")
    return _verified(image, first.stored, [item.path for item in slices], name)


def _slices(folder: Path, name: str, max_voxels: int) -> list[DicomSlice]:
    files = sorted(item for item in folder.iterdir() if item.is_file() and not item.name.startswith("."))
    if len(files) > MAX_FILES:
        raise VolumeError(f"{name}: folder holds {len(files)} files, at most {MAX_FILES} allowed; give one series")
    slices: list[DicomSlice] = []
    for file in files:
        if file.suffix.lower() in _OTHER or file.stem.lower() in _OTHER_NAMES or file.name.lower() in _OTHER_NAMES:
            continue
        parsed = parse_slice(file, f"{name}/{file.name}", max_voxels)
        if parsed is None:
            raise VolumeError(
                f"{name}/{file.name}: is no DICOM file (no DICM mark at byte 128); remove it or copy it again"
            )
        slices.append(parsed)
        check_size(name, "series size", (*parsed.voxels.shape[::-1], len(slices)), max_voxels)
    if len(slices) < 2:
        raise VolumeError(
            f"{name}: folder holds {len(slices)} DICOM slices, at least 2 needed; give the folder of one series"
        )
    series = len({item.series for item in slices})
    if series != 1:
        raise VolumeError(f"{name}: folder holds {series} DICOM series, exactly 1 allowed; put each in its own folder")
    return slices


def _same_in_all(slices: Sequence[DicomSlice], name: str) -> None:
    """Refuse slices that differ in anything but position and voxels."""
    first = slices[0]
    for other in slices[1:]:
        differing = {
            "Rows or Columns": other.voxels.shape != first.voxels.shape,
            "PixelSpacing": not np.allclose(other.spacing, first.spacing),
            "ImageOrientationPatient": not np.allclose(other.orientation, first.orientation, atol=1e-4),
            "RescaleSlope or RescaleIntercept": (other.stored.slope, other.stored.intercept)
            != (first.stored.slope, first.stored.intercept),
            "BitsAllocated or PixelRepresentation": (other.stored.bytes, other.stored.signed)
            != (first.stored.bytes, first.stored.signed),
        }
        found = next((what for what, differs in differing.items() if differs), None)
        if found:
            raise VolumeError(
                f"{name}: slices differ in {found}, must be equal in all; give a folder with one series, or convert it"
            )


def _numbered(slices: Sequence[DicomSlice], name: str) -> None:
    """Refuse a series whose own count tells that slices at either end are missing, which their positions cannot."""
    numbers = sorted(item.number for item in slices if item.number is not None)
    if len(numbers) == len(slices) and numbers[0] > 1:
        raise VolumeError(
            f"{name}: InstanceNumber runs from {numbers[0]}, must start at 1; slices are missing, copy the series"
            " again, or convert it to NIfTI if this is all of it"
        )
    expected = max((item.expected or 0 for item in slices), default=0)
    if expected > len(slices):
        raise VolumeError(
            f"{name}: ImagesInAcquisition is {expected} but there are {len(slices)} slices; copy the series again, or"
            " convert it to NIfTI if this is all of it"
        )


def _direction(item: DicomSlice) -> FloatArray:
    """(3, 3) patient directions of columns' increase, rows' increase and the normal."""
    return np.column_stack([item.orientation[:3], item.orientation[3:], item.normal])


def _even(positions: FloatArray, normal: FloatArray, name: str) -> float:
    """Slice spacing in mm of positions sorted along the normal, all within ``POSITION_TOLERANCE_MM`` of even."""
    gaps = np.diff(positions @ normal)
    if float(gaps.min()) < 0.01:
        raise VolumeError(f"{name}: two slices lie at the same position (a multi-volume series); keep one of each")
    usual = float(np.median(gaps))
    worst = int(np.argmax(np.abs(gaps - usual)))
    if abs(gaps[worst] - usual) > POSITION_TOLERANCE_MM:
        raise VolumeError(
            f"{name}: gap of {gaps[worst]:.2f} mm between slices {worst + 1} and {worst + 2}, {usual:.2f} mm elsewhere;"
            " a slice is missing, copy the series again"
        )
    steps = np.linspace(0.0, 1.0, len(positions))[:, None]
    even = positions[0] + steps * (positions[-1] - positions[0])
    off = float(np.linalg.norm(positions - even, axis=1).max())
    if off > POSITION_TOLERANCE_MM:
        raise VolumeError(
            f"{name}: ImagePositionPatient of a slice is {off:.3g} mm off a straight, even row of slices, at most"
            f" {POSITION_TOLERANCE_MM:g} allowed; copy the series again"
        )
    along = float((positions[-1] - positions[0]) @ normal)
    tilt = float(np.linalg.norm(positions[-1] - positions[0] - along * normal))
    if tilt > TILT_TOLERANCE_MM:
        raise VolumeError(
            f"{name}: ImagePositionPatient leaves the slice normal by {tilt:.3g} mm over the series, at most"
            f" {TILT_TOLERANCE_MM:g} allowed (tilted stack); resample it first"
        )
    return along / (len(positions) - 1)


def _verified(image: RawImage, stored: Stored, paths: Sequence[Path], name: str) -> RawImage:
    """Our image with slope and intercept applied, if GDCM reads the same voxels at the same place."""
    found = read_series(paths, name)
    same = found.voxels.shape == image.voxels.shape
    same = same and np.allclose(found.spacing_mm_ijk, image.spacing_mm_ijk, atol=1e-3)
    same = same and np.allclose(found.origin_mm_lps, image.origin_mm_lps, atol=1e-2)
    if not (same and np.allclose(found.direction, image.direction, atol=1e-3)):
        raise VolumeError(f"{name}: GDCM's geometry contradicts the slices' own fields; convert the series to NIfTI")
    if stored.rescaled:
        image = replace(image, voxels=image.voxels.astype(np.float64) * stored.slope + stored.intercept)
        equal = np.allclose(found.voxels, image.voxels, rtol=1e-9, atol=1e-9)
        image = replace(image, voxels=image.voxels.astype(np.float32))
    else:
        equal = np.array_equal(found.voxels, image.voxels)
    if not equal:
        raise VolumeError(f"{name}: GDCM reads other voxels than the slices' bytes hold; convert the series to NIfTI")
    return image

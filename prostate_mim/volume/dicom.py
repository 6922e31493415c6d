"""A folder with exactly one axial DICOM series: slices complete, evenly spaced, one orientation."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prostate_mim.errors import VolumeError
from prostate_mim.volume.checks import check_size
from prostate_mim.volume.dicom_file import DicomSlice, parse_slice
from prostate_mim.volume.geometry import FloatArray
from prostate_mim.volume.itk import read_series
from prostate_mim.volume.orient import RawImage, stack_of

POSITION_TOLERANCE_MM = 0.1
MAX_FILES = 4096
_OTHER = frozenset((".txt", ".json", ".csv", ".xml", ".md", ".pdf", ".html", ".bval", ".bvec"))
_OTHER_NAMES = frozenset(("dicomdir", "thumbs.db", "license", "readme"))


def read_dicom(folder: Path, name: str, max_voxels: int) -> RawImage:
    """Read the one series of a folder (not of its sub-folders) through GDCM, after checking every slice.

    Raises:
        VolumeError: no series or several, a damaged or missing slice, sheared slices, or not an axial stack.
    """
    slices = _slices(folder, name, max_voxels)
    first = slices[0]
    check_size(name, "series size", (*first.grid, len(slices)), max_voxels)
    for other in slices[1:]:
        same = np.allclose(other.orientation, first.orientation, atol=1e-4) and np.allclose(
            other.spacing, first.spacing
        )
        if other.grid != first.grid or not same:
            raise VolumeError(
                f"{name}: slices differ in size, PixelSpacing or orientation; give a folder with one series"
            )
    normal = first.normal
    slices.sort(key=lambda item: float(np.dot(item.position, normal)))
    positions = np.array([item.position for item in slices])
    spacing = _even(positions, normal, name)
    stack = stack_of(_direction(first), (first.spacing[1], first.spacing[0], spacing))
    if stack != "axial":
        raise VolumeError(
            f"{name}: ImageOrientationPatient describes a {stack} stack, only axial series are read; give the axial one"
        )
    image = read_series([item.path for item in slices], name)
    return _verified(image, slices[0], spacing, name, len(slices))


def _slices(folder: Path, name: str, max_voxels: int) -> list[DicomSlice]:
    files = sorted(item for item in folder.iterdir() if item.is_file() and not item.name.startswith("."))
    if len(files) > MAX_FILES:
        raise VolumeError(f"{name}: folder holds {len(files)} files, at most {MAX_FILES} allowed; give one series")
    slices = []
    for file in files:
        if file.suffix.lower() in _OTHER or file.stem.lower() in _OTHER_NAMES or file.name.lower() in _OTHER_NAMES:
            continue
        parsed = parse_slice(file, f"{name}/{file.name}", max_voxels)
        if parsed is None:
            raise VolumeError(
                f"{name}/{file.name}: is no DICOM file (no DICM mark at byte 128); remove it or copy it again"
            )
        slices.append(parsed)
    if len(slices) < 2:
        raise VolumeError(
            f"{name}: folder holds {len(slices)} DICOM slices, at least 2 needed; give the folder of one series"
        )
    series = len({item.series for item in slices})
    if series != 1:
        raise VolumeError(f"{name}: folder holds {series} DICOM series, exactly 1 allowed; put each in its own folder")
    return slices


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
    off = float(np.abs(positions - even).max())
    shear = (positions[-1] - positions[0]) - float((positions[-1] - positions[0]) @ normal) * normal
    if max(off, float(np.linalg.norm(shear))) > 5 * POSITION_TOLERANCE_MM:
        raise VolumeError(
            f"{name}: ImagePositionPatient does not follow the slice normal (tilted stack); resample it first"
        )
    return float((positions[-1] - positions[0]) @ normal) / (len(positions) - 1)


def _verified(image: RawImage, first: DicomSlice, spacing: float, name: str, number: int) -> RawImage:
    """GDCM's image, which must have the grid and the geometry of our own parse."""
    stated = (first.spacing[1], first.spacing[0], spacing)
    same = image.voxels.shape == (number, first.grid[1], first.grid[0])
    same = same and np.allclose(image.spacing_mm_ijk, stated, atol=1e-3)
    same = same and np.allclose(image.origin_mm_lps, first.position, atol=1e-2)
    if not (same and np.allclose(image.direction, _direction(first), atol=1e-3)):
        raise VolumeError(f"{name}: GDCM's geometry contradicts the slices' own fields; convert the series to NIfTI")
    return image

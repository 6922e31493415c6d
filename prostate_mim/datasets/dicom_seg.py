"""DICOM segmentations -> masks by the segments' names, on the grid of the series they were drawn on."""

from __future__ import annotations

import hashlib
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prostate_mim.errors import BackendError, ProstateMimError, VolumeError
from prostate_mim.files import make_folder
from prostate_mim.volume import MAX_VOXELS, Volume, write_volume

_OFF_GRID = 0.1
_MAX_PIXELS = 4 * MAX_VOXELS  # several segments, each with a frame per slice
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,150}")


@dataclass(frozen=True, eq=False)
class Segment:
    """One segment of a file. Its number says nothing: it differs between files.

    Attributes:
        name: SegmentLabel.
        description: SegmentDescription; empty where there is none.
        voxels: (z, y, x) bool, on the grid of the image.
    """

    name: str
    description: str
    voxels: npt.NDArray[np.bool_]


def referenced_series(path: Path) -> frozenset[str]:
    """SeriesInstanceUID of the series a segmentation was drawn on, as it states them; empty where it states none.

    Raises:
        VolumeError: it is no DICOM segmentation.
        BackendError: pydicom is missing.
    """
    return _header(path).series


def read_segments(path: Path, image: Volume, series_uid: str) -> tuple[Segment, ...]:
    """All segments of a DICOM-SEG file that hold a voxel, in the order of their names.

    Args:
        path: one binary segmentation object.
        image: the series it was drawn on, as ``read_volume`` returns it.
        series_uid: SeriesInstanceUID of that series; the file must name it.

    Raises:
        VolumeError: no segmentation, damaged, not binary, drawn on another series, or off the image's grid.
        BackendError: highdicom is missing.
    """
    header = _header(path)
    if header.kind != "BINARY":
        raise VolumeError(
            f"{path}: SegmentationType is {header.kind[:20]!r}, only BINARY is read; where to cut is unknown"
        )
    if series_uid not in header.series:
        raise VolumeError(f"{path}: was not drawn on this series; give the series that it refers to")
    if not 0 < header.pixels <= _MAX_PIXELS:
        raise VolumeError(f"{path}: frames hold {header.pixels} pixels, at most {_MAX_PIXELS} allowed; is it damaged?")
    found = [_segment(path, *decoded, image) for decoded in _decoded(path)]
    return tuple(sorted((s for s in found if s.voxels.any()), key=lambda s: (s.name.lower(), s.description)))


def write_mask(voxels: npt.NDArray[np.bool_], image: Volume, folder: Path, name: str) -> Path:
    """Write (z, y, x) bool voxels as a mask of 0 and 1 with the image's geometry; returns the file's path.

    Args:
        voxels: on the grid of ``image``.
        image: whose geometry the mask gets.
        folder: made where missing.
        name: of the file, without its ending. DICOM headers decide it: what is no plain name (``../x``) is replaced by
            its hash.

    Raises:
        UsageError, ResourceError: as ``write_volume``.
    """
    plain = name if _PLAIN_NAME.fullmatch(name) else hashlib.sha256(name.encode()).hexdigest()[:32]
    path = make_folder(folder) / f"{plain}.nii.gz"
    write_volume(Volume(np.ascontiguousarray(voxels, np.uint8), image.geometry, str(path)), path)
    return path


@contextmanager
def _silence() -> Iterator[None]:
    """Without pydicom's warnings: they repeat values of the header, a patient's name among them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True)
class _Header:
    """What decides whether a file is read: its type, the series it refers to, the pixels of all frames."""

    kind: str
    series: frozenset[str]
    pixels: int


def _header(path: Path) -> _Header:
    try:
        import pydicom
    except ImportError as error:
        raise BackendError(f"reading DICOM needs pydicom ({error}); pip install 'prostate-mim[datasets]'") from error
    try:
        with _silence():
            header = pydicom.dcmread(path, stop_before_pixels=True)
            modality = str(header.Modality)
            series = (getattr(s, "SeriesInstanceUID", "") for s in getattr(header, "ReferencedSeriesSequence", ()))
            sizes = (getattr(header, name, 0) for name in ("Rows", "Columns", "NumberOfFrames"))
            found = _Header(
                kind=str(getattr(header, "SegmentationType", "")),
                series=frozenset(str(uid) for uid in series if uid),
                pixels=math.prod(int(size or 0) for size in sizes),
            )
    except Exception as error:  # pydicom answers damage with many kinds
        raise VolumeError(f"{path}: is no readable DICOM file ({type(error).__name__}); copy it again") from error
    if modality != "SEG":
        raise VolumeError(f"{path}: Modality is {modality[:16]!r}, a segmentation has SEG; give the segmentation")
    return found


def _decoded(path: Path) -> list[tuple[str, str, npt.NDArray[np.float64], npt.NDArray[Any]]]:
    """Of each segment: label, description, (4, 4) index (k, row, column) -> mm LPS, and (k, row, column) voxels."""
    try:
        from highdicom.seg import segread
    except ImportError as error:
        raise BackendError(
            f"reading DICOM segmentations needs highdicom ({error}); pip install 'prostate-mim[datasets]'"
        ) from error
    try:
        with _silence():
            file = segread(path)
            found = []
            for item in file.SegmentSequence:
                volume = file.get_volume(segment_numbers=[int(item.SegmentNumber)], combine_segments=False)
                name, text = (
                    str(getattr(item, f"Segment{what}", "") or "").strip() for what in ("Label", "Description")
                )
                found.append((name, text, np.asarray(volume.affine, float), np.asarray(volume.array)[..., 0]))
            return found
    except ProstateMimError:
        raise
    except Exception as error:  # highdicom and pydicom answer damage with many kinds
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise VolumeError(f"{path}: segments cannot be read ({reason}); copy the file again") from error


def _segment(
    path: Path, name: str, text: str, affine: npt.NDArray[np.float64], voxels: npt.NDArray[Any], image: Volume
) -> Segment:
    """Place the segment's voxels by where they are in the patient: rows and slices may run the other way."""
    filled = np.argwhere(voxels > 0)
    exact = image.geometry.position_to_index(filled @ affine[:3, :3].T + affine[:3, 3])
    places = np.rint(exact).astype(int)
    on_grid = np.abs(exact - places).max(initial=0) <= _OFF_GRID
    within = ((places >= 0) & (places < np.asarray(image.shape_zyx))).all()
    if not (on_grid and within):
        raise VolumeError(f"{path}: a segment lies off the grid of its series; was the series resampled?")
    made = np.zeros(image.shape_zyx, bool)
    made[tuple(places.T)] = True
    return Segment(name, text, made)

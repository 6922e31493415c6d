"""find_series: a tree of DICOM files -> its series, from headers only; pixels are read later, and strictly."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prostate_mim.errors import BackendError, NotFoundError
from prostate_mim.volume.orient import closest_axes

_STACKS = ("sagittal", "coronal", "axial")  # by the patient axis that the slices' normal runs along
_TAGS = (
    "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality", "StudyDate",
    "ImageOrientationPatient", "NumberOfFrames",
)  # fmt: skip
_SERIES_UID = 0x0020000E
_UNREADABLE = ""
_WHOLE = re.compile(r"[0-9]{1,9}")
_T2 = re.compile(r"(^|[^a-z0-9])t2", re.IGNORECASE)  # not the "t2" of ep2d_diff_tra_DYNDIST2

# Why a series becomes no row, in the words that importers share.
NOT_T2W = "MR series that is not axial T2w"
CROWDED_T2W = "axial T2w series whose folder holds files of another series"
DAMAGED_T2W = "axial T2w series that is damaged or incomplete"


@dataclass(frozen=True)
class Series:
    """One series as far as it lies in one folder.

    Attributes:
        folder: that holds it; other series may lie there too, see ``crowded``.
        files: by name.
        patient_id, study_uid, series_uid, description, modality, study_date: as the first file states them; empty
            where it does not. An empty ``series_uid`` gathers the files of a folder that are marked as DICOM and
            cannot be read.
        number: SeriesNumber.
        stack: ``axial``, ``sagittal`` or ``coronal`` by the normal of the first file's ImageOrientationPatient; empty
            where it states none, as multi-frame files do.
        slices: how many planes: files, times the frames of the first.
    """

    folder: Path
    files: tuple[Path, ...]
    patient_id: str
    study_uid: str
    series_uid: str
    number: int | None
    description: str
    modality: str
    stack: str
    slices: int
    study_date: str


def find_series(folder: Path) -> list[Series]:
    """Every series below a folder, once for each folder it lies in; files that are no DICOM are passed over.

    The series' own fields are those of its first file; of the other files only the SeriesInstanceUID is read.

    Returns:
        Sorted by folder, then series number, then identifier: the same tree gives the same list on any disk.

    Raises:
        NotFoundError: no such folder.
        BackendError: pydicom is missing.
    """
    if not folder.is_dir():
        raise NotFoundError(f"{folder}: no such folder; give the folder that the DICOM files were unpacked into")
    found: list[Series] = []
    for place, folders, names in os.walk(folder):
        folders.sort()
        files = [Path(place, name) for name in sorted(names) if not name.startswith(".")]
        groups: dict[str, list[Path]] = {}
        for file in files:
            if _is_dicom(file):
                groups.setdefault(_series_uid(file), []).append(file)
        found += [_series(Path(place), uid, tuple(group)) for uid, group in groups.items()]
    return sorted(found, key=lambda item: (item.folder, item.number is None, item.number or 0, item.series_uid))


def crowded(series: Iterable[Series]) -> frozenset[Path]:
    """Folders that hold files of several series: ``read_volume`` refuses them, because it reads whole folders."""
    seen: set[Path] = set()
    twice: set[Path] = set()
    for item in series:
        (twice if item.folder in seen else seen).add(item.folder)
    return frozenset(twice)


def names_t2(description: str) -> bool:
    """Whether a series' description, or a file's name, says T2."""
    return bool(_T2.search(description))


def _is_dicom(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _read(file: Path, *, only_series: bool) -> Any:
    """Some elements of one file's header; None where it is damaged. ``only_series`` stops right behind its UID."""
    try:
        from pydicom.filereader import read_partial
    except ImportError as error:
        raise BackendError(f"reading DICOM needs pydicom ({error}); pip install 'prostate-mim[datasets]'") from error
    last = _SERIES_UID if only_series else 0x7FDFFFFF  # pixels begin with 7FE0
    wanted = ["SeriesInstanceUID"] if only_series else list(_TAGS)
    try:
        # pydicom warns of odd values by quoting them, and they may name a patient.
        with file.open("rb") as stream, warnings.catch_warnings(action="ignore"):
            return read_partial(
                stream, stop_when=lambda tag, _kind, _length: tag > last, specific_tags=_keys(wanted), defer_size=None
            )
    except Exception:  # pydicom answers damage with many kinds; any of them means that this file is of no use
        return None


def _keys(keywords: list[str]) -> list[Any]:
    from pydicom.datadict import tag_for_keyword
    from pydicom.tag import Tag

    return [Tag(tag) for tag in (tag_for_keyword(keyword) for keyword in keywords) if tag is not None]


def _series_uid(file: Path) -> str:
    return _text(_read(file, only_series=True), "SeriesInstanceUID") or _UNREADABLE


def _series(folder: Path, uid: str, files: tuple[Path, ...]) -> Series:
    header = _read(files[0], only_series=False) if uid else None
    number = _text(header, "SeriesNumber")
    frames = _text(header, "NumberOfFrames")
    return Series(
        folder=folder,
        files=files,
        patient_id=_text(header, "PatientID"),
        study_uid=_text(header, "StudyInstanceUID"),
        series_uid=uid,
        number=int(number) if _WHOLE.fullmatch(number) else None,
        description=_text(header, "SeriesDescription"),
        modality=_text(header, "Modality"),
        stack=_stack(header),
        slices=len(files) * (int(frames) if _WHOLE.fullmatch(frames) else 1),
        study_date=_text(header, "StudyDate"),
    )


def _text(header: Any, keyword: str) -> str:
    """An element as text; empty where it is missing, or damaged (pydicom converts a value when it is asked for)."""
    try:
        with warnings.catch_warnings(action="ignore"):
            value = getattr(header, keyword, None)
        return "" if value is None else str(value).strip()
    except Exception:
        return ""


def _stack(header: Any) -> str:
    try:
        six = np.array([float(value) for value in getattr(header, "ImageOrientationPatient", ())])
    except Exception:
        return ""
    if six.shape != (6,) or not np.isfinite(six).all():
        return ""
    direction = np.column_stack([six[:3], six[3:], np.cross(six[:3], six[3:])])
    return _STACKS[closest_axes(direction).index(2)]

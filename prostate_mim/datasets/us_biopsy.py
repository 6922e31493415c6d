"""Prostate-MRI-US-Biopsy (UCLA): TCIA's DICOM tree, surfaces of gland and targets as STL, two sheets.

``Prostate-MRI-US-Biopsy-0001/<date ...>/<number>.000000-<description>-<id>/*.dcm``;
``STLs/Prostate-MRI-US-Biopsy-0001-Target1-seriesUID-<uid>.STL``; ``Target Data_<date>.xlsx``,
``TCIA Biopsy Data_<date>.xlsx``, whose names vary.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prostate_mim.datasets.dicom_seg import write_mask
from prostate_mim.datasets.dicom_tree import CROWDED_T2W, DAMAGED_T2W, NOT_T2W, Series, crowded, find_series
from prostate_mim.datasets.found import DataSet, Found, FoundRow, ImportOptions, Skipped
from prostate_mim.datasets.mask_files import look_at_image
from prostate_mim.datasets.surface import Surface, read_stl
from prostate_mim.datasets.tables import find_file
from prostate_mim.datasets.us_biopsy_sheets import (
    BIOPSY_SHEETS,
    TARGET_SHEETS,
    Core,
    Score,
    cores_label,
    named_series,
    read_cores,
    read_scores,
    score_of,
)
from prostate_mim.errors import NotFoundError, UsageError, VolumeError
from prostate_mim.studies import FARTHEST_FROM_GLAND_MM
from prostate_mim.volume import Volume
from prostate_mim.volume.grids import distance_to_mask_mm

_SURFACE = re.compile(
    r"(?P<patient>.+?)-(?:(?P<gland>ProstateSurface)|Target-?(?P<number>\d+))-seriesUID-(?P<uid>[\d.]*\d)\.stl",
    re.IGNORECASE,
)
_SOURCES = ("biopsy", "ucla-3", "ucla-4")
_SOURCE_TEXT = {
    "biopsy": "Prostate-MRI-US-Biopsy cores through the target: ISUP grade group >= 2",
    "ucla-3": "Prostate-MRI-US-Biopsy target sheet: UCLA score >= 3",
    "ucla-4": "Prostate-MRI-US-Biopsy target sheet: UCLA score >= 4",
}
_ULTRASOUND = "ultrasound series"
_FURTHER = "further axial T2w series of a study, without annotations"
_US_SURFACE = "surface drawn on ultrasound"
_NO_SERIES = "surface whose series is not in the folder, or not usable"
_BAD_SURFACE = "surface that is damaged"
_OUTSIDE = "target whose centroid lies outside its series"
_OFF_GLAND = "target far from its gland's surface"
_NO_CORE = "target without a biopsy core through it that tells its grade"
_NO_SCORE = "target whose UCLA score is missing or not to be told apart"


@dataclass(frozen=True)
class _Drawn:
    """One STL file: the gland (number empty) or a target, drawn on the series ``uid``."""

    path: Path
    number: str
    uid: str


@dataclass(frozen=True)
class _Sheets:
    cores: Mapping[str, list[Core]] = field(default_factory=dict)
    scores: Mapping[str, list[Score]] = field(default_factory=dict)
    source: str = ""


def find(folder: Path, options: ImportOptions) -> Found:
    """A row for every target with a place and a label, and one without a lesion for every other usable T2w series.

    Raises:
        NotFoundError: the sheet of the chosen ``--label-source`` is not there.
        ManifestError: a sheet is malformed.
        UsageError: ``--labels`` is no folder.
        BackendError: pydicom or openpyxl is missing.
    """
    if options.labels is not None and not options.labels.is_dir():
        raise UsageError(f"{options.labels}: is no folder; --labels names the folder of STL files and sheets")
    places = [*([options.labels] if options.labels else []), folder]
    sheets = _sheets(places, options.label_source)
    drawn = _drawn(places)
    series = find_series(folder)
    named = named_series(sheets.cores, sheets.scores) | {item.uid for item in drawn}
    chosen, skipped = _choose(series, named)
    rows: list[FoundRow] = []
    usable: set[str] = set()
    for item in chosen:
        volume = look_at_image(item.folder)
        if volume is None:
            skipped.append(Skipped(item.series_uid, DAMAGED_T2W))
            continue
        usable.add(item.series_uid)
        study = _Study(item, volume, sheets, options.derived)
        made, left_out = study.rows([one for one in drawn if one.uid == item.series_uid])
        rows += made
        skipped += left_out
    sonic = {item.series_uid for item in series if item.modality == "US"}
    skipped += [
        Skipped(one.path.name, _US_SURFACE if one.uid in sonic else _NO_SERIES)
        for one in drawn
        if one.uid not in usable
    ]
    rows.sort(key=lambda row: (row.study_id, row.lesion_id))
    return Found(tuple(rows), tuple(skipped), _SOURCE_TEXT.get(sheets.source, ""), _notes(rows, sheets))


def _sheets(places: Sequence[Path], source: str | None) -> _Sheets:
    """What the sheets say. A sheet that nobody asked for may be missing; ``source`` is empty where no label is."""
    paths = {}
    for kind, patterns in (("biopsy", BIOPSY_SHEETS), ("ucla", TARGET_SHEETS)):
        for place in places:
            try:
                paths[kind] = find_file(place, patterns, f"sheet of {kind} results")
                break
            except NotFoundError:
                continue
    wanted = source or next(iter(_SOURCES))
    if wanted.split("-")[0] not in paths:
        if source is not None:
            patterns = BIOPSY_SHEETS if wanted == "biopsy" else TARGET_SHEETS
            raise NotFoundError(
                f"{places[-1]}: no {' or '.join(patterns)}; download it, or name its folder by --labels"
            )
        wanted = ""
    cores = read_cores(paths["biopsy"]) if "biopsy" in paths else {}
    scores = read_scores(paths["ucla"]) if "ucla" in paths else {}
    return _Sheets(cores, scores, wanted)


def _drawn(places: Iterable[Path]) -> list[_Drawn]:
    """All STL files, one of each name, whatever folder they were unpacked into."""
    found: dict[str, _Drawn] = {}
    for place in places:
        for path in sorted(place.rglob("*")):
            match = _SURFACE.fullmatch(path.name)
            if match and path.is_file() and not path.name.startswith("."):
                number = "" if match["gland"] else str(int(match["number"]))
                found.setdefault(path.name.lower(), _Drawn(path, number, match["uid"]))
    return sorted(found.values(), key=lambda item: (item.uid, int(item.number or 0)))


def _choose(series: Sequence[Series], named: set[str]) -> tuple[list[Series], list[Skipped]]:
    """The axial T2w series: those that sheets or surfaces name; of a study without any, the last by number."""
    shared = crowded(series)
    studies: dict[str, list[Series]] = {}
    skipped: list[Skipped] = []
    for item in series:
        t2w = item.series_uid in named or "t2" in item.description.lower()
        if item.modality == "US":
            skipped.append(Skipped(item.series_uid, _ULTRASOUND))
        elif item.modality != "MR" or item.stack != "axial" or not t2w:
            skipped.append(Skipped(item.series_uid, NOT_T2W))
        elif item.folder in shared:
            skipped.append(Skipped(item.series_uid, CROWDED_T2W))
        else:
            studies.setdefault(item.study_uid, []).append(item)
    chosen = []
    for items in studies.values():
        annotated = [item for item in items if item.series_uid in named]
        kept = annotated or [max(items, key=lambda item: (item.number or 0, item.series_uid))]
        chosen += kept
        skipped += [Skipped(item.series_uid, _FURTHER) for item in items if item not in kept]
    return chosen, skipped


@dataclass(frozen=True)
class _Study:
    """One T2w series with all that is known of it."""

    series: Series
    volume: Volume
    sheets: _Sheets
    derived: Path

    def rows(self, drawn: Sequence[_Drawn]) -> tuple[list[FoundRow], list[Skipped]]:
        """A row for each target that can be used, or one without a lesion."""
        skipped: list[Skipped] = []
        surfaces: dict[str, tuple[_Drawn, Surface]] = {}
        for item in drawn:
            try:
                surfaces[item.number] = (item, read_stl(item.path))
            except VolumeError:
                skipped.append(Skipped(item.path.name, _BAD_SURFACE))
        gland = self._voxels(surfaces[""][1]) if "" in surfaces else None
        gland_mask = None if gland is None else self._write(gland, "gland")
        made = []
        for number, (item, surface) in surfaces.items():
            if number:
                found = self._target(number, surface, gland, gland_mask)
                if isinstance(found, str):
                    skipped.append(Skipped(item.path.name, found))
                else:
                    made.append(found)
        return made or [self._row(gland_mask)], skipped

    def _target(
        self, number: str, surface: Surface, gland: npt.NDArray[np.bool_] | None, gland_mask: Path | None
    ) -> FoundRow | str:
        """The row of one target, or why it has none."""
        x, y, z = (float(value) for value in surface.centroid_mm)
        if not self.volume.contains((x, y, z)):
            return _OUTSIDE
        lesion = self._voxels(surface)
        if gland is not None:
            mask = Volume(gland, self.volume.geometry)
            if distance_to_mask_mm([(x, y, z)], mask) > FARTHEST_FROM_GLAND_MM:
                return _OFF_GLAND
        cores = self.sheets.cores.get(self.series.series_uid, [])
        label, grade = cores_label(cores, surface) if surface.closed else (None, None)
        scores = self.sheets.scores.get(self.series.series_uid, [])
        score = score_of(scores, number, surface.volume_mm3 / 1000) if surface.closed else None
        if self.sheets.source.startswith("ucla"):
            label = None if score is None else int(score >= int(self.sheets.source[-1]))
        if label is None and self.sheets.source:
            return _NO_CORE if self.sheets.source == "biopsy" else _NO_SCORE
        lesion_mask = None if lesion is None else self._write(lesion, f"target{number}")
        extra = {"isup": grade, "ucla_score": score}
        row = self._row(gland_mask, {name: str(value) for name, value in extra.items() if value is not None})
        name = f"target{number}"
        label = label if self.sheets.source else None
        return replace(row, lesion_id=name, label=label, position_mm_lps=(x, y, z), lesion_mask=lesion_mask)

    def _row(self, gland_mask: Path | None, extra: Mapping[str, str] | None = None) -> FoundRow:
        patient = self.series.patient_id
        name = f"{patient}_{self.series.series_uid}"
        return FoundRow(name, patient, self.series.folder, gland_mask=gland_mask, centre="UCLA", extra=extra or {})

    def _voxels(self, surface: Surface) -> npt.NDArray[np.bool_] | None:
        """Voxels inside; None where the surface has no inside, or one smaller than a voxel."""
        voxels = surface.voxels(self.volume) if surface.closed else None
        return voxels if voxels is not None and voxels.any() else None

    def _write(self, voxels: npt.NDArray[np.bool_], name: str) -> Path:
        return write_mask(voxels, self.volume, self.derived, f"{self.series.series_uid}-{name}")


def _notes(rows: Sequence[FoundRow], sheets: _Sheets) -> tuple[str, ...]:
    notes = [
        "surfaces and needle tracks are taken as millimetres of the DICOM patient frame (LPS) of the series that the "
        "file name states; a centroid outside that series is refused, one mirrored within it cannot be seen",
        "masks are made from the surfaces: voxels whose centre lies inside",
    ]
    if sheets.source == "biopsy":
        notes.append(
            "the biopsy sheet names no target: a target has the highest grade of the cores that pass through it; "
            "a core with blank Gleason patterns is taken as free of cancer"
        )
    elif not sheets.source:
        notes.append("no biopsy sheet was found, so no row has a label; name its folder with --labels")
    bare = sum(row.lesion_id == "" for row in rows)
    if bare and sheets.source:
        notes.append(f"{bare} rows have no target: good for pre-training; --labelled-only leaves them out")
    return tuple(notes)


DATASET = DataSet(
    name="us-biopsy",
    title="Prostate-MRI-US-Biopsy (UCLA)",
    licence="CC BY 4.0 (TCIA)",
    citation=(
        "Natarajan S, Priester A, Margolis D, Huang J, Marks L. Prostate MRI and Ultrasound With Pathology and "
        "Coordinates of Tracked Biopsy (Prostate-MRI-US-Biopsy). The Cancer Imaging Archive 2020. "
        "doi:10.7937/TCIA.2020.A61IOC1A"
    ),
    url="https://www.cancerimagingarchive.net/collection/prostate-mri-us-biopsy/",
    find=find,
    labels_help="the folder with the STL files and the sheets of targets and biopsies",
    label_sources=_SOURCES,
)

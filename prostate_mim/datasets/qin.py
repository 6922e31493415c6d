"""QIN-PROSTATE-Repeatability: 15 patients scanned twice, DICOM with DICOM segmentations.

``PCAMPMRI-00001/<date ...>/6.000000-T2 Weighted Axial-<id>/*.dcm`` and
``.../1006.000000-T2 Weighted Axial Segmentations-<id>/1-1.dcm``. Segments are known by name, never by number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prostate_mim.datasets.dicom_seg import Segment, read_segments, referenced_series, write_mask
from prostate_mim.datasets.dicom_tree import CROWDED_T2W, DAMAGED_T2W, NOT_T2W, Series, crowded, find_series
from prostate_mim.datasets.found import DataSet, Found, FoundRow, ImportOptions, Skipped
from prostate_mim.datasets.mask_files import look_at_image
from prostate_mim.errors import VolumeError
from prostate_mim.manifest import letters_and_digits
from prostate_mim.studies import FARTHEST_FROM_GLAND_MM
from prostate_mim.volume import Volume
from prostate_mim.volume.grids import distance_to_mask_mm

# what a segment is -> its names, as SegmentLabel or SegmentDescription give them
_NAMES = {
    "gland": ("prostate", "wholegland"),
    "zone": ("peripheralzoneoftheprostate", "peripheralzone"),
    "lesion": ("lesion", "tumorroi"),
    "normal": ("normal", "normalroi"),
}
_OF_NUMBERED = ("tumorroi", "normalroi")  # continued by the zone and a number: TumorROI_PZ_1
_SOURCES = ("none", "regions")
_NO_IMAGE = "object that is neither an MR series nor a segmentation"
_OTHER_SEG = "segmentation of a series that is not axial T2w, or not in the folder"
_BAD_SEG = "segmentation that is damaged, or does not lie on its series"
_AGAIN = "second segmentation of a series"
_UNKNOWN = "segment of an unknown name"
_OFF_GLAND = "region far from the outlined gland"


@dataclass(frozen=True)
class _Scan:
    """One T2w series: the first or second examination of its patient, and its segmentation files."""

    series: Series
    study_id: str
    order: int
    files: tuple[Path, ...]


def find(folder: Path, options: ImportOptions) -> Found:
    """A row for each outlined lesion, or one without a lesion for a scan that has none.

    Raises:
        BackendError: pydicom or highdicom is missing.
    """
    scans, skipped = _scans(find_series(folder))
    regions = options.label_source == "regions"
    rows: list[FoundRow] = []
    for scan in scans:
        volume = look_at_image(scan.series.folder)
        if volume is None:
            skipped.append(Skipped(scan.study_id, DAMAGED_T2W))
            continue
        segments, left_out = _segments(scan, volume)
        skipped += left_out
        rows += _rows(scan, volume, segments, options.derived, regions)
    source = "QIN-PROSTATE-Repeatability regions: suspected tumour 1, normal tissue 0" if regions else ""
    return Found(tuple(rows), tuple(skipped), source, _notes(regions))


def _scans(series: Sequence[Series]) -> tuple[list[_Scan], list[Skipped]]:
    """Axial T2w series with the segmentations that refer to them, by patient and date."""
    shared = crowded(series)
    images: list[Series] = []
    files: dict[str, list[Path]] = {}
    skipped: list[Skipped] = []
    for item in series:
        if item.modality == "SEG":
            for path in item.files:
                _refer(path, files, skipped)
        elif item.modality != "MR":
            skipped.append(Skipped(item.series_uid, _NO_IMAGE))
        elif item.stack != "axial" or "t2" not in item.description.lower():
            skipped.append(Skipped(item.series_uid, NOT_T2W))
        elif item.folder in shared:
            skipped.append(Skipped(item.series_uid, CROWDED_T2W))
        else:
            images.append(item)
    images.sort(key=lambda item: (item.patient_id, item.study_date, item.study_uid, item.number or 0))
    known = {item.series_uid for item in images}
    others = {path for uid, paths in files.items() if uid not in known for path in paths}
    others -= {path for uid in known for path in files.get(uid, ())}
    skipped += [Skipped(str(path), _OTHER_SEG) for path in sorted(others)]
    return _named(images, files), skipped


def _refer(path: Path, files: dict[str, list[Path]], skipped: list[Skipped]) -> None:
    try:
        uids = referenced_series(path)
    except VolumeError:
        skipped.append(Skipped(str(path), _BAD_SEG))
        return
    for uid in uids or {""}:
        files.setdefault(uid, []).append(path)


def _named(images: Sequence[Series], files: Mapping[str, list[Path]]) -> list[_Scan]:
    """A study is called after its patient and date; after its series too where that is not enough."""
    scans = []
    for item in images:
        same = [one for one in images if (one.patient_id, one.study_date) == (item.patient_id, item.study_date)]
        alone = len(same) == 1 and item.study_date
        studies = list(dict.fromkeys(one.study_uid for one in images if one.patient_id == item.patient_id))
        name = f"{item.patient_id}_{item.study_date if alone else item.series_uid}"
        order = studies.index(item.study_uid) + 1
        scans.append(_Scan(item, name, order, tuple(sorted(files.get(item.series_uid, ())))))
    return scans


def _segments(scan: _Scan, volume: Volume) -> tuple[dict[str, list[Segment]], list[Skipped]]:
    """What was outlined in a scan, by kind; of several files the first that can be read."""
    skipped: list[Skipped] = []
    found: dict[str, list[Segment]] = {}
    for path in scan.files:
        if found:
            skipped.append(Skipped(str(path), _AGAIN))
            continue
        try:
            segments = read_segments(path, volume, scan.series.series_uid)
        except VolumeError:
            skipped.append(Skipped(str(path), _BAD_SEG))
            continue
        for segment in segments:
            kind = _kind(segment)
            if kind:
                found.setdefault(kind, []).append(segment)
            else:
                skipped.append(Skipped(f"{scan.study_id}: {segment.name}", _UNKNOWN))
    for kind in ("lesion", "normal") if "gland" in found else ():
        off = [s for s in found.get(kind, ()) if _far(s, found["gland"][0], volume)]
        found[kind] = [s for s in found.get(kind, ()) if s not in off]
        skipped += [Skipped(f"{scan.study_id}: {segment.name}", _OFF_GLAND) for segment in off]
    return found, skipped


def _far(segment: Segment, gland: Segment, volume: Volume) -> bool:
    """Whether ``open_study`` would refuse the region, for lying too far from the gland."""
    places = volume.geometry.index_to_position(np.argwhere(segment.voxels))
    mask = Volume(gland.voxels, volume.geometry)
    return distance_to_mask_mm(places, mask) > FARTHEST_FROM_GLAND_MM


def _kind(segment: Segment) -> str:
    """Key of ``_NAMES``, by the label, else by the description; empty for an unknown segment."""
    for text in (letters_and_digits(segment.name), letters_and_digits(segment.description)):
        for kind, names in _NAMES.items():
            if text in names or any(name in names and text.startswith(name) for name in _OF_NUMBERED):
                return kind
    return ""


def _rows(
    scan: _Scan, volume: Volume, segments: Mapping[str, list[Segment]], derived: Path, regions: bool
) -> list[FoundRow]:
    def write(voxels: npt.NDArray[np.bool_], name: str) -> Path:
        return write_mask(voxels, volume, derived, f"{scan.study_id}-{name}")

    glands = segments.get("gland", [])
    gland_mask = write(glands[0].voxels, "gland") if glands else None
    wanted = [("lesion", 1), ("normal", 0)] if regions else [("lesion", None)]
    rows = []
    for kind, label in wanted:
        for number, segment in enumerate(segments.get(kind, []), 1):
            name = f"{kind}{number}"
            mask, zone = write(segment.voxels, name), _zone(segment, segments.get("zone", []))
            rows.append(_row(scan, gland_mask, lesion_id=name, label=label, lesion_mask=mask, zone=zone))
    return rows or [_row(scan, gland_mask)]


def _row(
    scan: _Scan,
    gland_mask: Path | None,
    *,
    lesion_id: str = "",
    label: int | None = None,
    lesion_mask: Path | None = None,
    zone: str = "",
) -> FoundRow:
    return FoundRow(
        study_id=scan.study_id,
        patient_id=scan.series.patient_id,
        t2w=scan.series.folder,
        lesion_id=lesion_id,
        label=label,
        lesion_mask=lesion_mask,
        gland_mask=gland_mask,
        zone=zone,
        centre="BWH",
        extra={"scan": str(scan.order)},
    )


def _zone(segment: Segment, zones: Sequence[Segment]) -> str:
    """PZ where most of a region lies in the outlined peripheral zone, TZ where most does not; empty without one."""
    if not zones:
        return ""
    inside = np.count_nonzero(segment.voxels & zones[0].voxels)
    return "PZ" if 2 * inside > np.count_nonzero(segment.voxels) else "TZ"


def _notes(regions: bool) -> tuple[str, ...]:
    notes = [
        "the two scans of a patient are test and retest, weeks apart: column scan says which; keep both in one fold",
        "zone says whether most of a region lies in the outlined peripheral zone; the rest of the gland is called TZ",
    ]
    if regions:
        notes.append("labels are a reader's regions (suspected tumour or normal tissue), not histology")
    else:
        notes.append("no histology of single lesions is published, so no row has a label; see --label-source regions")
    return tuple(notes)


DATASET = DataSet(
    name="qin",
    title="QIN-PROSTATE-Repeatability",
    licence="CC BY 4.0 (TCIA)",
    citation=(
        "Fedorov A, Schwier M, Clunie D, et al. Data From QIN-PROSTATE-Repeatability. The Cancer Imaging Archive 2018. "
        "doi:10.7937/K9/TCIA.2018.MR1CKGND; "
        "Fedorov et al., Scientific Data 2018;5:180281, doi:10.1038/sdata.2018.281"
    ),
    url="https://www.cancerimagingarchive.net/collection/qin-prostate-repeatability/",
    find=find,
    label_sources=_SOURCES,
)

"""PROSTATEx: TCIA's DICOM tree with the challenge's tables, and the lesion masks of the PROSTATEx_masks repository.

``ProstateX-0001/<date ...>/<number>.000000-t2tsetra-<id>/*.dcm``, ``ProstateX-Findings-Train.csv`` and -Test,
``ProstateX-Images-Train.csv`` and -Test. Patients without DICOM may have NIfTI files of the axial series instead
(``ProstateX-0001_t2tsetra_series10.nii.gz``).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prostate_mim.datasets.dicom_tree import CROWDED_T2W, DAMAGED_T2W, crowded, find_series
from prostate_mim.datasets.found import DataSet, Found, FoundRow, ImportOptions, Skipped
from prostate_mim.datasets.mask_files import FILLED, look_at_image, look_at_mask
from prostate_mim.datasets.prostatex_tables import (
    Finding,
    Masks,
    is_t2w,
    patient_of,
    read_findings,
    read_masks,
    read_series,
)
from prostate_mim.manifest import Point
from prostate_mim.volume import Volume

CENTRE = "RUMC"
_NIFTI = re.compile(r"(ProstateX-\d{4})[_-].*?(?:(?:series|[_-])(\d+))?\.(nii|nii\.gz|mha)", re.IGNORECASE)
_NO_MASK = re.compile(r"finding|roi|mask|seg|label", re.IGNORECASE)

_FURTHER = "further axial T2w series of a patient (see the notes)"
_ELSEWHERE = "axial T2w series that lies elsewhere than the Images table says"
_UNNAMED = "finding of a patient none of whose axial T2w series is one that the tables name"
_ABSENT = "finding of a patient who has no axial T2w series in the folder"
_UNREADABLE = "finding of a patient whose axial T2w series are all damaged or incomplete"
_OUTSIDE = "finding whose position lies outside the patient's axial T2w series"
_NO_T2W = "patient without an axial T2w series"
_BAD_MASK = "lesion or gland mask that is damaged or does not meet the patient's series"


@dataclass(frozen=True)
class Candidate:
    """One axial T2w series. ``number`` is None where a file's name states none; ``order`` sorts by acquisition."""

    patient_id: str
    path: Path
    number: int | None
    order: tuple[str, int]


def find(folder: Path, options: ImportOptions) -> Found:
    """Rows for every finding whose place is known, and one without a lesion for every other patient.

    Raises:
        NotFoundError: no Findings table.
        ManifestError: a table is malformed.
        BackendError: pydicom is missing.
    """
    places = [folder, *([options.labels] if options.labels else [])]
    findings, skipped, tables = read_findings(places)
    masks = read_masks(options.labels)
    candidates, unusable = find_candidates(folder)
    skipped += [*masks.skipped, *unusable]
    listed = read_series(places)
    for patient, number in masks.numbers.items():  # drawn on one of the repeats
        listed[patient] = {number: listed.get(patient, {}).get(number, [])}
    by_patient: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        by_patient[finding.patient_id].append(finding)
    rows: list[FoundRow] = []
    for patient in sorted({*candidates, *by_patient}):
        of_patient = candidates.get(patient, [])
        made, left_out = _patient(of_patient, by_patient[patient], listed.get(patient, {}), masks)
        rows += made
        skipped += left_out
    source = ", ".join(path.name for path in tables) + (" and PROSTATEx_masks" if masks.lesions else "")
    return Found(tuple(rows), tuple(skipped), source, _notes(rows, candidates, bool(listed)))


def find_candidates(folder: Path) -> tuple[dict[str, list[Candidate]], list[Skipped]]:
    """Patient -> axial T2w series, DICOM before NIfTI; and what looks like one and cannot be read."""
    found: dict[str, list[Candidate]] = defaultdict(list)
    skipped: list[Skipped] = []
    series = find_series(folder)
    shared = crowded(series)
    seen, packed = set(), set()
    for item in series:
        patient = patient_of(item.patient_id) or patient_of(str(item.folder.relative_to(folder)))
        seen.add(patient)
        if not patient or item.stack != "axial" or not is_t2w(item.description or item.folder.name):
            continue
        if item.folder in shared:
            packed.add(patient)
            skipped.append(Skipped(str(item.folder.relative_to(folder)), CROWDED_T2W))
            continue
        found[patient].append(Candidate(patient, item.folder, item.number, (item.study_date, item.number or 0)))
    for candidate in _nifti(folder):
        if candidate.patient_id not in seen:
            found[candidate.patient_id].append(candidate)
    skipped += [Skipped(patient, _NO_T2W) for patient in sorted(seen - packed - {"", *found})]
    return dict(found), skipped


def _nifti(folder: Path) -> Iterator[Candidate]:
    """Files of axial T2w series, converted by somebody: the patient begins the name, the series number ends it."""
    for path in sorted(folder.rglob("*")):
        match = _NIFTI.fullmatch(path.name)
        if match and is_t2w(path.name) and "tra" in path.name.lower() and not _NO_MASK.search(path.name):
            number = int(match[2]) if match[2] else None
            yield Candidate(patient_of(match[1]), path, number, ("", number or 0))


def _patient(
    candidates: Sequence[Candidate], findings: Sequence[Finding], listed: Mapping[int, Sequence[Point]], masks: Masks
) -> tuple[list[FoundRow], list[Skipped]]:
    """The rows of one patient: all of one series, because a study has one volume."""
    named = [item for item in candidates if not listed or item.number is None or item.number in listed]
    # The last first: a series is repeated when the one before was not good enough.
    named.sort(key=lambda item: item.order, reverse=True)
    skipped: list[Skipped] = []
    for item in named:
        volume = look_at_image(item.path)
        if volume is not None and _lies_at(volume, _places(item, listed)):
            break
        skipped.append(Skipped(_named(item), DAMAGED_T2W if volume is None else _ELSEWHERE))
    else:
        damaged = bool(named) and all(entry.reason == DAMAGED_T2W for entry in skipped)
        reason = _UNREADABLE if damaged else _UNNAMED if candidates else _ABSENT
        return [], [*skipped, *(Skipped(_item(finding), reason) for finding in findings)]
    further = [other for other in candidates if other not in named[: len(skipped) + 1]]
    skipped += [Skipped(_named(other), _FURTHER) for other in further]
    inside = [finding for finding in findings if volume.contains(finding.position_mm_lps)]
    skipped += [Skipped(_item(finding), _OUTSIDE) for finding in findings if finding not in inside]
    return _rows(item, volume, inside, masks, skipped), skipped


def _places(item: Candidate, listed: Mapping[int, Sequence[Point]]) -> list[Point]:
    """Where the Images tables say that a series lies; a file whose name gives no number may be any of the patient's."""
    return [place for number, places in listed.items() if item.number in (None, number) for place in places]


def _lies_at(volume: Volume, corners: Sequence[Point]) -> bool:
    """Whether one of the volume's outer corners is at one of several places (to a voxel); so, if there is no place.

    Two studies of a patient may number their series alike: then only the place tells which of them is meant.
    """
    size = np.asarray(volume.shape_zyx)
    index = [volume.geometry.position_to_index(corner) for corner in corners]
    off = [np.minimum(np.abs(at + 0.5), np.abs(at - size + 0.5)) for at in index]
    return not off or any(bool((distance < 1.0).all()) for distance in off)


def _rows(
    chosen: Candidate, volume: Volume, findings: Sequence[Finding], masks: Masks, skipped: list[Skipped]
) -> list[FoundRow]:
    """A row for each finding, or one for the study alone; masks that cannot be used go to ``skipped``."""

    def usable(path: Path | None) -> Path | None:
        if path is not None and look_at_mask(path, volume).state != FILLED:
            skipped.append(Skipped(path.name, _BAD_MASK))
            return None
        return path

    patient = chosen.patient_id
    gland = usable(masks.glands.get(patient))
    number = {} if chosen.number is None else {"series_number": str(chosen.number)}
    if not findings:
        return [FoundRow(patient, patient, chosen.path, gland_mask=gland, centre=CENTRE, extra=number)]
    rows = []
    for finding in sorted(findings, key=lambda item: item.lesion_id.zfill(4)):
        key = (patient, "" if finding.shared else finding.number)
        grade = {"isup": masks.grades[key]} if key in masks.grades else {}
        rows.append(
            FoundRow(
                study_id=patient,
                patient_id=patient,
                t2w=chosen.path,
                lesion_id=finding.lesion_id,
                label=finding.label,
                position_mm_lps=finding.position_mm_lps,
                lesion_mask=usable(masks.lesions.get(key)),
                gland_mask=gland,
                zone=finding.zone,
                centre=CENTRE,
                extra={**number, **grade, "split": finding.split},
            )
        )
    return rows


def _named(item: Candidate) -> str:
    return f"{item.patient_id} {item.path.name}"


def _item(finding: Finding) -> str:
    return f"{finding.patient_id} finding {finding.number}"


def _notes(
    rows: Sequence[FoundRow], candidates: Mapping[str, Sequence[Candidate]], tables_name_series: bool
) -> tuple[str, ...]:
    notes = []
    repeated = sum(len(items) > 1 for items in candidates.values())
    if repeated:
        how = "those whose number the tables name (DCMSerNum, or the masks' Image_list), " if tables_name_series else ""
        notes.append(
            f"patients with several axial T2w series: {repeated}; of {how}the last that can be read is used, because a "
            "series is repeated when the one before has failed; column series_number says which"
        )
    again = sum("-" in row.lesion_id for row in rows)
    if again:
        notes.append(f"findings with the number of another of the same patient: {again}; their lesion_id ends in -2")
    unlabelled = sum(row.label is None for row in rows)
    if unlabelled:
        notes.append(
            f"rows without a label: {unlabelled} (test findings, and patients without a usable finding); good for "
            "pre-training; --labelled-only leaves them out"
        )
    notes.append("PI-CAI contains 328 of these studies: never pre-train on one and test on the other")
    return tuple(notes)


DATASET = DataSet(
    name="prostatex",
    title="PROSTATEx (SPIE-AAPM-NCI challenge)",
    licence="images and tables: CC BY 3.0 (TCIA); masks of PROSTATEx_masks: CC BY 4.0",
    citation=(
        "Litjens et al., ProstateX Challenge data, The Cancer Imaging Archive 2017, doi:10.7937/K9TCIA.2017.MURS5CL; "
        "Litjens et al., IEEE Trans Med Imaging 2014;33:1083-1092, doi:10.1109/TMI.2014.2303821; "
        "masks: Cuocolo et al., Eur J Radiol 2021;138:109647, doi:10.1016/j.ejrad.2021.109647"
    ),
    url="https://www.cancerimagingarchive.net/collection/prostatex/",
    find=find,
    labels_help="a folder with the Findings and Images tables, or a copy of the PROSTATEx_masks repository, or both",
)

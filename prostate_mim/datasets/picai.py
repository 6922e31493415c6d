"""PI-CAI: 1,500 public studies (.mha, five folds) with the marksheet and delineations of picai_labels.

One row is one study, its label ``case_csPCa``. Rows per lesion would look richer and be wrong: the marksheet lists
lesions in no order that the delineations share, only clinically significant lesions are delineated, and a delineation
file holds all of a study's lesions at once (2 to 5 = ISUP grade by human experts; 1 in AI and Pooch25 masks). So a
benign lesion has no place, and a label per lesion cannot be had. Where the study's mask is not empty the row names it,
and its position is the centroid of the largest connected part, because the centroid of several lesions may lie in
none. ``isup`` is the study's ``case_ISUP``. Lesion lists of the marksheet are kept as they are, ``N/A`` entries
included, in columns of their own, and ``zone_mask`` names a zonal mask (1 = peripheral, 2 = transition).

Columns are found by name: their order changed in July 2026, when ``lesion_PIRADS`` came in.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from prostate_mim.datasets.found import SECOND_TIME, DataSet, Found, FoundRow, ImportOptions, Skipped
from prostate_mim.datasets.mask_files import (
    ABSENT,
    DAMAGED,
    FILLED,
    IMAGE_REFUSED,
    LESION_REFUSED,
    OUTSIDE,
    MaskLook,
    counted,
    look_at_image,
    look_at_mask,
    off_gland,
)
from prostate_mim.datasets.tables import Record, column, find_file, read_table
from prostate_mim.errors import ManifestError
from prostate_mim.files import sha256_of
from prostate_mim.volume import Volume

_IMAGE = re.compile(r"(\d+)_(\d+)_t2w\.mha", re.IGNORECASE)
_FOLD = re.compile(r"fold_?(\d)(?!\d)", re.IGNORECASE)
_LESIONS, _GLANDS = "csPCa_lesion_delineations", "anatomical_delineations/whole_gland/AI"
_ZONES = "anatomical_delineations/zonal_pz_tz/AI"
_LABELS = {"YES": 1, "NO": 0}
_GRADES = {"0", "1", "2", "3", "4", "5", "N/A", ""}
_KEPT = {
    "case_isup": "case_ISUP", "lesion_isup": "lesion_ISUP", "lesion_gs": "lesion_GS", "lesion_pirads": "lesion_PIRADS",
    "psa": "psa", "psad": "psad", "prostate_volume": "prostate_volume", "patient_age": "patient_age",
    "histopath_type": "histopath_type",
}  # fmt: skip
_NO_IMAGE = "in the marksheet, but without a T2w file in the folder"


@dataclass
class _Labels:
    """A picai_labels folder.

    Attributes:
        root: that holds the delineations.
        records: rows of the marksheet by ``<patient>_<study>``.
        source: where labels come from, with the marksheet's hash.
        lesions: folders of lesion delineations, in the order they are asked.
        beside: the manifest's folder, where paths in it start.
    """

    root: Path
    records: dict[str, Record]
    source: str
    lesions: tuple[str, ...]
    beside: Path


@dataclass
class _Gathered:
    """What has been found so far."""

    rows: list[FoundRow] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)


def find(folder: Path, options: ImportOptions) -> Found:
    """Rows of a folder with ``picai_public_images_fold{0..4}/<patient>/<patient>_<study>_t2w.mha``.

    Folds are those of the publisher, seen from the names of the folders, else from the zip files beside.

    Raises:
        ManifestError: the marksheet is malformed.
        NotFoundError: ``--labels`` has no marksheet.
    """
    labels = _read_labels(folder, options)
    archives = _folds_of_archives(folder)
    gathered = _Gathered()
    seen: set[str] = set()
    for path in sorted(item for item in folder.rglob("*") if _IMAGE.fullmatch(item.name) and item.is_file()):
        key = path.name[: -len("_t2w.mha")]
        if key in seen:
            gathered.skipped.append(Skipped(key, SECOND_TIME))
            continue
        seen.add(key)
        fold = _fold_of_folders(path, folder)
        _add(gathered, key, path, archives.get(key) if fold is None else fold, labels)
    missing = [] if labels is None else sorted(set(labels.records) - seen)
    gathered.skipped += [Skipped(key, _NO_IMAGE) for key in missing]
    return Found(
        rows=tuple(sorted(gathered.rows, key=lambda row: row.study_id)),
        skipped=tuple(gathered.skipped),
        label_source="" if labels is None else labels.source,
        notes=(*_notes(gathered.rows, labels), *counted(gathered.notes)),
    )


def _add(gathered: _Gathered, key: str, path: Path, fold: int | None, labels: _Labels | None) -> None:
    """Add the row of one image, or say why there is none."""
    volume = look_at_image(path)
    if volume is None:
        gathered.skipped.append(Skipped(key, IMAGE_REFUSED))
        return
    if fold is None:
        gathered.notes["the publisher's fold cannot be seen (neither a folder nor a zip file fold0 to fold4)"] += 1
    patient = key.partition("_")[0]
    if labels is None:
        gathered.rows.append(FoundRow(key, patient, path, fold=fold))
        return
    record = labels.records.get(key)
    if record is None:
        gathered.notes["no row in the marksheet, so no label"] += 1
    lesion_source, lesion = _lesion(labels, key, volume)
    if lesion.state in (DAMAGED, OUTSIDE):
        gathered.skipped.append(Skipped(key, LESION_REFUSED))
        return
    label = None if record is None else _LABELS.get(column(record, "case_csPCa").upper())
    _note_lesion(gathered.notes, label, lesion)
    gland_source, gland = _gland(labels, key, volume, lesion)
    if gland.path is None:
        gathered.notes["no whole-gland mask that can be used"] += 1
    zone_source, zones = _zones(labels, key, volume)
    gathered.rows.append(
        FoundRow(
            study_id=key,
            patient_id=patient,
            t2w=path,
            label=label,
            position_mm_lps=lesion.centre_mm_lps,
            lesion_mask=lesion.path,
            gland_mask=gland.path,
            centre="" if record is None else column(record, "center"),
            fold=fold,
            extra={
                **_extra(record, lesion, lesion_source, gland_source),
                "zone_mask": "" if zones is None else Path(os.path.relpath(zones.resolve(), labels.beside)).as_posix(),
                "zone_source": zone_source,
            },
        )
    )


def _extra(record: Record | None, lesion: MaskLook, lesion_source: str, gland_source: str) -> dict[str, str]:
    kept = {} if record is None else {name: column(record, theirs) for name, theirs in _KEPT.items()}
    grade = kept.get("case_isup", "")
    kept["isup"] = grade if grade in _GRADES - {"N/A"} else ""
    seen = {
        "lesion_source": lesion_source,
        "lesion_components": str(lesion.components) if lesion.path else "",
        "lesion_values": " ".join(str(value) for value in lesion.values),
        "gland_source": gland_source,
    }
    return {**kept, **seen}


def _note_lesion(notes: Counter[str], label: int | None, lesion: MaskLook) -> None:
    if label == 1 and lesion.path is None:
        what = "no file" if lesion.state == ABSENT else "an empty mask"
        notes[f"csPCa, but {what} in this label source; kept without a place"] += 1
    if label == 0 and lesion.path is not None:
        notes["no csPCa, but a lesion in this label source; kept with both"] += 1
    if lesion.components > 1:
        notes["several lesions in one mask; the position is that of the largest"] += 1


def _lesion(labels: _Labels, key: str, volume: Volume) -> tuple[str, MaskLook]:
    """The first delineation that holds a lesion, else the first there is; and the folder it is from."""
    looks = [(name, look_at_mask(labels.root / _LESIONS / name / f"{key}.nii.gz", volume)) for name in labels.lesions]
    there = [(name, look) for name, look in looks if look.state != ABSENT]
    filled = [(name, look) for name, look in there if look.state != "empty"]
    return next(iter(filled or there), ("", looks[0][1]))


def _gland(labels: _Labels, key: str, volume: Volume, lesion: MaskLook) -> tuple[str, MaskLook]:
    """The first whole-gland mask that can be used, and that lies where the study's lesion does; and its folder."""
    for name in ("Bosma22b", "Guerbet23"):
        look = look_at_mask(labels.root / _GLANDS / name / f"{key}.nii.gz", volume)
        if look.state == FILLED and not off_gland(look, lesion):
            return name, look
    return "", MaskLook(ABSENT)


def _zones(labels: _Labels, key: str, volume: Volume) -> tuple[str, Path | None]:
    """The first zonal mask (1 = peripheral, 2 = transition) that can be used, and its folder."""
    for name in ("HeviAI23", "Yuan23"):
        look = look_at_mask(labels.root / _ZONES / name / f"{key}.nii.gz", volume)
        if look.path is not None and set(look.values) <= {1, 2}:
            return name, look.path
    return "", None


def _read_labels(folder: Path, options: ImportOptions) -> _Labels | None:
    """The labels named by the user, else those that lie in the folder or beside it; None without any."""
    near = [folder / "picai_labels", folder.parent / "picai_labels"]
    place = options.labels or next((item for item in near if item.is_dir()), None)
    if place is None:
        return None
    sheet = place if place.is_file() else find_file(place, ["marksheet.csv"], "the table of PI-CAI's studies")
    root = next((item for item in (place, *sheet.parents) if (item / _LESIONS).is_dir()), sheet.parent)
    name = options.label_source or next(iter(_LESION_FOLDERS))
    source = f"picai_labels {name}, marksheet {sha256_of(sheet)[:12]}"
    return _Labels(root, _records(sheet), source, _LESION_FOLDERS[name], options.derived.resolve().parent)


def _records(sheet: Path) -> dict[str, Record]:
    """Rows of the marksheet by study; checked for what would go wrong silently."""
    records: dict[str, Record] = {}
    for number, record in enumerate(read_table(sheet, ["patient_id", "study_id", "case_csPCa", "lesion_ISUP"]), 1):
        key = f"{column(record, 'patient_id')}_{column(record, 'study_id')}"
        if key in records:
            raise ManifestError(f"{sheet} row {number}: the same study as a row above; download it again")
        odd = [item for item in _entries(record, "lesion_ISUP") if item not in _GRADES]
        if odd or column(record, "case_csPCa").upper() not in (*_LABELS, ""):
            wanted = "lesion_ISUP: 0 to 5 or N/A, comma between; case_csPCa: YES or NO"
            raise ManifestError(f"{sheet} row {number}: not as PI-CAI writes it ({wanted}); download it again")
        records[key] = record
    return records


def _entries(record: Record, name: str) -> list[str]:
    """The entries of a comma list; one empty entry where it is empty."""
    return [item.strip().upper() for item in column(record, name).split(",")]


def _fold_of_folders(path: Path, folder: Path) -> int | None:
    for name in (*reversed(path.relative_to(folder).parts[:-1]), folder.name):
        found = _FOLD.search(name)
        if found:
            return int(found[1])
    return None


def _folds_of_archives(folder: Path) -> dict[str, int]:
    """Study -> fold, from lists of contents of the zip files that lie in the folder or beside it."""
    folds: dict[str, int] = {}
    for archive in sorted({*folder.glob("*.zip"), *folder.parent.glob("*.zip")}):
        found = _FOLD.search(archive.name)
        if not found:
            continue
        try:
            with zipfile.ZipFile(archive) as content:
                names = [Path(name).name for name in content.namelist()]
        except (zipfile.BadZipFile, OSError):
            continue  # its studies then count as without a fold
        folds |= {name[: -len("_t2w.mha")]: int(found[1]) for name in names if _IMAGE.fullmatch(name)}
    return folds


def _notes(rows: list[FoundRow], labels: _Labels | None) -> tuple[str, ...]:
    overlap = "PI-CAI holds 328 studies of PROSTATEx: never train on one and test on the other without a check"
    if labels is None:
        return (overlap, "no labels: give the folder picai_labels with --labels")
    records = [labels.records[row.study_id] for row in rows if row.study_id in labels.records]
    grades = Counter(grade for record in records for grade in _entries(record, "lesion_ISUP") if grade)
    named = {grade: "not graded" if grade == "N/A" else f"ISUP {grade}" for grade in sorted(grades)}
    shown = ", ".join(f"{name}: {grades[grade]}" for grade, name in named.items())
    unproven = sum(not column(record, "histopath_type") for record in records)
    return (
        overlap,
        f"lesions listed in the marksheet: {shown or 'none'}; only significant ones are delineated",
        f"without histopathology, so that the label rests on the reading alone: {unproven}",
    )


_LESION_FOLDERS = {
    "human_expert/resampled": ("human_expert/resampled",),
    "human_expert/resampled+Pooch25": ("human_expert/resampled", "human_expert/Pooch25"),
    "human_expert/original": ("human_expert/original",),
    "human_expert/Pooch25": ("human_expert/Pooch25",),
    "AI/Bosma22a": ("AI/Bosma22a",),
}

DATASET = DataSet(
    name="picai",
    title="PI-CAI, public training and development set",
    licence="CC BY-NC 4.0 (images and picai_labels)",
    citation="Saha A, Bosma JS, Twilt JJ, et al. Artificial intelligence and radiologists in prostate cancer detection "
    "on MRI (PI-CAI): an international, paired, non-inferiority, confirmatory study. Lancet Oncol 2024;25:879-887",
    url="https://zenodo.org/records/6624726",
    find=find,
    labels_help="the folder picai_labels, or its marksheet.csv",
    label_sources=tuple(_LESION_FOLDERS),
)

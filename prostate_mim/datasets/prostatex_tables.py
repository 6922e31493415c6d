"""The tables of PROSTATEx and the PROSTATEx_masks repository: findings, numbers of the axial series, mask files."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from prostate_mim.datasets.dicom_tree import names_t2
from prostate_mim.datasets.found import Skipped
from prostate_mim.datasets.tables import Record, column, read_table
from prostate_mim.errors import ManifestError, NotFoundError
from prostate_mim.manifest import Point, letters_and_digits

PATIENT = re.compile(r"ProstateX-\d{4}", re.IGNORECASE)
_LESION_MASK = re.compile(r"(ProstateX-\d{4})-Finding(\d+)-.*\.nii\.gz", re.IGNORECASE)
_LISTED_IMAGE = re.compile(r"(ProstateX-\d{4})_.*?_(\d+)(\.nii)?(\.gz)?", re.IGNORECASE)
_CLASS_ID = re.compile(r"(ProstateX-\d{4})_Finding(\d+)", re.IGNORECASE)
_LABELS = {"true": 1, "1": 1, "yes": 1, "false": 0, "0": 0, "no": 0}
_BAD_POSITION = "finding whose pos is not three numbers"
_BAD_LABEL = "finding whose ClinSig is neither TRUE nor FALSE"
_TWICE = "finding that its table holds twice"
_TWO_MASKS = "lesion with two masks in the repository: neither is used"


@dataclass(frozen=True)
class Finding:
    """One row of a Findings table.

    Attributes:
        number: fid; 0 is one. Not always unique within a patient.
        position_mm_lps: column pos.
        label: 1 where ClinSig is TRUE; None where the table has no such column, as that of the test set.
        split: ``train`` or ``test``, after the table's name.
        lesion_id: the number; of two findings with one number the second's ends in -2.
        shared: another finding of the patient has the same number, so nobody can say whose a mask of it is.
    """

    patient_id: str
    number: str
    position_mm_lps: Point
    zone: str
    label: int | None
    split: str
    lesion_id: str = ""
    shared: bool = False


@dataclass(frozen=True)
class Masks:
    """What lies in the PROSTATEx_masks repository.

    Attributes:
        lesions: (patient, finding's number) -> mask drawn on the axial T2w series.
        glands: patient -> mask of the whole gland.
        numbers: patient -> number of the series that the lesions were drawn on.
        grades: (patient, finding's number) -> ISUP grade group; findings without a biopsy have none.
    """

    lesions: Mapping[tuple[str, str], Path] = field(default_factory=dict)
    glands: Mapping[str, Path] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)
    grades: Mapping[tuple[str, str], str] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()


def patient_of(text: str) -> str:
    """The identifier in a text, as the publisher spells it; empty where there is none."""
    match = PATIENT.search(text)
    return "ProstateX-" + match[0][-4:] if match else ""


def is_t2w(description: str) -> bool:
    """Whether a series' description is that of a T2w series which is no localiser."""
    return names_t2(description) and "loc" not in description.lower()


def read_findings(folders: Sequence[Path]) -> tuple[list[Finding], list[Skipped], list[Path]]:
    """All findings of the training and the test table, as far as they are there; PROSTATEx-2's tables are not read.

    Returns:
        Findings, rows that are none, and the tables read.

    Raises:
        NotFoundError: no Findings table.
        ManifestError: two versions of one table and neither is called v2, or a column is missing.
    """
    tables = _tables(folders, "findings")
    if not tables:
        where = " and ".join(str(folder) for folder in folders)
        raise NotFoundError(
            f"{where}: no table *Findings-Train.csv or *Findings-Test.csv; download the set's lesion information, "
            "or name its folder with --labels"
        )
    findings: list[Finding] = []
    skipped: list[Skipped] = []
    for split, path in tables.items():
        seen = set()
        for record in read_table(path, ("ProxID", "fid", "pos")):
            finding = _finding(record, split)
            item = f"{column(record, 'ProxID')} finding {column(record, 'fid')}"
            if isinstance(finding, str):
                skipped.append(Skipped(item, finding))
            elif finding in seen:
                skipped.append(Skipped(item, _TWICE))
            else:
                seen.add(finding)
                findings.append(finding)
    return _told_apart(findings), skipped, list(tables.values())


def _told_apart(findings: Sequence[Finding]) -> list[Finding]:
    counts = Counter((item.patient_id, item.number) for item in findings)
    seen: Counter[tuple[str, str]] = Counter()
    named = []
    for item in findings:
        key = item.patient_id, item.number
        seen[key] += 1
        lesion = item.number if seen[key] == 1 else f"{item.number}-{seen[key]}"
        named.append(replace(item, lesion_id=lesion, shared=counts[key] > 1))
    return named


def read_series(folders: Sequence[Path]) -> dict[str, dict[int, list[Point]]]:
    """Patient -> DCMSerNum of every axial T2w series that the Images tables name (repeats too) -> where it lies.

    A place is the offset of WorldMatrix: the outer corner (x, y, z) of the first voxel, in mm, LPS. Voxel indices of
    these tables (ijk) are counted from that corner, so they are half a voxel off: pos is what is used.

    Raises:
        ManifestError: as ``read_findings``.
    """
    listed: dict[str, dict[int, list[Point]]] = defaultdict(dict)
    for path in _tables(folders, "images").values():
        for record in read_table(path, ("ProxID", "DCMSerDescr", "DCMSerNum")):
            description = column(record, "DCMSerDescr") or column(record, "Name")
            number = column(record, "DCMSerNum")
            if is_t2w(description) and "tra" in description.lower() and number.isdigit():
                corner = _corner(column(record, "WorldMatrix"))
                listed[patient_of(column(record, "ProxID"))].setdefault(int(number), []).extend(corner)
    return dict(listed)


def _corner(matrix: str) -> list[Point]:
    """The offset of a 4 x 4 matrix written row by row; empty where it is none."""
    try:
        numbers = [float(part) for part in matrix.replace(",", " ").split()]
    except ValueError:
        return []
    return [(numbers[3], numbers[7], numbers[11])] if len(numbers) == 16 and np.isfinite(numbers).all() else []


def read_masks(folder: Path | None) -> Masks:
    """Index a copy of the repository. Names are matched by their beginning: their ends are irregular."""
    if folder is None:
        return Masks()
    lesions: dict[tuple[str, str], list[Path]] = defaultdict(list)
    glands: dict[str, Path] = {}
    for path in sorted(item for item in folder.rglob("*.nii.gz") if not item.name.startswith(".")):
        places = [part.lower() for part in path.relative_to(folder).parts[:-1]]
        match = _LESION_MASK.fullmatch(path.name)
        if match and "t2" in places:
            lesions[patient_of(match[1]), str(int(match[2]))].append(path)
        elif "mask_prostate" in places and patient_of(path.name):
            glands.setdefault(patient_of(path.name), path)
    chosen = {key: _newer_layout(paths) for key, paths in lesions.items()}
    double = [key for key, path in chosen.items() if path is None]
    return Masks(
        {key: path for key, path in chosen.items() if path is not None},
        glands,
        _listed_numbers(folder),
        _grades(folder),
        tuple(Skipped(f"{patient} finding {number}", _TWO_MASKS) for patient, number in double),
    )


def _newer_layout(paths: list[Path]) -> Path | None:
    """The one mask of a finding; the repository's history holds Files/Masks beside today's Files/lesions/Masks."""
    newer = [path for path in paths if "lesions" in (part.lower() for part in path.parts)] or paths
    return newer[0] if len(newer) == 1 else None


def _listed_numbers(folder: Path) -> dict[str, int]:
    """Patient -> series number of lesions/Image_list.csv, column T2: ``ProstateX-0001_t2_tse_tra_10``."""
    numbers: dict[str, int] = {}
    lists = [path for path in sorted(folder.rglob("*.csv")) if letters_and_digits(path.stem) == "imagelist"]
    for path in (item for item in lists if item.parent.name.lower() == "lesions"):
        for record in read_table(path, ("T2",)):
            match = _LISTED_IMAGE.fullmatch(column(record, "T2"))
            if match:
                numbers[patient_of(match[1])] = int(match[2])
    return numbers


def _grades(folder: Path) -> dict[tuple[str, str], str]:
    """Grade groups of PROSTATEx_Classes.csv; its column also holds "No biopsy information"."""
    grades: dict[tuple[str, str], str] = {}
    for path in (item for item in sorted(folder.rglob("*.csv")) if letters_and_digits(item.stem) == "prostatexclasses"):
        for record in read_table(path, ("ID", "Gleason Grade Group")):
            match = _CLASS_ID.fullmatch(column(record, "ID"))
            grade = column(record, "Gleason Grade Group")
            if match and grade in ("1", "2", "3", "4", "5"):
                grades[patient_of(match[1]), str(int(match[2]))] = grade
    return grades


def _tables(folders: Sequence[Path], kind: str) -> dict[str, Path]:
    """``train`` and ``test`` -> the table of one kind; where a v2 of it lies beside, that."""
    found: dict[str, Path] = {}
    for split in ("train", "test"):
        paths = [path for path in _csv_files(folders) if _is_table(path, kind, split)]
        newer = [path for path in paths if any("v2" in part.lower() for part in path.parts[-3:])] or paths
        if len({path.read_bytes() for path in newer}) > 1:
            names = ", ".join(str(path) for path in newer[:3])
            raise ManifestError(f"{len(newer)} different {kind} tables of PROSTATEx ({names}); keep one")
        if newer:
            found[split] = newer[0]
    return found


def _csv_files(folders: Iterable[Path]) -> list[Path]:
    files = {path.resolve(): path for folder in folders for path in sorted(folder.rglob("*.csv"))}
    return [path for path in files.values() if not path.name.startswith(".") and "__MACOSX" not in path.parts]


def _is_table(path: Path, kind: str, split: str) -> bool:
    name = letters_and_digits(path.stem)
    return kind in name and split in name and "ktrans" not in name and "prostatex2" not in name


def _finding(record: Record, split: str) -> Finding | str:
    """A finding, or why the row is none."""
    try:
        x, y, z = (float(part) for part in column(record, "pos").replace(",", " ").split())
    except ValueError:
        return _BAD_POSITION
    if not np.isfinite([x, y, z]).all():
        return _BAD_POSITION
    text = column(record, "ClinSig").lower()
    if text and text not in _LABELS:
        return _BAD_LABEL
    number = column(record, "fid")
    return Finding(
        patient_of(column(record, "ProxID")),
        str(int(number)) if number.isdigit() else number,
        (x, y, z),
        column(record, "zone"),
        _LABELS.get(text),
        split,
    )

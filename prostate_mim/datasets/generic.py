"""Any folder of volume files or DICOM series folders, with a table of what is known of them, or without.

The table (``--labels``, CSV, TSV or XLSX) has a row per study or lesion. Its columns are matched by name to those of a
manifest, without regard to case, spaces and punctuation; a few usual names of the needed three are known (``file``,
``path``, ``patient``, ``study``). Everything else becomes a further column of the manifest. Without a table each
volume is a study, and who the patient is can only be guessed: the first folder, else the file's name.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from prostate_mim.datasets.cells import digest, flag, grade, three, whole
from prostate_mim.datasets.found import NO_SPACING, DataSet, Found, FoundRow, ImportOptions, Skipped
from prostate_mim.datasets.mask_files import (
    ABSENT,
    FILLED,
    IMAGE_REFUSED,
    OFF_GLAND,
    MaskLook,
    counted,
    look_at_image,
    look_at_mask,
    off_gland,
)
from prostate_mim.datasets.tables import Record, read_table
from prostate_mim.errors import ManifestError
from prostate_mim.manifest import Point, letters_and_digits
from prostate_mim.volume import Volume
from prostate_mim.volume.read import SUPPORTED

_ARRAYS = (".npy", ".npy.gz", ".npz")
_MASK_NAME = re.compile(r"(^|[^a-z])(mask|seg|segmentation|label|labels|roi|gland|lesion|tumou?r|dseg)([^a-z]|$)")
_WRAPPERS = {"images", "image", "data", "dicom", "nifti", "mri", "t2w", "t2", "imagestr", "train", "raw", "volumes"}
_ALIASES = {
    "t2w": ("t2w", "file", "path", "filename", "filepath", "image", "imagepath", "t2", "t2wpath", "volume", "folder"),
    "patient_id": ("patientid", "patient", "subjectid", "subject", "participantid", "pid"),
    "study_id": ("studyid", "study", "caseid", "case", "examid", "exam"),
    "centre": ("centre", "center", "site"),
}
_MASKS = ("lesion_mask", "gland_mask", "zone_mask")
_OTHERS = (
    *_MASKS, "lesion_id", "label", "position_mm_lps", "zone", "fold", "spacing_mm_zyx", "is_crop", "isup", "sha256",
)  # fmt: skip
_ZONES = {1, 2}  # labels of a zone_mask: peripheral, transition
_NOT_LISTED = "in the folder, but not in the table"
_NO_FILE = "in the table, but the file is not there"
_MASK = "its name says that it is a mask"
_LESION = "lesion mask missing, damaged, empty, or off its image"
_AWAY = "position_mm_lps lies outside the image; it is x y z in LPS, not voxels"
_GLAND = "gland mask missing, damaged, empty, or off its image"
_ZONE = "zone mask missing, damaged, empty, off its image, or with labels other than 1 and 2"
_CHANGED = "sha256 is not that of its file, or not of a single file"


@dataclass
class _Gathered:
    """What has been found so far; ``last`` is what was read of the last file, which rows of lesions share.

    Paths in further columns are as seen from ``beside``, where the manifest will lie.
    """

    folder: Path
    beside: Path
    rows: list[FoundRow] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    last: tuple[tuple[Path, Point | None, str], Volume | None] | None = None

    def image(self, path: Path, spacing_mm_zyx: Point | None, sha256: str = "") -> Volume | None:
        """The volume of a file, read once for consecutive rows."""
        asked = (path, spacing_mm_zyx, sha256)
        if self.last is None or self.last[0] != asked:
            self.last = (asked, look_at_image(*asked))
        return self.last[1]


def find(folder: Path, options: ImportOptions) -> Found:
    """Rows by the table, or one for each volume where there is none.

    Raises:
        ManifestError: the table names no files, or a value in it is malformed.
    """
    volumes = _volumes(folder)
    gathered = _Gathered(folder, options.derived.parent)
    if options.labels is None:
        _scan(gathered, volumes)
    else:
        _by_table(gathered, volumes, options.labels)
    return Found(
        rows=tuple(sorted(gathered.rows, key=lambda row: (row.study_id, row.lesion_id))),
        skipped=tuple(gathered.skipped),
        label_source="" if options.labels is None else options.labels.name,
        notes=counted(gathered.notes),
    )


def _volumes(folder: Path) -> list[Path]:
    """Volume files and folders that directly hold DICOM, masks too; hidden ones left out."""
    found: set[Path] = set()
    for item in sorted(folder.rglob("*")):
        hidden = any(part.startswith((".", "__MACOSX")) for part in item.relative_to(folder).parts)
        if hidden or not item.is_file():
            continue
        if item.name.lower().endswith(SUPPORTED):
            found.add(item)
        elif item.parent not in found and _is_dicom(item):
            found.add(item.parent)
    return sorted(found)


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _stem(path: Path, folder: Path) -> str:
    """The path below the folder, without suffix, folders joined by ``_``; the folder's own name for itself."""
    if path == folder:
        return folder.resolve().name
    name = next(
        (path.name[: -len(end)] for end in sorted(SUPPORTED, key=len)[::-1] if path.name.lower().endswith(end)), ""
    )
    return "_".join((*path.relative_to(folder).parts[:-1], name or path.name))


def _scan(gathered: _Gathered, volumes: list[Path]) -> None:
    for path in volumes:
        item = _stem(path, gathered.folder)
        if _MASK_NAME.search(path.name.lower()) and path.is_file():
            gathered.skipped.append(Skipped(item, _MASK))
        elif path.name.lower().endswith(_ARRAYS):
            gathered.skipped.append(Skipped(item, NO_SPACING))
        elif gathered.image(path, None) is None:
            gathered.skipped.append(Skipped(item, IMAGE_REFUSED))
        else:
            gathered.rows.append(FoundRow(item, _patient(gathered, path), path))


def _patient(gathered: _Gathered, path: Path) -> str:
    """The first folder that is not merely a wrapper, else the file's or series folder's own name."""
    folders = [] if path == gathered.folder else path.relative_to(gathered.folder).parts[:-1]
    named = next((part for part in folders if part.lower() not in _WRAPPERS), "")
    how = "first folder" if named else "file's name"
    gathered.notes[f"patient_id is the {how}: check that no patient has two"] += 1
    return named or _stem(path, path.parent if path != gathered.folder else path)


def _by_table(gathered: _Gathered, volumes: list[Path], table: Path) -> None:
    records = read_table(table)
    names = _match(records, table)
    used: set[Path] = set()
    for number, record in enumerate(records, 1):
        path = _file(record[names["t2w"]], gathered.folder, table, volumes)
        if path is None:
            gathered.skipped.append(Skipped(f"row {number}", _NO_FILE))
            continue
        used.add(path.resolve())
        mask_cells = {name: record.get(names.get(name, ""), "") for name in _MASKS}
        masks = {
            name: _file(text, gathered.folder, table, volumes) or gathered.folder / text.replace("\0", "")
            for name, text in mask_cells.items()
            if text
        }
        used |= {mask.resolve() for mask in masks.values()}
        _add(gathered, record, names, path, masks, f"{table} row {number}")
    rest = [path for path in volumes if path.resolve() not in used]
    gathered.skipped += [Skipped(_stem(path, gathered.folder), _NOT_LISTED) for path in rest]


def _match(records: list[Record], table: Path) -> dict[str, str]:
    """Manifest column -> the table's column.

    Raises:
        ManifestError: no column that names files.
    """
    if not records:
        raise ManifestError(f"{table}: has a header but no rows; add one row per study or lesion")
    header = list(records[0])
    theirs = {letters_and_digits(name): name for name in reversed(header)}
    wanted = {**_ALIASES, **{name: (letters_and_digits(name),) for name in _OTHERS}}
    names = {
        ours: next((theirs[alias] for alias in aliases if alias in theirs), "") for ours, aliases in wanted.items()
    }
    if not names["t2w"]:
        raise ManifestError(
            f"{table}: no column names the files (found: {' '.join(', '.join(header).split())[:300]}); call one t2w"
        )
    return {ours: name for ours, name in names.items() if name}


def _file(text: str, folder: Path, table: Path, volumes: list[Path]) -> Path | None:
    """The file or DICOM folder that a cell means: from the folder, from the table's place, or by its bare name."""
    if not text or "\0" in text:
        return None
    for path in (folder / text, table.parent / text):
        if os.path.exists(path):  # a cell may hold anything: this never raises
            return path
    alike = [path for path in volumes if text in (path.name, _stem(path, path.parent))]
    return alike[0] if len(alike) == 1 else None


def _add(
    gathered: _Gathered, record: Record, names: dict[str, str], path: Path, masks: dict[str, Path], where: str
) -> None:
    """Add one row of the table, or say why it became none."""

    def cell(name: str) -> str:
        return record.get(names.get(name, ""), "")

    item = cell("study_id") or _stem_anywhere(path, gathered.folder)
    spacing = three(cell("spacing_mm_zyx"), where, "spacing_mm_zyx")
    position = three(cell("position_mm_lps"), where, "position_mm_lps")
    sha256 = digest(cell("sha256"), where, "sha256")
    reason = _refusal(gathered, path, masks, spacing, position, sha256)
    if reason:
        gathered.skipped.append(Skipped(item, reason))
        return
    isup = grade(cell("isup"), where, "isup")
    zones = _beside(gathered, masks["zone_mask"]) if "zone_mask" in masks else ""
    known = {"isup": "" if isup is None else str(isup), "sha256": sha256, "zone_mask": zones}
    others = {name: text for name, text in record.items() if name and name not in names.values()}
    gathered.rows.append(
        FoundRow(
            study_id=item,
            patient_id=cell("patient_id") or _patient(gathered, path),
            t2w=path,
            lesion_id=cell("lesion_id"),
            label=flag(cell("label"), where, "label"),
            position_mm_lps=position,
            lesion_mask=masks.get("lesion_mask"),
            gland_mask=masks.get("gland_mask"),
            zone=cell("zone"),
            centre=cell("centre"),
            fold=whole(cell("fold"), where, "fold"),
            spacing_mm_zyx=spacing,
            is_crop=bool(flag(cell("is_crop"), where, "is_crop")),
            extra={**others, **{name: text for name, text in known.items() if text}},
        )
    )


def _beside(gathered: _Gathered, path: Path) -> str:
    """A path as the manifest will name it; absolute where there is no way (another drive)."""
    try:
        return Path(os.path.relpath(path.resolve(), gathered.beside.resolve())).as_posix()
    except ValueError:
        return str(path.resolve())


def _refusal(
    gathered: _Gathered, path: Path, masks: dict[str, Path], spacing: Point | None, position: Point | None, sha256: str
) -> str:
    """Why a row would stop a run when it is opened; empty where it would not."""
    if path.name.lower().endswith(_ARRAYS) and spacing is None:
        return NO_SPACING
    volume = gathered.image(path, spacing, sha256)
    if volume is None:
        return _CHANGED if sha256 and look_at_image(path, spacing) is not None else IMAGE_REFUSED
    looks = {name: look_at_mask(mask, volume, spacing_mm_zyx=spacing) for name, mask in masks.items()}
    lesion, gland, zones = (looks.get(name, MaskLook(ABSENT)) for name in _MASKS)
    if "lesion_mask" in masks and lesion.state != FILLED:
        return _LESION
    if "gland_mask" in masks and gland.state != FILLED:
        return _GLAND
    if "zone_mask" in masks and (zones.state != FILLED or set(zones.values) - _ZONES):
        return _ZONE
    if position is not None and not volume.contains(position):
        return _AWAY
    return OFF_GLAND if off_gland(gland, lesion, position) else ""


def _stem_anywhere(path: Path, folder: Path) -> str:
    return _stem(path, folder if path.is_relative_to(folder) else path.parent)


DATASET = DataSet(
    name="folder",
    title="a folder of volumes of your own",
    licence="yours to know",
    citation="none",
    url="",
    find=find,
    labels_help="a table with a column t2w (or file, path) and, where known, patient_id and others of a manifest",
)

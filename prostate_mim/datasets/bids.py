"""BIDS: ``sub-XX[/ses-YY]/anat/*_T2w.nii[.gz]``, ``participants.tsv``, and masks below ``derivatives``.

Columns of participants.tsv become further columns (``site``, ``center`` or ``centre`` become ``centre``). A mask is
taken for the gland where its name says ``label-prostate`` or ``desc-gland``, for a lesion with ``label-lesion`` or
``desc-lesion``. BIDS has no place for a label of a study, so labels stay empty.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from prostate_mim.datasets.found import DataSet, Found, FoundRow, ImportOptions, Skipped
from prostate_mim.datasets.mask_files import (
    DAMAGED,
    IMAGE_REFUSED,
    OFF_GLAND,
    OUTSIDE,
    MaskLook,
    counted,
    look_at_image,
    look_at_mask,
    off_gland,
)
from prostate_mim.datasets.tables import Record, column, read_table
from prostate_mim.manifest import OPTIONAL, REQUIRED, letters_and_digits
from prostate_mim.volume import Volume

_STACK = "sagittal or coronal, says the acq label"
_MASK_REFUSED = "mask damaged, or off its image"
_GLAND = {"prostate", "gland", "wholegland"}
_LESION = {"lesion", "tumor", "tumour", "cspca"}
_CENTRE = ("site", "center", "centre")
_OURS = {letters_and_digits(name) for name in (*REQUIRED, *OPTIONAL, "label_source")}


@dataclass(frozen=True)
class _Named:
    """A file, with the entities of its name: ``sub-01_run-2_T2w.nii.gz`` has ``sub`` 01, ``run`` 2, suffix T2w."""

    path: Path
    stem: str
    entities: dict[str, str]
    suffix: str


@dataclass
class _Gathered:
    """What has been found so far."""

    people: dict[str, Record]
    masks: list[_Named]
    rows: list[FoundRow] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)


def find(folder: Path, options: ImportOptions) -> Found:
    """Rows of a BIDS folder: one for each T2w image that reads as an axial volume.

    Raises:
        ManifestError: participants.tsv is malformed.
    """
    sheet = folder / "participants.tsv"
    records = read_table(sheet, ["participant_id"]) if sheet.is_file() else []
    people = {_bare(column(record, "participant_id")): record for record in records}
    masks = [named for named in _files(folder, "derivatives/**/*_mask.nii*")]
    gathered = _Gathered(people, masks)
    seen: set[str] = set()
    for named in _files(folder, "sub-*/**/anat/*_T2w.nii*"):
        if named.suffix == "T2w":
            seen.add(named.entities.get("sub", ""))
            _add(gathered, named)
    gathered.skipped += [
        Skipped(f"sub-{name}", "in participants.tsv, but without a T2w image") for name in sorted(set(people) - seen)
    ]
    return Found(
        rows=tuple(sorted(gathered.rows, key=lambda row: row.study_id)),
        skipped=tuple(gathered.skipped),
        notes=counted(gathered.notes),
    )


def _files(folder: Path, pattern: str) -> list[_Named]:
    """Files by a pattern, sorted, hidden ones left out."""
    found = []
    for path in sorted(folder.glob(pattern)):
        stem = path.name.removesuffix(".gz").removesuffix(".nii")
        if path.name.startswith(".") or not path.is_file() or not path.name.endswith((".nii", ".nii.gz")):
            continue
        *pairs, suffix = stem.split("_")
        entities = {key: value for key, mark, value in (pair.partition("-") for pair in pairs) if mark}
        found.append(_Named(path, stem, entities, suffix))
    return found


def _bare(participant: str) -> str:
    return participant.removeprefix("sub-")


def _add(gathered: _Gathered, named: _Named) -> None:
    """Add the row of one image, or say why there is none."""
    if named.entities.get("acq", "").lower().startswith(("sag", "cor")):
        gathered.skipped.append(Skipped(named.stem, _STACK))
        return
    volume = look_at_image(named.path)
    if volume is None:
        gathered.skipped.append(Skipped(named.stem, IMAGE_REFUSED))
        return
    gland, lesion = (_mask(gathered, named, words, volume) for words in (_GLAND, _LESION))
    if {gland.state, lesion.state} & {DAMAGED, OUTSIDE}:
        gathered.skipped.append(Skipped(named.stem, _MASK_REFUSED))
        return
    if off_gland(gland, lesion):
        gathered.skipped.append(Skipped(named.stem, OFF_GLAND))
        return
    subject = named.entities.get("sub", "")
    record = gathered.people.get(subject)
    if record is None:
        gathered.notes["not in participants.tsv"] += 1
    gathered.rows.append(
        FoundRow(
            study_id=named.stem.removesuffix("_T2w"),
            patient_id=f"sub-{subject}",
            t2w=named.path,
            lesion_mask=lesion.path,
            gland_mask=gland.path,
            position_mm_lps=lesion.centre_mm_lps,
            centre=_known(next((column(record, name) for name in _CENTRE if column(record, name)), ""))
            if record
            else "",
            extra=_extra(record) if record else {},
        )
    )


def _mask(gathered: _Gathered, image: _Named, words: set[str], volume: Volume) -> MaskLook:
    """The mask of this very image that its name says to be one of ``words``; the first where there are several."""
    found = [
        mask
        for mask in gathered.masks
        if words & {mask.entities.get("label", "").lower(), mask.entities.get("desc", "").lower()}
        and mask.entities.get("sub") == image.entities.get("sub")
        and mask.entities.get("ses") == image.entities.get("ses")
        and all(mask.entities.get(key, image.entities.get(key)) == image.entities.get(key) for key in ("acq", "run"))
    ]
    if len(found) > 1:
        gathered.notes["several masks of one kind; the first by name was taken"] += 1
    return look_at_mask(found[0].path if found else None, volume)


def _extra(record: Record) -> dict[str, str]:
    """Columns of participants.tsv; those that a manifest has itself get a name that says where they are from."""
    kept = {
        name: _known(text)
        for name, text in record.items()
        if letters_and_digits(name) not in map(letters_and_digits, (*_CENTRE, "participant_id"))
    }
    return {
        f"participants_{name}" if letters_and_digits(name) in _OURS else name: text
        for name, text in kept.items()
        if name
    }


def _known(text: str) -> str:
    return "" if text.lower() == "n/a" else text


DATASET = DataSet(
    name="bids",
    title="a BIDS folder",
    licence="as its dataset_description.json says",
    citation="as its dataset_description.json says; BIDS itself: Gorgolewski KJ, et al. Sci Data 2016;3:160044",
    url="https://bids.neuroimaging.io",
    find=find,
)

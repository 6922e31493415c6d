"""Prostate158: 139 training and 19 test studies of one centre at 3 T; zones and tumours delineated by two readers.

``train.csv`` and ``valid.csv`` (``test.csv`` in the test folder) name the files of each study; where no table is there,
folders ``<NNN>`` with a ``t2.nii.gz`` are taken. One row is one study. Its label is 1 where the chosen reader
delineated a tumour (PI-RADS 4 or more, confirmed by histopathology, says the publication), 0 where no reader of any
sequence did, and empty where only another reader or sequence has one.

Masks are stored in floating point and a tumour's value is 3: whatever is above 0 counts. Some are not exactly whole;
up to 0.01 is rounded on reading, and of those beyond a rounded copy is made, because the publisher asks to round. The
anatomy's labels, 1 the central gland and 2 the peripheral zone, are those of a manifest's ``zone_mask`` the other way
round, so a relabelled copy is made of them.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from prostate_mim.datasets.found import SECOND_TIME, DataSet, Found, FoundRow, ImportOptions, Skipped
from prostate_mim.datasets.mask_files import (
    ABSENT,
    DAMAGED,
    IMAGE_REFUSED,
    LESION_REFUSED,
    OFF_GLAND,
    OUTSIDE,
    MaskLook,
    counted,
    look_at_image,
    look_at_mask,
    off_gland,
)
from prostate_mim.datasets.tables import Record, column, read_table
from prostate_mim.files import make_folder
from prostate_mim.volume import Volume, write_volume

_SOURCES = ("t2_tumor_reader1", "adc_tumor_reader1", "adc_tumor_reader2")
_OTHERS = ("t2_tumor_reader2",)  # of the test folder
_ANATOMY = ("t2_anatomy_reader1", "t2_anatomy_reader2")
_TABLES = {"train.csv": "train", "valid.csv": "valid", "test.csv": "test"}
_NO_IMAGE = "in a table of the set, but without its T2w file"
_NO_MASK = "in a table of the set, but without its lesion mask"
_NO_TABLE = "in no table of the set"


@dataclass
class _Gathered:
    """What has been found so far."""

    derived: Path
    source: str
    rows: dict[str, FoundRow] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)


def find(folder: Path, options: ImportOptions) -> Found:
    """Rows of ``prostate158_train`` or ``prostate158_test``, or of a folder that holds both.

    Raises:
        ManifestError: a table is malformed.
    """
    source = options.label_source or _SOURCES[0]
    gathered = _Gathered(options.derived, source)
    tables = [item for item in sorted(folder.rglob("*.csv")) if _is_of_the_set(item)]
    seen: set[str] = set()
    for table in tables:
        for record in read_table(table, ["ID", "t2"]):
            image = table.parent / column(record, "t2").replace("\0", "")
            seen.add(os.path.realpath(image))
            _add(gathered, image, _TABLES[table.name.lower()], {**_beside(image), **_named(record, table.parent)})
    for image in sorted(folder.rglob("t2.nii.gz")):
        if os.path.realpath(image) in seen:
            continue
        if tables:
            gathered.skipped.append(Skipped(image.parent.name, _NO_TABLE))
        else:
            _add(gathered, image, _split_of(image.relative_to(folder.parent)), _beside(image))
    return Found(
        rows=tuple(gathered.rows[name] for name in sorted(gathered.rows)),
        skipped=tuple(gathered.skipped),
        label_source=f"Prostate158 {source}",
        notes=(
            "gland_mask holds zones: 1 is meant to be the central gland, 2 the peripheral zone; in zone_mask 1 is the "
            "peripheral and 2 the transition zone",
            "a lesion is a tumour of PI-RADS 4 or more that a reader delineated; 0 means that no reader did",
            *counted(gathered.notes),
        ),
    )


def _is_of_the_set(table: Path) -> bool:
    """Whether a table lies beside the studies' folder, as the publisher's do; a manifest may be called alike."""
    return table.name.lower() in _TABLES and any((table.parent / name).is_dir() for name in ("train", "test"))


def _named(record: Record, base: Path) -> dict[str, Path]:
    """The masks that a table names; a cell is empty, or ``nan``, where there is none."""
    cells = {name: column(record, name) for name in (*_SOURCES, *_OTHERS, *_ANATOMY)}
    return {name: base / text.replace("\0", "") for name, text in cells.items() if text.lower() not in ("", "nan")}


def _beside(image: Path) -> dict[str, Path]:
    """The masks that lie beside an image under their own names."""
    paths = {name: image.parent / f"{name}.nii.gz" for name in (*_SOURCES, *_OTHERS, *_ANATOMY)}
    return {name: path for name, path in paths.items() if os.path.isfile(path)}


def _split_of(path: Path) -> str:
    """``train`` or ``test`` by the names of the folders, else empty."""
    names = " ".join(path.parts[:-1]).lower()
    return next((name for name in ("train", "test") if name in names), "")


def _add(gathered: _Gathered, image: Path, split: str, masks: dict[str, Path]) -> None:
    """Add the row of one study, or say why there is none."""
    name = image.parent.name
    there = os.path.isfile(image)  # a cell may hold anything: this never raises
    volume = look_at_image(image) if there else None
    reason = _NO_IMAGE if not there else SECOND_TIME if name in gathered.rows else IMAGE_REFUSED
    if volume is None or name in gathered.rows:
        gathered.skipped.append(Skipped(name, reason))
        return
    looks = {key: _look(gathered, name, key, path, volume) for key, path in masks.items()}
    lesion = looks.get(gathered.source, MaskLook(ABSENT))
    if lesion.state in (DAMAGED, OUTSIDE) or (lesion.state == ABSENT and gathered.source in masks):
        gathered.skipped.append(Skipped(name, _NO_MASK if lesion.state == ABSENT else LESION_REFUSED))
        return
    # named and not there, or refused: whether this reader saw a tumour is not known
    unknown = any(look.state in (ABSENT, DAMAGED, OUTSIDE) for key, look in looks.items() if key not in _ANATOMY)
    tumours = [key for key in (*_SOURCES, *_OTHERS) if key in looks and looks[key].path]
    gland = next((looks[key] for key in _ANATOMY if key in looks and looks[key].path), MaskLook(ABSENT))
    if off_gland(gland, lesion):
        gathered.skipped.append(Skipped(name, OFF_GLAND))
        return
    if gland.path is None:
        gathered.notes["no mask of the anatomy that can be used"] += 1
    if lesion.path is None and (tumours or unknown):
        what = "a tumour by another reader or sequence only" if tumours else "a mask of another reader cannot be used"
        gathered.notes[f"{what}; the label is left empty"] += 1
    if lesion.components > 1:
        gathered.notes["several tumours in one mask; the position is that of the largest"] += 1
    gathered.rows[name] = FoundRow(
        study_id=name,
        patient_id=name,
        t2w=image,
        label=1 if lesion.path else None if tumours or unknown else 0,
        position_mm_lps=lesion.centre_mm_lps,
        lesion_mask=lesion.path,
        gland_mask=gland.path,
        extra={
            "subset": split,
            "readers": " ".join(tumours),
            "lesion_components": str(lesion.components) if lesion.path else "",
            "zone_mask": _zones(gathered.derived, name, gland),
        },
    )


def _zones(derived: Path, study: str, anatomy: MaskLook) -> str:
    """The manifest's cell for a relabelled copy of the anatomy; empty where it does not hold the labels it should."""
    if anatomy.mask is None or not set(anatomy.values) <= {1, 2}:
        return ""
    path = make_folder(derived) / f"{study}_zones.nii.gz"
    labels = np.array([0, 2, 1], np.int16)[anatomy.mask.voxels]
    write_volume(replace(anatomy.mask, voxels=labels), path)
    return f"{derived.name}/{path.name}"


def _look(gathered: _Gathered, study: str, name: str, path: Path, volume: Volume) -> MaskLook:
    look = look_at_mask(path, volume, rounded_copy=gathered.derived / f"{study}_{name}.nii.gz")
    if look.rounded:
        gathered.notes[f"{name} off whole numbers by more than 0.01; a rounded copy is named"] += 1
    if look.state in (DAMAGED, OUTSIDE):
        gathered.notes[f"{name} damaged, or off its image"] += 1
    return look


DATASET = DataSet(
    name="prostate158",
    title="Prostate158",
    licence="as its Zenodo record states; check it there",
    citation="Adams LC, Makowski MR, Engel G, et al. Prostate158 - An expert-annotated 3T MRI dataset and algorithm "
    "for prostate cancer detection. Comput Biol Med 2022;148:105817",
    url="https://zenodo.org/records/6481141",
    find=find,
    label_sources=_SOURCES,
)

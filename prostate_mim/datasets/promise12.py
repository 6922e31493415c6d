"""PROMISE12: 50 training, 30 test and 20 live-challenge patients of four centres, with whole-gland masks.

Two layouts: ``training_data/Case00.mhd`` beside ``Case00_segmentation.mhd``, and the older ``TrainingData_Part1`` to
``Part3``. Test sets number their cases from 0 again, so a study's id says which set it is of.

A third form goes round: bare arrays ``image_trainNN.npy.gz`` and ``label_trainNN.npy.gz`` (z, y, x) that hold no
spacing, and whose in-plane size was changed. A spacing is never invented: such a case becomes a row only if the table
``--labels`` states its ``spacing_mm_zyx``.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from prostate_mim.datasets.found import NO_SPACING, DataSet, Found, FoundRow, ImportOptions, Skipped
from prostate_mim.datasets.mask_files import DAMAGED, IMAGE_REFUSED, OUTSIDE, counted, look_at_image, look_at_mask
from prostate_mim.datasets.tables import column, read_table
from prostate_mim.errors import ManifestError
from prostate_mim.manifest import Point, letters_and_digits

_CASE = re.compile(r"Case(\d+)\.(mhd|mha|nii|nii\.gz)", re.IGNORECASE)
_ARRAY = re.compile(r"image_train(\d+)\.npy(\.gz)?", re.IGNORECASE)
_SETS = {"livechallenge": "live", "live_challenge": "live", "test": "test", "train": "train"}
# first case of each centre's block in the training set, by sizes and spacings of the images
_BLOCKS = (0, 13, 26, 37, 50)
_TWICE = "the same case a second time"
_GLAND = "gland mask damaged, or off its image"


@dataclass
class _Gathered:
    """What has been found so far."""

    rows: dict[str, FoundRow] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)


def find(folder: Path, options: ImportOptions) -> Found:
    """Rows of one or more of the sets' folders, in either layout, or of bare arrays.

    Raises:
        ManifestError: the table of spacings is malformed.
    """
    spacings = {} if options.labels is None else _spacings(options.labels)
    gathered = _Gathered()
    for path in sorted(item for item in folder.rglob("*") if item.is_file()):
        case, array = _CASE.fullmatch(path.name), _ARRAY.fullmatch(path.name)
        if case:
            subset = _subset(path, folder)
            gland = next((item for item in _segmentations(path) if item.is_file()), None)
            _add(gathered, path, gland, subset or ("train" if gland else "case"), int(case[1]), None)
        elif array:
            _add_array(gathered, path, int(array[1]), spacings)
    assumed = any(row.centre for row in gathered.rows.values())
    blocks = ("centre is assumed from the blocks of case numbers in the training set; no file states it",)
    return Found(
        rows=tuple(gathered.rows[name] for name in sorted(gathered.rows)),
        skipped=tuple(gathered.skipped),
        notes=(*(blocks if assumed else ()), *counted(gathered.notes)),
    )


def _segmentations(path: Path) -> tuple[Path, Path]:
    stem, _, suffix = path.name.partition(".")
    return path.with_name(f"{stem}_segmentation.{suffix}"), path.with_name(f"{stem}_Segmentation.{suffix}")


def _add_array(gathered: _Gathered, path: Path, number: int, spacings: dict[int, Point]) -> None:
    if number not in spacings:
        gathered.skipped.append(Skipped(path.name, NO_SPACING))
        return
    gathered.notes["bare array: its spacing is what the table of --labels says; place and axes are a convention"] += 1
    gland = path.with_name(path.name.replace("image_", "label_", 1))
    _add(gathered, path, gland if gland.is_file() else None, "train", number, spacings[number])


def _add(
    gathered: _Gathered, path: Path, gland: Path | None, subset: str, number: int, spacing_mm_zyx: Point | None
) -> None:
    """Add the row of one case, or say why there is none."""
    name = f"{subset}-Case{number:02d}"
    if name in gathered.rows:
        gathered.skipped.append(Skipped(path.name, _TWICE))
        return
    volume = look_at_image(path, spacing_mm_zyx)
    if volume is None:
        gathered.skipped.append(Skipped(name, IMAGE_REFUSED))
        return
    look = look_at_mask(gland, volume, spacing_mm_zyx=spacing_mm_zyx)
    if look.state in (DAMAGED, OUTSIDE):
        gathered.skipped.append(Skipped(name, _GLAND))
        return
    if look.path is None:
        gathered.notes[f"no segmentation ({subset} set)"] += 1
    gathered.rows[name] = FoundRow(
        study_id=name,
        patient_id=name,
        t2w=path,
        gland_mask=look.path,
        centre=_centre(number) if subset == "train" else "",
        spacing_mm_zyx=spacing_mm_zyx,
        extra={"subset": subset},
    )


def _subset(path: Path, folder: Path) -> str:
    """Which set, by the innermost folder whose name says so; empty where none does."""
    for part in (*reversed(path.relative_to(folder).parts[:-1]), folder.name):
        found = next((name for word, name in _SETS.items() if word in part.lower()), "")
        if found:
            return found
    return ""


def _centre(number: int) -> str:
    bounds = itertools.pairwise(_BLOCKS)
    return next((f"cases {first:02d} to {end - 1:02d}" for first, end in bounds if first <= number < end), "")


def _spacings(table: Path) -> dict[int, Point]:
    """Case number -> spacing (z, y, x) in mm, of a table with columns case and spacing_mm_zyx.

    Raises:
        ManifestError: a column or a value is not so.
    """
    found: dict[int, Point] = {}
    for number, record in enumerate(read_table(table, ["case", "spacing_mm_zyx"]), 1):
        digits = re.search(r"(\d+)(?!.*\d)", letters_and_digits(column(record, "case")))
        try:
            z, y, x = (float(word) for word in column(record, "spacing_mm_zyx").split())
        except ValueError:
            z = y = x = float("nan")
        if digits is None or not all(0.1 <= value <= 10 for value in (z, y, x)):
            raise ManifestError(
                f"{table} row {number}: case must hold a number and spacing_mm_zyx be 'z y x' in mm, 0.1 to 10"
            )
        found[int(digits[1])] = (z, y, x)
    return found


DATASET = DataSet(
    name="promise12",
    title="PROMISE12",
    licence="research use under the challenge's terms; weights trained on it are research-only",
    citation="Litjens G, Toth R, van de Ven W, et al. Evaluation of prostate segmentation algorithms for MRI: the "
    "PROMISE12 challenge. Med Image Anal 2014;18:359-373",
    url="https://zenodo.org/records/8026660",
    find=find,
    labels_help="a table with columns case and spacing_mm_zyx, for cases that are bare arrays without a spacing",
)

"""Folds of patients: balanced by label and centre, and kept when studies are added.

Only patient ids, labels, centres and the seed decide. A patient's stratum is its label (positive if any of its rows is)
and its centre. Patients are taken stratum by stratum, in the order of a hash of seed and patient id, and each goes to
the fold that has the fewest of its stratum; of equals, to the one with the fewest of its label, then of all patients.
So no two folds differ by more than one patient in a stratum, in a label or in all. A study or lesion that leaves its
patient in the same stratum moves nobody; where folds are recorded, nobody who has one moves, whatever is added.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prostate_mim.errors import ManifestError, UsageError
from prostate_mim.files import write_text
from prostate_mim.manifest import Manifest, ManifestRow, read_manifest

DEFAULT_COUNT = 5
_SHOWN_FOLDS = 20

Stratum = tuple[str, str]
"""Label ("1", "0", or "" where no row has one) and centre."""


@dataclass(frozen=True)
class Fold:
    """What is in one fold.

    Attributes:
        number: as in the column ``fold``.
        patients, rows: how many.
        positives: patients with a row of label 1.
        centres: centre -> patients; "" where the manifest gives none.
    """

    number: int
    patients: int
    rows: int
    positives: int
    centres: dict[str, int]


def assign_folds(manifest: Manifest, count: int, seed: int) -> list[int]:
    """A fold for every row; all rows of a patient share it. The manifest's own ``fold`` column wins.

    Raises:
        UsageError: more folds than patients, or than patients of the rarer label.
        ManifestError: ``fold`` is given in some rows only, or is the same in all; a label is missing.
    """
    given = [row.fold for row in manifest.rows]
    known = [fold for fold in given if fold is not None]
    if len(known) == len(given):
        if len(set(known)) < 2:
            raise ManifestError(f"{manifest.path}: fold is {known[0]} in every row; at least 2 folds are needed")
        return known
    if known:
        row = manifest.rows[given.index(None)]
        raise ManifestError(
            f"{manifest.where(row)}: fold is empty; give it in every row or in none "
            "('prostate-mim data split' completes it)"
        )
    for row in manifest.rows:
        if row.label is None:
            raise ManifestError(f"{manifest.where(row)}: label is empty; folds are balanced by it")
    _check_count(manifest.rows, count)
    return complete_folds(manifest, count, seed)


def recorded_folds(manifest: Manifest, fold: int) -> list[int]:
    """The fold that the manifest gives each row, where ``fold`` is one of them, and not the only one.

    Raises:
        ManifestError: a row has no fold, or every row the same.
        UsageError: no row is in ``fold``; the message names those that there are.
    """
    given = [row.fold for row in manifest.rows]
    known = sorted({found for found in given if found is not None})
    if not known:
        raise ManifestError(
            f"{manifest.path}: no row has a fold, so fold {fold} cannot be left out; fill the column fold "
            "('prostate-mim data split' does)"
        )
    if None in given:
        row = manifest.rows[given.index(None)]
        raise ManifestError(
            f"{manifest.where(row)}: fold is empty; where fold {fold} is left out every row needs one: that of its "
            "patient, or a number of its own for studies of other sources"
        )
    if fold not in known:
        shown = ", ".join(map(str, known[:_SHOWN_FOLDS])) + (", ..." if len(known) > _SHOWN_FOLDS else "")
        raise UsageError(f"{manifest.path}: no row is in fold {fold}; its folds are {shown}; choose one of them")
    if len(known) < 2:
        raise ManifestError(f"{manifest.path}: fold is {fold} in every row; without it nothing is left to learn from")
    return [found for found in given if found is not None]


def leave_out_fold(manifest: Manifest, fold: int) -> Manifest:
    """The rows of a manifest that are not in one of its folds.

    Raises:
        ManifestError, UsageError: as ``recorded_folds``.
    """
    pairs = zip(manifest.rows, recorded_folds(manifest, fold), strict=True)
    return Manifest(manifest.path, tuple(row for row, found in pairs if found != fold))


def complete_folds(manifest: Manifest, count: int | None, seed: int) -> list[int]:
    """A fold for every row, where some rows, or none, have theirs recorded. Labels may be missing.

    Args:
        manifest: a patient with a recorded fold keeps it, with all of its rows.
        count: how many folds; None takes those that are recorded.
        seed: decides the order in which patients are placed.

    Raises:
        UsageError: fewer than 2 folds, more than patients, or fewer than are recorded.
    """
    strata = patient_strata(manifest.rows)
    recorded = {row.patient_id: row.fold for row in manifest.rows if row.fold is not None}
    folds = _names_of_folds(set(recorded.values()), count)
    if len(strata) < len(folds):
        raise UsageError(f"{len(folds)} folds were asked for, but there are only {len(strata)} patients")
    placed = _place(strata, recorded, folds, seed)
    return [placed[row.patient_id] for row in manifest.rows]


def leave_one_centre_out(manifest: Manifest) -> list[int]:
    """A fold for every row: one fold a centre, numbered in the alphabetical order of the centres' names.

    Raises:
        ManifestError: a centre is missing, there is only one, or a patient was seen at two.
    """
    centre_of: dict[str, ManifestRow] = {}
    for row in manifest.rows:
        if not row.centre:
            raise ManifestError(f"{manifest.where(row)}: centre is empty; leaving out one centre needs it in every row")
        first = centre_of.setdefault(row.patient_id, row)
        if first.centre != row.centre:
            raise ManifestError(
                f"{manifest.where(row)}: its patient has another centre in row {first.number}, and would be on both "
                "sides of a split by centre; give all studies of this patient one centre, or leave them out"
            )
    number = {centre: fold for fold, centre in enumerate(sorted({row.centre for row in manifest.rows}))}
    if len(number) < 2:
        raise ManifestError(f"{manifest.path}: every row has one centre; leaving one out needs at least 2")
    return [number[row.centre] for row in manifest.rows]


def split_manifest(
    manifest: str | Path, out: str | Path, count: int | None = None, seed: int = 0, *, by_centre: bool = False
) -> list[Fold]:
    """Write a copy of a manifest with a complete ``fold`` column; every other cell stays as it is.

    Relative paths (``t2w`` and every column that ends in ``_mask``) are rewritten for a copy in another folder.

    Args:
        manifest: the CSV; folds that it records are kept.
        out: the new CSV; must not exist.
        count: folds; None means those that are recorded, or 5.
        seed: see ``complete_folds``.
        by_centre: one fold a centre, in place of ``count`` balanced ones.

    Raises:
        UsageError, ManifestError, NotFoundError: as ``read_manifest``, ``complete_folds`` and ``leave_one_centre_out``;
            ``out`` exists or cannot be written; folds are recorded, and split by centre.
    """
    source, target = Path(manifest), Path(out)
    if target.exists():
        raise UsageError(f"{target}: already there, and nothing is overwritten; choose another --out")
    listed = read_manifest(source)
    recorded = any(row.fold is not None for row in listed.rows)
    if by_centre and (recorded or count is not None):
        raise UsageError("folds by centre are one a centre; leave out --folds, and empty the column fold")
    if by_centre:
        folds = leave_one_centre_out(listed)
    else:
        folds = complete_folds(listed, count if recorded or count else DEFAULT_COUNT, seed)
    write_text(target, _with_folds(source, target, folds))
    return _summary(listed.rows, folds)


def patient_strata(rows: Sequence[ManifestRow]) -> dict[str, Stratum]:
    """Patient id -> stratum. A patient seen at several centres is in the stratum of them all."""
    labels: dict[str, set[int]] = {}
    centres: dict[str, set[str]] = {}
    for row in rows:
        labels.setdefault(row.patient_id, set()).update(set() if row.label is None else {row.label})
        centres.setdefault(row.patient_id, set()).add(row.centre)
    return {
        patient: (str(max(found)) if found else "", "\0".join(sorted(centres[patient])))
        for patient, found in labels.items()
    }


def _place(
    strata: Mapping[str, Stratum], recorded: Mapping[str, int], folds: Sequence[int], seed: int
) -> dict[str, int]:
    """Patient -> fold: the recorded ones, then every other where it is needed most."""
    in_stratum, in_label, in_all = Counter[tuple[int, Stratum]](), Counter[tuple[int, str]](), Counter[int]()
    placed: dict[str, int] = {}

    def put(patient: str, fold: int) -> None:
        placed[patient] = fold
        in_stratum[fold, strata[patient]] += 1
        in_label[fold, strata[patient][0]] += 1
        in_all[fold] += 1

    for patient, fold in recorded.items():
        put(patient, fold)

    def need(fold: int, stratum: Stratum) -> tuple[int, int, int, int]:
        return in_stratum[fold, stratum], in_label[fold, stratum[0]], in_all[fold], fold

    # The rarer label first: what is left over of it is spread before the other fills up the folds.
    new = [(*strata[patient], _rank(patient, seed), patient) for patient in strata.keys() - recorded.keys()]
    for label, centre, _, patient in sorted(new, reverse=True):
        stratum = (label, centre)
        put(patient, min(folds, key=lambda fold, own=stratum: need(fold, own)))  # type: ignore[misc]
    return placed


def _rank(patient: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}\0{patient}".encode()).hexdigest()


def _names_of_folds(recorded: set[int], count: int | None) -> list[int]:
    """The numbers that folds have: the recorded ones, and the smallest free ones up to ``count``."""
    wanted = len(recorded) if count is None else count
    if wanted < 2:
        said = f"{wanted} folds were asked for" if count is not None else f"{wanted} fold is recorded; give --folds"
        raise UsageError(f"{said}; at least 2 are needed to estimate anything")
    if wanted < len(recorded):
        raise UsageError(
            f"{wanted} folds were asked for, but {len(recorded)} are recorded; use --folds {len(recorded)} or more, or "
            "empty the column fold"
        )
    free = (number for number in range(len(recorded) + wanted) if number not in recorded)
    return sorted([*recorded, *(next(free) for _ in range(wanted - len(recorded)))])


def _check_count(rows: Sequence[ManifestRow], count: int) -> None:
    if count < 2:
        raise UsageError(f"{count} folds were asked for; at least 2 are needed to estimate anything")
    counts = [len({row.patient_id for row in rows if row.label == label}) for label in (0, 1)]
    patients = min(counts)
    if patients < count:
        remedy = f"use --folds {patients} or fewer, or add patients" if patients > 1 else "add patients, 2 at least"
        raise UsageError(
            f"{count} folds were asked for, but only {patients} patients have a lesion of label "
            f"{counts.index(patients)}; {remedy}"
        )


def _with_folds(source: Path, target: Path, folds: Sequence[int]) -> str:
    """The text of a manifest with other folds, for another folder."""
    with source.open(newline="", encoding="utf-8-sig") as stream:
        header, *records = [record for record in csv.reader(stream, strict=True) if record]
    names = [name.strip() for name in header]
    if "fold" not in names:
        names, header = [*names, "fold"], [*header, "fold"]
        records = [[*record, ""] for record in records]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for record, fold in zip(records, folds, strict=True):
        pairs = zip(names, record, strict=True)
        cells = [_moved(cell, source, target) if _is_path(name) else cell for name, cell in pairs]
        cells[names.index("fold")] = str(fold)
        writer.writerow(cells)
    return text.getvalue()


def _is_path(name: str) -> bool:
    return name == "t2w" or name.endswith("_mask")


def _moved(cell: str, source: Path, target: Path) -> str:
    """A path relative to the folder of ``source``, as seen from the folder of ``target``."""
    text = cell.strip()
    here, there = source.parent.resolve(), target.parent.resolve()
    if not text or here == there or Path(text).is_absolute():
        return cell
    path = here / text
    try:
        moved = Path(os.path.relpath(path, there))
    except ValueError:  # on another drive
        return str(path)
    # "a/../b" is another place than "b" where a is a link to a folder.
    same = not path.exists() or ((there / moved).exists() and (there / moved).samefile(path))
    return moved.as_posix() if same else str(path)


def _summary(rows: Sequence[ManifestRow], folds: Sequence[int]) -> list[Fold]:
    found = []
    for number in sorted(set(folds)):
        own = [row for row, fold in zip(rows, folds, strict=True) if fold == number]
        centres = Counter(centre for centre, _ in {(row.centre, row.patient_id) for row in own})
        found.append(
            Fold(
                number=number,
                patients=len({row.patient_id for row in own}),
                rows=len(own),
                positives=len({row.patient_id for row in own if row.label == 1}),
                centres=dict(sorted(centres.items())),
            )
        )
    return found

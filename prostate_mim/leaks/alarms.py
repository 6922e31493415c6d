"""Alarms for studies and persons that are on two sides. Findings name rows, never a patient, a study or a path."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from prostate_mim.errors import ManifestError
from prostate_mim.leaks.aliases import persons
from prostate_mim.leaks.hashes import StudyHashes
from prostate_mim.manifest import ManifestRow

SAME_VOXELS, SAME_PERSON, MODEL_SAW, TWO_FOLDS = "same voxels", "same person", "model saw it", "two folds"
_SHOWN_ROWS = 5


@dataclass(frozen=True)
class Leak:
    """Rows that must not be used as they are.

    Attributes:
        kind: ``same voxels``, ``same person``, ``model saw it`` or ``two folds``.
        rows: row numbers in the manifest that is checked.
        message: one line: what, where, what to do.
    """

    kind: str
    rows: tuple[int, ...]
    message: str


def same_voxels(rows: Sequence[ManifestRow], hashes: Mapping[int, str]) -> list[Leak]:
    """One image under two study or patient ids.

    Args:
        rows: of the manifest.
        hashes: row number -> ``voxel_hash``; rows without one are passed over.
    """
    leaks = []
    for found in _by_hash(rows, hashes).values():
        first_of = _firsts(found, lambda row: (row.patient_id, row.study_id))
        if len(first_of) < 2:
            continue
        patients = len({row.patient_id for row in first_of})
        told = (
            f"under {patients} patient ids; give one person one patient_id, and keep one of these studies"
            if patients > 1
            else f"under {len(first_of)} study ids of one patient; keep one of them"
        )
        leaks.append(_leak(SAME_VOXELS, first_of, f"the same voxels {told}"))
    return leaks


def same_person(
    rows: Sequence[ManifestRow], aliases: Mapping[str, str], folds: Sequence[int] | None = None
) -> list[Leak]:
    """One person under two patient ids, or in two folds.

    Args:
        rows: of the manifest.
        aliases: patient id -> person, as of ``read_aliases``; other ids are persons of their own. Capitals and
            punctuation of ids do not count.
        folds: one a row: then two ids of a person are a finding only where they are in different folds, and so is one
            id in two folds.
    """
    person_of = persons(aliases)
    people: dict[str, list[tuple[ManifestRow, int]]] = {}
    for place, row in enumerate(rows):
        people.setdefault(person_of(row.patient_id), []).append((row, folds[place] if folds is not None else -1))
    leaks = []
    for own in people.values():
        ids = {row.patient_id for row, _ in own}
        used = {fold for _, fold in own}
        if folds is not None and len(used) > 1:
            each = [next(row for row, fold in own if fold == one) for one in sorted(used)]
            ones = "one patient" if len(ids) == 1 else "one person under several patient ids"
            kind = TWO_FOLDS if len(ids) == 1 else SAME_PERSON
            leaks.append(_leak(kind, each, f"{ones} in {len(used)} folds; give all studies of a person one fold"))
        elif folds is None and len(ids) > 1:
            each = _firsts([row for row, _ in own], lambda row: row.patient_id)
            leaks.append(_leak(SAME_PERSON, each, f"one person under {len(ids)} patient ids; give a person one id"))
    return leaks


def model_saw(rows: Sequence[ManifestRow], hashes: Mapping[int, str], seen: StudyHashes) -> list[Leak]:
    """Studies that a model was trained on; one finding a study.

    Args:
        rows, hashes: as for ``same_voxels``.
        seen: of the model.
    """
    found = _by_hash(rows, hashes).items()
    told = "the model was trained on this study; evaluate on studies it has not seen, or choose another model"
    return [_leak(MODEL_SAW, own, told) for voxels, own in found if seen.contains(voxels)]


def overlap_between(
    rows: Sequence[ManifestRow],
    hashes: Mapping[int, str],
    other_rows: Sequence[ManifestRow],
    other_hashes: Mapping[int, str],
    aliases: Mapping[str, str],
) -> list[Leak]:
    """Studies and persons of one manifest that are in another too, such as an evaluation's and a training's.

    Args:
        rows, hashes: of the manifest that is checked; its row numbers are given.
        other_rows, other_hashes: of the other.
        aliases: as for ``same_person``.
    """
    person_of = persons(aliases)
    others = _by_hash(other_rows, other_hashes)
    leaks = []
    for voxels, own in _by_hash(rows, hashes).items():
        if voxels in others:
            there = others[voxels][0].number
            leaks.append(
                _leak(SAME_VOXELS, own, f"the same voxels as row {there} of the other manifest; remove one of them")
            )
    there_too: dict[str, int] = {}
    for row in other_rows:
        there_too.setdefault(person_of(row.patient_id), row.number)
    people: dict[str, list[ManifestRow]] = {}
    for row in rows:
        people.setdefault(person_of(row.patient_id), []).append(row)
    for person, own in people.items():
        if person in there_too:
            told = f"the person of row {there_too[person]} of the other manifest; a person belongs to one of the two"
            leaks.append(_leak(SAME_PERSON, own, told))
    return leaks


def refuse(leaks: Sequence[Leak], allow: bool, where: str) -> tuple[str, ...]:
    """Stop at findings, or take them along.

    Args:
        leaks: what was found.
        allow: go on; the caller records what is returned.
        where: of the message; the manifest.

    Returns:
        The findings' messages.

    Raises:
        ManifestError: there is a finding, and ``allow`` is off.
    """
    if leaks and not allow:
        count = "1 finding" if len(leaks) == 1 else f"the first of {len(leaks)} findings"
        raise ManifestError(
            f"{where}: {leaks[0].message} ({count} of overlap; --allow-overlap (allow_overlap=True) "
            "goes on, and every result says so)"
        )
    return tuple(leak.message for leak in leaks)


def _by_hash(rows: Sequence[ManifestRow], hashes: Mapping[int, str]) -> dict[str, list[ManifestRow]]:
    found: dict[str, list[ManifestRow]] = {}
    for row in rows:
        if row.number in hashes:
            found.setdefault(hashes[row.number], []).append(row)
    return found


def _firsts(rows: Sequence[ManifestRow], key: Callable[[ManifestRow], Hashable]) -> list[ManifestRow]:
    """The first row of every value of ``key``."""
    firsts: dict[Hashable, ManifestRow] = {}
    for row in rows:
        firsts.setdefault(key(row), row)
    return list(firsts.values())


def _leak(kind: str, rows: Sequence[ManifestRow], told: str) -> Leak:
    numbers = tuple(row.number for row in rows)
    shown = ", ".join(str(number) for number in numbers[:_SHOWN_ROWS])
    more = f" and {len(numbers) - _SHOWN_ROWS} more" if len(numbers) > _SHOWN_ROWS else ""
    return Leak(kind, numbers, f"{'row' if len(numbers) == 1 else 'rows'} {shown}{more}: {told}")

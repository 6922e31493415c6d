"""The proof that no held-out patient was in an arm's pretraining data, or the refusal.

Three ways to find out, all of them used: persons of two manifests by their ids (and the user's table of aliases),
images of two manifests by the hashes of their voxels, and the hashes that a release keeps of what it has seen. What
none of them can see: another series or a resampled copy of one person under an id that no table joins.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from prostate_mim.hub import Studies
from prostate_mim.leaks import Leak, model_saw, overlap_between, read_aliases, refuse, same_person, same_voxels
from prostate_mim.leaks.aliases import persons
from prostate_mim.manifest import Manifest, ManifestRow
from prostate_mim.store import PreparedManifest
from prostate_mim.study.tasks import ALL_FOLDS, OpenTask

SILENT = "its release does not say which studies it has seen"
# Initialisations that are no release and come from elsewhere -> (proven?, what is known).
UNKNOWN = (False, "nothing is known of what its weights have seen")
ELSEWHERE = {
    "random": (True, "random weights have seen no study"),
    "imagenet": (True, "its weights have seen photographs only"),
    "imagenet-centre": (True, "its weights have seen photographs only"),
    "medicalnet": (False, "its file does not say which studies it has seen; its makers name public data sets"),
}  # fmt: skip


@dataclass(frozen=True)
class Proof:
    """What is known about one encoder and the held-out rows of one task.

    Attributes:
        proven: no overlap, and nothing that nobody can know.
        how: one line.
        findings: overlap that ``allow_overlap`` let pass, one line each.
    """

    proven: bool
    how: str
    findings: tuple[str, ...] = ()


def check_task(task: OpenTask) -> tuple[str, ...]:
    """Refuse one image under two ids and one person in two folds, within a task.

    Returns:
        What was found and allowed.

    Raises:
        ManifestError: something was found, and the task does not allow it.
    """
    rows = task.manifest.rows
    leaks: list[Leak] = [*same_voxels(rows, task.prepared.voxel_hashes)]
    leaks += same_person(rows, _aliases(task), task.table.folds)
    return refuse(leaks, task.config.allow_overlap, f"task {task.config.name}")


def prove_data(task: OpenTask, fold: int, listed: Manifest, prepared: PreparedManifest, kept: Collection[int]) -> Proof:
    """Compare what is going to be pretrained on with the held-out rows, before a step is made.

    Args:
        fold: whose rows are held out; ``ALL_FOLDS`` holds out every row.
        listed, prepared: the pretraining's manifest.
        kept: its row numbers that are used.

    Raises:
        ManifestError: they overlap, and the task does not allow it.
    """
    others = [row for row in listed.rows if row.number in kept]
    hashes = task.prepared.voxel_hashes
    leaks = overlap_between(_held_out(task, fold), hashes, others, prepared.voxel_hashes, _aliases(task))
    findings = refuse(leaks, task.config.allow_overlap, f"task {task.config.name}, pretraining")
    left_out = len(listed.rows) - len(others)
    what = "every row" if fold == ALL_FOLDS else f"fold {fold}"
    how = f"{what} held out: no person and no image in common with {len(others)} rows of the pretraining"
    return Proof(not findings, how + (f" ({left_out} left out)" if left_out else ""), findings)


def prove_release(task: OpenTask, fold: int, seen: Studies, *, silent: bool) -> Proof:
    """Compare what a release says it has seen with the held-out rows.

    Args:
        seen: of the release.
        silent: a release that says nothing is refused too.

    Raises:
        ManifestError: it has seen one of them, or says nothing; and the task does not allow it.
    """
    held_out = _held_out(task, fold)
    leaks = [leak for known in seen.known for leak in model_saw(held_out, task.prepared.voxel_hashes, known)]
    if silent and not seen.known:
        leaks.append(Leak("model saw it", (), f"{SILENT}; choose another, or allow overlap"))
    findings = refuse(leaks, task.config.allow_overlap, f"task {task.config.name}")
    count = sum(len(known.digests) for known in seen.known)
    return Proof(not findings, f"none of the held-out images among the {count} its release has seen", findings)


def rows_beside(task: OpenTask, fold: int, listed: Manifest, prepared: PreparedManifest) -> list[int]:
    """Row numbers of a pretraining manifest that share no person and no image with a fold of the task."""
    person_of = persons(_aliases(task))
    held_out, own = _held_out(task, fold), task.prepared.voxel_hashes
    people = {person_of(row.patient_id) for row in held_out}
    images = {own[row.number] for row in held_out if row.number in own}
    there = prepared.voxel_hashes
    return [
        row.number
        for row in listed.rows
        if person_of(row.patient_id) not in people and there.get(row.number) not in images
    ]


def manifest_of_rows(source: Path, kept: Sequence[int]) -> str:
    """The CSV text of some rows of a manifest, its paths absolute."""
    with source.open(newline="", encoding="utf-8-sig") as stream:
        header, *records = [record for record in csv.reader(stream, strict=True) if record]
    names, wanted = [name.strip() for name in header], set(kept)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for number, record in enumerate(records, 1):
        if number in wanted:
            writer.writerow([_absolute(name, cell, source) for name, cell in zip(names, record, strict=True)])
    return text.getvalue()


def _absolute(name: str, cell: str, source: Path) -> str:
    is_path = name == "t2w" or name.endswith("_mask")
    return str((source.parent / cell.strip()).resolve()) if is_path and cell.strip() else cell


def _held_out(task: OpenTask, fold: int) -> list[ManifestRow]:
    return [task.manifest.rows[place] for place in task.rows_of(fold)]


def _aliases(task: OpenTask) -> dict[str, str]:
    return read_aliases(Path(task.config.picai_labels)) if task.config.picai_labels else {}

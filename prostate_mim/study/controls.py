"""Controls: shuffled labels say nothing, rows counted twice make nothing more certain, a planted leak is caught."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prostate_mim.errors import ManifestError
from prostate_mim.leaks import Leak, overlap_between, refuse, same_person, same_voxels
from prostate_mim.study.records import ALL, CONTROL, PERMUTED
from prostate_mim.study.tasks import OpenTask

DUPLICATED = f"{CONTROL}duplicated:"
"""Beginning of the name of an arm whose rows were counted twice; its own name follows."""
_NARROWER = 0.9
"""Share of the interval's width below which counting rows twice has made it narrower; draws differ by less."""
_MAIN = ("auroc", "balanced_accuracy")

Row = Mapping[str, Any]
Verdict = dict[str, Any]


def verdicts(results: Sequence[Row], tasks: Mapping[str, OpenTask]) -> list[Verdict]:
    """What the controls say.

    Args:
        results: rows of the table, controls among them.
        tasks: opened.

    Returns:
        name, task, passed (None where it cannot be said) and what: one a control.
    """
    found = []
    for row in results:
        if row["arm"].startswith(PERMUTED) and _is_main(row):
            task = tasks.get(row["task"])
            found.append(_covers_chance(row, 0.5 if task is None else task.chance))
    for row in results:
        if row["arm"].startswith(DUPLICATED) and _is_main(row):
            found.append(_as_wide(row, _original(row, results)))
    return found + [planted_leak(task) for task in tasks.values()]


def _is_main(row: Row) -> bool:
    """AUROC, or of centres balanced accuracy, of all rows, all seeds together, at the level of the task's rows."""
    main = row["metric"] in _MAIN and row["seed"] == ALL and row["subset"] == ALL
    return bool(main and (row["level"] == "lesion" or row["mode"] == "probe"))


def _covers_chance(row: Row, chance: float) -> Verdict:
    low, high = row["low"], row["high"]
    known = low is not None and high is not None
    shown = f"[{low:.3f}, {high:.3f}]" if known else "undefined"
    passed = bool(low <= chance <= high) if known else None
    name = "AUROC" if row["metric"] == "auroc" else row["metric"].replace("_", " ")
    return _verdict(row, passed, f"{name} with shuffled labels {shown}; expected to cover {chance:g}")


def _original(row: Row, results: Sequence[Row]) -> Row | None:
    own = {**row, "arm": row["arm"].removeprefix(DUPLICATED)}
    keys = ("task", "arm", "architecture", "mode", "fraction", "seed", "metric", "level", "subset")
    return next((other for other in results if all(other[key] == own[key] for key in keys)), None)


def _as_wide(row: Row, original: Row | None) -> Verdict:
    widths = [None if one is None or one["low"] is None else one["high"] - one["low"] for one in (row, original)]
    twice, once = widths
    if twice is None or once is None:
        return _verdict(row, None, "an interval is undefined")
    said = f"the interval with every row twice is {twice:.3f} wide, {once:.3f} with every row once"
    return _verdict(row, bool(twice >= _NARROWER * once), said)


def _verdict(row: Row, passed: bool | None, what: str) -> Verdict:
    name = f"{row['arm']} {row['architecture']} {row['mode']}"
    return {"name": name, "task": row["task"], "passed": passed, "what": what}


def planted_leak(task: OpenTask) -> Verdict:
    """Put a patient where it must not be, three times, and see whether the guard refuses each time."""
    plants: dict[str, Callable[[OpenTask], list[Leak]]] = {
        "one patient in two folds": _in_two_folds,
        "one image under two ids": _under_two_ids,
        "a held-out patient in the pretraining data": _in_pretraining,
    }
    missed = [name for name, plant in plants.items() if not _is_refused(plant(task))]
    what = f"missed: {', '.join(missed)}" if missed else f"refused: {', '.join(plants)}"
    return {"name": f"{CONTROL}planted leak", "task": task.config.name, "passed": not missed, "what": what}


def _is_refused(leaks: Sequence[Leak]) -> bool:
    try:
        refuse(leaks, False, "planted")
    except ManifestError:
        return True
    return False


def _in_two_folds(task: OpenTask) -> list[Leak]:
    rows, first = task.manifest.rows, task.manifest.rows[0]
    again = dataclasses.replace(first, number=len(rows) + 1, lesion_id="planted")
    return same_person([*rows, again], {}, [*task.table.folds, max(task.table.folds) + 1])


def _under_two_ids(task: OpenTask) -> list[Leak]:
    rows, first = task.manifest.rows, task.manifest.rows[0]
    other = dataclasses.replace(first, number=len(rows) + 1, study_id="planted", patient_id="planted")
    hashes = task.prepared.voxel_hashes
    return same_voxels([*rows, other], {**hashes, other.number: hashes[first.number]})


def _in_pretraining(task: OpenTask) -> list[Leak]:
    first = task.manifest.rows[0]
    return overlap_between([first], {}, [dataclasses.replace(first, study_id="planted")], {}, {})

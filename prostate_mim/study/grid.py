"""The grid: every cell in its order, and the choice of a part of it."""

from __future__ import annotations

from collections.abc import Iterator

from prostate_mim.errors import UsageError, nearest
from prostate_mim.study.cells import LOCATION, PLACE, Cell
from prostate_mim.study.config import LESIONS, PROBE, VOXELS, ArmConfig, StudyConfig, TaskConfig
from prostate_mim.study.records import PERMUTED

KEYS = ("task", "arm", "architecture", "mode", "fraction", "seed")


def cells_of(config: StudyConfig) -> Iterator[tuple[Cell, TaskConfig, ArmConfig]]:
    """Every cell with its task and arm; controls after the arm that they are of.

    Controls are of the reference arms: with shuffled labels at the largest fraction, and in probes of voxels with the
    voxel's place, in its window or in the body, instead of features.
    """
    for task in config.tasks:
        lesions = task.kind == LESIONS
        modes = config.modes if lesions else (PROBE,)
        fractions = config.fractions if lesions else (1.0,)
        for arm in config.arms:
            for architecture in config.architectures_of(arm):
                for mode in modes:
                    for fraction in fractions:
                        for seed in config.seeds:
                            yield Cell(task.name, arm.name, architecture, mode, fraction, seed), task, arm
                    for start in _controls(config, task, arm):
                        for seed in config.seeds:
                            name = f"{start}{arm.name}"
                            yield Cell(task.name, name, architecture, mode, max(fractions), seed), task, arm


def _controls(config: StudyConfig, task: TaskConfig, arm: ArmConfig) -> tuple[str, ...]:
    if not config.controls or arm.name not in config.references_or_first:
        return ()
    return (PERMUTED, PLACE, LOCATION) if task.kind == VOXELS else (PERMUTED,)


def parse_only(text: str) -> dict[str, set[str]]:
    """``arm=random,arm=genesis,seed=0`` -> {"arm": {"random", "genesis"}, "seed": {"0"}}; empty: everything.

    Raises:
        UsageError: not of this form, or an unknown key.
    """
    chosen: dict[str, set[str]] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value:
            raise UsageError(f"--only {part!r}: expected key=value, for example arm=random,seed=0")
        if key not in KEYS:
            near = nearest(key, KEYS, 0)
            raise UsageError(f"--only {key!r} is unknown; did you mean {near}? ({', '.join(KEYS)})")
        chosen.setdefault(key, set()).add(value)
    return chosen


def is_chosen(cell: Cell, only: dict[str, set[str]]) -> bool:
    """Whether a cell is in the part; a control goes with its arm."""
    values = {key: f"{getattr(cell, key):g}" if key == "fraction" else str(getattr(cell, key)) for key in KEYS}
    names = {values["arm"], values["arm"].rpartition(":")[2]}
    return all(
        bool(wanted & names) if key == "arm" else values[key] in _alike(key, wanted) for key, wanted in only.items()
    )


def check_only(only: dict[str, set[str]], cells: list[Cell]) -> None:
    """Refuse a choice that leaves nothing.

    Raises:
        UsageError: naming what there is.
    """
    if not any(is_chosen(cell, only) for cell in cells):
        there = {key: sorted({str(getattr(cell, key)) for cell in cells}) for key in only}
        known = "; ".join(f"{key}: {', '.join(values)}" for key, values in there.items())
        raise UsageError(f"--only chooses no cell; there are {known}")


def _alike(key: str, wanted: set[str]) -> set[str]:
    """Fractions compare as numbers: 1, 1.0 and 1.00 are one."""
    if key != "fraction":
        return wanted
    try:
        return {f"{float(text):g}" for text in wanted}
    except ValueError:
        raise UsageError(f"--only fraction={'|'.join(sorted(wanted))} is not a number, such as 0.1") from None

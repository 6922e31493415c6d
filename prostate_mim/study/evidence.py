"""What a study left behind, ready to be shown: its tables by group, its arms in a fixed order.

Everything a report says comes from here; nothing is computed a second time that the tables already hold.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prostate_mim.errors import IntegrityError, NotFoundError
from prostate_mim.health.run_folder import read_run
from prostate_mim.looking.shown import ZONES
from prostate_mim.study.records import (
    ALL,
    CASES,
    COMPARISONS,
    PREDICTIONS,
    RESULTS,
    STUDY,
    is_control,
    read_table,
    table_path,
)

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Row = Mapping[str, Any]
REFERENCES = ("random", "imagenet")
"""Initialisations that the others are drawn against, in this order."""

_METRICS = ("auroc", "balanced_accuracy", "dice", "average_precision")  # the first one that was computed leads
_MODES = ("linear", "attentive", "full")
_SPANNED = ("arm", "fraction", "level", "metric", "subset", "seed")
_LEVELS = ("lesion", "study", "patient")


@dataclass(frozen=True)
class Group:
    """Cells that may be compared: one task, one network, one way of using it."""

    task: str
    architecture: str
    mode: str


@dataclass(frozen=True)
class Span:
    """What there is of a group, controls apart.

    Attributes:
        arms: in the fixed order.
        fractions: shares of the training labels that were used, ascending.
        levels: ``lesion`` and ``patient``, or what there is of them.
        metrics: as the table has them; ``leading`` is the one that figures show.
        subsets: ``zone=PZ``, ``centre=1``, ...: whatever was computed beside the whole.
        seeds: those that have results of their own.
    """

    arms: tuple[str, ...]
    fractions: tuple[float, ...]
    levels: tuple[str, ...]
    metrics: tuple[str, ...]
    subsets: tuple[str, ...]
    seeds: tuple[str, ...]

    @property
    def leading(self) -> str:
        """The metric that figures show."""
        return next((name for name in _METRICS if name in self.metrics), self.metrics[0])


@dataclass(frozen=True, eq=False)
class Scores:
    """Out-of-fold predictions of one arm, averaged over the seeds; one entry per row of the manifest, (N,) each.

    Attributes:
        rows: manifest row numbers, ascending.
        patients: running numbers.
        labels: 0 or 1.
        probabilities: mean over the seeds.
        zones: "" where none is given, or where the word is no zone.
        seeds: how many seeds were averaged (the fewest of any row).
    """

    rows: IntArray
    patients: IntArray
    labels: IntArray
    probabilities: FloatArray
    zones: tuple[str, ...]
    seeds: int


@dataclass(frozen=True, eq=False)
class Evidence:
    """A study's tables.

    Attributes:
        results, comparisons: rows of the tables, controls included.
        scores: (group, fraction, arm) -> averaged predictions; empty for probes.
        cases: (group, fraction, arm, metric) -> value per patient, (P,), averaged over the seeds.
        study, record: of ``study.json`` and ``run.json``; empty where there is none.
        order: arms in the order of the configuration, else the references first and the others by name.
        spans: what there is of each group.
    """

    results: tuple[Row, ...]
    comparisons: tuple[Row, ...]
    scores: Mapping[tuple[Group, float, str], Scores]
    cases: Mapping[tuple[Group, float, str, str], FloatArray]
    study: Mapping[str, Any]
    record: Mapping[str, Any]
    order: tuple[str, ...]
    spans: Mapping[Group, Span]
    _index: Mapping[tuple[Any, ...], Row] = field(repr=False)

    @property
    def groups(self) -> list[Group]:
        """Every group with a result: tasks in the order of the tables, networks by name, probes before training."""
        tasks = list(dict.fromkeys(group.task for group in self.spans))

        def place(group: Group) -> tuple[int, str, int, str]:
            mode = _MODES.index(group.mode) if group.mode in _MODES else len(_MODES)
            return tasks.index(group.task), group.architecture, mode, group.mode

        return sorted(self.spans, key=place)

    def result(
        self, group: Group, arm: str, fraction: float, metric: str, *, level: str = "", subset: str = ALL,
        seed: str = ALL,
    ) -> Row | None:  # fmt: skip
        """One row of the results; None where it was not computed. ``level``: the first of the group if empty."""
        chosen = level or self.spans[group].levels[0]
        return self._index.get((group, arm, fraction, metric, chosen, subset, seed))

    def seeds(self, group: Group, arm: str, fraction: float, metric: str) -> list[float]:
        """The value of each seed by itself, where it is defined."""
        rows = [self.result(group, arm, fraction, metric, seed=seed) for seed in self.spans[group].seeds]
        return [float(row["value"]) for row in rows if row is not None and row["value"] is not None]

    def compared(self, group: Group, fraction: float | None = None, metric: str = "") -> list[Row]:
        """Comparisons of a group, in the fixed order of the second and then of the first arm."""
        wanted = metric or self.spans[group].leading
        found = [
            row
            for row in self.comparisons
            if _group(row) == group and row["metric"] == wanted and (fraction is None or row["fraction"] == fraction)
            and not is_control(row["first"]) and not is_control(row["second"])
        ]  # fmt: skip
        return sorted(found, key=lambda row: (row["fraction"], self._place(row["second"]), self._place(row["first"])))

    def references(self, group: Group) -> list[str]:
        """Arms that others are drawn against, in the fixed order: random and ImageNet, else every second there is."""
        seconds = {row["second"] for row in self.compared(group)}
        kinds = {str(arm.get("name")): str(arm.get("initialisation")) for arm in config_arms(self.study)}
        named = [arm for kind in REFERENCES for arm in self.order if arm in seconds and kinds.get(arm, arm) == kind]
        return named or [arm for arm in self.order if arm in seconds]

    def controls(self) -> list[Row]:
        """Results of control arms: all seeds together, the whole set."""
        names = ("arm", "task", "architecture", "mode", "fraction", "metric", "level")
        found = [row for row in self.results if is_control(row["arm"]) and row["seed"] == ALL and row["subset"] == ALL]
        return sorted(found, key=lambda row: tuple(row[name] for name in names))

    def _place(self, arm: str) -> tuple[int, str]:
        return (self.order.index(arm) if arm in self.order else len(self.order)), arm


def read_evidence(out: Path) -> Evidence:
    """Read a study's folder.

    Args:
        out: with ``results.parquet``; the other tables and ``study.json`` are used where they are there.

    Raises:
        NotFoundError: there is no ``results.parquet``.
        IntegrityError: a table or ``study.json`` is damaged, or there is no result in it.
        BackendError: pyarrow is missing.
    """
    results = read_table(table_path(out, RESULTS), RESULTS)
    if not any(not is_control(row["arm"]) for row in results):
        raise IntegrityError(f"{table_path(out, RESULTS)}: holds no result of any arm; let the study finish a cell")
    comparisons = _optional(out, COMPARISONS)
    study = read_record(out)
    order = _order({row["arm"] for row in results}, study)
    competing = _gathered([row for row in results if not is_control(row["arm"])], _group)
    return Evidence(
        tuple(results),
        tuple(comparisons),
        _scores(_optional(out, PREDICTIONS)),
        _cases(_optional(out, CASES)),
        study,
        read_run(out).record,
        order,
        {group: _span(rows, order) for group, rows in competing.items()},
        {_key(row): row for row in results},
    )


def read_record(out: Path) -> dict[str, Any]:
    """``study.json`` of a study's folder; empty where there is none.

    Raises:
        IntegrityError: it is no JSON object.
    """
    path = out / STUDY
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise IntegrityError(f"{path}: is damaged ({type(error).__name__}); run the study again to renew it") from error
    if not isinstance(values, dict):
        raise IntegrityError(f"{path}: is not a study's record; run the study again to renew it")
    return values


def config_arms(study: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The arms of a study's configuration, in its order; empty where they are not recorded."""
    config = study.get("config")
    return entries(config, "arms") if isinstance(config, Mapping) else []


def entries(record: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """The mappings in a list of a record that was read from a file; empty where there is no such list."""
    found = record.get(name)
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def _optional(out: Path, name: str) -> list[dict[str, Any]]:
    try:
        return read_table(table_path(out, name), name)
    except NotFoundError:  # a study of probes has no predictions, one of lesions no cases
        return []


def _order(arms: Iterable[str], study: Mapping[str, Any]) -> tuple[str, ...]:
    listed = [str(arm.get("name")) for arm in config_arms(study)]
    first = [*listed, *(name for name in REFERENCES if name not in listed)]
    return tuple(sorted(set(arms), key=lambda arm: (first.index(arm) if arm in first else len(first), arm)))


def _span(rows: Sequence[Row], order: Sequence[str]) -> Span:
    found = {name: dict.fromkeys(row[name] for row in rows) for name in _SPANNED}
    return Span(
        tuple(arm for arm in order if arm in found["arm"]),
        tuple(sorted(found["fraction"])),
        tuple(sorted(found["level"], key=lambda name: (_LEVELS.index(name) if name in _LEVELS else 9, name))),
        tuple(found["metric"]),
        tuple(sorted(set(found["subset"]) - {ALL})),
        tuple(sorted(set(found["seed"]) - {ALL}, key=lambda seed: (len(seed), seed))),
    )


def _group(row: Row) -> Group:
    return Group(row["task"], row["architecture"], row["mode"])


def _key(row: Row) -> tuple[Any, ...]:
    names = ("arm", "fraction", "metric", "level", "subset", "seed")
    return (_group(row), *(row[name] for name in names))


def _gathered(rows: Sequence[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def _scores(predictions: Sequence[Row]) -> dict[tuple[Group, float, str], Scores]:
    cells = _gathered(predictions, lambda row: (_group(row), row["fraction"], row["arm"]))
    return {key: _averaged(rows) for key, rows in cells.items() if not is_control(key[2])}


def _averaged(predictions: Sequence[Row]) -> Scores:
    by_row = _gathered(predictions, lambda row: row["row"])
    firsts = [by_row[number][0] for number in sorted(by_row)]
    means = [float(np.mean([one["probability"] for one in by_row[first["row"]]])) for first in firsts]
    zones = (str(first["zone"]).upper() for first in firsts)
    return Scores(
        np.array([first["row"] for first in firsts], np.int64),
        np.array([first["patient"] for first in firsts], np.int64),
        np.array([first["label"] for first in firsts], np.int64),
        np.array(means),
        # The manifest's word may be anything, a name too; only zones are shown.
        tuple(zone if zone in ZONES else "" for zone in zones),
        min(len(each) for each in by_row.values()),
    )


def _cases(rows: Sequence[Row]) -> dict[tuple[Group, float, str, str], FloatArray]:
    cells = _gathered(rows, lambda row: (_group(row), row["fraction"], row["arm"], row["metric"]))
    found = {}
    for key, each in cells.items():
        by_patient = _gathered([row for row in each if row["value"] is not None], lambda row: row["patient"])
        if not is_control(key[2]):
            found[key] = np.array([np.mean([row["value"] for row in by_patient[one]]) for one in sorted(by_patient)])
    return found

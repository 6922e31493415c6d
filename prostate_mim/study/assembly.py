"""From finished cells to the study's tables, the same whatever computed them, and in which order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from prostate_mim.metrics import holm
from prostate_mim.study.cache import key_of
from prostate_mim.study.comparisons import CompareJob
from prostate_mim.study.config import LESIONS
from prostate_mim.study.controls import DUPLICATED
from prostate_mim.study.groups import Row, SeedGroup
from prostate_mim.study.jobs import Answer, Job
from prostate_mim.study.plan import Plan
from prostate_mim.study.records import (
    CASES,
    COMPARISONS,
    PERMUTED,
    PREDICTIONS,
    RESULTS,
    is_control,
    read_table,
    table_path,
    write_table,
)
from prostate_mim.study.scores import ScoreJob

Run = Callable[[Sequence[Job], str], list[Answer]]


def assemble(plan: Plan, run: Run) -> tuple[dict[str, list[Row]], dict[str, str]]:
    """Score and compare what is complete, and write the four tables.

    Args:
        run: runs jobs: (jobs, what they are) -> answers.

    Returns:
        Table name -> rows, and title -> reason of what could not be scored or compared.
    """
    every = list(_groups(plan))
    complete = [group for group in every if len(group.cells) == len(plan.config.seeds)]
    scores = [(group, _score_job(plan, group, twice=False)) for group in complete]
    scores += [
        (_as_control(group), _score_job(plan, group, twice=True)) for group in complete if _is_doubled(plan, group)
    ]
    pairs = [(first, second, _compare_job(plan, first, second)) for first, second in _pairs(plan, complete)]
    failed: dict[str, str] = {}
    for what, jobs in (("scoring", [job for _, job in scores]), ("comparing", [job for *_, job in pairs])):
        unique: dict[str, Job] = {job.key: job for job in jobs}
        answers = run(list(unique.values()), what)
        failed |= {unique[answer.key].title: answer.reason for answer in answers if answer.reason}
    found = {
        PREDICTIONS: _of_cells(every, lesions=True),
        CASES: _of_cells(every, lesions=False),
        RESULTS: [row for group, job in scores for row in _named(job, RESULTS, group.named())],
        COMPARISONS: _corrected([row for first, second, job in pairs for row in _compared(first, second, job)]),
    }
    for name, rows in found.items():
        write_table(table_path(plan.places.out, name), name, rows)
    return found, failed


def _groups(plan: Plan) -> Iterable[SeedGroup]:
    """Every group in the grid's order, with those of its cells that are finished."""
    groups: dict[tuple[Any, ...], SeedGroup] = {}
    for place in plan.grid:
        cell, job = place.cell, plan.cell_job(place)
        key = (cell.task, cell.arm, cell.architecture, cell.mode, cell.fraction)
        own = groups.setdefault(key, SeedGroup(*key, place.task.kind, ()))
        if job is not None and job.path.is_file():
            groups[key] = SeedGroup(*key, own.kind, (*own.cells, (cell.seed, job.path)))
    return groups.values()


def _identity(group: SeedGroup) -> list[Any]:
    return [[seed, path.stem] for seed, path in group.cells]


def _score_job(plan: Plan, group: SeedGroup, *, twice: bool) -> ScoreJob:
    config = plan.config
    values = {
        "cells": _identity(group), "samples": config.samples, "seed": config.seed, "twice": twice,
        "aggregate": config.finetune.aggregate,
    }  # fmt: skip
    if group.arm.startswith(PERMUTED):
        values["over"] = "permutations"
    return ScoreJob(
        key_of("scores", values), group, config.samples, config.seed, config.finetune.aggregate, twice, plan.places
    )  # fmt: skip


def _compare_job(plan: Plan, first: SeedGroup, second: SeedGroup) -> CompareJob:
    config = plan.config
    values = {"cells": [_identity(first), _identity(second)], "samples": config.samples, "seed": config.seed}
    return CompareJob(key_of("comparison", values), first, second, config.samples, config.seed, plan.places)


def _pairs(plan: Plan, groups: Sequence[SeedGroup]) -> Iterable[tuple[SeedGroup, SeedGroup]]:
    """Every arm with every reference, each pair once; controls are no competitors."""
    by_place = {(g.task, g.architecture, g.mode, g.fraction, g.arm): g for g in groups}
    references = plan.config.references_or_first
    for group in groups:
        if is_control(group.arm):
            continue
        # Of two references, the later one is compared with the earlier.
        against = references[: references.index(group.arm)] if group.arm in references else references
        for name in against:
            second = by_place.get((group.task, group.architecture, group.mode, group.fraction, name))
            if second is not None:
                yield group, second


def _is_doubled(plan: Plan, group: SeedGroup) -> bool:
    config = plan.config
    largest = group.fraction == max(config.fractions) and group.kind == LESIONS
    return config.controls and largest and group.arm in config.references_or_first


def _as_control(group: SeedGroup) -> SeedGroup:
    return dataclasses.replace(group, arm=f"{DUPLICATED}{group.arm}")


def _of_cells(groups: Sequence[SeedGroup], *, lesions: bool) -> list[Row]:
    return [
        row
        for group in groups
        if (group.kind == LESIONS) == lesions
        for seed, _ in group.cells
        for row in group.rows(seed)
    ]


def _named(job: ScoreJob, table: str, names: Row) -> list[Row]:
    return [{**row, **names} for row in read_table(job.path, table)] if job.path.is_file() else []


def _compared(first: SeedGroup, second: SeedGroup, job: CompareJob) -> list[Row]:
    if not job.path.is_file():
        return []
    names = {
        "task": first.task, "first": first.arm, "second": second.arm, "architecture": first.architecture,
        "mode": first.mode, "fraction": first.fraction,
    }  # fmt: skip
    return [{**row, **names} for row in read_table(job.path, COMPARISONS)]


def _corrected(rows: list[Row]) -> list[Row]:
    """With Holm's correction over all comparisons of a task, metric, architecture, mode and fraction."""
    families: dict[tuple[Any, ...], list[int]] = {}
    for place, row in enumerate(rows):
        if row["p_bootstrap"] is not None:
            key = tuple(row[name] for name in ("task", "metric", "architecture", "mode", "fraction"))
            families.setdefault(key, []).append(place)
    made = [dict(row) for row in rows]
    for places in families.values():
        for place, value in zip(places, holm([rows[place]["p_bootstrap"] for place in places]), strict=True):
            made[place]["p_holm"] = value
    return made

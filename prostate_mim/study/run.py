"""run_study: plan and prove, make encoders, features and cells, then put the tables together."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from prostate_mim.engine.distributed import pick_device
from prostate_mim.engine.records import begin_record, finish_record
from prostate_mim.errors import TrainingError, UsageError
from prostate_mim.files import file_lock, make_folder, write_text
from prostate_mim.study.assembly import Run, assemble
from prostate_mim.study.cache import Places
from prostate_mim.study.cells import Cell, CellJob
from prostate_mim.study.config import StudyConfig
from prostate_mim.study.controls import Verdict, verdicts
from prostate_mim.study.grid import cells_of, check_only, parse_only
from prostate_mim.study.jobs import ENGINES, Engine, Job
from prostate_mim.study.plan import Place, Plan, make_plan
from prostate_mim.study.records import FAILURES, RESULTS, STUDY, import_pyarrow
from prostate_mim.study.summary import study_values

_LOCK = ".study.lock"
_COLUMNS = ("what", "task", "arm", "architecture", "mode", "fraction", "seed", "reason")


@dataclass(frozen=True)
class Failed:
    """Something that could not be computed.

    Attributes:
        what: ``cell``, or ``table`` for a score or a comparison.
        cell: which; None of a table.
        reason: one line.
    """

    what: str
    cell: Cell | None
    reason: str


@dataclass(frozen=True)
class StudyRun:
    """What a call of ``run_study`` leaves behind.

    Attributes:
        out: the study's folder.
        cells: in the whole grid, controls among them.
        done: of them, finished now.
        computed: of them, by this call.
        missing: not asked for by this call, and not there.
        failures: of this call.
        controls: name, task, passed and what, one a control.
    """

    out: Path
    cells: int
    done: int
    computed: int
    missing: int
    failures: tuple[Failed, ...]
    controls: tuple[Verdict, ...]


def run_study(
    config: StudyConfig,
    out: str | Path,
    *,
    engine: str = "serial",
    workers: int = 2,
    resume: bool = True,
    only: str = "",
    store: str | Path | None = None,
    encoders: str | Path | None = None,
    skip_bad: bool = False,
) -> StudyRun:
    """Compute a study, or what is still missing of it. The numbers depend on the configuration and the data alone.

    Args:
        config: of the study.
        out: its folder: ``predictions.parquet``, ``results.parquet``, ``comparisons.parquet``, ``cases.parquet``,
            ``study.json``, ``run.json``, ``failures.csv``, and folders of what is kept for the next call.
        engine: ``serial``, ``process`` or ``ray``.
        workers: processes of the latter two.
        resume: use what is there; else a folder that holds a study is refused.
        only: part of the grid to compute: ``arm=random,task=lesions``; tables hold all that is finished.
        store: of prepared studies; ``out/store`` if None.
        encoders: folder of encoders that studies share: what another has trained is not trained again; ``out`` if None.
        skip_bad: go on without tasks, arms and cells that fail; they are in ``failures``.

    Raises:
        ManifestError, VolumeError, NotFoundError: the data, or an arm has seen what it is judged on; found before
            anything is computed.
        UsageError: the configuration, ``engine``, ``only`` or ``out``.
        TrainingError: cells failed, after all others were computed.
        BackendError, ResourceError, NetworkError: as everywhere.
    """
    import_pyarrow()
    chosen = parse_only(only)
    check_only(chosen, [cell for cell, _, _ in cells_of(config)])  # a typo is told before minutes of reading
    if engine not in ENGINES:
        raise UsageError(f"engine {engine!r} is unknown; choose {', '.join(ENGINES)}")
    gpu = pick_device(config.device).type == "cuda"
    folder = make_folder(Path(out).resolve())
    shared = None if encoders is None else make_folder(Path(encoders).resolve())
    with ExitStack() as open_locks:
        for place in sorted({folder, shared or folder}):
            _hold(place, open_locks)
        if not resume and (folder / "cells").exists():
            raise UsageError(f"{out}: holds a study already; go on with it, or choose a new --out")
        places = Places(folder, folder / "store" if store is None else Path(store).resolve(), shared)
        places.make()
        begin_record(folder, {"task": "study", "seed": config.seed})
        plan = make_plan(config, places, chosen, skip_bad=skip_bad)
        made = _made(plan, Engine(engine, workers=workers, threads=config.threads, gpu=gpu))
    if made.failures and not skip_bad:
        raise TrainingError(
            f"{out}: {len(made.failures)} of {made.cells} cells failed ({made.failures[0].reason}); {FAILURES} says "
            "which and why; all others are finished, and --skip-bad accepts that"
        )
    return made


def _hold(folder: Path, open_locks: ExitStack) -> None:
    """Two studies at once would train the same encoder in the same folder."""
    if not open_locks.enter_context(file_lock(folder / _LOCK)):
        raise UsageError(f"{folder}: another 'study' is running there; wait for it, or give that one more --workers")


def _made(plan: Plan, engine: Engine) -> StudyRun:
    """Everything of a plan that is missing, and the files that say what is there."""
    before = _done(plan)
    with engine as working:
        failures = _compute(plan, working.run)
        tables, unscored = assemble(plan, working.run)
    failures += [Failed("table", None, f"{title}: {reason}") for title, reason in unscored.items()]
    found = verdicts(tables[RESULTS], plan.tasks) if plan.config.controls else []
    after = _done(plan)
    made = StudyRun(
        plan.places.out, len(plan.grid), after, after - before, len(plan.grid) - after - len(failures), tuple(failures),
        tuple(found),
    )  # fmt: skip
    _write(plan, made)
    return made


def _done(plan: Plan) -> int:
    plan.find_weights()
    return sum(plan.is_computed(place) for place in plan.grid)


def _compute(plan: Plan, run: Run) -> list[Failed]:
    """Encoders, features, cells; returns what of the chosen part is not there afterwards, and why."""
    reasons: dict[str, str] = {}
    for wave in plan.encoder_jobs():
        possible = [job for job in wave if not any(reasons.get(before.key) for before in job.plan.pretrained)]
        reasons |= {answer.key: answer.reason for answer in run(possible, "encoders")}
    plan.find_weights()
    reasons |= {answer.key: answer.reason for answer in run(plan.feature_jobs(), "features")}
    jobs: dict[str, Job] = {}
    for place in plan.grid:
        job = plan.cell_job(place)
        if place.chosen and job is not None and not job.path.is_file():
            needed = [plan.places.features(one.key) for one in plan.features_of(place, job)]
            if all(path.is_file() for path in needed):
                jobs[job.key] = job
    reasons |= {answer.key: answer.reason for answer in run(list(jobs.values()), "cells")}
    failures = []
    for place in plan.grid:
        job = plan.cell_job(place)
        if place.chosen and (job is None or not job.path.is_file()):
            failures.append(Failed("cell", place.cell, _reason(plan, place, job, reasons)))
    return failures


def _reason(plan: Plan, place: Place, job: CellJob | None, reasons: Mapping[str, str]) -> str:
    """The first thing that went wrong on the way to a cell."""
    combination = plan.combination(place)
    if combination in plan.reasons:
        return plan.reasons[combination]
    for planned in plan.encoders[combination]:
        for made in (*planned.plan.pretrained, planned.plan):
            if reasons.get(made.key):
                return f"its encoder: {reasons[made.key]}"
    for feature in plan.features_of(place, job) if job is not None else ():
        if reasons.get(feature.key):
            return f"its features: {reasons[feature.key]}"
    return reasons.get(job.key, "") if job is not None else ""


def _write(plan: Plan, made: StudyRun) -> None:
    counts = {
        "cells": made.cells, "done": made.done, "failed": len(made.failures), "missing": made.missing,
    }  # fmt: skip
    values = study_values(plan, counts, made.controls)
    write_text(made.out / STUDY, json.dumps(values, indent=1, allow_nan=False) + "\n")
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for failure in made.failures:
        named = {} if failure.cell is None else failure.cell.named()
        writer.writerow({**dict.fromkeys(_COLUMNS, ""), **named, "what": failure.what, "reason": failure.reason})
    write_text(made.out / FAILURES, stream.getvalue())
    finish_record(made.out)

"""run_archive: plan shards, skip the finished ones, let actors make the others, then count that nothing is lost."""

from __future__ import annotations

import logging
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prostate_mim.archive.cluster import cluster
from prostate_mim.archive.job import Job, make_job
from prostate_mim.archive.parts import PATTERN, check_part, import_pyarrow, rows_in
from prostate_mim.archive.worker import CPUS, ShardWorker
from prostate_mim.engine.tracker import progress_bar
from prostate_mim.errors import BackendError, IntegrityError, ProstateMimError, UsageError
from prostate_mim.files import make_folder
from prostate_mim.manifest import Manifest

_JOURNALS = ".attempts-"
_LABELS = {"embed": "embedding", "predict": "predicting"}


@dataclass(frozen=True)
class ArchiveSummary:
    """What a call of ``run_archive`` leaves behind.

    Attributes:
        rows: manifest rows, each exactly once in the parts.
        ok, failed: of them; a failed row says why in its ``reason``.
        reused_shards: parts that were there already.
        seconds: this call took.
        out: folder of the parts.
    """

    rows: int
    ok: int
    failed: int
    reused_shards: int
    seconds: float
    out: Path


def run_archive(
    task: str,
    model: str,
    manifest: Path,
    out: Path,
    *,
    engine: str = "ray",
    workers: int = 2,
    shard_rows: int = 32,
    attempts: int = 3,
) -> ArchiveSummary:
    """Embed or predict every row of a manifest on a Ray cluster, into one parquet file per shard.

    Whatever happens on the way (a killed worker, a killed driver, a full disk), the same call again goes on from the
    finished shards and the result is the same. Finished shards keep their failed rows: to try those again, remove
    their parts. A part knows the manifest's bytes, not the images': after replacing an image, remove its part too.

    Args:
        task: ``embed`` or ``predict``.
        model: bundled name, release or run folder, or ``org/name@revision``.
        manifest: CSV of studies; on a cluster of several machines, in a folder that all of them see, as ``out``.
        out: folder of the parts; made if it does not exist.
        engine: ``ray``; without an engine, ``prostate_mim.prediction`` does the same in one process.
        workers: actors, each with one CPU and the model loaded once.
        shard_rows: manifest rows per part.
        attempts: how many workers one row may kill before it counts as failed.

    Raises:
        UsageError: an argument is wrong, or ``out`` holds parts of another archive.
        BackendError: Ray or pyarrow is missing, the cluster cannot be used, or it gave up.
        IntegrityError: a part is damaged, or after all the rows do not add up.
        ManifestError, NotFoundError, NetworkError, ResourceError: as everywhere.
    """
    began = time.monotonic()
    if engine != "ray":
        raise UsageError(f"engine {engine!r} is unknown; choose ray, or none for one process")
    import_pyarrow()
    token = _JOURNALS + secrets.token_hex(4)
    job, listed = make_job(
        task, model, manifest, out, workers=workers, shard_rows=shard_rows, attempts=attempts, journal=token
    )
    make_folder(out)
    done = _finished(job, listed)
    missing = [shard for shard in range(job.shards) if shard not in done]
    reused = len(done)
    if missing:
        done |= _compute(job, missing, sum(len(job.rows_of(listed, shard)) for shard in done))
    _verify(job, listed)
    failed = sum(done.values())
    return ArchiveSummary(job.rows, job.rows - failed, failed, reused, time.monotonic() - began, out)


def _finished(job: Job, listed: Manifest) -> dict[int, int]:
    """Shard -> failed rows of the parts that are there; everything else that looks like a part is refused."""
    shards = {job.part(shard): shard for shard in range(job.shards)}
    found = sorted(path for path in Path(job.out).glob("*.parquet") if not path.name.startswith("."))
    # The parts that this job would write speak first: what they say of themselves explains any surplus.
    done = {
        shards[path]: check_part(job, shards[path], job.rows_of(listed, shards[path]))
        for path in found
        if path in shards
    }
    strange = [path for path in found if path not in shards]
    if strange:
        raise UsageError(f"{strange[0]}: is not a part of this archive; choose another --out or remove it")
    return done


def _compute(job: Job, missing: Sequence[int], rows_done: int) -> dict[int, int]:
    """Let the actors make the missing parts; returns shard -> failed rows."""
    done: dict[int, int] = {}
    workers = min(job.workers, len(missing))
    with cluster(workers) as ray, _journal(job), progress_bar() as bar:
        task = bar.add_task(_LABELS[job.task], total=job.rows, completed=rows_done)
        with closing(_answers(ray, replace(job, workers=workers), missing)) as answers:
            for answer in answers:
                _raise_ours(answer)
                done[int(answer["shard"])] = int(answer["failed"])
                bar.advance(task, int(answer["rows"]))
    _remove_unfinished(Path(job.out))  # of workers killed since; nobody writes any more
    return done


def _answers(ray: Any, job: Job, shards: Sequence[int]) -> Generator[dict[str, Any], None, None]:
    """One summary per shard, as they come.

    Ray Data restarts a killed actor and gives it its shard again, without limit (its defaults); the journal of
    attempts is what limits it.
    """
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # An actor killed while it loads its model is replaced too; begin_loading counts.
    context.max_consecutive_actor_init_deaths = job.attempts * job.workers
    with ray.data.DataContext.current(context), _quiet("ray.data"):
        made = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards)).map_batches(
            ShardWorker,
            batch_size=1,
            batch_format="numpy",
            fn_constructor_args=(job,),
            compute=ray.data.ActorPoolStrategy(size=job.workers, max_tasks_in_flight_per_actor=1),
            num_cpus=CPUS,
        )
        try:
            yield from made.iter_rows()
        except ray.exceptions.RayError as error:
            raise BackendError(
                f"Ray gave up ({type(error).__name__}); finished shards are kept: run the same command to go on"
            ) from error


def _raise_ours(answer: dict[str, Any]) -> None:
    """Raise here what a worker could not mend there: a full disk, a changed model."""
    if answer["error"]:
        kinds = {kind.__name__: kind for kind in ProstateMimError.__subclasses__()}
        raise kinds.get(answer["error"], ProstateMimError)(answer["message"])


def _verify(job: Job, listed: Manifest) -> None:
    """Every manifest row exactly once over all the parts that lie there, read again from the disk."""
    found = Counter(row for path in Path(job.out).glob(PATTERN) for row in rows_in(path))
    wanted = Counter(row.number for row in listed.rows)
    if found != wanted:
        lost, extra = (sorted((a - b).elements())[:5] for a, b in ((wanted, found), (found, wanted)))
        raise IntegrityError(
            f"{job.out}: of {job.rows} manifest rows, {lost} are missing and {extra} appear too often (first 5 each); "
            "another command may write there too: run this one again alone"
        )


@contextmanager
def _journal(job: Job) -> Iterator[None]:
    """A folder for the attempts of this call alone: another call's kills are no fault of a row."""
    folder = Path(job.out)
    for left in folder.glob(f"{_JOURNALS}*"):
        shutil.rmtree(left, ignore_errors=True)
    _remove_unfinished(folder)  # of a call that was killed
    make_folder(job.journal)
    try:
        yield
    finally:
        shutil.rmtree(job.journal, ignore_errors=True)


def _remove_unfinished(folder: Path) -> None:
    """What killed workers were writing."""
    for left in folder.glob(f".{PATTERN}.*.tmp.parquet"):
        left.unlink(missing_ok=True)


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Only errors of a library's logger."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)

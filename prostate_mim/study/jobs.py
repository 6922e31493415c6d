"""Jobs: plain values that say what to compute. One after the other, in processes, or on Ray: the results are equal.

A job's result is a file of its own key, so that nothing but a reason for failing travels back, and the order in which
jobs are done decides nothing. All of them use the same number of threads: sums depend on it in their last bits.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from prostate_mim.archive.cluster import cluster
from prostate_mim.engine.tracker import progress_bar
from prostate_mim.errors import BackendError, NetworkError, ProstateMimError, ResourceError, UsageError
from prostate_mim.store.workers import leave_with_parent

ENGINES = ("serial", "process", "ray")
_LABEL = 40
_GONE = "a worker process died (out of memory?); what is finished is kept: run the same command to go on"
_NO_START = (
    "worker processes cannot be started; use --engine serial, or call from under `if __name__ == '__main__':`"
)  # fmt: skip
# No fault of one job: every other would meet it too.
_STOPPING = (ResourceError, BackendError, NetworkError)


class Job(Protocol):
    """What an engine runs. It travels to other processes, so it holds plain values only."""

    @property
    def key(self) -> str:
        """Unique among the jobs of a study."""

    @property
    def title(self) -> str:
        """For the progress bar."""

    @property
    def has_bar(self) -> bool:
        """Whether it shows a progress bar of its own."""

    def run(self) -> None:
        """Compute, and leave the result where it belongs."""


@dataclass(frozen=True)
class Answer:
    """What became of a job.

    Attributes:
        key: of the job.
        reason: empty, or why it failed: one line without a path of a patient.
        stops: name of the exception that must end the study, or empty.
    """

    key: str
    reason: str = ""
    stops: str = ""


def attempt(job: Job, threads: int) -> Answer:
    """Run one job; what fails is a value, because exceptions do not travel well between processes."""
    try:
        with _threads(threads):
            job.run()
    except _STOPPING as error:
        return Answer(job.key, str(error), type(error).__name__)
    except ProstateMimError as error:
        return Answer(job.key, " ".join(str(error).split()))
    except MemoryError:
        return Answer(job.key, "out of memory")
    except Exception as error:  # a foreign one: its text may hold a path
        return Answer(job.key, f"unexpected {type(error).__name__} in {_place(error)}")
    return Answer(job.key)


class Engine:
    """Runs jobs. Its processes, or its cluster, start with the first job that needs them and stay until it is closed.

    Args:
        name: ``serial``, ``process`` or ``ray``.
        workers: processes of the latter two.
        threads: of every job.
        gpu: Ray's workers share the GPUs that there are.

    Raises:
        UsageError: an unknown engine.
    """

    def __init__(self, name: str, *, workers: int = 2, threads: int = 1, gpu: bool = False) -> None:
        if name not in ENGINES:
            raise UsageError(f"engine {name!r} is unknown; choose {', '.join(ENGINES)}")
        self._name, self._workers, self._threads, self._gpu = name, workers, threads, gpu
        self._open = ExitStack()
        self._pool: ProcessPoolExecutor | None = None
        self._processes: set[BaseProcess] = set()  # of the pool
        self._ray: Any = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            # A pool would first end what has begun, minutes of a pretraining. Killed, it has its last checkpoint.
            for process in self._processes:
                process.kill()
        self._open.close()

    def run(self, jobs: Sequence[Job], what: str) -> list[Answer]:
        """Run jobs that do not depend on each other, with a progress bar.

        Args:
            what: what the jobs are, for the bar.

        Returns:
            One answer a job, in the order of ``jobs``.

        Raises:
            ResourceError, BackendError, NetworkError: a job met it; the others would too.
        """
        if not jobs:
            return []
        found: dict[str, Answer] = {}
        own_bars = self._name == "serial" and any(job.has_bar for job in jobs)
        with progress_bar(quiet=own_bars) as bar:
            shown = bar.add_task(what, total=len(jobs))
            for title, answer in self._answers(jobs):
                if answer is None:  # begun
                    bar.update(shown, description=f"{what}: {title}"[:_LABEL].ljust(_LABEL))
                    if own_bars:  # two bars on one terminal would overwrite each other
                        sys.stderr.write(f"{what} {len(found) + 1} of {len(jobs)}: {title}\n")
                    continue
                found[answer.key] = answer
                if answer.stops:
                    kinds = {kind.__name__: kind for kind in _STOPPING}
                    raise kinds[answer.stops](answer.reason)
                bar.update(shown, completed=len(found))
        return [found[job.key] for job in jobs]

    def _answers(self, jobs: Sequence[Job]) -> Iterator[tuple[str, Answer | None]]:
        """(title, None) as a job begins, or where that is not known as it ends; then (title, answer)."""
        if self._name == "process":
            yield from self._in_processes(jobs)
        elif self._name == "ray":
            yield from self._on_ray(jobs)
        else:
            for job in jobs:
                yield job.title, None
                yield job.title, attempt(job, self._threads)

    def _in_processes(self, jobs: Sequence[Job]) -> Iterator[tuple[str, Answer | None]]:
        if self._pool is None:
            spawn = multiprocessing.get_context("spawn")  # not forked: the caller may hold threads and open arrays
            others = set(multiprocessing.active_children())
            self._pool = ProcessPoolExecutor(self._workers, spawn, _begin_worker)
            self._open.callback(self._pool.shutdown, wait=False, cancel_futures=True)
            try:
                self._pool.submit(os.getpid).result()
            except BrokenProcessPool as error:
                raise BackendError(_NO_START) from error
            self._processes = set(multiprocessing.active_children()) - others
        futures = {self._pool.submit(attempt, job, self._threads): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future].title, None
                yield futures[future].title, future.result()
        except BrokenProcessPool as error:
            raise BackendError(_GONE) from error

    def _on_ray(self, jobs: Sequence[Job]) -> Iterator[tuple[str, Answer | None]]:
        if self._ray is None:
            self._ray = self._open.enter_context(cluster(self._workers))
        ray = self._ray
        gpus = ray.cluster_resources().get("GPU", 0) if self._gpu else 0
        remote = ray.remote(num_cpus=1, num_gpus=min(1.0, gpus / self._workers), max_retries=0)(attempt)
        waiting: dict[Any, Job] = {remote.remote(job, self._threads): job for job in jobs}
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1)
            job = waiting.pop(ready[0])
            yield job.title, None
            try:
                yield job.title, ray.get(ready[0])
            except ray.exceptions.RayError as error:
                raise BackendError(_GONE) from error


def _begin_worker() -> None:
    """In a worker process: end with its parent, and draw no bars of its own over the parent's."""
    os.environ["TERM"] = "dumb"
    leave_with_parent()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "an unknown place" if trace is None else f"{trace.tb_frame.f_code.co_name}, line {trace.tb_lineno}"

"""Rows in parallel: worker processes that may be killed, and rows that another process is making."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from prostate_mim.errors import ResourceError
from prostate_mim.store.rows import BUSY, FAILED, Job, Outcome, prepare_row

_KILLED = "the process that prepared it was killed, alone as it was (out of memory, or a fault in a reader)"
_PAUSE_S = 0.1


def outcomes(jobs: Iterable[Job], workers: int) -> Iterator[Outcome]:
    """What becomes of every job, each once, in the order in which they end.

    Args:
        jobs: the rows.
        workers: processes; 0 works in this one.

    Raises:
        ResourceError: worker processes cannot be started, or as ``prepare_row``.
        UsageError: as ``prepare_row``.
    """
    waiting = {job.row.number: job for job in jobs}
    with Workers(min(workers, len(waiting))) as pool:
        while waiting:
            before = len(waiting)
            for outcome in pool.run(list(waiting.values())):
                if outcome.status != BUSY:
                    del waiting[outcome.number]
                    yield outcome
            if len(waiting) == before:  # other processes are at work on all that is left
                time.sleep(_PAUSE_S)


class Workers:
    """A pool of spawned processes; with 0 of them the work is done here.

    A row whose worker was killed is tried once more, alone: if that worker is killed too, the row has failed.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """One outcome for each job."""
        if self.count == 0:
            yield from map(prepare_row, jobs)
            return
        queue = deque(jobs)
        running: dict[Future[Outcome], Job] = {}
        while queue or running:
            try:
                while queue and len(running) < 2 * self.count:
                    running[self._started().submit(prepare_row, queue[0])] = queue[0]
                    queue.popleft()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    outcome = future.result()
                    del running[future]
                    yield outcome
            except BrokenProcessPool:
                self._stop()
                whole = [f for f in running if f.done() and f.exception() is None]
                yield from (future.result() for future in whole)
                yield from self._alone([job for future, job in running.items() if future not in whole])
                running = {}

    def _alone(self, suspects: Iterable[Job]) -> Iterator[Outcome]:
        """Rows that were under way when a worker died, one at a time: only the one to blame fails."""
        for job in suspects:
            try:
                yield self._started(1).submit(prepare_row, job).result()
            except BrokenProcessPool:
                self._stop()
                yield Outcome(job.row.number, FAILED, reason=_KILLED)
        self._stop()

    def _started(self, count: int = 0) -> ProcessPoolExecutor:
        if self._pool is None:
            # Spawned, not forked: the caller may hold threads and open arrays.
            spawn = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(count or self.count, spawn, leave_with_parent)
            try:
                self._pool.submit(os.getpid).result()
            except BrokenProcessPool as error:
                self._stop()
                raise ResourceError(
                    "worker processes cannot be started; use workers=0, or call from under `if __name__ == '__main__':`"
                ) from error
        return self._pool

    def _stop(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool = None


def leave_with_parent() -> None:
    """In a worker: end when the process that started it ends, even if that was killed and could not say so."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

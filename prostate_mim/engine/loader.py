"""Draws for every optimiser step of one rank, read ahead by worker processes, or cut on the device itself.

A worker that is killed, raises or hangs ends the run with an error that names manifest rows: never a hang, never a
step with less data. The count of workers changes no number.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import torch
from torch.utils.data import DataLoader, Sampler, default_collate

from prostate_mim.engine.batch import Items
from prostate_mim.engine.data import DrawDataset
from prostate_mim.engine.resident import ResidentRegions
from prostate_mim.engine.slots import Slots
from prostate_mim.engine.worker import CropReader, Failure, Finish, as_it_is, failure, start_worker
from prostate_mim.errors import TrainingError, UsageError

_AHEAD = 2  # steps that each worker reads ahead
_POLL_SECONDS = 0.5  # how soon a killed worker is noticed
_SHOWN_ROWS = 16


def usable_workers(asked: int) -> int:
    """How many loader processes make sense: no more than there are cores that this process may use.

    More would take the cores from each other and from what trains; torch warns of that. No number depends on it.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(asked, cores)


class DrawLoader:
    """Iterates over optimiser steps; yields the stacked raw items of this rank's share of each.

    Step s uses the draws from ``s * batch`` on; rank r of R has those from ``r * batch // R`` to
    ``(r + 1) * batch // R`` of them.

    Args:
        dataset: what is drawn from.
        first_step: the first step to load (0-based); resuming is starting at another one.
        last_step: the step after the last.
        batch: draws of a step, over all ranks.
        rank: of this process.
        ranks: how many processes train together.
        workers: loader processes; with 0 this process reads.
        timeout_seconds: how long one step's data may take before the workers are held to hang.
        resident_on: keep all regions on this device and cut crops there; ``workers`` are then not needed.
        finish: what the workers do with each crop, so that it is not for the process that trains to do; without
            workers nothing is done. The numbers must not depend on who does it.

    Attributes:
        last_wait_seconds: how long the last step waited for its data.

    Raises:
        UsageError: fewer draws than ranks, or impossible numbers.
    """

    def __init__(
        self,
        dataset: DrawDataset,
        *,
        first_step: int,
        last_step: int,
        batch: int,
        rank: int = 0,
        ranks: int = 1,
        workers: int = 0,
        timeout_seconds: float = 120.0,
        resident_on: torch.device | None = None,
        finish: Finish | None = None,
    ) -> None:
        if not 0 <= rank < ranks or batch < ranks:
            raise UsageError(f"a batch of {batch} draws cannot be shared by {ranks} processes (this is {rank})")
        if workers < 0 or not timeout_seconds > 0:
            raise UsageError(f"workers is {workers} and timeout_seconds {timeout_seconds}; they must be >= 0 and > 0")
        self.dataset, self.workers, self.timeout_seconds = dataset, workers, timeout_seconds
        self.steps = _Steps(first_step, last_step, batch, rank, ranks)
        self.resident = None if resident_on is None else ResidentRegions(dataset, resident_on)
        self.finish, self.last_wait_seconds = finish, 0.0

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Items]:
        """Raw items, step after step; finished ones from workers that finish.

        Raises:
            TrainingError: a worker was killed, failed or hangs; names the rows that were being waited for.
            VolumeError: a study without tissue.
            ResourceError: no shared memory for the workers.
        """
        source = self._with_workers() if self.workers and self.resident is None else self._alone()
        try:
            while True:
                started = time.monotonic()
                items = next(source, None)
                self.last_wait_seconds = time.monotonic() - started
                if items is None:
                    return
                yield items
        finally:
            source.close()

    def _alone(self) -> Generator[Items, None, None]:
        for draws in self.steps:
            if self.resident is not None:
                yield self.resident.items(draws)
                continue
            try:
                items = [self.dataset[draw] for draw in draws]
            except Exception as error:
                self._fail(failure(error), draws)
            yield default_collate(items)

    def _with_workers(self) -> Generator[Items, None, None]:
        # One slot more than torch has batches in work: the one that is being copied here.
        slots = Slots(
            self.workers * _AHEAD + 1, len(self.steps.share), self.dataset.spec.size_zyx, self.workers,
            finished=self.finish is not None,
        )  # fmt: skip
        loader: DataLoader[Any] = DataLoader(
            CropReader(self.dataset, slots, self.finish),
            batch_sampler=_Numbered(self.steps, len(slots)),
            num_workers=self.workers,
            prefetch_factor=_AHEAD,
            collate_fn=as_it_is,
            worker_init_fn=start_worker,
            timeout=_POLL_SECONDS,
            generator=torch.Generator(),  # else torch takes a number from the global one
        )
        with _deaf_to_children():
            iterator = iter(loader)  # torch may set its handler here
            _ignore_children()
            finished = False
            try:
                for draws in self.steps:
                    found = self._wait(iterator, slots, draws)
                    if isinstance(found, Failure):
                        self._fail(found, draws)
                    yield slots.take(found, pinned=torch.cuda.is_available())
                finished = True
            finally:
                _stop(iterator, gently=finished)

    def _wait(self, iterator: Any, slots: Slots, draws: list[int]) -> Any:
        """What the workers say next, a slot or a failure; dead or hanging ones are found out here."""
        started = time.monotonic()
        while True:
            try:
                return next(iterator)
            except RuntimeError:  # torch's word for both "nothing yet" and "a worker is dead"
                ended = [n for n, worker in enumerate(iterator._workers) if not worker.is_alive()]
            waited = time.monotonic() - started
            if ended:
                end = _ending(iterator._workers[ended[0]].exitcode)
                raise TrainingError(
                    f"{self._rows(draws)}: a loader worker {end} before their crops were there"
                    f"{self._at(slots, ended)}; nothing was trained on them. Go on with --resume, with fewer workers "
                    "if memory is short"
                )
            if waited > self.timeout_seconds:
                at = self._at(slots, range(self.workers))
                raise TrainingError(
                    f"{self._rows(draws)}: the loader workers have hung for {waited:.0f} s{at}; check the disk that "
                    "holds the data, then go on with --resume"
                )

    def _at(self, slots: Slots, workers: Iterable[int]) -> str:
        """What some workers are, or were, reading."""
        draws = [int(slots.reading[worker]) for worker in workers if slots.reading[worker] >= 0]
        rows = sorted(set(self.dataset.rows_of(draws)))
        return f" (reading row {', '.join(map(str, rows))})" if rows else ""

    def _fail(self, failure: Failure, draws: list[int]) -> NoReturn:
        if failure.known is not None:
            raise failure.known from None
        raise TrainingError(
            f"{self._rows(draws)}: reading their crops failed with {failure.what}; prepare the data again, or remove "
            "the row that fails"
        ) from None  # what it was may name a path

    def _rows(self, draws: list[int]) -> str:
        rows = sorted(set(self.dataset.rows_of(draws)))
        listed = ", ".join(map(str, rows[:_SHOWN_ROWS])) + (" and more" if len(rows) > _SHOWN_ROWS else "")
        return f"manifest rows {listed}"


class _Steps(Sampler[list[int]]):
    """The draws of one rank, step after step."""

    def __init__(self, first: int, last: int, batch: int, rank: int, ranks: int) -> None:
        self.steps, self.batch = range(first, max(first, last)), batch
        self.share = range(rank * batch // ranks, (rank + 1) * batch // ranks)

    def __iter__(self) -> Iterator[list[int]]:
        return ([step * self.batch + place for place in self.share] for step in self.steps)

    def __len__(self) -> int:
        return len(self.steps)


class _Numbered(Sampler[list[int]]):
    """Steps with the number of the slot, in turn, before the draws."""

    def __init__(self, steps: _Steps, slots: int) -> None:
        self.steps, self.slots = steps, slots

    def __iter__(self) -> Iterator[list[int]]:
        return ([number % self.slots, *draws] for number, draws in enumerate(self.steps))

    def __len__(self) -> int:
        return len(self.steps)


@contextmanager
def _deaf_to_children() -> Iterator[None]:
    """Put back the handler of SIGCHLD that was there before."""
    may = _may_handle_signals()
    before = signal.getsignal(signal.SIGCHLD) if may else None
    try:
        yield
    finally:
        if may and _may_handle_signals():
            signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


def _ignore_children() -> None:
    """Keep torch from raising in the middle of an optimiser step when a worker dies: ``_wait`` finds that out.

    torch's handler of SIGCHLD raises wherever the main thread happens to be.
    """
    if _may_handle_signals():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _may_handle_signals() -> bool:
    return threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD")


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = {"SIGKILL": " (out of memory?)", "SIGBUS": " (shared memory is full?)"}.get(name, "")
        return f"was killed by {name}{hint}"
    return f"ended with exit code {code}"


def _stop(iterator: Any, *, gently: bool) -> None:
    """End the workers, at once if something went wrong: they hold nothing worth saving, and may hang."""
    if not gently:
        for worker in iterator._workers:
            worker.kill()
        for worker in iterator._workers:
            worker.join(5)
    with suppress(RuntimeError):
        iterator._shutdown_workers()

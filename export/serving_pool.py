"""Worker processes: each holds a model, does one job at a time, is killed when that takes too long, and replaced."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from serving_settings import Settings
from serving_upload import RefusedError

from prostate_mim.errors import (
    BackendError,
    IntegrityError,
    NotFoundError,
    ProstateMimError,
    ResourceError,
    UsageError,
    VerificationError,
)

SCRIPT = Path(__file__).resolve().with_name("serving_worker.py")
_LONGEST_LINE = 1 << 22
_OPENING_S = 300.0  # CUDA and TensorRT take their time
_PAUSE_S = 5.0
_MEMORY_FACTOR, _LEAST_MEMORY = 8, 2_000_000_000  # of the largest study; bytes: what reading and computing may take
_BY_CODE: dict[int, type[ProstateMimError]] = {
    error.exit_code: error
    for error in (UsageError, NotFoundError, IntegrityError, BackendError, ResourceError, VerificationError)
}


def _cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _NotBegunError(EOFError):
    """The process had ended before the job came."""


class Worker:
    """One process.

    Attributes:
        about: what it opened, as its first line says.
        why: a word for why it ended.
    """

    def __init__(self, process: asyncio.subprocess.Process, about: dict[str, Any]) -> None:
        self.process, self.about, self.why, self._killed = process, about, "ended", False

    @classmethod
    async def start(cls, settings: Settings) -> Worker:
        """Open the model in a new process; its golden sample has been replayed when this returns.

        Raises:
            ProstateMimError: what the model's opening raised there.
        """
        threads = max(1, _cores() // settings.concurrency)
        arguments = settings.model, settings.device, threads, settings.max_voxels
        memory = max(_MEMORY_FACTOR * settings.limit_bytes, _LEAST_MEMORY)
        begun = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                sys.executable, str(SCRIPT), *map(str, arguments), str(memory), stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE, limit=_LONGEST_LINE, start_new_session=True,
            )
        )  # fmt: skip
        try:
            worker = cls(await asyncio.shield(begun), {})
        except OSError as error:
            raise ResourceError(f"no worker can be started ({error.strerror}); close other programs") from None
        except asyncio.CancelledError:
            await cls(await begun, {}).end()
            raise
        try:
            async with asyncio.timeout(_OPENING_S):
                worker.about = await worker._line()
        except (EOFError, TimeoutError):
            await worker.end()
            raise BackendError(f"{settings.model}: the worker did not open the model; try run_study.py") from None
        except BaseException:
            await worker.end()
            raise
        if "error" in worker.about:
            await worker.end()
            raise _BY_CODE.get(worker.about["exit_code"], BackendError)(worker.about["error"])
        return worker

    @property
    def alive(self) -> bool:
        """Whether the process runs; not from ``kill`` on, though the system says so a little later."""
        return self.process.returncode is None and not self._killed

    async def do(self, job: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """One job.

        Raises:
            EOFError: the process ended, ``_NotBegunError`` if before it began.
            TimeoutError: it took too long; the process is to be killed.
        """
        async with asyncio.timeout(timeout_s):
            assert self.process.stdin is not None  # noqa: S101 - it was asked for
            with suppress(ConnectionError):  # then reading says so
                self.process.stdin.write(json.dumps(job).encode() + b"\n")
                await self.process.stdin.drain()
            try:
                await self._line()
            except EOFError:
                raise _NotBegunError from None
            return await self._line()

    async def _line(self) -> dict[str, Any]:
        assert self.process.stdout is not None  # noqa: S101 - it was asked for
        line = await self.process.stdout.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        values: dict[str, Any] = json.loads(line)
        return values

    def kill(self, why: str = "ended") -> None:
        """End it now, whatever it does."""
        self.why, self._killed = why, True
        with suppress(ProcessLookupError):
            self.process.kill()

    async def end(self) -> None:
        """Kill it, and wait until it is gone and its pipes are closed, as the event loop must not end before."""
        self.kill()
        with suppress(RuntimeError):  # somebody still reads: then it is that reader who sees the end
            await self.process.communicate()
        await self.process.wait()


class Pool:
    """As many workers as ``Settings.concurrency``.

    Args:
        settings: of the service.
        lost: called with a word for why, whenever a worker ended or its replacement could not be opened.

    Attributes:
        about: what the workers opened; empty before ``start``.
    """

    def __init__(self, settings: Settings, lost: Callable[[str], None]) -> None:
        self._settings, self._lost = settings, lost
        self._free: asyncio.Queue[Worker] = asyncio.Queue()
        self._all: set[Worker] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.about: dict[str, Any] = {}

    @property
    def alive(self) -> int:
        """Workers that run, each of which has replayed the golden sample."""
        return sum(worker.alive for worker in self._all)

    async def start(self) -> None:
        """Open every worker, one after the other: the first tells what is wrong with the model.

        Raises:
            ProstateMimError: as ``Worker.start``.
        """
        for _ in range(self._settings.concurrency):
            self._add(await Worker.start(self._settings))

    def _add(self, worker: Worker) -> None:
        self.about = self.about or worker.about
        self._all.add(worker)
        self._free.put_nowait(worker)
        self._run(self._watch(worker))

    def _run(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch(self, worker: Worker) -> None:
        """Replace a worker when its process ends, whoever ended it."""
        await worker.process.wait()
        self._all.discard(worker)
        self._lost(worker.why)
        while True:
            try:
                return self._add(await Worker.start(self._settings))
            except ProstateMimError:
                self._lost("not opened")
                await asyncio.sleep(_PAUSE_S)

    async def do(self, job: dict[str, Any]) -> tuple[dict[str, Any], float]:
        """One job on the next free worker; its answer, and how many seconds it waited.

        Raises:
            RefusedError: 503 no worker became free, 504 it took too long, 500 the worker ended.
        """
        loop = asyncio.get_running_loop()
        asked = loop.time()
        while True:
            worker = await self._next()
            waited = loop.time() - asked
            with suppress(_NotBegunError):  # it ended while it had nothing to do: another one takes the job
                return await self._done(worker, job), waited

    async def _done(self, worker: Worker, job: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = await worker.do(job, self._settings.timeout_s)
        except TimeoutError:
            worker.kill("too slow")
            raise RefusedError(504, "timeout", f"not computed within {self._settings.timeout_s:g} s") from None
        except _NotBegunError:
            worker.kill()
            raise
        except (EOFError, ValueError):
            worker.kill()
            raise RefusedError(500, "worker", "the worker ended over this study; tell the operator") from None
        except asyncio.CancelledError:
            worker.kill()
            raise
        if answer.get("status") == 500:  # the device, perhaps: a new process replays the golden sample
            worker.kill("failed")
        else:
            self._free.put_nowait(worker)
        return answer

    async def _next(self) -> Worker:
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                while True:
                    worker = await self._free.get()
                    if worker.alive:
                        return worker
        except TimeoutError:
            raise RefusedError(503, "busy", "no worker is free; try again") from None

    async def close(self) -> None:
        """End every worker."""
        for task in list(self._tasks):
            task.cancel()
        for worker in list(self._all):
            await worker.end()

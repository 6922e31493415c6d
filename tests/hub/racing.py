"""Run in a process of its own, because huggingface_hub reads its environment when it is imported.

``racing.py race OUT PROCESSES NAME...``: that many processes fetch every name at the same moment into one cache, with
huggingface_hub's lock turned into nothing. ``racing.py kill OUT TIMES NAME``: a process fetches, and is killed with
SIGKILL at a random moment; then the next one, until a fetch at the end. Both write what happened to OUT as JSON.
Processes are forks of one that has imported everything.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.file_download as client
from huggingface_hub import constants

from prostate_mim.errors import ProstateMimError
from prostate_mim.files import sha256_of
from prostate_mim.hub.resolve import locate

FORK = multiprocessing.get_context("fork")


def fetched(name: str) -> str:
    """SHA-256 of the verified weights, or what went wrong."""
    try:
        weights = locate(name).folder / "model.safetensors"
        for _ in range(20):  # without a lock, another process may be making the link anew
            with contextlib.suppress(FileNotFoundError):
                return sha256_of(weights)
            time.sleep(0.1)
        return "the file is gone"
    except ProstateMimError as error:
        return f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def no_lock(*_: Any, **__: Any) -> Iterator[None]:
    """A lock of a file system that has none."""
    yield


def race(processes: int, names: list[str]) -> list[str]:
    """What every process got of every name."""
    client.WeakFileLock = no_lock  # type: ignore[assignment]
    barrier, answers = FORK.Barrier(processes), FORK.Queue()

    def one() -> None:
        for name in names:
            barrier.wait(60)
            answers.put(fetched(name))

    started = [FORK.Process(target=one) for _ in range(processes)]
    for process in started:
        process.start()
    found = [answers.get(timeout=120) for _ in range(processes * len(names))]
    for process in started:
        process.join(60)
    return found


def kill(times: int, name: str) -> dict[str, Any]:
    """How many died while they fetched, what they left, and what the next fetch makes of it."""
    rng, died = random.Random(3), 0
    for _ in range(times):
        process = FORK.Process(target=fetched, args=(name,))
        process.start()
        time.sleep(rng.uniform(0.02, 0.4))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        died += process.exitcode == -signal.SIGKILL
    left = incomplete()
    for path in left:  # as if somebody came back after lunch
        os.utime(path, (time.time() - 3600,) * 2)
    return {"died": died, "left": len(left), "next": fetched(name), "left_then": len(incomplete())}


def incomplete() -> list[Path]:
    """Half files in the cache."""
    return list(Path(constants.HF_HUB_CACHE).glob("models--*/blobs/*.incomplete"))


if __name__ == "__main__":
    action, out, count, *rest = sys.argv[1:]
    made: Any = race(int(count), rest) if action == "race" else kill(int(count), rest[0])
    Path(out).write_text(json.dumps(made))

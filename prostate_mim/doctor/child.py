"""Child processes that try what may crash or hang: started together, each with a deadline, none left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from prostate_mim.doctor.finding import one_line

PROBE = Path(__file__).resolve().parent / "probe.py"
TIMEOUT_S = 120.0
"""A first import of torch from a slow network disk takes a minute."""


@dataclass(frozen=True)
class Answer:
    """What a child said.

    Attributes:
        values: by name, as the probe documents them; empty if ``error``.
        error: why there are none, one line: an exception, a crash, no answer in time. Empty otherwise.
    """

    values: Mapping[str, Any]
    error: str = ""


@dataclass(frozen=True)
class _Child:
    process: subprocess.Popen[bytes]
    deadline: float
    timeout_s: float


class Children:
    """Probes that run beside each other; a context manager, whose end ends all of them.

    Args:
        environ: of the children.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = dict(environ)
        self._running: dict[str, _Child] = {}
        self._answers: dict[str, Answer] = {}

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._running.values():
            _end(child.process)

    def start(self, probe: str, *arguments: str, timeout_s: float = TIMEOUT_S) -> None:
        """Begin a probe of ``probe.py``, with the arguments it takes."""
        # -P: a file torch.py in the folder where a person happens to be is not what they installed.
        command = [sys.executable, "-P", str(PROBE), probe, *arguments]
        try:
            process = subprocess.Popen(  # noqa: S603 - this interpreter, a file of this package, no shell
                command, env=self._environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self._answers[probe] = Answer({}, f"no process can be started: {error.strerror or error}")
        else:
            self._running[probe] = _Child(process, time.monotonic() + timeout_s, timeout_s)

    def started(self, probe: str) -> bool:
        """Whether there will be an answer."""
        return probe in self._running or probe in self._answers

    def answer(self, probe: str) -> Answer:
        """Wait for a probe that was started, and no longer than its time."""
        if probe not in self._answers:
            child = self._running[probe]
            try:
                out, told = child.process.communicate(timeout=max(child.deadline - time.monotonic(), 0.1))
                self._answers[probe] = _read(out, told, child.process.returncode)
            except subprocess.TimeoutExpired:
                _end(child.process)
                self._answers[probe] = Answer({}, f"no answer within {child.timeout_s:g} s")
            del self._running[probe]
        return self._answers[probe]


def _read(out: bytes, told: bytes, code: int) -> Answer:
    try:
        values = json.loads(out)
    except ValueError:
        lines = told.decode("utf-8", "replace").strip().splitlines()
        last = f" ({one_line(lines[-1], 200)})" if lines else ""
        return Answer({}, f"crashed: {signal.strsignal(-code) if code < 0 else f'exit code {code}'}{last}")
    return Answer({}, one_line(str(values["error"]))) if set(values) == {"error"} else Answer(values)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill it and what it started."""
    with suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()

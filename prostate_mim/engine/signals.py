"""Stopping in an orderly way: a signal is remembered, and obeyed between two steps, after a checkpoint."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, NoReturn

# SLURM announces the end of an allocation by SIGTERM, or earlier by what --signal asks for, commonly SIGUSR1.
_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)
)  # Windows has no SIGUSR1

# Ctrl-C and SLURM reach the launcher and its processes alike, and the launcher hands on what it got: one request.
_ONE_REQUEST_SECONDS = 0.5


class StopRequest:
    """Remembers the first signal that asks to stop; a later one stops at once. Use as a context manager.

    Ctrl-C is answered on stderr at once: a step may take many seconds.

    Args:
        quiet: say nothing: for every process but the first.

    Attributes:
        signal: its number; 0 while nobody has asked.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.signal = 0
        self._quiet = quiet
        self._asked = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python cannot handle signals
            self._before = {number: signal.signal(number, self._remember) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._put_back()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.signal:
            self.signal, self._asked = number, now
            if number == signal.SIGINT and not self._quiet:
                _say_at_once("stopping after this step; a checkpoint is written")
        elif now - self._asked > _ONE_REQUEST_SECONDS:
            self._put_back()
            os.kill(os.getpid(), number)

    def _put_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def leave(self, done: int) -> NoReturn:
        """End the process after a step whose checkpoint is written, and say so.

        How to go on after Ctrl-C is told by the command that was stopped, as only it knows how it was called.

        Args:
            done: steps.

        Raises:
            SystemExit: with ``exit_code``; with that of SIGTERM where another process had the signal.
        """
        if not self._quiet:
            more = "" if self.signal == signal.SIGINT else ", go on with --resume"
            sys.stderr.write(f"asked to stop after step {done}; its checkpoint is written{more}\n")
        raise SystemExit(self.exit_code if self.signal else 128 + signal.SIGTERM)

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that a signal has ended: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + self.signal


def _say_at_once(line: str) -> None:
    """Write a line past Python's buffers, which a signal handler may have come upon half filled; below any bar."""
    with suppress(OSError):
        os.write(2, f"{os.linesep if os.isatty(2) else ''}{line}{os.linesep}".encode())

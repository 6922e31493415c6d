"""Stopping in an orderly way: a signal is remembered, and obeyed between two steps, after a checkpoint."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

# SLURM announces the end of an allocation by SIGTERM, or earlier by what --signal asks for, commonly SIGUSR1.
_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)
)  # Windows has no SIGUSR1

# Ctrl-C and SLURM reach the launcher and its processes alike, and the launcher hands on what it got: one request.
_ONE_REQUEST_SECONDS = 0.5


class StopRequest:
    """Remembers the first signal that asks to stop; a later one stops at once. Use as a context manager.

    Attributes:
        signal: its number; 0 while nobody has asked.
    """

    def __init__(self) -> None:
        self.signal = 0
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
        elif now - self._asked > _ONE_REQUEST_SECONDS:
            self._put_back()
            os.kill(os.getpid(), number)

    def _put_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that a signal has ended: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + self.signal

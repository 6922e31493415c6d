"""How it is measured: engines take turns, so that other load of the machine meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

IN_A_ROW = 4
"""Calls of an engine in its turn; the first is not counted, as the others' threads may still be spinning."""


class Steps:
    """How far a measurement is, for a bar: told at the beginning of every step.

    Args:
        total: steps in all.
        progress: called with (steps done, steps in all, what is done now); nobody if None.
    """

    def __init__(self, total: int, progress: Callable[[int, int, str], None] | None) -> None:
        self._begun, self._total, self._progress = 0, total, progress

    def begin(self, what: str) -> None:
        """The step before is done, and this one begins."""
        self._begun += 1
        self._tell(self._begun - 1, what)

    def leave_out(self, steps: int) -> None:
        """So many will not come."""
        self._total -= steps

    def end(self) -> None:
        """The last one is done."""
        self._tell(self._begun, "measured")

    def _tell(self, done: int, what: str) -> None:
        if self._progress is not None:
            self._progress(done, self._total, what)


def timed(
    networks: Mapping[str, Callable[[], object]], rounds: int, begin: Callable[[str], object] | None = None
) -> dict[str, list[float]]:
    """Seconds of every counted call, by name; the order of turns is rotated in each round.

    Args:
        networks: what is called.
        rounds: turns of each.
        begin: told the name whose turn begins.
    """
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    names = list(networks)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            if begin is not None:
                begin(name)
            for call in range(IN_A_ROW):
                began = time.perf_counter()
                networks[name]()
                if call:
                    seconds[name].append(time.perf_counter() - began)
    return seconds


def median_and_p90(seconds: list[float]) -> tuple[float, float]:
    """In milliseconds."""
    median, p90 = np.percentile(np.asarray(seconds) * 1000, [50, 90])
    return float(median), float(p90)

"""How it is measured: engines take turns, so that other load of the machine meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

IN_A_ROW = 4
"""Calls of an engine in its turn; the first is not counted, as the others' threads may still be spinning."""


def timed(
    networks: Mapping[str, Callable[[], object]], rounds: int, progress: Callable[[int, int], None] | None = None
) -> dict[str, list[float]]:
    """Seconds of every counted call, by name; the order of turns is rotated in each round.

    Args:
        networks: what is called.
        rounds: turns of each.
        progress: told (done, all) turns.
    """
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    names = list(networks)
    for number in range(rounds):
        first = number % len(names)
        for turn, name in enumerate(names[first:] + names[:first]):
            for call in range(IN_A_ROW):
                began = time.perf_counter()
                networks[name]()
                if call:
                    seconds[name].append(time.perf_counter() - began)
            if progress is not None:
                progress(number * len(names) + turn + 1, rounds * len(names))
    return seconds


def median_and_p90(seconds: list[float]) -> tuple[float, float]:
    """In milliseconds."""
    median, p90 = np.percentile(np.asarray(seconds) * 1000, [50, 90])
    return float(median), float(p90)

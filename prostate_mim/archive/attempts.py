"""Which row a killed worker was busy with: a journal beside the parts, one small text file per shard.

A process that is killed (out of memory, a crash in a reader's C code) says nothing, and Ray would give its shard to
the next one for ever. So a worker notes each row before it begins; whoever takes the shard over reads there how often
each row was the last thing a worker did.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

from prostate_mim.errors import BackendError
from prostate_mim.files import append_line

_START, _ROW, _WRITE = "start", "row", "write"
_LOAD, _LOADED = "load", "loaded"


class Attempts:
    """The journal of one shard, opened by the worker that now begins it.

    Args:
        path: the journal's file; made if it does not exist.
        allowed: how often a row may kill its worker before it counts as failed.
        rows: how messages name the shard, e.g. ``rows 1 to 32``.
        pid: of this worker, for the reader of a journal.

    Raises:
        BackendError: workers were killed ``allowed`` times outside any row (while starting or writing the part).
    """

    def __init__(self, path: Path, allowed: int, rows: str, pid: int) -> None:
        self._path, self._allowed = path, allowed
        lines = _lines(path)
        killed = Counter(line for line, after in pairwise([*lines, _START]) if after.startswith(_START))
        self._killed = {int(line.split()[1]): n for line, n in killed.items() if line.startswith(_ROW)}
        elsewhere = sum(n for line, n in killed.items() if not line.startswith(_ROW))
        if elsewhere >= allowed:
            raise BackendError(
                f"manifest {rows}: {elsewhere} workers were killed while they began or wrote this shard; "
                "is there enough memory? Finished shards are kept: call again with fewer workers"
            )
        append_line(path, f"{_START} {pid}")

    def killed_by(self, number: int) -> int:
        """How often a worker was killed at a manifest row."""
        return self._killed.get(number, 0)

    def exhausted(self, number: int) -> bool:
        """Whether a row has killed as many workers as it may."""
        return self.killed_by(number) >= self._allowed

    def begin(self, number: int) -> None:
        """Note that a row begins."""
        append_line(self._path, f"{_ROW} {number}")

    def write(self) -> None:
        """Note that the last row is done and the part is being written."""
        append_line(self._path, _WRITE)


def begin_loading(path: Path, allowed: int) -> None:
    """Note that a worker begins to load the model.

    Args:
        path: the journal of loading, one for all workers.
        allowed: how many may begin in a row without one that ends.

    Raises:
        BackendError: more began; loading kills them.
    """
    begun = 0
    for line in reversed(_lines(path)):
        if line != _LOAD:
            break
        begun += 1
    if begun >= allowed:
        raise BackendError(
            f"{begun} workers in a row were killed while they loaded the model; is there enough memory? "
            "Call again with fewer workers"
        )
    append_line(path, _LOAD)


def end_loading(path: Path) -> None:
    """Note that a worker has its model."""
    append_line(path, _LOADED)


def _lines(path: Path) -> list[str]:
    """Whole lines; one that a killed worker left without its end counts, as it was begun."""
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

"""Counts of what became of damaged files, printed as a table past pytest's capture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from prostate_mim.errors import NotFoundError, VolumeError
from prostate_mim.volume import Volume

SAME_PLACE_MM = 0.11
REFUSED, SAME, SILENT, UNTYPED = "refused", "identical", "silent", "untyped"
Reader = Callable[[Path], Volume]


def judge(read: Reader, path: Path, whole: Volume) -> str:
    """``refused``, ``identical`` (voxels to the bit, corners within 0.11 mm), ``silent`` or ``untyped``."""
    try:
        found = read(path)
    except (VolumeError, NotFoundError) as error:
        assert "\n" not in str(error)
        assert path.name in str(error)
        return REFUSED
    except Exception:  # what the figures are for
        return UNTYPED
    if found.voxels.shape != whole.voxels.shape or not np.array_equal(found.voxels, whole.voxels):
        return SILENT
    return SAME if corner_distance(found, whole) < SAME_PLACE_MM else SILENT


def corner_distance(found: Volume, whole: Volume) -> float:
    """Largest distance in mm between the corners of two grids of one shape."""
    z, y, x = whole.voxels.shape
    corners = np.array([[a, b, c] for a in (0, z) for b in (0, y) for c in (0, x)])
    moved = found.geometry.index_to_position(corners) - whole.geometry.index_to_position(corners)
    return float(np.linalg.norm(moved, axis=1).max())


def show(
    capsys: pytest.CaptureFixture[str], title: str, counts: dict[str, Counter[str]], extra: Sequence[str] = ()
) -> Counter[str]:
    """Write one line per kind of damage, and the sum, to the terminal; returns the sum.

    Args:
        capsys: pytest's, disabled while writing.
        title: of the table.
        counts: kind of damage -> verdict -> number.
        extra: further verdicts that the format makes undetectable, one column each.
    """
    columns = (REFUSED, SAME, *extra, SILENT, UNTYPED)
    total = sum(counts.values(), Counter[str]())
    width = max(len(kind) for kind in (*counts, title)) + 2
    lines = [title.ljust(width) + "".join(column.rjust(len(column) + 3) for column in ("copies", *columns))]
    for kind, found in {**counts, "sum": total}.items():
        numbers = [("copies", found.total()), *((column, found[column]) for column in columns)]
        lines.append(kind.ljust(width) + "".join(str(number).rjust(len(name) + 3) for name, number in numbers))
    with capsys.disabled():
        print("\n\n" + "\n".join(lines))
    return total

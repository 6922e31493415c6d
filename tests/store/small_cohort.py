"""Small studies on disk, and the region they are prepared at."""

from __future__ import annotations

import csv
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from prostate_mim.errors import ProstateMimError
from prostate_mim.spec import InputSpec
from prostate_mim.store.rows import Job
from prostate_mim.volume import Geometry, Volume, write_volume

SPEC = InputSpec(size_zyx=(10, 70, 70))
COLUMNS = (
    "study_id", "patient_id", "t2w", "gland_mask", "lesion_mask", "zone_mask", "position_mm_lps", "is_crop", "sha256",
)  # fmt: skip


def write_study(folder: Path, number: int, *, shape: tuple[int, int, int] = (12, 80, 80), spacing: float = 0.5) -> None:
    """``t2w_N.nii.gz``, ``gland_N.nii.gz`` and ``lesion_N.nii.gz``: whole numbers, smooth enough to compress."""
    rng = np.random.default_rng(number)
    z, y, x = np.ogrid[tuple(slice(n) for n in shape)]
    voxels = (400 + 9 * z + 3 * y + 2 * x + rng.integers(0, 60, shape)).astype(np.int16)
    geometry = Geometry((3.0, spacing, spacing), (-20.0 + number, 5.0, 30.0))
    write_volume(Volume(voxels, geometry), folder / f"t2w_{number}.nii.gz")
    middle = [n // 2 for n in shape]
    for name, radius in (("gland", 14), ("lesion", 4)):
        away = ((z - middle[0]) * 4) ** 2 + (y - middle[1]) ** 2 + (x - middle[2] - 3) ** 2
        write_volume(Volume((away < radius**2).astype(np.int16), geometry), folder / f"{name}_{number}.nii.gz")


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    """A manifest with every column of ``COLUMNS``; what a row does not give is empty."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def cohort_rows(count: int) -> list[dict[str, str]]:
    """Rows of studies 0, 1, ...: even ones with a gland, every third with a lesion too."""
    rows = []
    for number in range(count):
        row = {"study_id": f"s{number}", "patient_id": f"p{number}", "t2w": f"t2w_{number}.nii.gz"}
        if number % 2 == 0:
            row["gland_mask"] = f"gland_{number}.nii.gz"
        if number % 3 == 0:
            row["lesion_mask"] = f"lesion_{number}.nii.gz"
        rows.append(row)
    return rows


def kill_myself(owner: int) -> None:
    """``kill -9`` of the process that runs this, unless it is ``owner``."""
    if os.getpid() != owner:
        os.kill(os.getpid(), signal.SIGKILL)


class Poison(Job):
    """A row that kills every worker it is sent to."""

    def __reduce__(self) -> Any:
        return kill_myself, (os.getpid(),)


def leftovers(store: Path) -> list[str]:
    """Half-written files anywhere in a store."""
    return sorted(str(path) for path in store.rglob(".*"))


def entries(store: Path) -> dict[str, bytes]:
    """Content of every file of every entry, by name."""
    return {path.name: path.read_bytes() for path in sorted((store / "entries").iterdir())}


def in_a_fork(work: Callable[[], Any], timeout_s: float = 120) -> Any:
    """What ``work`` returns in a forked process, or the exception of ours that it raises."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()

    def run() -> None:
        try:
            queue.put(work())
        except ProstateMimError as error:
            queue.put(error)

    process = context.Process(target=run)
    process.start()
    try:
        return queue.get(timeout=timeout_s)
    finally:
        process.join(10)
        process.kill()


def put_sum(study: Any, piece: Any, queue: Any) -> None:
    """Run in another process: the sum of a piece of a study's voxels."""
    queue.put(int(study.voxels[piece].sum()))

"""Peak memory of one engine, in a process that does nothing else. No torch unless the engine is torch's."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prostate_mim.errors import ProstateMimError

_CALLS = 3
_STATUS = Path("/proc/self/status")


def peak_memory_mb(engine: str, file: Path, device: str, threads: int, voxels: npt.NDArray[np.float32]) -> float | None:
    """The most memory that a process held which opened an engine and called it three times.

    Args:
        engine: its name.
        file: the exported file, or the folder that ``engines`` opens.
        device: of an exported file; empty of torch.
        threads: of the CPU.
        voxels: what it is called with.

    Returns:
        Megabytes; None where the system does not say it (only Linux does), or the process was killed.
    """
    if not _STATUS.exists():
        return None
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(_peak, engine, file, device, threads, voxels).result()
    except (BrokenProcessPool, ProstateMimError):
        return None


def _peak(engine: str, file: Path, device: str, threads: int, voxels: npt.NDArray[np.float32]) -> float:
    if device:
        from prostate_mim.deploy.runtime import RuntimeOptions
        from prostate_mim.deploy.session import OnnxClassifier

        model = OnnxClassifier(file, device, RuntimeOptions(threads=threads))
        for _ in range(_CALLS):
            model.run(voxels)
    else:
        from prostate_mim.bench.engines import ENGINES

        network = next(one for one in ENGINES if one.name == engine).open(file, threads)
        for _ in range(_CALLS):
            network(voxels)
    # Not getrusage: its peak includes what the parent held when it forked.
    line = next(line for line in _STATUS.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024

"""Peak memory of one engine, in a process that does nothing else. No torch unless the engine is torch's.

Run as a module: a process that multiprocessing starts would import the caller's script, and torch with it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

_CALLS = 3
_STATUS = Path("/proc/self/status")


def peak_memory_mb(engine: str, file: Path, device: str, threads: int, shape: Sequence[int]) -> float | None:
    """The most memory that a process held which opened an engine and called it three times.

    Args:
        engine: its name.
        file: the exported file, or the folder that ``engines`` opens.
        device: of an exported file; empty of torch.
        threads: of the CPU.
        shape: of what it is called with.

    Returns:
        Megabytes; None where the system does not say it (only Linux does), or the process failed.
    """
    if not _STATUS.exists():
        return None
    asked = json.dumps([engine, str(file), device, threads, list(shape)])
    ran = subprocess.run([sys.executable, "-m", __name__, asked], capture_output=True, text=True)  # noqa: S603
    return float(ran.stdout) if ran.returncode == 0 else None


def _peak(engine: str, file: Path, device: str, threads: int, shape: Sequence[int]) -> float:
    voxels = np.random.default_rng(0).normal(size=shape).astype(np.float32)
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


def main() -> None:
    """Of the child: what is asked for as JSON, the answer on what was stdout."""
    engine, file, device, threads, shape = json.loads(sys.argv[1])
    sys.stdout.write(f"{_peak(engine, Path(file), device, threads, shape)}\n")


if __name__ == "__main__":
    main()

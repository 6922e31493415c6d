"""Peak memory of one path, in a process of its own: ``python bench_memory.py '{"arch": ...}' rows`` prints JSON.

What counts is memory beyond what every path needs. The base is the resident size once model and optimiser state exist
and one whole step has been taken, its buffers and gradients freed and the heap trimmed: the step makes the optimiser's
state and fills the caches of torch's kernels. Then the kernel's high-water mark is reset (a ``5`` written to
/proc/self/clear_refs) and more steps are taken, each with other hidden blocks. ``peak_mb`` is the high-water mark above
the base: activations, gradients, tables and scratch. ``total_mb`` is the mark itself, libraries and weights included.
Where the mark cannot be reset, ``reset`` is false and the mark is that of the process's whole life, building the model
included. Without /proc (not Linux) both are null. CUDA: torch's own allocator, in the same way.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from bench_arms import Arm, Case

_STEPS = 3
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_MB = 2**20


def peak_in_subprocess(case: Case, path: str, threads: int) -> dict[str, Any]:
    """``peak_mb``, ``total_mb`` and ``reset``, measured in a fresh process.

    Raises:
        RuntimeError: the process failed; with what it said.
    """
    command = [sys.executable, __file__, json.dumps(dataclasses.asdict(case)), path, str(threads)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"measuring the memory of {path} failed: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(case: Case, path: str) -> dict[str, Any]:
    """As ``peak_in_subprocess``, in this process."""
    arm = Arm(path, case)
    arm.step(0)
    arm.optimiser.zero_grad(set_to_none=True)
    gc.collect()
    if case.device != "cpu":
        return _of_device(arm)
    if not _STATUS.exists():
        return {"peak_mb": None, "total_mb": None, "reset": False}
    _trim_heap()
    base, reset = _status("VmRSS"), _reset_high_water_mark()
    for number in range(1, 1 + _STEPS):
        arm.step(number)
    mark = _status("VmHWM")
    return {"peak_mb": round(mark - base, 1), "total_mb": round(mark, 1), "reset": reset}


def _of_device(arm: Arm) -> dict[str, Any]:
    torch.cuda.empty_cache()
    base = torch.cuda.memory_allocated() / _MB
    torch.cuda.reset_peak_memory_stats()
    for number in range(1, 1 + _STEPS):
        arm.step(number)
    mark = torch.cuda.max_memory_allocated() / _MB
    return {"peak_mb": round(mark - base, 1), "total_mb": round(mark, 1), "reset": True}


def _status(field: str) -> float:
    """MB of a field of /proc/self/status."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024


def _reset_high_water_mark() -> bool:
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def _trim_heap() -> None:
    """Give freed pages back to the system, or the base would hold the warm step's."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc
    if trim is not None:
        trim(0)


def main() -> None:
    """Print one line of JSON."""
    values = json.loads(sys.argv[1])
    torch.set_num_threads(int(sys.argv[3]))
    case = Case(**{**values, "size_zyx": tuple(values["size_zyx"])})
    print(json.dumps(measure(case, sys.argv[2])))


if __name__ == "__main__":
    main()

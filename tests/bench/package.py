"""Start-up times and throughput of the package on this machine: ``make bench``. Never part of the test suite.

Each row is the median of several runs; compare rows of one run only, machines are noisy.
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from prostate_mim import LesionClassifier, OnnxEncoder, PreMIM
from prostate_mim.phantom import make_study
from prostate_mim.preprocess import preprocess
from prostate_mim.volume import read_volume, write_volume


def median_seconds(call: Callable[[], object], runs: int) -> float:
    """Median wall time of ``call`` after one warm-up."""
    call()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def process(*arguments: str) -> Callable[[], object]:
    """A whole Python process as a call."""
    return lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


def main() -> None:
    """Print one table."""
    rows: list[tuple[str, float]] = [
        ("python -c pass", median_seconds(process("-c", "pass"), 9)),
        ("import prostate_mim (bar: 0.2 s)", median_seconds(process("-c", "import prostate_mim"), 9)),
        ("prostate-mim --help (bar: 0.3 s)", median_seconds(process("-m", "prostate_mim", "--help"), 9)),
    ]
    encoder = PreMIM.from_pretrained("resenc-s.mim-t2w")
    study = make_study(0, 0)
    rows.append(("phantom, one study", median_seconds(lambda: make_study(0, 1), 3)))
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "t2w.nii.gz"
        write_volume(study.volume, path)
        rows.append(("read_volume .nii.gz", median_seconds(lambda: read_volume(path), 5)))
        onnx = OnnxEncoder(encoder.export_onnx(Path(name) / "e.onnx"), device="cpu")
        rows.append(("preprocess", median_seconds(lambda: preprocess(study.volume, encoder.spec), 5)))
        rows.append(("embed, torch CPU", median_seconds(lambda: encoder.embed(study.volume), 7)))
        rows.append(("embed, ONNX Runtime CPU", median_seconds(lambda: onnx.embed(study.volume), 7)))
    classifier = LesionClassifier(encoder)
    rows.append(("predict, torch CPU", median_seconds(lambda: classifier.predict(study.volume), 7)))
    print(
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads\n"
    )
    print("| what | median |\n|---|---|")
    for label, seconds in rows:
        print(f"| {label} | {1000 * seconds:.0f} ms |")


if __name__ == "__main__":
    main()

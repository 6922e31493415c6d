"""How much faster two processes are than one, each with one thread: masked pretraining steps at one global batch.

    python tests/bench/ranks.py --steps 12 --out bench-ranks.jsonl

Runs are interleaved (one process, two, one, two ...); the first steps of each are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from prostate_mim.phantom import write_cohort

SEED = 7
WARM = 3


def launch(ranks: int, manifest: Path, out: Path, store: Path, steps: int, architecture: str) -> list[float]:
    """Crops per second of every step after the first ones."""
    command = [sys.executable]
    if ranks > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command += ["-m", "prostate_mim", "pretrain", "--manifest", str(manifest), "--out", str(out), "--store", str(store)]
    command += ["--steps", str(steps), "--batch", "8", "--device", "cpu", "--architecture", architecture]
    command += ["--mask-ratio", "0.75", "--health-every", "0", "--tracker", "none", "--seed", str(SEED)]
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, stderr=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["studies_per_second"] for line in lines if "loss" in line][WARM:]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--architecture", default="resenc-s")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    rates: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = write_cohort(folder / "phantoms", 8, SEED).parent / "studies.csv"
        for number in range(arguments.rounds):
            for ranks in (1, 2):
                out = folder / f"run-{ranks}-{number}"
                rates[ranks] += launch(ranks, manifest, out, folder / "store", arguments.steps, arguments.architecture)
    one, two = (statistics.median(rates[ranks]) for ranks in (1, 2))
    found = {
        "architecture": arguments.architecture, "batch": 8, "one_process": round(one, 2),
        "two_processes": round(two, 2), "efficiency": round(two / (2 * one), 3), "cores": os.cpu_count(), "seed": SEED,
    }  # fmt: skip
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.write("| processes | crops/s | efficiency |\n|---|---|---|\n")
    sys.stdout.write(f"| 1 | {one:.2f} | 1 |\n| 2 | {two:.2f} | {two / (2 * one):.2f} |\n")
    if arguments.out is not None:
        with arguments.out.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()

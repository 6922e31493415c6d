"""How the bundled encoder was made: real volumes (without the held-out ones) and phantoms -> pretrain.

    python hub_cards/make_bundled.py --data ../shared/data --work DIR      # resumes where it stopped
    python hub_cards/publish_bundled.py --data ../shared/data --work DIR   # scores, writes the card, bundles

Run on 2 CPU cores; see the card for hours and figures.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
from pathlib import Path

from prostate_mim.engine.settings import LoopConfig
from prostate_mim.mim import METHODS
from prostate_mim.phantom import write_cohort
from prostate_mim.pretraining import PretrainConfig, pretrain

SEED = 20261123
PHANTOMS = 44
CONFIG = PretrainConfig(
    name="resenc-s.mim-t2w",
    method=METHODS["zerofill"],
    loop=LoopConfig(steps=1500, batch=12, learning_rate=3e-3, warmup=50, precision="bf16", device="cpu", seed=SEED),
)
COLUMNS = ("study_id", "patient_id", "t2w", "gland_mask", "spacing_mm_zyx", "centre")


def write_manifests(data: Path, work: Path) -> Path:
    """The training manifest: one row per real or phantom study; paths relative to ``work``."""
    script = Path(__file__).parent.parent / "tests" / "real" / "make_manifests.py"
    real = work / "real"
    real.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(script), "--data", str(data), "--out", str(real), "--heldout"]
    subprocess.run(command, check=True)
    if not (work / "phantoms" / "studies.csv").exists():
        write_cohort(work / "phantoms", PHANTOMS, SEED)
    rows = [row for part in (real / "pretrain.csv", work / "phantoms" / "studies.csv") for row in read_rows(part, work)]
    manifest = work / "pretrain.csv"
    with manifest.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return manifest


def read_rows(source: Path, work: Path) -> list[dict[str, str]]:
    """Rows of one manifest with their paths made relative to ``work``."""
    with source.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        for name in ("t2w", "gland_mask"):
            if row.get(name):
                row[name] = os.path.relpath(source.parent / row[name], work)
    return rows


def main() -> None:
    """Train, or go on training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    manifest = write_manifests(arguments.data, arguments.work)
    run = arguments.work / "run"
    pretrain(manifest, run, CONFIG, resume=run.exists())


if __name__ == "__main__":
    main()

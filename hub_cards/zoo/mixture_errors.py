"""Masked error of mixture.toml's encoders: ``mixture_errors.py --work DIR`` after the study in DIR/mixture.

On the development cases that none of them was pretrained on, as ``evaluate.py`` measures it.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from cards import shown
from evaluate import masked_error

from prostate_mim.hub.release import CONFIG
from prostate_mim.reconstruction import load_mim

TESTED = "0"  # the fold that mixture.toml tests


def main() -> None:
    """One row of a table for each encoder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    work = parser.parse_args().work
    manifest = work / "data" / "mixture-tested.csv"
    with (work / "data" / "development.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["fold"] == TESTED]
    with manifest.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for release in sorted((work / "mixture" / "pretraining").glob("*/release")):
        studies = json.loads((release / CONFIG).read_text())["details"]["training"]["studies"]
        found = masked_error(load_mim(release), manifest, work / "store")
        sys.stdout.write(f"| {studies} studies | {shown(found['model'])} | {shown(found['interpolation'])} |\n")


if __name__ == "__main__":
    main()

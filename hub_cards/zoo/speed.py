"""Time models on this machine: ``speed.py NAME...`` writes hub_cards/NAME/bench.json, which the card's table is from.

A lesion classifier of the encoder (random head), one crop of the spec's size, all engines in turns in one run. Absolute
times are of this machine and its load; compare what stands in one table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from prostate_mim import PreMIM
from prostate_mim.bench.run import run_bench
from prostate_mim.files import write_text

CARDS = Path(__file__).resolve().parents[1]
BENCH, WEIGHTS = "bench.json", "weights_sha256"
ROUNDS = 12


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="+")
    for name in parser.parse_args().name:
        measure(CARDS / name)


def measure(folder: Path, release: Path | None = None) -> None:
    """Write the bench of a model's folder; of its release elsewhere, while the folder has no card yet."""
    model = PreMIM.from_pretrained(f"local-dir:{release or folder}")
    found = run_bench(model, rounds=ROUNDS)
    record = {WEIGHTS: model.weights_sha256(), "script": f"hub_cards/zoo/{Path(__file__).name}", **found.to_dict()}
    write_text(folder / BENCH, json.dumps(record, indent=2) + "\n")


def is_of(folder: Path, weights_sha256: str) -> bool:
    """Whether a folder has a bench of these weights."""
    path = folder / BENCH
    return path.exists() and json.loads(path.read_text())[WEIGHTS] == weights_sha256


def speed_values(folder: Path) -> dict[str, str]:
    """The template's names that are about speed."""
    found: dict[str, Any] = json.loads((folder / BENCH).read_text())
    rows, absent = [], []
    for row in found["engines"]:
        if row["median_ms"] is None:
            absent.append(row["engine"])
            continue
        memory = "" if row["memory_mb"] is None else f"{row['memory_mb']:.0f}"
        how = f"`{row['how']}`" if row["how"].startswith("--") else row["how"]
        rows.append(
            f"| {row['engine']} | {row['median_ms']:.1f} | {row['p90_ms']:.1f} | {row['speedup']:.2f} | {memory} | "
            f"{row['difference']:.0e} | {how} |"
        )
    whole, versions = found["whole"], ", ".join(f"{name} {said}" for name, said in found["versions"].items())
    return {
        "speed": "\n".join(rows),
        "speed_script": found["script"],
        "speed_absent": f"Not measured, as no GPU was at hand: {', '.join(absent)}." if absent else "",
        "speed_where": f"{found['hardware']}, {found['threads']} threads, {versions}",
        "speed_winner": found["winner"],
        "speed_whole": f"{whole['all']:.0f} ms, {whole['ratio']:.2f} times reading ({whole['reading']:.0f} ms) and "
        f"network ({whole['network']:.0f} ms)",
    }


if __name__ == "__main__":
    main()

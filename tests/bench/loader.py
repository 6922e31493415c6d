"""How fast crops come: our loader beside MONAI's data sets. ``make bench-loader``; never a test.

Every arm reads the same regions of 24 x 256 x 256 voxels, draws random crops of 16 x 96 x 96, clips at percentiles and
z-scores each crop, and varies it with the same changes at the same chances; with as many loader processes. An arm ends
where a batch lies ready on the CPU as float32. MONAI's arms do so with its dictionary transforms, which is how its
users write them, one sample after the other in the worker; ours normalises and augments in the main process.

    store            ours: compressed regions, memory-mapped
    ram              ours: the same regions in memory
    resident         ours: on the device (here the CPU), without workers
    persistent       MONAI PersistentDataset: regions as .pt files
    cache            MONAI CacheDataset: regions in memory
    persistent_once  the same, but clipped and z-scored once per region and cached so: less work, and other numbers (a
                     crop is no longer normalised as prediction does it); for orientation

The machine is disturbed by others, so arms take turns: a round is every arm once, and ratios are taken within a round,
then their median over rounds. A last part asks what the loader costs where it matters: the share of a masked
pretraining step of resenc-s that is spent waiting for crops, with one worker.

Each line of the output is JSON: a header, one line per workers and arm, and one line of the step.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import monai
import torch
from loader_monai import monai_loader
from loader_step import share_of_waiting

from prostate_mim import __version__
from prostate_mim.engine.augment import Augmentation
from prostate_mim.engine.batch import finish_batch, finish_crops
from prostate_mim.engine.data import DrawDataset, Region
from prostate_mim.engine.loader import DrawLoader
from prostate_mim.manifest import read_manifest
from prostate_mim.phantom import write_cohort
from prostate_mim.spec import InputSpec
from prostate_mim.store import REGION_ZYX, prepare_manifest

SPEC = InputSpec()
JITTER_ZYX = (4, 80, 80)  # anywhere in the region, as MONAI's random crop
OURS = ("store", "ram", "resident")
ARMS = (*OURS, "persistent", "cache", "persistent_once")
_COLUMNS = {
    "workers": "workers", "arm": "arm", "crops_per_second": "crops/s", "crops_per_second_best": "best round",
    "speed_vs_persistent": "vs persistent", "speed_vs_cache": "vs cache",
    "speed_vs_persistent_once": "vs persistent_once",
}  # fmt: skip

Runner = Callable[[int], float]  # workers -> crops per second of one turn


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--manifest", type=Path, help="real studies; phantoms if not given")
    parser.add_argument("--studies", type=int, default=24)
    parser.add_argument("--crops", type=int, default=384, help="measured in each turn of each arm")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 2])
    parser.add_argument("--threads", type=int, default=1, help="of the main process; workers have one")
    parser.add_argument("--arm", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--steps", type=int, default=12, help="training steps of the last part; 0 leaves it out")
    parser.add_argument("--step-batch", type=int, default=4)
    parser.add_argument("--no-augmentation", action="store_true", help="crop and normalise only")
    parser.add_argument("--out", type=Path, help="file for the JSON lines; also printed where it is not given")
    parser.add_argument("--table", type=Path, help="file for the Markdown table, which is printed too")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure."""
    warnings.filterwarnings("ignore")
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    augmentation = Augmentation.none() if options.no_augmentation else Augmentation()
    with tempfile.TemporaryDirectory() as folder:
        stored, ram = prepared(options, Path(folder))
        lines = [header(options, stored, Path(folder))]
        runners = make_runners(options, stored, ram, augmentation, Path(folder))
        for workers in options.workers:
            lines += summary(workers, measure(runners, workers, options.rounds))
        if options.steps:
            lines.append(share_of_waiting(stored, augmentation, options.step_batch, options.steps))
    text = "".join(json.dumps(line) + "\n" for line in lines)
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
    table = markdown(lines)
    print(table)
    if options.table:
        options.table.write_text(f"{table}\n", encoding="utf-8")
    return 0


def prepared(options: argparse.Namespace, folder: Path) -> tuple[DrawDataset, DrawDataset]:
    """Draws from a store in a folder, and from memory."""
    path = options.manifest or write_cohort(folder / "cohort", options.studies, seed=1)
    listed = read_manifest(path)
    rows = list({row.t2w: row for row in listed.rows}.values())[: options.studies]
    bare = [row.__class__(**{**vars(row), "gland_mask": None, "lesion_mask": None, "zone_mask": None}) for row in rows]
    listed = listed.__class__(**{**vars(listed), "rows": tuple(bare)})
    region_spec = SPEC.with_size(REGION_ZYX)
    found = [prepare_manifest(listed, region_spec, store) for store in (folder / "store", None)]
    made = [[Region(entry.study, -1, entry.row.number) for entry in one.rows] for one in found]
    return DrawDataset(made[0], SPEC, JITTER_ZYX, 0), DrawDataset(made[1], SPEC, JITTER_ZYX, 0)


def header(options: argparse.Namespace, dataset: DrawDataset, folder: Path) -> dict[str, Any]:
    """Hardware, versions and settings."""
    size = sum(path.stat().st_size for path in (folder / "store").rglob("*") if path.is_file())
    return {
        "kind": "header",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": [round(load, 2) for load in os.getloadavg()],
        "versions": {
            "prostate_mim": __version__, "torch": torch.__version__, "monai": monai.__version__,
            "python": platform.python_version(),
        },
        "system": platform.platform(),
        "studies": len(dataset),
        "data": "phantoms" if options.manifest is None else "real",
        "store_mb_per_study": round(size / 2**20 / len(dataset), 2),
        "crops": options.crops, "batch": options.batch, "rounds": options.rounds,
        "augmentation": not options.no_augmentation,
    }  # fmt: skip


def make_runners(
    options: argparse.Namespace, stored: DrawDataset, ram: DrawDataset, augmentation: Augmentation, folder: Path
) -> dict[str, Runner]:
    """One function an arm: a turn of it."""
    batch, steps = options.batch, options.crops // options.batch

    def ours(dataset: DrawDataset, resident: torch.device | None) -> Runner:
        # Regions stay on the device between turns, as they do between steps.
        finish = partial(finish_crops, device="cpu", spec=SPEC, augmentation=augmentation, seed=0)  # as the loop does
        loader = DrawLoader(
            dataset, first_step=0, last_step=steps + 1, batch=batch, resident_on=resident, finish=finish
        )

        def turn(workers: int) -> float:
            loader.workers = workers
            return timed(
                (finish_batch(items, "cpu", SPEC, augmentation, 0)["voxels"] for items in loader), options.crops
            )

        return turn

    def theirs(arm: str) -> Runner:
        make = monai_loader(arm, ram, augmentation, folder / arm)

        def turn(workers: int) -> float:
            return timed(make(batch, steps + 1, workers), options.crops)

        return turn

    made = {
        "store": lambda: ours(stored, None),
        "ram": lambda: ours(ram, None),
        "resident": lambda: ours(ram, torch.device("cpu")),
    }
    return {arm: made[arm]() if arm in made else theirs(arm) for arm in options.arm}


def timed(batches: Any, crops: int) -> float:
    """Crops per second, from the moment the first batch is there (processes have started) to the last."""
    iterator = iter(batches)
    next(iterator)
    started, count = time.perf_counter(), 0
    for voxels in iterator:
        count += len(voxels)
        assert float(voxels[0, 0, 0, 0, 0]) < 1e6  # it is there, and somebody looked at it
        if count >= crops:
            break
    speed = count / (time.perf_counter() - started)
    if hasattr(iterator, "close"):
        iterator.close()
    return speed


def measure(runners: dict[str, Runner], workers: int, rounds: int) -> dict[str, list[float]]:
    """Crops per second of every arm in every round; a first round is not counted."""
    speeds: dict[str, list[float]] = {arm: [] for arm in runners}
    for number in range(rounds + 1):
        print(f"workers {workers}, round {number} ...", file=sys.stderr, flush=True)
        order = list(runners) if number % 2 else list(reversed(runners))
        for arm in order:
            speed = runners[arm](workers)
            if number:
                speeds[arm].append(speed)
    return speeds


def summary(workers: int, speeds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """One line an arm; ratios are medians of ratios within rounds."""
    lines = []
    for arm, own in speeds.items():
        line: dict[str, Any] = {
            "kind": "loader", "workers": workers, "arm": arm, "crops_per_second": round(statistics.median(own), 1),
            "crops_per_second_best": round(max(own), 1),
        }  # fmt: skip
        for other in ("persistent", "cache", "persistent_once"):
            if other in speeds and other != arm:
                ratios = [a / b for a, b in zip(own, speeds[other], strict=True)]
                line[f"speed_vs_{other}"] = round(statistics.median(ratios), 2)
                line[f"speed_vs_{other}_range"] = [round(min(ratios), 2), round(max(ratios), 2)]
        lines.append(line)
    return lines


def markdown(lines: list[dict[str, Any]]) -> str:
    """A table of the loaders, and a sentence of the step."""
    rows = [line for line in lines if line["kind"] == "loader"]
    table = ["| " + " | ".join(_COLUMNS.values()) + " |", "|" + " --- |" * len(_COLUMNS)]
    table += ["| " + " | ".join(str(row.get(name, "")) for name in _COLUMNS) + " |" for row in rows]
    for line in (line for line in lines if line["kind"] == "step"):
        table += [
            "",
            "A step of {arch} ({batch} crops, {workers} worker): {step_seconds} s, of which {wait_seconds} s "
            "({wait_percent} %) waiting for crops and {finish_percent} % finishing them.".format(**line),
        ]
    return "\n".join(table)


if __name__ == "__main__":
    raise SystemExit(main())

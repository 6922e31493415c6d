"""How fast a study file becomes a network's input, beside MONAI's transforms. ``make bench-preprocess``; never a test.

Every arm does the same work on the same files: read, bring to the axial orientation, resample to 3 x 0.5 x 0.5 mm
(linear, smoothed before where voxels grow), crop 16 x 96 x 96 around the middle, clip at percentiles, z-score, pad.

    ours         ``read_volume`` and ``preprocess``: every length and checksum verified, then only the crop resampled
    monai        MONAI's transforms as its users write them: the whole volume is resampled, then cropped
    monai_crop   MONAI's transforms with our order: crop with a margin, then resample straight onto our grid

The machine is disturbed by others, so arms take turns: a round is every arm once, and ratios are taken within a round,
then their median over rounds. A run is one process, two processes or two threads, each with one thread of its own.
Reading and preprocessing are timed apart as well (in the run of one process).

The first lines say whether the arms agree, file by file: the largest difference from ours of the z-scored crop. It has
a meaning where the grids are the same: always for ``monai_crop``, and for ``monai`` only where a volume has the spec's
spacing. Elsewhere MONAI's ``Spacing`` begins its grid at the first voxel of the volume and ours at a voxel near the
crop, so both interpolate rightly, between other points.

Each line of the output is JSON: a header, one line per file and arm, one line per run, format and arm.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from preprocessing_monai import monai_prepare, monai_read

from prostate_mim import __version__
from prostate_mim.phantom import make_study
from prostate_mim.preprocess import preprocess
from prostate_mim.spec import InputSpec
from prostate_mim.volume import read_volume, write_volume

SPEC = InputSpec()
ARMS = ("ours", "monai", "monai_crop")
RUNS = ("1 process", "2 processes", "2 threads")
FORMATS = (".nii.gz", ".mha")
_SAME_SPACING = 1e-4
_COLUMNS = {
    "run": "run", "format": "format", "arm": "arm", "volumes_per_second": "volumes/s", "read_ms": "read ms",
    "prepare_ms": "prepare ms", "ours_vs_this": "ours is faster by", "ours_vs_this_read": "reading",
    "ours_vs_this_prepare": "preparing",
}  # fmt: skip
Seconds = tuple[float, float]  # reading, preparing


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, help="folder with real .nii.gz volumes in it, beside the phantoms")
    parser.add_argument("--studies", type=int, default=8, help="phantoms")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--run", nargs="+", default=list(RUNS), choices=RUNS)
    parser.add_argument("--arm", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--format", nargs="+", default=list(FORMATS), choices=FORMATS)
    parser.add_argument("--out", type=Path, help="file for the JSON lines; also printed where it is not given")
    parser.add_argument("--table", type=Path, help="file for the Markdown table, which is printed too")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure."""
    quiet()
    options = parse(arguments)
    with tempfile.TemporaryDirectory() as folder:
        files = written(options, Path(folder))
        lines = [header(options, files)]
        lines += [line for paths in files.values() for path in paths for line in agreement(path, options.arm)]
        for run in options.run:
            lines += measured(run, files, options)
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


def quiet() -> None:
    """One thread, no warnings: at the start of every process."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)


def written(options: argparse.Namespace, folder: Path) -> dict[str, list[Path]]:
    """``data/format`` -> the same volumes in each format, all written by us; real ones keep their geometry."""
    volumes = {"phantoms": [make_study(1, index).volume for index in range(options.studies)]}
    if options.data:
        volumes["real"] = [read_volume(path) for path in sorted(options.data.glob("*.nii.gz"))]
        if not volumes["real"]:
            raise SystemExit(f"{options.data}: no .nii.gz in this very folder")
    files: dict[str, list[Path]] = {}
    for suffix in options.format:
        if suffix == ".mha" and importlib.util.find_spec("itk") is None:
            print("MONAI reads .mha with the package itk only, which is not installed: left out", file=sys.stderr)
            continue
        for name, some in volumes.items():
            paths = [folder / f"{name}-{index}{suffix}" for index in range(len(some))]
            for volume, path in zip(some, paths, strict=True):
                write_volume(volume, path)
            files[f"{name} {suffix}"] = paths
    return files


def header(options: argparse.Namespace, files: dict[str, list[Path]]) -> dict[str, Any]:
    """Hardware, versions and settings."""
    return {
        "kind": "header",
        "cores": os.cpu_count(),
        "load_before": [round(load, 2) for load in os.getloadavg()],
        "versions": {
            "prostate_mim": __version__, "torch": torch.__version__, "monai": monai.__version__,
            "python": platform.python_version(),
        },
        "system": platform.platform(),
        "files": {name: len(paths) for name, paths in files.items()},
        "rounds": options.rounds,
    }  # fmt: skip


def turn(arm: str, path: Path) -> tuple[Seconds, np.ndarray]:
    """One file through one arm: seconds of reading and of preparing, and the crop."""
    started = time.perf_counter()
    if arm == "ours":
        volume = read_volume(path)
        read = time.perf_counter()
        crop = preprocess(volume, SPEC)
    else:
        image = monai_read(path)
        read = time.perf_counter()
        crop = monai_prepare(image, SPEC, crop_first=arm == "monai_crop")
    return (read - started, time.perf_counter() - read), crop


def timed_turn(arm: str, path: Path) -> Seconds:
    """The same in a pool: the crop stays there."""
    return turn(arm, path)[0]


def agreement(path: Path, arms: Sequence[str]) -> list[dict[str, Any]]:
    """How far each of MONAI's arms is from ours on a file, and whether the two should be equal."""
    geometry = read_volume(path).geometry
    same = np.allclose(geometry.spacing_mm_zyx, SPEC.spacing_mm_zyx, rtol=_SAME_SPACING)
    ours = turn("ours", path)[1]
    return [
        {
            "kind": "agreement", "file": path.name, "spacing_mm_zyx": [round(v, 4) for v in geometry.spacing_mm_zyx],
            "arm": arm, "one_grid": bool(same or arm == "monai_crop"),
            "largest_difference": round(float(np.abs(turn(arm, path)[1] - ours).max()), 7),
        }
        for arm in arms if arm != "ours"
    ]  # fmt: skip


def measured(run: str, files: dict[str, list[Path]], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every arm in turn, ``--rounds`` times; a first round is not counted."""
    lines = []
    with pool(run) as workers:
        for name, paths in files.items():
            rounds: list[dict[str, tuple[float, list[Seconds]]]] = []
            for number in range(options.rounds + 1):
                print(f"{run}, {name}, round {number} ...", file=sys.stderr, flush=True)
                order = options.arm if number % 2 else options.arm[::-1]
                rounds.append({arm: all_files(workers, arm, paths) for arm in order})
            lines += summary(run, name, len(paths), rounds[1:])
    return lines


class Here(Executor):
    """No pool: everything at once, in this thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call it."""
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


def pool(run: str) -> Executor:
    """What the files of a run are handed to."""
    if run == "1 process":
        return Here()
    if run == "2 threads":
        return ThreadPoolExecutor(2)
    return ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), initializer=quiet)


def all_files(workers: Executor, arm: str, paths: list[Path]) -> tuple[float, list[Seconds]]:
    """Seconds of wall clock for all files, and what each of them took."""
    started = time.perf_counter()
    each = list(workers.map(partial(timed_turn, arm), paths))
    return time.perf_counter() - started, each


def summary(
    run: str, name: str, count: int, rounds: list[dict[str, tuple[float, list[Seconds]]]]
) -> list[dict[str, Any]]:
    """One line an arm; ratios are medians of ratios within rounds."""
    lines = []
    for arm in rounds[0]:
        walls = [one[arm][0] for one in rounds]
        line: dict[str, Any] = {
            "kind": "speed", "run": run, "format": name, "arm": arm,
            "volumes_per_second": round(count / statistics.median(walls), 2),
        }  # fmt: skip
        own = [[sum(part) for part in zip(*one[arm][1], strict=True)] for one in rounds]
        line["read_ms"], line["prepare_ms"] = (
            round(1000 * statistics.median(part) / count, 1) for part in zip(*own, strict=True)
        )
        if arm != "ours" and "ours" in rounds[0]:
            ratios = [one[arm][0] / one["ours"][0] for one in rounds]
            line["ours_vs_this"] = round(statistics.median(ratios), 2)
            line["ours_vs_this_range"] = [round(min(ratios), 2), round(max(ratios), 2)]
            theirs = [[sum(part) for part in zip(*one["ours"][1], strict=True)] for one in rounds]
            for place, part in enumerate(("read", "prepare")):
                parts = [a[place] / b[place] for a, b in zip(own, theirs, strict=True)]
                line[f"ours_vs_this_{part}"] = round(statistics.median(parts), 2)
        lines.append(line)
    return sorted(lines, key=lambda line: ARMS.index(line["arm"]))


def markdown(lines: list[dict[str, Any]]) -> str:
    """A table of speeds, and a sentence about the arrays."""
    rows = [line for line in lines if line["kind"] == "speed"]
    table = ["| " + " | ".join(_COLUMNS.values()) + " |", "|" + " --- |" * len(_COLUMNS)]
    table += ["| " + " | ".join(str(row.get(name, "")) for name in _COLUMNS) + " |" for row in rows]
    compared = [line for line in lines if line["kind"] == "agreement"]
    equal = [line["largest_difference"] for line in compared if line["one_grid"]]
    other = [line["largest_difference"] for line in compared if not line["one_grid"]]
    if equal:
        table += ["", f"Arrays on one grid ({len(equal)} of {len(compared)}): at most {max(equal):.1e} apart."]
    if other:
        table += [f"On grids of their own ({len(other)}): at most {max(other):.2f} standard deviations apart."]
    return "\n".join(table)


if __name__ == "__main__":
    raise SystemExit(main())

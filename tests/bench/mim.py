"""The cost of one masked pretraining step: visible rows, dense, SparK-style, plain. ``make bench-mim``; never a test.

A step is everything: tables of what is visible, encoder, decoder, loss, backward, optimiser (AdamW). All paths have the
same weights, the same four crops of 16 x 96 x 96 voxels (3.0 x 0.5 x 0.5 mm) and, step by step, the same freshly drawn
hidden blocks; all but ``plain`` compute the same features, which is asserted before anything is timed.

    rows          ours: visible positions only
    dense         ours: every position, masked again
    spark_style   the reference of spark_style.py, in torch's default layout; ..._channels_last in the other
    plain         an ordinary dense encoder on zero-filled crops: another computation, for orientation

Machines are disturbed by others, so paths take turns: a round is one step of every path in order and one in reverse,
and ratios are taken within a round, then their median over rounds. ``speed_vs_spark_style`` is against whichever layout
of the reference is faster in this case. Compare rows of one run only.

Each line of the output is JSON: first a header with hardware and versions, then one line per case and path.

    arch, ratio, block, path       what was measured
    step_seconds, step_seconds_min, cpu_seconds    median and least wall time of a step; median processor time
    peak_mb, total_mb              see bench_memory.py
    speed_vs_*, speed_of_minima_vs_*, cpu_speed_vs_*    times faster than that path: median of rounds; least against
                                   least; median of rounds in processor time, which others disturb less
    memory_vs_*                    ``peak_mb`` over that path's

CUDA (bfloat16 autocast) is written for and has not been run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from bench_arms import BLOCKS_MM_ZYX, PATHS, SPACING_MM_ZYX, SPARK_PATHS, Arm, Case, require_same_features
from bench_memory import peak_in_subprocess

from prostate_mim import __version__

ARCHITECTURES = ("resenc-s", "resnet18", "convnext-a")
RATIOS = (0.5, 0.6, 0.75, 0.9)
_COLUMNS = {
    "arch": "arch", "ratio": "ratio", "block": "block", "path": "path", "step_seconds": "step, s",
    "step_seconds_min": "least, s", "speed_vs_spark_style": "speed vs SparK-style", "speed_vs_dense": "vs dense",
    "peak_mb": "peak, MB", "memory_vs_spark_style": "peak vs SparK-style", "memory_vs_dense": "vs dense",
}  # fmt: skip

Times = dict[str, list[list[tuple[float, float]]]]  # path -> round -> (wall, processor) of each step


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--arch", nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--ratio", nargs="+", type=float, default=list(RATIOS))
    parser.add_argument("--block", nargs="+", default=list(BLOCKS_MM_ZYX), choices=list(BLOCKS_MM_ZYX))
    parser.add_argument("--path", nargs="+", default=list(PATHS), choices=PATHS)
    parser.add_argument("--rounds", type=int, default=7, help="each is a step of every path, in order and in reverse")
    parser.add_argument("--warm-up", type=int, default=2, help="steps of every path that are not measured")
    parser.add_argument("--crops", type=int, default=4)
    parser.add_argument("--size", nargs=3, type=int, default=[16, 96, 96], metavar=("Z", "Y", "X"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--quick", action="store_true", help="one case (resenc-s, 0.75, 12x8x8), one round")
    parser.add_argument("--no-memory", action="store_true", help="leave the peaks out")
    parser.add_argument("--profile", action="store_true", help="print the costliest operators of the rows step")
    parser.add_argument("--out", type=Path, help="file for the JSON lines; also printed where it is not given")
    parser.add_argument("--table", type=Path, help="file for the Markdown table, which is printed too")
    options = parser.parse_args(arguments)
    if options.quick:
        options.arch, options.ratio, options.block = ["resenc-s"], [0.75], ["12x8x8"]
        options.rounds = options.warm_up = 1
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the grid."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    lines = [header(options)]
    for arch, block, ratio in itertools.product(options.arch, options.block, options.ratio):
        case = Case(arch, ratio, block, options.crops, tuple(options.size), options.device)
        print(f"{arch}, ratio {ratio}, block {block} ...", file=sys.stderr, flush=True)
        lines += measure_case(case, options)
        if options.out:  # after every case: a long run that is cut off has not been for nothing
            options.out.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    if not options.out:
        print(*map(json.dumps, lines), sep="\n")
    table = markdown(lines[1:])
    print(table)
    if options.table:
        options.table.write_text(f"{table}\n", encoding="utf-8")
    return 0


def header(options: argparse.Namespace) -> dict[str, Any]:
    """Hardware, versions and settings."""
    cuda = options.device == "cuda"
    return {
        "kind": "header",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "precision": "bfloat16 autocast" if cuda else "float32",
        "versions": {"prostate_mim": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "system": platform.platform(),
        "crops": options.crops,
        "size_zyx": options.size,
        "spacing_mm_zyx": SPACING_MM_ZYX,
        "method": "fcmae: exact encoding, light decoder, normalised blocks, l2; AdamW",
        "rounds": options.rounds,
        "steps_per_round": 2,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def measure_case(case: Case, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One line per path."""
    arms = {path: Arm(path, case) for path in PATHS if path in options.path}
    require_same_features(arms.values())
    times = take_turns(arms, options.rounds, options.warm_up)
    if options.profile and "rows" in arms:
        print(profile(arms["rows"]))
    arms.clear()  # their memory is not the business of the processes below
    memory = {path: {} if options.no_memory else peak_in_subprocess(case, path, options.threads) for path in times}
    return summarise(case, times, memory)


def take_turns(arms: dict[str, Arm], rounds: int, warm_up: int) -> Times:
    """Every path once in order and once in reverse, ``rounds`` times; both steps of a path see the same blocks."""
    for number, arm in itertools.product(range(warm_up), arms.values()):
        arm.step(number)
    times: Times = {path: [[] for _ in range(rounds)] for path in arms}
    for number in range(rounds):
        for path in [*arms, *reversed(arms)]:
            times[path][number].append(arms[path].step(warm_up + number))
    return times


def summarise(case: Case, times: Times, memory: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Times and ratios of one case, a line per path."""
    wall, processor = (
        {path: [statistics.fmean(step[clock] for step in steps) for steps in rounds] for path, rounds in times.items()}
        for clock in (0, 1)
    )
    least = {path: min(step[0] for steps in rounds for step in steps) for path, rounds in times.items()}
    sparks = [path for path in SPARK_PATHS if path in times]
    # By the same measure as every other ratio: medians of two paths over a disturbed run may name the slower one.
    spark = max(sparks, key=lambda path: _speed(wall, path, sparks[0]) or 0.0) if sparks else None
    references = {"spark_style": spark, "dense": "dense" if "dense" in times else None}
    lines = []
    for path, rounds in times.items():
        steps = [step for one in rounds for step in one]
        line: dict[str, Any] = {
            "kind": "result",
            "arch": case.arch,
            "ratio": case.ratio,
            "block": case.block,
            "path": path,
            "step_seconds": _rounded(statistics.median(step[0] for step in steps)),
            "step_seconds_min": _rounded(least[path]),
            "cpu_seconds": _rounded(statistics.median(step[1] for step in steps)),
            "peak_mb": memory[path].get("peak_mb"),
            "total_mb": memory[path].get("total_mb"),
            "peak_is_above_warm_step": memory[path].get("reset"),
            "spark_reference": spark,
        }
        ours = memory[path].get("peak_mb")
        for name, other in references.items():
            theirs = memory[other].get("peak_mb") if other else None
            line[f"speed_vs_{name}"] = _speed(wall, path, other)
            line[f"speed_of_minima_vs_{name}"] = _rounded(least[other] / least[path]) if other else None
            line[f"cpu_speed_vs_{name}"] = _speed(processor, path, other)
            line[f"memory_vs_{name}"] = _rounded(ours / theirs) if ours and theirs else None
        lines.append(line)
    return lines


def _speed(rounds: dict[str, list[float]], path: str, other: str | None) -> float | None:
    """How many times faster ``path`` is: the median of the ratios within rounds."""
    if other is None:
        return None
    return _rounded(statistics.median(theirs / ours for theirs, ours in zip(rounds[other], rounds[path], strict=True)))


def _rounded(value: float) -> float:
    return round(value, 4)


def markdown(lines: list[dict[str, Any]]) -> str:
    """A table of the results."""
    rows = [list(_COLUMNS.values()), ["---"] * len(_COLUMNS)]
    rows += [[_shown(line[key]) for key in _COLUMNS] for line in lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if value < 100 else f"{value:.0f}"
    return "-" if value is None else str(value)


def profile(arm: Arm, steps: int = 3) -> str:
    """The operators of a step by their own time."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if arm.case.device == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as found:
        for number in range(steps):
            arm.step(number)
    own = "self_cuda_time_total" if arm.case.device == "cuda" else "self_cpu_time_total"
    shown = found.key_averages().table(sort_by=own, row_limit=25, max_name_column_width=60)
    return f"{arm.case.arch}, ratio {arm.case.ratio}, block {arm.case.block}: {steps} steps of {arm.path}\n{shown}"


if __name__ == "__main__":
    raise SystemExit(main())

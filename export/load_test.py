#!/usr/bin/env python3
"""Ten minutes of the service under good and bad uploads, on this machine: crashes, wrong answers, memory.

    python load_test.py --model classifier.onnx --seconds 600 --readme README.md > report.json

It starts ``service.py`` on a free port of 127.0.0.1, posts phantoms and compares every probability with what the model
gives in this process; meanwhile bad uploads of every kind in ``load_uploads.py`` are spread over the time. The report
is JSON on stdout, a row for README.md on stderr. Exit code 0 only if nothing crashed and no answer was wrong. Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from load_running import Running
from load_uploads import BAD, Request, Study, form, make_study

KINDS = (".nii.gz", ".mha", "dicom")
TOLERANCE = 1e-5
_TRIES = 60


@dataclass
class Tally:
    """What happened; threads add to it under its lock."""

    good: int = 0
    retried: int = 0
    largest_difference: float = 0.0
    milliseconds: list[float] = field(default_factory=list)
    bad: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    memory_mb: list[tuple[float, float]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def _patient(service: Running, request: Request, tally: Tally) -> tuple[int, dict[str, Any]]:
    """Send, and send again while the service is busy, as its Retry-After asks."""
    status, answer = service.send(request)
    for _ in range(_TRIES):
        if status != 503:
            break
        with tally.lock:
            tally.retried += 1
        time.sleep(0.5)
        status, answer = service.send(request)
    return status, answer


def _good_client(service: Running, work: Sequence[tuple[Request, float]], tally: Tally, end: float) -> None:
    turn = 0
    while time.monotonic() < end and service.process.poll() is None:
        request, expected = work[turn % len(work)]
        turn += 1
        begun = time.monotonic()
        status, answer = _patient(service, request, tally)
        found = answer["predictions"][0]["probability"] if status == 200 else float("nan")
        with tally.lock:
            tally.good += 1
            tally.milliseconds.append(1e3 * (time.monotonic() - begun))
            if abs(found - expected) <= TOLERANCE:
                tally.largest_difference = max(tally.largest_difference, abs(found - expected))
            else:
                tally.wrong.append(f"good study: status {status}, {found} instead of {expected}")


def _bad_client(service: Running, names: Sequence[str], studies: Sequence[Study], tally: Tally, pause_s: float) -> None:
    rng = np.random.default_rng(len(names))
    for number, name in enumerate(names):
        make, right = BAD[name]
        status, _ = _patient(service, make(studies[number % len(studies)], rng), tally)
        with tally.lock:
            tally.bad[f"{name}: {status}"] += 1
            if status not in right:
                tally.wrong.append(f"{name}: status {status}, not of {sorted(right)}")
        if service.process.poll() is not None:
            return
        time.sleep(pause_s)


def _watch(service: Running, tally: Tally, begun: float, end: float, every_s: float) -> None:
    while time.monotonic() < end:
        with tally.lock:
            tally.memory_mb.append((round(time.monotonic() - begun, 1), round(service.resident_mb(), 1)))
        time.sleep(every_s)


def make_work(model: Path, folder: Path, count: int) -> tuple[list[Study], list[tuple[Request, float]]]:
    """Phantoms on disk, and requests of each kind with the probability that this process computes."""
    from prostate_mim.deploy.session import OnnxClassifier
    from prostate_mim.phantom import make_study as make_phantom
    from prostate_mim.volume import read_volume

    classifier = OnnxClassifier(model, "cpu")
    studies, work = [], []
    for number in range(count):
        phantom = make_phantom(20, number)
        study = make_study(folder, phantom.volume, phantom.lesions[0].position_mm_lps, number)
        x, y, z = (float(value) for value in study.position.split())
        expected = classifier.predict(read_volume(folder / f"study{number}.nii.gz"), (x, y, z)).probability
        studies.append(study)
        work += [(Request(form(study.parts(kind))), expected) for kind in KINDS]
    return studies, work


def run(
    model: Path, folder: Path, *, seconds: float, bad: int, clients: int = 2, studies: int = 3, timeout_s: int = 10,
    python: str = sys.executable,
) -> dict[str, Any]:  # fmt: skip
    """The whole test; the report.

    Args:
        model: a classifier's .onnx.
        folder: for the service's log and the phantoms.
        seconds: of good uploads; bad ones are spread over 0.9 of them.
        bad: how many bad uploads, of every kind in turn.
        clients: of good uploads.
        studies: phantoms.
        timeout_s: ``--timeout`` of the service.
        python: that runs the service.
    """
    made, work = make_work(model, folder, studies)
    names = [list(BAD)[number % len(BAD)] for number in range(bad)]
    silent = [name for name in names if "silence" in name]
    others = [name for name in names if "silence" not in name]
    service, tally = Running(model, folder, "--timeout", str(timeout_s), python=python), Tally()
    try:
        begun = time.monotonic()
        end = begun + seconds
        threads = [
            threading.Thread(target=_good_client, args=(service, work[turn:] + work[:turn], tally, end))
            for turn in range(clients)
        ]
        threads += [
            threading.Thread(target=_bad_client, args=(service, part, made, tally, 0.9 * seconds / max(1, len(part))))
            for part in (others, silent)
        ]
        threads.append(threading.Thread(target=_watch, args=(service, tally, begun, end, max(0.5, seconds / 200))))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return _report(service, tally, time.monotonic() - begun)
    finally:
        service.process.kill()


def _report(service: Running, tally: Tally, seconds: float) -> dict[str, Any]:
    alive = service.process.poll() is None
    metrics = service.get("/metrics") if alive else ""
    lost = sum(float(line.split()[-1]) for line in metrics.splitlines() if "workers_lost_total{" in line)
    left = list(service.temporary.glob("*/*"))
    code = service.stop()
    left += list(service.temporary.iterdir())
    times, memory = sorted(tally.milliseconds), [mb for _, mb in tally.memory_mb]
    quarter = max(1, len(memory) // 4)
    return {
        "seconds": round(seconds, 1),
        "good": tally.good,
        "bad": sum(tally.bad.values()),
        "crashes": int(lost) + (not alive) + (code != 143),
        "wrong_answers": len(tally.wrong),
        "wrong": tally.wrong[:20],
        "largest_difference": tally.largest_difference,
        "retried_after_503": tally.retried,
        "files_left": len(left),
        "median_ms": round(statistics.median(times), 1) if times else None,
        "p95_ms": round(times[int(0.95 * (len(times) - 1))], 1) if times else None,
        "memory_mb": {
            "second_quarter": round(statistics.median(memory[quarter : 2 * quarter] or memory), 1),
            "last_quarter": round(statistics.median(memory[-quarter:]), 1),
            "largest": max(memory),
        },
        "bad_statuses": dict(sorted(tally.bad.items())),
        "machine": _machine(),
        "load_average": round(os.getloadavg()[2], 1),
        "memory_over_time_mb": tally.memory_mb,
    }


def _machine() -> str:
    """What it ran on, in words."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{len(os.sched_getaffinity(0))} cores of {name}, Python {platform.python_version()}"


_HEAD = (
    "| time | good studies | bad uploads | crashes | wrong answers | median / 95th percentile | "
    "memory, second and last quarter | machine |\n|---|---|---|---|---|---|---|---|\n"
)
_MARKS = "<!-- load test: written by load_test.py --readme -->", "<!-- end of load test -->"


def row(report: dict[str, Any]) -> str:
    """The row of README.md's table."""
    memory = report["memory_mb"]
    return (
        f"| {report['seconds']:.0f} s | {report['good']} | {report['bad']} | {report['crashes']} | "
        f"{report['wrong_answers']} | {report['median_ms']:.0f} / {report['p95_ms']:.0f} ms | "
        f"{memory['second_quarter']:.0f}, {memory['last_quarter']:.0f} MB | {report['machine']}, load average "
        f"{report['load_average']:g} |"
    )


def publish(report: dict[str, Any], readme: Path) -> None:
    """Put the table into README.md, between its marks.

    Raises:
        ValueError: the marks are not there.
    """
    from prostate_mim.files import write_text

    text = readme.read_text(encoding="utf-8")
    first, last = (text.index(mark) for mark in _MARKS)
    write_text(readme, f"{text[: first + len(_MARKS[0])]}\n\n{_HEAD}{row(report)}\n\n{text[last:]}")


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="prostate-mim-load-") as name:
        yield Path(name)


def main(argv: list[str] | None = None) -> int:
    """Run it, print the report."""
    parser = argparse.ArgumentParser(description="Load test of service.py on this machine.")
    parser.add_argument("--model", type=Path, help="classifier .onnx")
    parser.add_argument("--report", type=Path, help="take this report of an earlier run instead of running")
    parser.add_argument("--readme", type=Path, help="put the result into this README.md")
    parser.add_argument("--seconds", type=float, default=600, help="of good uploads (default: 600)")
    parser.add_argument("--bad", type=int, default=200, help="bad uploads in that time (default: 200)")
    parser.add_argument("--clients", type=int, default=2, help="that send good uploads at once (default: 2)")
    parser.add_argument("--python", default=sys.executable, help="that runs the service (default: this one)")
    given = parser.parse_args(argv)
    if (given.model is None) == (given.report is None):
        parser.error("give either --model, to run, or --report")
    report = _made(given) if given.report is None else json.loads(given.report.read_text())
    print(row(report), file=sys.stderr)
    if given.readme is not None:
        publish(report, given.readme)
    faults = report["crashes"], report["wrong_answers"], report["files_left"], given.bad > report["bad"]
    return int(any(faults))


def _made(given: argparse.Namespace) -> dict[str, Any]:
    with _folder() as folder:
        report = run(
            given.model, folder, seconds=given.seconds, bad=given.bad, clients=given.clients, python=given.python
        )
    print(json.dumps(report))
    return report


if __name__ == "__main__":
    sys.exit(main())

"""The first hour: README's main path as it stands there, and a service's first answer, each line timed.

    make bench-newcomer    # or: python tests/bench/newcomer.py --study study.nii.gz --table newcomer.md

Everything is made in a folder that is thrown away. Whole processes are timed, imports included.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prostate_mim.phantom import make_study
from prostate_mim.volume import write_volume

ROOT = Path(__file__).resolve().parents[2]
MAIN_PATH = re.compile(r"## The main path\n.*?```bash\n(.*?)```", re.S)
FIRST = re.compile(r"An encoder in five lines:\n\n```python\n(.*?)```", re.S)
LONGEST_SECONDS = 3600


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, help="a study of one's own; else a phantom")
    parser.add_argument("--table", type=Path, help="write the table there, too")
    given = parser.parse_args()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = ["| line | s | minutes since the start |", "|:--|--:|--:|"]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        for what, seconds in timed(readme, Path(name), given.study):
            lines.append(f"| {what} | {seconds:.0f} | {(time.perf_counter() - started) / 60:.1f} |")
            sys.stderr.write(lines[-1] + "\n")
    table = "\n".join(lines) + "\n"
    sys.stdout.write(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores\n\n{table}")
    if given.table:
        given.table.write_text(table, encoding="utf-8")


def timed(readme: str, folder: Path, study: Path | None) -> Iterator[tuple[str, float]]:
    """What was run and the seconds that it took, in order.

    Raises:
        subprocess.CalledProcessError: a line of README fails.
    """
    path = study or folder / "study.nii.gz"
    if study is None:
        write_volume(make_study(0, 0).volume, path)
    code = FIRST.search(readme)[1].replace("study.nii.gz", str(path.resolve()))  # type: ignore[index]
    yield "**first embedding of a study**", seconds_of([sys.executable, "-c", code], folder)
    for line in MAIN_PATH.search(readme)[1].splitlines():  # type: ignore[index]
        command = line.split("#")[0].strip()
        words = command.split()
        kind = " ".join(words[1:3]) if words[1] == "data" else words[1]
        mark = "**" if words[1] == "finetune" and "runs/lesions" in words else ""
        yield f"{mark}`{kind}`{_remark(words)}{mark}", seconds_of(["bash", "-c", command], folder)
        if words[1] == "export":
            with answering(folder / "lesions.onnx", path) as seconds:
                yield "**service: from its start to the first answer**", seconds


def _remark(words: list[str]) -> str:
    """Options that decide how long it takes."""
    told = [
        f"{word} {words[i + 1]}"
        for i, word in enumerate(words)
        if word in ("--studies", "--steps", "--mode", "--epochs")
    ]
    return f" {' '.join(told)}" if told else ""


def seconds_of(command: list[str], folder: Path) -> float:
    """Wall time of a process; what it prints is kept for the error."""
    scripts = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": scripts}, capture_output=True, text=True, check=False,
        timeout=LONGEST_SECONDS,
    )  # fmt: skip
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr[-2000:])
    return time.perf_counter() - started


@contextmanager
def answering(model: Path, study: Path) -> Iterator[float]:
    """The kit's service, and the seconds until it answered for a study."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.perf_counter()
    command = [sys.executable, str(ROOT / "export" / "service.py"), "--model", str(model), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not _ready(f"http://127.0.0.1:{port}/readyz"):
            if process.poll() is not None or time.perf_counter() - started > LONGEST_SECONDS:
                raise subprocess.CalledProcessError(process.returncode or 1, command)
            time.sleep(0.1)
        curl = ["curl", "--silent", "--fail-with-body", "-F", f"study=@{study}", f"http://127.0.0.1:{port}/predict"]
        subprocess.run(curl, check=True, capture_output=True)
        yield time.perf_counter() - started
    finally:
        process.terminate()
        process.wait(30)


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


if __name__ == "__main__":
    main()

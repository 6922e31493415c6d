"""How messages of docs/troubleshooting.md are provoked: the list of what is, and what its parts share.

``provoked_inputs.py``, ``provoked_models.py`` and ``provoked_runs.py`` add to the list: one function for each message,
which must end in an error. Files are real and small, commands are the real ones, run in this process; what needs a
process of its own (a full disk, a limit of memory, a signal) starts one.
"""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from small_volumes import ball, t2w_volume

from prostate_mim.errors import ProstateMimError
from prostate_mim.volume import Volume, write_volume

PROVOKED: dict[str, Callable[[Path], object]] = {}
"""Name -> a function of an empty folder that must raise, or return what a process of its own said."""


@dataclass(frozen=True)
class Said:
    """What came of it: the class of the error ("" where only a process knows), its exit code and its one line."""

    kind: str
    code: int
    message: str


def provokes(function: Callable[[Path], object]) -> Callable[[Path], object]:
    """Add a function to ``PROVOKED``."""
    PROVOKED[function.__name__] = function
    return function


def outcome(name: str, folder: Path) -> Said:
    """Provoke one message."""
    try:
        made = PROVOKED[name](folder)
    except ProstateMimError as error:
        return Said(type(error).__name__, error.exit_code, " ".join(str(error).split()))
    assert isinstance(made, Said), f"{name} provoked nothing"
    return made


def command(*arguments: object) -> None:
    """A command of the package in this process; its errors come out as they are."""
    from prostate_mim.cli import app

    app([str(argument) for argument in arguments], standalone_mode=False)


def process(code: str, *arguments: object, limits: Callable[[], None] | None = None) -> Said:
    """Python code in a process of its own, under limits; what it said last, without ``error: ``."""
    run = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(run, preexec_fn=limits, capture_output=True, text=True, timeout=120)
    return last_line(done.returncode, done.stderr)


def last_line(code: int, stderr: str) -> Said:
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    return Said("", code, lines[-1].removeprefix("error: ") if lines else "")


# The frame of code for a process: errors are one line on stderr and an exit code, as of a command.
AS_A_COMMAND = """
import resource, sys
from prostate_mim.console import run_app
from prostate_mim.files import write_bytes
from prostate_mim.volume import read_volume
def act():
    {}
run_app(act)
"""


def saved(folder: Path, name: str = "study.nii.gz", volume: Volume | None = None) -> Path:
    write_volume(volume or t2w_volume(), folder / name)
    return folder / name


@dataclass
class Table:
    """A manifest of small volumes with lesion masks and glands; ``rows`` may be edited before ``write``."""

    folder: Path
    rows: list[dict[str, str]] = field(default_factory=list)

    def write(self, drop: str = "") -> Path:
        names = [name for name in self.rows[0] if name != drop]
        path = self.folder / "manifest.csv"
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, names, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(self.rows)
        return path


def table(folder: Path, studies: int = 4, volumes: int | None = None) -> Table:
    """``studies`` rows of as many patients; of ``volumes`` different images, where that is less."""
    made = Table(folder)
    for number in range(studies):
        image = number if volumes is None else number % volumes
        saved(folder, f"v{image}.nii.gz", t2w_volume(image))
        write_volume(ball(t2w_volume(), radius_mm=6.0), folder / "gland.nii.gz")
        made.rows.append(
            {
                "study_id": f"s{number}", "patient_id": f"p{number}", "t2w": f"v{image}.nii.gz", "lesion_id": "1",
                "label": str(number % 2), "position_mm_lps": "0 0 0", "lesion_mask": "", "gland_mask": "gland.nii.gz",
                "fold": "",
            }
        )  # fmt: skip
    return made

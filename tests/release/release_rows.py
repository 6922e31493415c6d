"""What a check found, one row each, as a table for people and as JSON; and how its commands are run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

OK, FAILED, NOT_RUN = "ok", "failed", "not run"


@dataclass(frozen=True)
class Row:
    """One check.

    Attributes:
        name: what was checked.
        status: ``ok``, ``failed`` or ``not run``.
        detail: what was found, or the reason; one line.
    """

    name: str
    status: str
    detail: str

    def to_dict(self) -> dict[str, str]:
        """Plain values for JSON."""
        return asdict(self)


def judged(name: str, problems: Sequence[str], fine: str) -> Row:
    """A row that failed if there is any problem; the first three are told."""
    if not problems:
        return Row(name, OK, fine)
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    return Row(name, FAILED, "; ".join(problems[:3]) + more)


def table(rows: Iterable[Row]) -> str:
    """Lines of equal columns, and a last one that counts."""
    found = list(rows)
    name = max((len(row.name) for row in found), default=0)
    lines = [f"{row.name:<{name}}  {row.status:<7}  {row.detail}" for row in found]
    counts = ", ".join(f"{sum(row.status == status for row in found)} {status}" for status in (OK, FAILED, NOT_RUN))
    return "\n".join([*lines, counts])


def exit_code(rows: Iterable[Row]) -> int:
    """0 where nothing failed. What was not run is said in the table and does not fail: no network is no fault."""
    return int(any(row.status == FAILED for row in rows))


@dataclass(frozen=True)
class Ran:
    """A command that ended: its exit code, and what it said."""

    code: int
    out: str
    error: str

    @property
    def reason(self) -> str:
        """The line that says most of a failure: the last error, else the last line."""
        lines = [line.strip() for line in (self.out + "\n" + self.error).splitlines() if line.strip()]
        told = [line for line in lines if line.lower().startswith(("error", "fatal")) or "Error:" in line]
        told = [line for line in told if "ResolutionImpossible" not in line]  # pip's line before says of what
        return (told or lines or [f"exit code {self.code}"])[-1][:300]


def run(
    command: Sequence[str | Path], cwd: Path, *, seconds: float = 1800, more: Mapping[str, str] | None = None
) -> Ran:
    """Run a command to its end, killed after a time; its environment has no PYTHONPATH of ours."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words, cwd=cwd, env={**kept, **(more or {})}, capture_output=True, text=True, timeout=seconds,
            stdin=subprocess.DEVNULL, errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Ran(124, "", f"error: {Path(words[0]).name} did not end within {seconds:.0f} s")
    return Ran(done.returncode, done.stdout, done.stderr)

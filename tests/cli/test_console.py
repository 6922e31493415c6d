"""Results for a person: rounded, with units, nothing that is empty; JSON has every value in full."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prostate_mim.console import show
from prostate_mim.phantom import write_cohort

VALUES = {
    "made": 0, "seconds": 11.467752551005105, "bytes": 22323635, "unreadable": [], "sheets": ["a.png", "b.png"],
    "spec": {"size": [1, 2]}, "folds": [{"fold": 0}], "out": "runs/[a]",
}  # fmt: skip


def test_lines_for_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    """Zero is said, an empty list is not."""
    show(VALUES, False)
    assert capsys.readouterr().out.splitlines() == [
        "made: 0", "seconds: 11 s", "bytes: 22 MB", "sheets: a.png, b.png", 'spec: {"size": [1, 2]}',
        'folds: [{"fold": 0}]', "out: runs/[a]",
    ]  # fmt: skip
    show(VALUES, True)
    assert json.loads(capsys.readouterr().out) == VALUES


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("bytes", 0, "0 bytes"), ("bytes", 999, "999 bytes"), ("bytes", 1000, "1.0 kB"), ("bytes", 54_321, "54 kB"),
        ("bytes", 1_500_000, "1.5 MB"), ("bytes", 3_210_000_000, "3.2 GB"), ("seconds", 0.04, "0.0 s"),
        ("seconds", 9.94, "9.9 s"), ("seconds", 754.3, "754 s"),
    ],
)  # fmt: skip
def test_units(key: str, value: float, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The unit that leaves one to three digits before the point."""
    show({key: value}, False)
    assert capsys.readouterr().out == f"{key}: {shown}\n"


def test_what_commands_say(run, tmp_path: Path) -> None:
    """The commands data prepare and data sheet, without --json."""
    manifest = write_cohort(tmp_path / "p", 2, 5)
    words = ("--size", "8 32 32", "--spacing", "3 0.5 0.5")
    lines = run("data", "prepare", manifest, "--out", tmp_path / "store", *words).out.splitlines()
    said = dict(line.split(": ", 1) for line in lines)
    assert said["seconds"].endswith(" s") and len(said["seconds"]) < 7
    assert said["bytes"].split()[1] in ("kB", "MB")
    drawn = run("data", "sheet", manifest, "--out", tmp_path / "sheet.png", "--limit", 1).out.splitlines()
    assert drawn == [f"sheets: {tmp_path / 'sheet.png'}", "rows: 1"]

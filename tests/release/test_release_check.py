"""The check itself: its table, its JSON, its exit codes, and what it says where it cannot look."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import check
import pytest
from release_rows import FAILED, NOT_RUN, OK, Ran, Row, exit_code, judged, run, table

FILE = Path(check.__file__)


def test_table() -> None:
    rows = [Row("a", OK, "fine"), Row("longer", NOT_RUN, "no network"), judged("c", ["1", "2", "3", "4"], "")]
    assert table(rows).splitlines() == [
        "a       ok       fine", "longer  not run  no network", "c       failed   1; 2; 3 (and 1 more)",
        "1 ok, 1 failed, 1 not run",
    ]  # fmt: skip
    assert exit_code(rows) == 1 and exit_code(rows[:2]) == 0


def test_commands_that_end_badly(tmp_path: Path) -> None:
    """The last error is the reason; one that hangs is ended; PYTHONPATH of ours does not reach them."""
    wrong = run([sys.executable, "-c", "raise SystemExit('ERROR: that is why')"], tmp_path)
    assert (wrong.code, wrong.reason) == (1, "ERROR: that is why")
    slow = run([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path, seconds=1)
    assert slow.code == 124 and "did not end within 1 s" in slow.reason
    shown = run([sys.executable, "-c", "import os; print(os.environ.get('PYTHONPATH'))"], tmp_path)
    assert shown.out == "None\n"


def _check(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(FILE), *words], capture_output=True, text=True, timeout=300)


def test_the_command() -> None:
    """One part of the working tree, for real, as JSON; a list of parts; a part and a commit that do not exist."""
    done = _check("--working-tree", "--only", "models", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["exit_code"]) == (0, 0), done.stderr
    assert [row["name"] for row in found["rows"]] == ["source", "model hashes"]
    assert {row["status"] for row in found["rows"]} == {OK}
    assert [line.split()[0] for line in _check("--list").stdout.splitlines()] == list(check.PARTS)
    assert _check("--only", "modles").returncode == 2
    wrong = _check("--ref", "nothing-like-it", "--only", "models")
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1 and wrong.stderr.startswith("error: ")


def test_nothing_is_passed_over(tmp_path: Path) -> None:
    """Without tools, and without a wheel, parts say that they were not run, and why."""
    state = check.State(tmp_path, tmp_path, 0, tools="tools cannot be installed: no network")
    rows = [
        row
        for part in ("build", "contents", "twine", "install", "audit", "licences")
        for row in check.PARTS[part](state)
    ]
    assert [row.status for row in rows] == [NOT_RUN] * 6
    assert all(row.detail for row in rows) and rows[0].detail.endswith("no network")


@pytest.mark.parametrize(
    ("out", "code", "status", "told"),
    [
        ('{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}', 0, OK, "1 packages without"),
        ('{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "X-1"}]}]}', 1, FAILED, "a 1: X-1"),
        ('{"dependencies": [{"name": "a", "skip_reason": "not found"}]}', 0, NOT_RUN, "none of 1 packages"),
        ("", 1, NOT_RUN, "ConnectionError: no route"),
        (
            '{"dependencies": [{"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "local"}]}',
            0, OK, "1 not on the index",
        ),
    ],
)  # fmt: skip
def test_audit(out: str, code: int, status: str, told: str) -> None:
    """What pip-audit writes, and a network that is not there."""
    row = check.audit_row(Ran(code, out, "Traceback\nConnectionError: no route\n"))
    assert row.status == status and told in row.detail

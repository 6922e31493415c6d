"""What tests of the command line ask of an outcome."""

from __future__ import annotations

from typing import Any


def refused(outcome: Any, code: int, *texts: str) -> None:
    """The exit code, nothing on stdout, no traceback, and one line of error that holds the texts."""
    assert outcome.code == code, outcome.err
    lines = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.out == ""
    for text in texts:
        assert text in lines[0]

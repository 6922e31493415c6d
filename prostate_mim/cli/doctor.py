"""Command doctor: what is wrong with this installation, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from prostate_mim.cli import options
from prostate_mim.console import show, waiting

if TYPE_CHECKING:
    from prostate_mim.doctor.run import Report

_SHORT = {"not applicable": "n/a"}
_STYLES = {"fault": "bold red", "warning": "yellow", "ok": "green", "not applicable": "dim"}


def doctor(as_json: options.Json = False) -> None:
    """Look for what is wrong with this installation, and say what to do; exit code 6 if there is a fault."""
    from prostate_mim.doctor.run import examine

    if as_json:
        report = examine()
        show(report.to_dict(), True)
    else:
        with waiting("looking at this installation"):
            report = examine()
        _print(report)
    if report.exit_code:
        raise typer.Exit(report.exit_code)


def _print(report: Report) -> None:
    """A table, faults first; then what to do, each on a line of its own that is never broken; then the sum."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from prostate_mim.doctor.finding import ORDER

    console = Console(highlight=False)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in ("state", "check", "found"):
        table.add_column(title, overflow="fold")
    findings = sorted(report.findings, key=lambda finding: ORDER.index(finding.state))
    for finding in findings:
        style = _STYLES[finding.state]
        state, found = _SHORT.get(finding.state, finding.state), Text(finding.found, style * (style == "dim"))
        table.add_row(Text(state, style), Text(finding.name), found)
    console.print(table)
    for finding in findings:
        if finding.fix:
            line = Text.assemble((f"fix {finding.name}: ", _STYLES[finding.state]), finding.fix)
            console.print(line, soft_wrap=True)
    faults, warnings = report.count("fault"), report.count("warning")
    console.print(Text(f"{_counted(faults, 'fault')}, {_counted(warnings, 'warning')}"), soft_wrap=True)


def _counted(number: int, word: str) -> str:
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"

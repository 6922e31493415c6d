"""data check: what is off in a manifest, before anything is trained or predicted on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prostate_mim.cli import options
from prostate_mim.console import bar, show
from prostate_mim.errors import ManifestError

if TYPE_CHECKING:
    from prostate_mim.checking import CheckReport


def check(
    manifest: Annotated[Path, typer.Argument(help="CSV of studies or lesions.")],
    against: Annotated[
        Path | None, typer.Option("--against", help="Another manifest: no study or person may be in both.")
    ] = None,
    model: Annotated[str, typer.Option("--model", help="A model that must not have seen these studies.")] = "",
    picai_labels: options.PicaiLabels = None,
    allow_overlap: Annotated[
        bool, typer.Option("--allow-overlap", help="List studies and persons on two sides, but do not count them.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Also write what is flagged as a CSV file.")] = None,
    as_json: options.Json = False,
) -> None:
    """Is every row readable axial T2w of a prostate, at the right scale, and on one side only? Exit code 9 if not."""
    from prostate_mim.checking import check_manifest
    from prostate_mim.files import make_folder, write_text

    with bar("checking rows") as advance:
        report = check_manifest(
            manifest, against=against, model=model or None, picai_labels=picai_labels,
            allow_overlap=allow_overlap, progress=advance,
        )  # fmt: skip
    if out is not None:
        make_folder(out.parent)
        write_text(out, report.as_csv())
    if as_json:
        show(report.to_dict(), True)
    else:
        _tell(report)
    if not report.ok:
        overlaps = 0 if report.allow_overlap else len(report.leaks)
        raise ManifestError(
            f"{manifest}: {report.flagged_rows} of {len(report.rows)} rows are flagged, and {overlaps} overlaps found; "
            "look at each, then correct or remove its row"
        )


def _tell(report: CheckReport) -> None:
    """A table for a person: what is flagged, then how much was checked."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    lines = report.lines()
    if lines:
        table = Table("row", "check", "value", "allowed", "what", show_edge=False)
        for number, check, value, allowed, message in lines:
            table.add_row(*(text.replace("[", r"\[") for text in (number, check, value, allowed, message)))
        console.print(table)
    for note in report.to_dict()["notes"]:
        typer.echo(f"note: {note}")
    state = "nothing flagged" if report.ok and not lines else f"{report.flagged_rows} flagged"
    typer.echo(f"{len(report.rows)} rows checked, {state}, {len(report.leaks)} overlaps")

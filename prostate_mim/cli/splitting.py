"""The command that divides patients: data split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prostate_mim.cli import options
from prostate_mim.console import plain, show


def split(
    manifest: Annotated[Path, typer.Argument(help="CSV of studies or lesions; folds that it records are kept.")],
    out: Annotated[Path, typer.Option("--out", help="The CSV to write, with a complete column fold.")],
    folds: Annotated[int | None, typer.Option(min=2, help="How many; the recorded ones, or 5.")] = None,
    seed: options.Seed = 0,
    by_centre: Annotated[bool, typer.Option("--by-centre", help="One fold a centre instead.")] = False,
    as_json: options.Json = False,
) -> None:
    """Divide patients into folds, balanced by label and centre; nobody who has a fold moves."""
    from prostate_mim.folds import split_manifest

    found = split_manifest(manifest, out, folds, seed, by_centre=by_centre)
    if as_json:
        show({"manifest": str(out), "folds": [plain(fold) for fold in found]}, True)
        return
    for fold in found:
        centres = ", ".join(f"{centre or 'no centre'} {count}" for centre, count in fold.centres.items())
        typer.echo(
            f"fold {fold.number}: {fold.patients} patients ({fold.positives} positive; {centres}), {fold.rows} rows"
        )
    typer.echo(f"manifest: {out}")

"""Commands that make or prepare studies: phantom, data prepare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prostate_mim.cli import checking, importing, looking, options, splitting
from prostate_mim.console import bar, plain, show, whole_numbers

app = typer.Typer(help="Prepare studies for training.", no_args_is_help=True)


def phantom(
    out: options.Out,
    studies: Annotated[int, typer.Option(min=1, help="How many studies.")] = 20,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Write synthetic T2w studies with gland, zone and lesion masks and a manifest. No download, no patient."""
    from prostate_mim.phantom import write_cohort

    with bar("phantoms") as advance:
        manifest = write_cohort(out, studies, seed, progress=advance)
    show({"manifest": str(manifest), "studies": studies, "seed": seed}, as_json)


@app.command()
def prepare(
    manifest: Annotated[Path, typer.Argument(help="CSV of studies.")],
    out: Annotated[Path, typer.Option("--out", help="Store: folder of prepared studies; may exist already.")],
    size: Annotated[str, typer.Option(help="Stored region, voxels, 'z y x'; crops are drawn from it.")] = "24 256 256",
    workers: Annotated[int, typer.Option(min=0, help="Processes.")] = 0,
    skip_bad: options.SkipBad = False,
    as_json: options.Json = False,
) -> None:
    """Preprocess every study of a manifest once, into a compressed store that training reads (--store)."""
    from prostate_mim.store import prepare_store

    size_zyx = whole_numbers(size, "--size")
    with bar("preparing studies") as advance:
        summary = prepare_store(manifest, out, size_zyx=size_zyx, workers=workers, skip_bad=skip_bad, progress=advance)
    show(plain(summary), as_json)


@app.callback()
def _data() -> None:
    """Prepare studies for training."""


app.command("check")(checking.check)
app.command("import")(importing.import_)
app.command("sets")(importing.sets)
app.command("sheet")(looking.sheet)
app.command("split")(splitting.split)

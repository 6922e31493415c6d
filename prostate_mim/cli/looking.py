"""Commands that let a person look: view, data sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prostate_mim.cli import options
from prostate_mim.cli.arguments import read_place, read_spacing
from prostate_mim.console import bar, show


def view(
    study: options.StudyFile = None,
    mask: Annotated[
        list[str] | None, typer.Option(help="A mask file, or name=file for the legend; repeatable.")
    ] = None,
    manifest: options.Rows = None,
    row: Annotated[
        int | None, options.option(help="Which row of --manifest, with its masks.", default="1, the first")
    ] = None,
    position: Annotated[str, options.option(help="Marker of a study file, 'x y z' in mm, LPS.", default="none")] = "",
    saliency: Annotated[Path | None, typer.Option(help="A map as 'explain' writes it, drawn in colours.")] = None,
    spacing: options.Spacing = "",
    out: Annotated[
        Path | None, options.option("--out", help="The .html to write.", default="a new file, which the browser opens")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Look at one study: three planes, masks and lesions in one HTML page that needs no network."""
    place, apart = read_place(position), read_spacing(spacing)
    from prostate_mim.looking import check_html, open_looked, open_page, write_page

    if out is not None:
        check_html(out)
    looked = open_looked(
        study=study, masks=mask or (), manifest=manifest, row=row, position_mm_lps=place, spacing_mm_zyx=apart
    )  # fmt: skip
    if saliency is not None:
        looked = looked.with_saliency(saliency, apart)
    for note in looked.notes:
        typer.echo(f"{looked.title}: {note}", err=True)
    page = write_page(looked, out)
    opened = out is None and open_page(page)
    if as_json:
        show({"page": str(page), "opened": opened}, True)
    else:
        elsewhere = "" if out is not None else ", or give --out FILE to have it elsewhere"
        show(
            {"page": str(page), "next": "it is in the browser" if opened else f"open it in a browser{elsewhere}"}, False
        )


def sheet(
    manifest: Annotated[Path, typer.Argument(help="CSV of studies or lesions.")],
    out: Annotated[Path, typer.Option("--out", help="The .png to write; -001.png ... where pages are many.")],
    columns: Annotated[int, typer.Option(min=1, help="Rows of the manifest beside one another.")] = 3,
    rows_per_page: Annotated[int, typer.Option(min=1, help="Rows of the manifest on a page.")] = 24,
    slices: Annotated[int, typer.Option(min=1, help="Axial slices of each row.")] = 3,
    limit: Annotated[int | None, typer.Option(min=1, help="Draw only the first rows.")] = None,
    as_json: options.Json = False,
) -> None:
    """Draw every row of a manifest as a tile of slices: see in a minute what goes in."""
    from prostate_mim.looking import SheetConfig, write_sheets
    from prostate_mim.pictures import check_png

    check_png(out)
    config = SheetConfig(columns, rows_per_page, slices, limit)
    with bar("drawing rows") as advance:
        drawn = write_sheets(manifest, out, config, progress=advance)
    show(drawn, as_json)

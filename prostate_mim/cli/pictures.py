"""Commands that show something without any data: mask-preview, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prostate_mim.cli import options
from prostate_mim.console import numbers, show


def mask_preview(
    out: Annotated[Path, typer.Option("--out", help="The .png to write.")],
    study: Annotated[Path | None, typer.Argument(help="A study file or DICOM folder; a phantom if left out.")] = None,
    manifest: Annotated[Path | None, typer.Option(help="CSV of studies, with their masks; see --row.")] = None,
    row: Annotated[int | None, typer.Option(help="Which row of --manifest; the first, 1, if left out.")] = None,
    model: options.Model = options.DEFAULT_MODEL,
    strategy: Annotated[
        list[str] | None, typer.Option(help="all, or one as in pretrain; may be given several times.")
    ] = None,
    ratio: Annotated[str, typer.Option(help="Share hidden: 0.6, 0.5..0.9 or 0.6|0.75.")] = "0.6",
    block_mm: Annotated[str, typer.Option(help="Hidden block, mm, 'z y x'; inf is the whole crop.")] = "12 8 8",
    slices: Annotated[int, typer.Option(min=1, help="Slices of each strategy.")] = 1,
    spacing: options.Spacing = "",
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Draw what each masking strategy hides, and what the model makes of it, as one PNG. Needs no data."""
    from prostate_mim.pictures import check_png
    from prostate_mim.preview import Preview, PreviewConfig, open_shown, write_preview

    preview = Preview(
        model, PreviewConfig(tuple(strategy or ["all"]), ratio, numbers(block_mm, "--block-mm"), seed, slices)
    )
    check_png(out)
    shown = open_shown(
        preview.mim.spec, study=study, manifest=manifest, row=row, masks=preview.masks, seed=seed,
        spacing_mm_zyx=numbers(spacing, "--spacing") if spacing else None,
    )  # fmt: skip
    drawn = write_preview(preview, shown, out)
    show(drawn if as_json else {"picture": drawn["picture"]}, as_json)


def demo(
    out: options.Out = Path("demo-out"),
    studies: Annotated[int, typer.Option(min=20, help="Phantom studies.")] = 200,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Phantoms -> bundled encoder -> classifier beside training from scratch -> ONNX -> one HTML page."""
    from prostate_mim.demo import run_demo

    show(run_demo(out, studies, seed), as_json)

"""Commands that make or prepare studies: phantom, and the group data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prostate_mim.cli import checking, importing, looking, options, splitting
from prostate_mim.console import bar, numbers, plain, show, whole_numbers

if TYPE_CHECKING:
    from prostate_mim.pretraining import PretrainConfig

app = typer.Typer(help="Your own or public studies: import, check, look at, split, prepare.", no_args_is_help=True)


def phantom(
    out: options.Out,
    studies: Annotated[int, typer.Option(min=1, help="How many studies.")] = 20,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Write synthetic T2w studies with masks, a manifest of their lesions and one of the studies. No download."""
    from prostate_mim.phantom import write_cohort

    with bar("phantoms") as advance:
        manifest = write_cohort(out, studies, seed, progress=advance)
    made = {"manifest": str(manifest), "studies_manifest": str(manifest.with_name("studies.csv"))}
    show({**made, "studies": studies, "seed": seed}, as_json)


def prepare(
    manifest: Annotated[Path, typer.Argument(help="CSV of studies.")],
    out: Annotated[Path, typer.Option("--out", help="Store: folder of prepared studies; may exist already.")],
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="TOML file of the pretraining that will read it: its region_zyx and [spec]; options take precedence.",
        ),
    ] = None,
    size: Annotated[
        str | None,
        options.option(help="Stored region, voxels, 'z y x'; crops are drawn from it.", default="24 256 256"),
    ] = None,
    spacing: Annotated[
        str | None, options.option(help="Of the stored region, mm, 'z y x'.", default="3.0 0.5 0.5")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes.")] = 0,
    skip_bad: options.SkipBad = False,
    as_json: options.Json = False,
) -> None:
    """Preprocess every study of a manifest once, into a compressed store that training reads (--store)."""
    from prostate_mim.store import REGION_ZYX, prepare_store

    size_zyx = whole_numbers(size, "--size") if size else None
    spacing_mm_zyx = numbers(spacing, "--spacing") if spacing else None
    asked = _pretraining(config)
    region_zyx = size_zyx or (asked.region_zyx if asked else REGION_ZYX)
    with bar("preparing studies") as advance:
        summary = prepare_store(
            manifest, out, region_zyx, spacing_mm_zyx, spec=asked.spec if asked else None, workers=workers,
            skip_bad=skip_bad, progress=advance,
        )  # fmt: skip
    show(plain(summary), as_json)


def _pretraining(config: Path | None) -> PretrainConfig | None:
    """The configuration that ``pretrain --config`` would read."""
    if config is None:
        return None
    from prostate_mim.cli.settings import pretrain_config

    return pretrain_config({"config": config, "settings": None, "allow_change": None})


@app.callback()
def _data() -> None:
    """Your own or public studies: import, check, look at, split, prepare."""


# In the order of --help.
app.command("import")(importing.import_)
app.command("sets")(importing.sets)
app.command("check")(checking.check)
app.command("sheet")(looking.sheet)
app.command("split")(splitting.split)
app.command("prepare")(prepare)

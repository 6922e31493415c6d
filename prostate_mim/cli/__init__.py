"""The command line: one Typer app. Commands import what they need when they run, so that ``--help`` is instant."""

from __future__ import annotations

from typing import Annotated

import typer

from prostate_mim._version import __version__
from prostate_mim.cli import (
    bench,
    data,
    doctor,
    explaining,
    exporting,
    hub,
    inference,
    initialise,
    looking,
    models,
    picai,
    pictures,
    study,
    training,
)
from prostate_mim.console import run_app

__all__ = ["app", "main"]

app = typer.Typer(
    name="prostate-mim",
    help="Pretrained 3D CNN encoders for axial T2w prostate MRI. Research software, not a medical device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"prostate-mim {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Pretrained 3D CNN encoders for axial T2w prostate MRI. Research software, not a medical device."""


# Every command, in the order of --help.
app.command("list")(models.list_command)
app.command("info")(models.info)
app.command("pull")(hub.pull)
app.command("phantom")(data.phantom)
app.command("init")(initialise.init)
app.command("pretrain")(training.pretrain_command)
app.command("report")(training.report)
app.command("finetune")(training.finetune_command)
app.command("study")(study.study_command)
app.command("predict")(inference.predict)
app.command("embed")(inference.embed)
app.command("explain")(explaining.explain)
app.command("picai")(picai.picai)
app.command("mask-preview")(pictures.mask_preview)
app.command("view")(looking.view)
app.command("export")(exporting.export)
app.command("verify")(exporting.verify)
app.command("bench")(bench.bench)
app.command("doctor")(doctor.doctor)
app.command("demo")(pictures.demo)
app.add_typer(data.app, name="data")
app.add_typer(hub.app, name="hub")


def main() -> None:
    """Entry point."""
    run_app(app)

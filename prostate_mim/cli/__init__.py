"""The command line: one Typer app. Commands import what they need when they run, so that ``--help`` is instant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

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

# Every command and group, in the order of --help and under its headings: the main path first, as one walks it.
_COMMANDS: dict[str, dict[str, Callable[..., Any] | typer.Typer]] = {
    "Main path": {
        "phantom": data.phantom,
        "data": data.app,
        "pretrain": training.pretrain_command,
        "finetune": training.finetune_command,
        "predict": inference.predict,
        "embed": inference.embed,
        "explain": explaining.explain,
        "view": looking.view,
        "export": exporting.export,
        "verify": exporting.verify,
        "bench": bench.bench,
    },
    "Models": {
        "list": models.list_command,
        "info": models.info,
        "pull": hub.pull,
        "hub": hub.app,
        "init": initialise.init,
    },
    "More": {
        "doctor": doctor.doctor,
        "demo": pictures.demo,
        "report": training.report,
        "mask-preview": pictures.mask_preview,
        "study": study.study_command,
        "picai": picai.picai,
    },
}


class _InOrder(TyperGroup):
    """Typer lists groups after all commands; here they stand where they belong."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Names in the order of the table."""
        return [name for commands in _COMMANDS.values() for name in commands]


app = typer.Typer(
    name="prostate-mim",
    cls=_InOrder,
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


for _panel, _commands in _COMMANDS.items():
    for _name, _made in _commands.items():
        if isinstance(_made, typer.Typer):
            app.add_typer(_made, name=_name, rich_help_panel=_panel)
        else:
            app.command(_name, rich_help_panel=_panel)(_made)


def main() -> None:
    """Entry point."""
    run_app(app)

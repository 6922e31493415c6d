"""What models there are, and what one of them is: list, info."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from prostate_mim.cli import options
from prostate_mim.console import plain, show


def list_command(
    filter: Annotated[str, typer.Argument(help="Part of the name, or a pattern with *.")] = "",
    license: Annotated[str, typer.Option(help="Of the weights, with *.")] = "",
    data_license: Annotated[
        list[str] | None, typer.Option(help="Of every data set they were made of, with *; repeatable.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Published models: size, licence, and whether they are here."""
    from prostate_mim.hub import available_models
    from prostate_mim.hub.registry import select

    here, found = available_models(), select(filter, license, data_license or "")
    if as_json:
        show({"models": [plain(entry) | {"here": entry.name in here} for entry in found]}, True)
        return
    if not found:
        typer.echo("no published model is like that; 'prostate-mim list' shows all of them", err=True)
    for entry in found:
        where = "here" if entry.name in here else (entry.repository or "in the project's hub_cards/")
        size = f"{entry.parameters / 1e6:5.1f} M parameters {entry.size / 1e6:6.1f} MB"
        typer.echo(f"{entry.name:28} {size}  {entry.license}  {where}")


def info(model: options.NamedModel = options.DEFAULT_MODEL, as_json: options.Json = False) -> None:
    """What a model expects, how it was made and where it is from (verifies its checksums)."""
    from prostate_mim.hub import open_release
    from prostate_mim.hub.registry import read_registry

    release = open_release(model)
    values: dict[str, Any] = {
        "name": release.name, "kind": release.kind, "architecture": release.architecture,
        "revision": release.revision, "source": release.source, "commit": release.commit,
        "spec": release.spec.to_dict(), "spec_fingerprint": release.spec.fingerprint,
        "weights_dtype": release.weights_dtype, "files": dict(release.sums), "details": release.details,
    }  # fmt: skip
    if release.published:
        entry = read_registry()[release.name]
        values |= {"license": entry.license, "data": [plain(one) for one in entry.data]}
    show(values, as_json)

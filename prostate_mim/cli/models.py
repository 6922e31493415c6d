"""Commands about one model: list, info, verify, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from prostate_mim.cli import options
from prostate_mim.console import plain, show
from prostate_mim.errors import UsageError


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


def export(
    model: options.NamedModel = options.DEFAULT_MODEL,
    onnx: Annotated[bool, typer.Option("--onnx", help="One self-contained file for ONNX Runtime; see --out.")] = False,
    bundle: Annotated[Path | None, typer.Option("--bundle", help="Folder for a MONAI bundle.")] = None,
    monai: Annotated[
        Path | None, typer.Option("--monai", help="File (.safetensors) of a stock MONAI class's state dict.")
    ] = None,
    nnunet: Annotated[Path | None, typer.Option("--nnunet", help="Folder for nnU-Net v2's initial weights.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="ONNX file to write; NAME.onnx here if left out.")] = None,
    as_json: options.Json = False,
) -> None:
    """Write a model in another format, verified against its golden sample before it appears."""
    from prostate_mim.prediction import load_model

    places = {"--bundle": bundle, "--monai": monai, "--nnunet": nnunet}
    others = [(name, place) for name, place in places.items() if place is not None]
    if onnx + len(others) != 1:
        raise UsageError(f"one format is exported at a time; add one of --onnx, {', '.join(places)}")
    if out is not None and not onnx:
        raise UsageError(f"--out is the file of --onnx; {others[0][0]} names its own place, leave --out away")
    loaded = load_model(model)
    if onnx:
        from prostate_mim.deploy.export import export_onnx

        option, path = "--onnx", export_onnx(loaded, out or Path(f"{loaded.name}.onnx"))
    else:
        option, path = others[0][0], _for_others(loaded, *others[0])
    show({option.removeprefix("--"): str(path), "model": loaded.name, "revision": loaded.revision}, as_json)


def _for_others(loaded: object, option: str, place: Path) -> Path:
    """An encoder in a format of others."""
    from prostate_mim.encoder import PreMIM
    from prostate_mim.formats.monai_bundle import write_bundle
    from prostate_mim.formats.monai_state import write_monai_state
    from prostate_mim.formats.nnunet import write_nnunet

    if not isinstance(loaded, PreMIM):
        raise UsageError(f"{option} takes an encoder, and this is a classifier; export it with --onnx")
    if option == "--bundle":
        return write_bundle(loaded, place)
    return write_monai_state(loaded, place) if option == "--monai" else write_nnunet(loaded, place)


def verify(
    target: Annotated[str, typer.Argument(help="A release, run folder, bundled name or .onnx file.")],
    as_json: options.Json = False,
) -> None:
    """Check every checksum and recompute the golden sample."""
    from prostate_mim.prediction import verify_model

    show(verify_model(target), as_json)

"""Commands about one model: list, info, verify, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prostate_mim.cli import options
from prostate_mim.console import show
from prostate_mim.errors import UsageError


def list_command(as_json: options.Json = False) -> None:
    """Names of the models that come with the package."""
    from prostate_mim.hub import list_models

    show(list_models(), as_json)


def info(model: options.NamedModel = options.DEFAULT_MODEL, as_json: options.Json = False) -> None:
    """What a model expects and how it was made (verifies its checksums)."""
    from prostate_mim.hub import read_release, resolve

    release = read_release(resolve(model))
    values = {
        "name": release.name, "kind": release.kind, "architecture": release.architecture,
        "revision": release.revision, "spec": release.spec.to_dict(), "spec_fingerprint": release.spec.fingerprint,
        "weights_dtype": release.weights_dtype, "details": release.details,
    }  # fmt: skip
    show(values, as_json)


def export(
    model: options.NamedModel = options.DEFAULT_MODEL,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write ONNX (the only format so far).")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="File to write; NAME.onnx here if left out.")] = None,
    as_json: options.Json = False,
) -> None:
    """Write one self-contained, verified ONNX file with preprocessing and golden sample inside."""
    from prostate_mim.deploy.export import export_onnx
    from prostate_mim.prediction import load_model

    if not onnx:
        raise UsageError("no format was asked for; add --onnx")
    loaded = load_model(model)
    path = export_onnx(loaded, out or Path(f"{loaded.name}.onnx"))
    show({"onnx": str(path), "model": loaded.name, "revision": loaded.revision}, as_json)


def verify(
    target: Annotated[str, typer.Argument(help="A release, run folder, bundled name or .onnx file.")],
    as_json: options.Json = False,
) -> None:
    """Check every checksum and recompute the golden sample."""
    from prostate_mim.prediction import verify_model

    show(verify_model(target), as_json)

"""export and verify: a model in another format, and whether a file or a release still gives its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prostate_mim.cli import options
from prostate_mim.console import bar, show, whole_numbers
from prostate_mim.errors import UsageError

if TYPE_CHECKING:
    from prostate_mim.classifier import LesionClassifier
    from prostate_mim.encoder import PreMIM

_OF_ONNX = ("--onnx", "--triton")


def export(
    model: options.NamedModel = options.DEFAULT_MODEL,
    onnx: Annotated[bool, typer.Option("--onnx", help="One self-contained file for ONNX Runtime; see --out.")] = False,
    triton: Annotated[Path | None, typer.Option("--triton", help="Folder: a model repository for Triton.")] = None,
    bundle: Annotated[Path | None, typer.Option("--bundle", help="Folder for a MONAI bundle.")] = None,
    monai: Annotated[
        Path | None, typer.Option("--monai", help="File (.safetensors) of a stock MONAI class's state dict.")
    ] = None,
    nnunet: Annotated[Path | None, typer.Option("--nnunet", help="Folder for nnU-Net v2's initial weights.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="ONNX file to write; NAME.onnx here if left out.")] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Weights and activations in float16, for GPUs.")] = False,
    static: Annotated[str, typer.Option(help="One crop size only, voxels 'D,H,W', for CUDA graphs.")] = "",
    full_graph: Annotated[
        bool, typer.Option("--full-graph", help="Resampling to z-score too: study, affine and positions go in.")
    ] = False,
    encoder: Annotated[bool, typer.Option("--encoder", help="Of a classifier, its encoder.")] = False,
    classifier: Annotated[bool, typer.Option("--classifier", help="Refuse what is no classifier.")] = False,
    as_json: options.Json = False,
) -> None:
    """Write a model in another format, verified against its golden sample before it appears."""
    from prostate_mim.loading import load_model

    places = {"--triton": triton, "--bundle": bundle, "--monai": monai, "--nnunet": nnunet}
    asked = [*(["--onnx"] if onnx else []), *(name for name, place in places.items() if place is not None)]
    if len(asked) != 1:
        raise UsageError(f"one format is exported at a time; add one of --onnx, {', '.join(places)}")
    option = asked[0]
    if out is not None and not onnx:
        raise UsageError(f"--out is the file of --onnx; {option} names its own place, leave --out away")
    if (fp16 or static) and option not in _OF_ONNX:
        raise UsageError(f"--fp16 and --static are of {' and '.join(_OF_ONNX)}; {option} has no such form")
    if full_graph and (option != "--onnx" or static):
        raise UsageError("--full-graph is of --onnx, for studies of every size; leave --static and other formats away")
    size = whole_numbers(static, "--static") if static else None
    loaded = _part(load_model(model), encoder, classifier)
    if option == "--onnx":
        place = out or Path(f"{loaded.name}.onnx")
        with bar("exporting") as advance:
            path = loaded.export_onnx(place, half=fp16, static_zyx=size, full_graph=full_graph, progress=advance)
    elif option == "--triton":
        from prostate_mim.deploy.triton import write_triton

        with bar("exporting") as advance:
            path = write_triton(loaded, str(triton), half=fp16, static_zyx=size, progress=advance)
    else:
        path = _for_others(loaded, option, Path(str(places[option])))
    show({option.removeprefix("--"): str(path), "model": loaded.name, "revision": loaded.revision}, as_json)


def _part(loaded: PreMIM | LesionClassifier, encoder: bool, classifier: bool) -> PreMIM | LesionClassifier:
    """What was asked for of a release: all of it, or a classifier's encoder."""
    from prostate_mim.encoder import PreMIM

    if encoder and classifier:
        raise UsageError("--encoder and --classifier exclude each other; give one, or neither for the whole release")
    if isinstance(loaded, PreMIM):
        if classifier:
            raise UsageError(f"{loaded.name} is an encoder; make a classifier of it with 'prostate-mim finetune'")
        return loaded
    return loaded.encoder if encoder else loaded


def _for_others(loaded: PreMIM | LesionClassifier, option: str, place: Path) -> Path:
    """An encoder in a format of others."""
    from prostate_mim.encoder import PreMIM
    from prostate_mim.formats.monai_bundle import write_bundle
    from prostate_mim.formats.monai_state import write_monai_state
    from prostate_mim.formats.nnunet import write_nnunet

    if not isinstance(loaded, PreMIM):
        raise UsageError(
            f"{option} takes an encoder, and this is a classifier; add --encoder, or export it with --onnx"
        )
    if option == "--bundle":
        return write_bundle(loaded, place)
    return write_monai_state(loaded, place) if option == "--monai" else write_nnunet(loaded, place)


def verify(
    target: Annotated[str, typer.Argument(help="A release, run folder, bundled name or .onnx file.")],
    as_json: options.Json = False,
) -> None:
    """Check every checksum and recompute the golden sample; of an .onnx, on every engine that is here."""
    from prostate_mim.loading import verify_model

    found = verify_model(target)
    if as_json or "replays" not in found:
        show(found, as_json)
        return
    replays = found.pop("replays")
    show(found, False)
    _tell(replays)


def _tell(replays: list[dict[str, Any]]) -> None:
    """A line for each engine."""
    for one in replays:
        if one["difference"] is None:
            typer.echo(f"{one['device']:10} not here: {one['note']}")
        else:
            said = f"{one['provider']}, differs from torch by {one['difference']:.1e} (allowed {one['allowed']:g})"
            typer.echo(f"{one['device']:10} {said}")

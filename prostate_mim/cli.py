"""The command line: one Typer app. Commands import what they need when they run, so that ``--help`` is instant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from prostate_mim._version import __version__
from prostate_mim.console import bar, numbers, one_of, run_app, show
from prostate_mim.errors import UsageError

app = typer.Typer(
    name="prostate-mim",
    help="Pretrained 3D CNN encoders for axial T2w prostate MRI. Research software, not a medical device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout; progress stays on stderr.")]
Out = Annotated[Path, typer.Option("--out", help="Folder for everything the run writes.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda (cuda fails where there is none).")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")]
Model = Annotated[str, typer.Option("--model", help="Bundled name, release or run folder, or org/name@revision.")]
Precision = Annotated[str, typer.Option(help="fp32 or bf16.")]
Workers = Annotated[int, typer.Option(min=0, help="Loader processes.")]
DEFAULT_MODEL = "resenc-s.mim-t2w"


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"prostate-mim {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Pretrained 3D CNN encoders for axial T2w prostate MRI. Research software, not a medical device."""


@app.command("list")
def list_command(as_json: Json = False) -> None:
    """Names of the models that come with the package."""
    from prostate_mim.hub import list_models

    show(list_models(), as_json)


@app.command()
def info(
    model: Annotated[str, typer.Argument(help="As --model elsewhere.")] = DEFAULT_MODEL, as_json: Json = False
) -> None:
    """What a model expects and how it was made (verifies its checksums)."""
    from prostate_mim.hub import read_release, resolve

    release = read_release(resolve(model))
    values = {
        "name": release.name, "kind": release.kind, "architecture": release.architecture,
        "revision": release.revision, "spec": release.spec.to_dict(), "spec_fingerprint": release.spec.fingerprint,
        "weights_dtype": release.weights_dtype, "details": release.details,
    }  # fmt: skip
    show(values, as_json)


@app.command()
def phantom(
    out: Out,
    studies: Annotated[int, typer.Option(min=1, help="How many studies.")] = 20,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Write synthetic T2w studies with gland, zone and lesion masks and a manifest. No download, no patient."""
    from prostate_mim.phantom import write_cohort

    with bar("phantoms", studies) as advance:
        manifest = write_cohort(out, studies, seed, progress=lambda done, total: advance(done))
    show({"manifest": str(manifest), "studies": studies, "seed": seed}, as_json)


@app.command("pretrain")
def pretrain_command(
    manifest: Annotated[Path, typer.Option(help="CSV of studies.")],
    out: Out,
    architecture: Annotated[str, typer.Option(help="Encoder to train.")] = "resenc-s",
    name: Annotated[str, typer.Option(help="Name of the release.")] = "resenc-s.mim",
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps in all.")] = 1000,
    batch: Annotated[int, typer.Option(min=1, help="Crops per step.")] = 8,
    learning_rate: Annotated[float, typer.Option(help="Peak of the schedule.")] = 3e-3,
    method: Annotated[str, typer.Option(help="fcmae, spark, topdown, zerofill, simmim, a2mim or genesis.")] = "fcmae",
    strategy: Annotated[str, typer.Option(help="What is hidden: random, column, ...; the method's if empty.")] = "",
    mask_ratio: Annotated[
        str, typer.Option(help="Share hidden: 0.6, 0.5..0.9 or 0.6|0.75; the method's if empty.")
    ] = "",
    target: Annotated[
        str, typer.Option(help="What is reconstructed: block, voxels, hog, ...; the method's if empty.")
    ] = "",
    decoder: Annotated[str, typer.Option(help="light, topdown, unet or linear; the method's if empty.")] = "",
    loss: Annotated[str, typer.Option(help="l2, l1, ssim or focal_frequency; the method's if empty.")] = "",
    block_mm: Annotated[str, typer.Option(help="Hidden block, mm, 'z y x'; inf is the whole crop.")] = "12 8 8",
    size: Annotated[str, typer.Option(help="Crop, voxels, 'z y x'.")] = "16 96 96",
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 100,
    precision: Precision = "fp32",
    workers: Workers = 0,
    device: Device = "auto",
    seed: Seed = 0,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Pretrain an encoder by masked image modelling."""
    from prostate_mim.engine.loop import LoopConfig
    from prostate_mim.mim.methods import vary
    from prostate_mim.pretraining import PretrainConfig, pretrain
    from prostate_mim.spec import InputSpec

    block_mm_zyx, size_zyx = numbers(block_mm, "--block-mm"), numbers(size, "--size")
    chosen = vary(method, strategy=strategy, ratio=mask_ratio, target=target, decoder=decoder, loss=loss)
    config = PretrainConfig(
        architecture=architecture,
        spec=InputSpec(size_zyx=(int(size_zyx[0]), int(size_zyx[1]), int(size_zyx[2]))),
        block_mm_zyx=block_mm_zyx,
        method=chosen,
        name=name,
        loop=LoopConfig(
            steps=steps, batch=batch, learning_rate=learning_rate, checkpoint_every=checkpoint_every,
            precision=precision, workers=workers, device=device, seed=seed, warmup=min(50, max(1, steps // 10)),
        ),
    )  # fmt: skip
    release = pretrain(manifest, out, config, resume=resume)
    show({"release": str(release)}, as_json)


@app.command("finetune")
def finetune_command(
    manifest: Annotated[Path, typer.Option(help="CSV of lesions with labels.")],
    out: Out,
    model: Model = DEFAULT_MODEL,
    mode: Annotated[str, typer.Option(help="linear (frozen encoder) or full.")] = "linear",
    folds: Annotated[int, typer.Option(min=2, help="Patient-grouped folds.")] = 5,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the lesions in mode full.")] = 10,
    batch: Annotated[int, typer.Option(min=1, help="Lesions per step.")] = 8,
    learning_rate: Annotated[float, typer.Option(help="Peak of the schedule in mode full.")] = 2e-4,
    size: Annotated[str, typer.Option(help="Crop, voxels, 'z y x'; the encoder's if empty.")] = "",
    name: Annotated[str, typer.Option(help="Name of the release.")] = "",
    precision: Precision = "fp32",
    workers: Workers = 0,
    device: Device = "auto",
    seed: Seed = 0,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Cross-validate a lesion classifier over patients, then train it on everything."""
    from prostate_mim.classifier import LesionClassifier
    from prostate_mim.encoder import PreMIM
    from prostate_mim.engine.loop import LoopConfig
    from prostate_mim.finetuning import FinetuneConfig, finetune

    loop = LoopConfig(
        batch=batch,
        learning_rate=learning_rate,
        precision=precision,
        workers=workers,
        device=device,
        seed=seed,
        warmup=10,
    )
    config = FinetuneConfig(mode=mode, folds=folds, epochs=epochs, name=name or None, loop=loop)
    encoder = PreMIM.from_pretrained(model)
    spec = encoder.spec
    if size:
        z, y, x = numbers(size, "--size")
        spec = spec.with_size((int(z), int(y), int(x)))
    run = finetune(LesionClassifier(encoder, spec), manifest, out, config, resume=resume)
    if as_json:
        show(json.loads((out / "results.json").read_text()) | {"release": str(run.release)}, True)
        return
    for number, fold in enumerate(run.folds):
        typer.echo(f"fold {number}: AUROC {fold}")
    typer.echo(f"all folds together: AUROC {run.pooled}")
    typer.echo(f"release: {run.release}")


@app.command()
def predict(
    study: Annotated[Path | None, typer.Argument(help="A study file or DICOM folder; or use --manifest.")] = None,
    model: Annotated[
        str, typer.Option("--model", help="A fine-tuned classifier: release or run folder, or hub name.")
    ] = "",
    manifest: Annotated[Path | None, typer.Option(help="CSV of studies or lesions.")] = None,
    position: Annotated[str, typer.Option(help="Lesion, mm, LPS, 'x y z'; the image centre if empty.")] = "",
    spacing: Annotated[str, typer.Option(help="Of a bare array, mm, 'z y x'.")] = "",
    as_json: Json = False,
) -> None:
    """Probability of a clinically significant lesion, for one study or a manifest."""
    from prostate_mim.classifier import LesionClassifier
    from prostate_mim.prediction import StudyPrediction, predict_manifest
    from prostate_mim.volume import read_volume

    if not model:
        raise UsageError(
            "--model is missing; name a classifier made by 'prostate-mim finetune' (its run folder will do)"
        )
    one_of(study, manifest)
    if manifest is not None:
        rows = predict_manifest(LesionClassifier.from_pretrained(model), manifest)
    else:
        volume = read_volume(str(study), spacing_mm_zyx=numbers(spacing, "--spacing") if spacing else None)
        place = numbers(position, "--position") if position else None
        rows = [StudyPrediction("", "", LesionClassifier.from_pretrained(model).predict(volume, place))]
    if as_json:
        values = [row.to_dict() for row in rows]
        show(values if manifest is not None else values[0], True)
        return
    for number, row in enumerate(rows, 1):
        made = row.prediction
        label = f"row {number}: " if manifest is not None else ""
        typer.echo(f"{label}{made.probability:.4f}  ({made.model} {made.revision}, spec {made.spec}, {made.device})")


@app.command()
def embed(
    manifest: Annotated[Path, typer.Option(help="CSV of studies or lesions.")],
    out: Annotated[Path, typer.Option("--out", help="The .npz to write.")],
    model: Model = DEFAULT_MODEL,
    as_json: Json = False,
) -> None:
    """One embedding per manifest row, as study_id, lesion_id, embedding (N, C) float32 in an .npz."""
    from prostate_mim.files import make_folder
    from prostate_mim.prediction import embed_manifest, load_encoder

    make_folder(out.parent)
    encoder = load_encoder(model)
    table = embed_manifest(encoder, manifest)
    table.save(out)
    count, size = table.embedding.shape
    show({"out": str(out), "rows": count, "size": size, "model": encoder.name, "revision": encoder.revision}, as_json)


@app.command("mask-preview")
def mask_preview(
    out: Annotated[Path, typer.Option("--out", help="The .png to write.")],
    study: Annotated[Path | None, typer.Argument(help="A study file or DICOM folder; a phantom if left out.")] = None,
    manifest: Annotated[Path | None, typer.Option(help="CSV of studies, with their masks; see --row.")] = None,
    row: Annotated[int | None, typer.Option(help="Which row of --manifest; the first, 1, if left out.")] = None,
    model: Model = DEFAULT_MODEL,
    strategy: Annotated[
        list[str] | None, typer.Option(help="all, or one as in pretrain; may be given several times.")
    ] = None,
    ratio: Annotated[str, typer.Option(help="Share hidden: 0.6, 0.5..0.9 or 0.6|0.75.")] = "0.6",
    block_mm: Annotated[str, typer.Option(help="Hidden block, mm, 'z y x'; inf is the whole crop.")] = "12 8 8",
    slices: Annotated[int, typer.Option(min=1, help="Slices of each strategy.")] = 1,
    spacing: Annotated[str, typer.Option(help="Of a bare array, mm, 'z y x'.")] = "",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Draw what each masking strategy hides, and what the model makes of it, as one PNG. Needs no data."""
    from prostate_mim.preview import Preview, PreviewConfig, check_out, open_shown, write_preview

    preview = Preview(
        model, PreviewConfig(tuple(strategy or ["all"]), ratio, numbers(block_mm, "--block-mm"), seed, slices)
    )
    check_out(out)
    shown = open_shown(
        preview.mim.spec, study=study, manifest=manifest, row=row, masks=preview.masks, seed=seed,
        spacing_mm_zyx=numbers(spacing, "--spacing") if spacing else None,
    )  # fmt: skip
    drawn = write_preview(preview, shown, out)
    show(drawn if as_json else {"picture": drawn["picture"]}, as_json)


@app.command()
def export(
    model: Annotated[
        str, typer.Argument(help="As --model elsewhere; the bundled encoder if left out.")
    ] = DEFAULT_MODEL,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write ONNX (the only format so far).")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="File to write; NAME.onnx here if left out.")] = None,
    as_json: Json = False,
) -> None:
    """Write one self-contained, verified ONNX file with preprocessing and golden sample inside."""
    from prostate_mim.deploy.export import export_onnx
    from prostate_mim.prediction import load_model

    if not onnx:
        raise UsageError("no format was asked for; add --onnx")
    loaded = load_model(model)
    path = export_onnx(loaded, out or Path(f"{loaded.name}.onnx"))
    show({"onnx": str(path), "model": loaded.name, "revision": loaded.revision}, as_json)


@app.command()
def verify(
    target: Annotated[str, typer.Argument(help="A release, run folder, bundled name or .onnx file.")],
    as_json: Json = False,
) -> None:
    """Check every checksum and recompute the golden sample."""
    from prostate_mim.prediction import verify_model

    show(verify_model(target), as_json)


@app.command()
def demo(
    out: Out = Path("demo-out"),
    studies: Annotated[int, typer.Option(min=20, help="Phantom studies.")] = 200,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Phantoms -> bundled encoder -> classifier beside training from scratch -> ONNX -> one HTML page."""
    from prostate_mim.demo import run_demo

    show(run_demo(out, studies, seed), as_json)


def main() -> None:
    """Entry point."""
    run_app(app)


if __name__ == "__main__":
    main()

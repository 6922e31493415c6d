"""Commands that apply a model to studies: predict, embed; in one process, or over an archive with Ray."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prostate_mim.cli import options
from prostate_mim.console import numbers, plain, show
from prostate_mim.errors import UsageError, VolumeError

if TYPE_CHECKING:
    from prostate_mim.prediction import StudyPrediction


def predict(
    study: options.StudyFile = None,
    model: Annotated[
        str, typer.Option("--model", help="A fine-tuned classifier: release or run folder, or hub name.")
    ] = "",
    manifest: options.Rows = None,
    position: Annotated[str, typer.Option(help="Lesion, mm, LPS, 'x y z'; the image centre if empty.")] = "",
    spacing: options.Spacing = "",
    mask: options.Masks = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse an image that does not look like axial T2w of a prostate.")
    ] = False,
    engine: options.Engine = "",
    out: Annotated[Path | None, typer.Option("--out", help="With --engine ray: folder of parquet files.")] = None,
    workers: options.ArchiveWorkers = None,
    shard_rows: options.ShardRows = None,
    attempts: options.Attempts = None,
    as_json: options.Json = False,
) -> None:
    """Probability of a clinically significant lesion, for one study or a manifest."""
    if not model:
        raise UsageError(
            "--model is missing; name a classifier made by 'prostate-mim finetune' (its run folder will do)"
        )
    if (study is None) == (manifest is None):
        raise UsageError("give either one study or --manifest, not both and not neither")
    limits = {"workers": workers, "shard_rows": shard_rows, "attempts": attempts}
    if _wants_ray(engine, out=out, **limits):
        if manifest is None or out is None:
            raise UsageError("--engine ray reads a --manifest and writes a folder; give both --manifest and --out")
        if strict:
            raise UsageError("--strict has no meaning with --engine ray; look at its column 'flags' instead")
        _archive("predict", model, manifest, out, as_json, **limits)
        return
    rows = _predictions(study, manifest, model, position, spacing, mask or [], strict)
    if as_json:
        values = [row.to_dict() for row in rows]
        show(values if manifest is not None else values[0], True)
        return
    for number, row in enumerate(rows, 1):
        made = row.prediction
        label = f"row {number}: " if manifest is not None else ""
        for flag in row.flags:
            typer.echo(f"warning: {label}{flag}", err=True)
        typer.echo(f"{label}{made.probability:.4f}  ({made.model} {made.revision}, spec {made.spec}, {made.device})")


def _predictions(
    study: Path | None, manifest: Path | None, model: str, position: str, spacing: str, given: list[str], strict: bool
) -> list[StudyPrediction]:
    from prostate_mim.classifier import LesionClassifier
    from prostate_mim.prediction import StudyPrediction, load_guard, predict_manifest, predict_volume
    from prostate_mim.studies import mask_paths, read_masks
    from prostate_mim.volume import read_volume

    paths = mask_paths(given)
    if manifest is not None:
        if paths:
            raise UsageError("--mask is for one study; rows of a manifest have the columns gland_mask and so on")
        return predict_manifest(LesionClassifier.from_pretrained(model), manifest, strict=strict)
    apart = numbers(spacing, "--spacing") if spacing else None
    volume = read_volume(str(study), spacing_mm_zyx=apart)
    masks = read_masks(paths, volume, spacing_mm_zyx=apart)
    place = numbers(position, "--position") if position else None
    classifier = LesionClassifier.from_pretrained(model)
    made = predict_volume(
        classifier, volume, place, load_guard(), masks=masks, is_crop=volume.shape_zyx[0] == 1, strict=strict
    )  # fmt: skip
    return [StudyPrediction("", "", made)]


def embed(
    manifest: Annotated[Path, typer.Option(help="CSV of studies or lesions.")],
    out: Annotated[Path, typer.Option("--out", help="The .npz to write; with --engine ray a folder.")],
    model: options.Model = options.DEFAULT_MODEL,
    engine: options.Engine = "",
    workers: options.ArchiveWorkers = None,
    shard_rows: options.ShardRows = None,
    attempts: options.Attempts = None,
    as_json: options.Json = False,
) -> None:
    """One embedding per manifest row, as study_id, lesion_id, embedding (N, C) float32 in an .npz."""
    limits = {"workers": workers, "shard_rows": shard_rows, "attempts": attempts}
    if _wants_ray(engine, **limits):
        _archive("embed", model, manifest, out, as_json, **limits)
        return
    from prostate_mim.files import make_folder
    from prostate_mim.loading import load_encoder
    from prostate_mim.prediction import embed_manifest

    make_folder(out.parent)
    encoder = load_encoder(model)
    table = embed_manifest(encoder, manifest)
    table.save(out)
    count, size = table.embedding.shape
    show({"out": str(out), "rows": count, "size": size, "model": encoder.name, "revision": encoder.revision}, as_json)


def _wants_ray(engine: str, **others: object) -> bool:
    """Whether Ray is asked for; options that only it has are refused without it, not ignored.

    Raises:
        UsageError: another engine, or such an option without the engine.
    """
    if engine not in ("", "ray"):
        raise UsageError(f"engine {engine!r} is unknown; give ray, or leave it out for one process")
    idle = [f"--{name.replace('_', '-')}" for name, value in others.items() if value is not None]
    if idle and not engine:
        raise UsageError(f"{', '.join(idle)} has a meaning with --engine ray only; add it, or leave this out")
    return bool(engine)


def _archive(task: str, model: str, manifest: Path, out: Path, as_json: bool, **limits: int | None) -> None:
    """Run over an archive; limits that are None are the archive's own defaults."""
    from prostate_mim.archive import run_archive

    given = {name: value for name, value in limits.items() if value is not None}
    summary = run_archive(task, model, manifest, out, engine="ray", **given)
    show(plain(summary), as_json)
    if summary.failed:
        raise VolumeError(
            f"{summary.failed} of {summary.rows} rows failed; their column 'reason' says why, and all others are done"
        )

"""Commands that apply a model to studies: predict, embed; in one process, or over an archive with Ray."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from prostate_mim.cli import options
from prostate_mim.cli.arguments import find_classifier, model_named, one_source, read_place, read_spacing
from prostate_mim.console import plain, show
from prostate_mim.errors import UsageError, VolumeError

if TYPE_CHECKING:
    from prostate_mim.manifest import Point
    from prostate_mim.prediction import StudyPrediction
    from prostate_mim.volume import Volume


def predict(
    study: options.StudyFile = None,
    model: options.Classifier = "",
    manifest: options.Rows = None,
    position: options.Position = "",
    spacing: options.Spacing = "",
    mask: options.Masks = None,
    strict: options.Strict = False,
    engine: options.Engine = "",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of parquet files.", rich_help_panel="With --engine ray"),
    ] = None,
    workers: options.ArchiveWorkers = None,
    shard_rows: options.ShardRows = None,
    attempts: options.Attempts = None,
    as_json: options.Json = False,
) -> None:
    """Probability of a clinically significant lesion, for one study or a manifest."""
    model_named(model)
    one_source(study, manifest, position=position, spacing=spacing, mask=mask)
    limits = {"workers": workers, "shard_rows": shard_rows, "attempts": attempts}
    if _wants_ray(engine, out=out, **limits):
        if manifest is None or out is None:
            raise UsageError("--engine ray reads a --manifest and writes a folder; give both --manifest and --out")
        if strict:
            raise UsageError("--strict has no meaning with --engine ray; look at its column 'flags' instead")
        _archive("predict", model, manifest, out, as_json, **limits)
        return
    opened = None if study is None else _opened(study, position, spacing, mask)
    rows = _predictions(opened, manifest, model, strict)
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


class _Opened(NamedTuple):
    """One study as it was given; the place is None where none was."""

    volume: Volume
    place: Point | None
    masks: dict[str, Volume]


def _opened(study: Path, position: str, spacing: str, given: list[str] | None) -> _Opened:
    """Read all that belongs to one study; no torch, so that what is wrong with it is said at once."""
    from prostate_mim.preprocess import check_inside
    from prostate_mim.studies import mask_paths, read_masks
    from prostate_mim.volume import read_volume

    place, apart, paths = read_place(position), read_spacing(spacing), mask_paths(given or [])
    volume = read_volume(study, spacing_mm_zyx=apart)
    if place is not None:
        check_inside(volume, place)
    return _Opened(volume, place, read_masks(paths, volume, spacing_mm_zyx=apart))


def _predictions(opened: _Opened | None, manifest: Path | None, model: str, strict: bool) -> list[StudyPrediction]:
    from prostate_mim.manifest import level_of, read_manifest

    release = find_classifier(model)
    if manifest is not None:
        read_manifest(manifest, level=level_of(release.details))  # so that a mistake is said at once
    from prostate_mim.classifier import LesionClassifier
    from prostate_mim.prediction import StudyPrediction, load_guard, predict_manifest, predict_volume

    classifier = LesionClassifier.from_pretrained(model)
    if opened is None:
        return predict_manifest(classifier, str(manifest), strict=strict)
    volume, place, masks = opened
    made = predict_volume(
        classifier, volume, place, load_guard(), masks=masks, is_crop=volume.shape_zyx[0] == 1, strict=strict
    )  # fmt: skip
    return [StudyPrediction("", "", made)]


def embed(
    out: Annotated[Path, typer.Option("--out", help="The .npz to write; with --engine ray a folder.")],
    study: options.StudyFile = None,
    manifest: options.Rows = None,
    position: options.Position = "",
    spacing: options.Spacing = "",
    mask: options.Masks = None,
    model: options.Model = options.DEFAULT_MODEL,
    engine: options.Engine = "",
    workers: options.ArchiveWorkers = None,
    shard_rows: options.ShardRows = None,
    attempts: options.Attempts = None,
    as_json: options.Json = False,
) -> None:
    """Embeddings of one study or of every manifest row: study_id, lesion_id, embedding (N, C) float32 in an .npz."""
    one_source(study, manifest, position=position, spacing=spacing, mask=mask)
    limits = {"workers": workers, "shard_rows": shard_rows, "attempts": attempts}
    if _wants_ray(engine, **limits):
        if manifest is None:
            raise UsageError("--engine ray reads a --manifest; leave it out for one study")
        _archive("embed", model, manifest, out, as_json, **limits)
        return
    from prostate_mim.files import make_folder
    from prostate_mim.hub import open_release
    from prostate_mim.manifest import read_manifest

    opened = None if study is None else _opened(study, position, spacing, mask)
    open_release(model)  # this and the manifest are read again; here a mistake costs no wait
    if manifest is not None:
        read_manifest(manifest)
    make_folder(out.parent)
    values = _embedded(opened, manifest, model, out)
    if opened is not None and opened.place is None and opened.volume.shape_zyx[0] > 1:
        from prostate_mim.deploy.prediction import NO_POSITION

        typer.echo(f"warning: {NO_POSITION}", err=True)
    show(values, as_json)


def _embedded(opened: _Opened | None, manifest: Path | None, model: str, out: Path) -> dict[str, Any]:
    """Write the table; what is said of it."""
    from prostate_mim.loading import load_encoder
    from prostate_mim.prediction import embed_manifest, embed_volume

    encoder = load_encoder(model)
    table = embed_manifest(encoder, str(manifest)) if opened is None else embed_volume(encoder, *opened)
    table.save(out)
    count, size = table.embedding.shape
    return {"out": str(out), "rows": count, "size": size, "model": encoder.name, "revision": encoder.revision}


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

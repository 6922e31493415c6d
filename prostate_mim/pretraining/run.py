"""The verb: studies -> training -> release folder, with everything written down beside it."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prostate_mim.config import config_to_dict, write_config
from prostate_mim.encoder import PreMIM
from prostate_mim.engine.announce import announce
from prostate_mim.engine.data import DrawDataset
from prostate_mim.engine.distributed import is_sharded, synchronise_norms
from prostate_mim.engine.identity import check_resumed
from prostate_mim.engine.launched import launched_rank, launched_ranks
from prostate_mim.engine.loop import Observer, Task, train
from prostate_mim.engine.records import begin_record, finish_record
from prostate_mim.engine.run_folder import check_run_folder, prepare_run
from prostate_mim.engine.runs import prepare_rows, region_of
from prostate_mim.engine.seeding import derive_seed
from prostate_mim.engine.tracking import check_trackers
from prostate_mim.errors import UsageError
from prostate_mim.files import sha256_of
from prostate_mim.folds import leave_out_fold
from prostate_mim.health.report import write_report
from prostate_mim.hub.release import WEIGHTS
from prostate_mim.manifest import Manifest, read_manifest
from prostate_mim.mim import BlockGrid, MaskedImageModel
from prostate_mim.pretraining.beginning import make_encoder, studies_seen
from prostate_mim.pretraining.config import SIMCLR, PretrainConfig
from prostate_mim.pretraining.contrast import check_contrastive, contrastive_task, make_contrastive, pairs_of
from prostate_mim.pretraining.task import MimTask
from prostate_mim.pretraining.watching import score, watch_run
from prostate_mim.spec import InputSpec
from prostate_mim.store import PreparedManifest


def pretrain(
    manifest: str | Path,
    out: str | Path,
    config: PretrainConfig | None = None,
    *,
    resume: bool = False,
    store: str | Path | None = None,
    skip_bad: bool = False,
    allow_change: Collection[str] = (),
) -> Path:
    """Pretrain an encoder by masked image modelling, or contrastively.

    Args:
        manifest: CSV of studies.
        out: run folder: ``config.toml``, ``run.json``, ``metrics.jsonl``, trackers' files, checkpoints,
            ``report.html``, and ``release/`` at the end.
        config: defaults if None.
        resume: go on from the newest checkpoint in ``out``.
        store: folder of prepared studies (``prostate-mim data prepare``); what it lacks is prepared and kept there.
            None keeps them in memory. The numbers are the same.
        skip_bad: leave out studies that cannot be used instead of refusing the manifest.
        allow_change: dotted keys of the configuration in which a resumed run may differ.

    Returns:
        The release folder.

    Raises:
        ManifestError, VolumeError, NotFoundError: the data; found before training begins.
        UsageError: the configuration, no row is in the fold to leave out, no row has the masks its strategy looks at,
            there are not two patients to tell apart, or ``out`` cannot be written or holds a finished run.
        TrainingError, ResourceError: see ``engine.loop.train``.
    """
    config = config or PretrainConfig()
    check_run_folder(out, resume)  # refuse these before an hour of reading
    announce(config.loop)
    check_trackers(config.loop.trackers)
    if resume:
        check_resumed(Path(out), _identity(config, None), config.loop, allow_change)
    listed = _learnt_from(read_manifest(manifest), config)
    model = _untrained(config, listed)
    run, kept = prepare_run(out, resume), None if store is None else Path(store)
    region = config.spec.with_size(config.region_zyx)
    prepared = prepare_rows(listed, region, store=kept, workers=config.loop.workers, skip_bad=skip_bad)
    dataset = _draws(config, prepared)
    observe = watch_run(prepared.rows, config, run, store=kept, workers=config.loop.workers)
    task = _task(config, prepared, run, observe)
    weights = train(
        model, dataset, task, config.loop, run, identity=_identity(config, prepared.contents),
        augmentation=config.crop_augmentation, resume=resume, allow_change=allow_change,
    )  # fmt: skip
    if launched_rank() == 0:
        _publish(weights, config, prepared, run)
    return run / "release"


def _learnt_from(listed: Manifest, config: PretrainConfig) -> Manifest:
    """The rows without those of the fold that is left out, which are not even read."""
    if config.leave_out_fold is None:
        return listed
    kept = leave_out_fold(listed, config.leave_out_fold)
    if launched_rank() == 0:
        gone = len(listed.rows) - len(kept.rows)
        sys.stderr.write(f"fold {config.leave_out_fold} is left out: {gone} of {len(listed.rows)} rows\n")
    return kept


def _untrained(config: PretrainConfig, manifest: Manifest) -> nn.Module:
    """What is trained. Nothing is refused after an hour of reading."""
    if config.objective == SIMCLR:
        check_contrastive(config, manifest)
        return make_contrastive(config)
    model = make_model(config)
    if launched_rank() == 0:  # sizes are rounded to the encoder's stride: say to what
        sys.stderr.write(f"{model.grid.describe(config.spec.spacing_mm_zyx, config.block_mm_zyx)}\n")
    _check_model(model, manifest)
    return model


def _draws(config: PretrainConfig, prepared: PreparedManifest) -> DrawDataset:
    if config.objective == SIMCLR:
        return pairs_of(prepared.rows, config)
    return DrawDataset([region_of(one) for one in prepared.rows], config.spec, config.jitter_zyx, config.loop.seed)


def make_model(config: PretrainConfig) -> MaskedImageModel:
    """The untrained masked image model of a configuration: the same weights for the same seed.

    Raises:
        UsageError: crop and strides do not divide each other (names both), the ratio hides nothing or everything, or
            the parts of the method do not go together.
    """
    torch.manual_seed(derive_seed(config.loop.seed, "weights"))
    encoder = synchronise_norms(make_encoder(config))
    spec = config.spec
    grid = BlockGrid.from_mm(config.block_mm_zyx, spec.spacing_mm_zyx, spec.size_zyx, encoder.total_stride_zyx)
    path = "dense" if config.loop.compile else "auto"  # rows differ in number from step to step: nothing to compile
    model = MaskedImageModel(encoder, grid, config.method, spec.spacing_mm_zyx, path)
    if config.freeze_encoder:
        model.freeze_encoder()
    return model


def _check_model(model: MaskedImageModel, manifest: Manifest) -> None:
    """A strategy without a mask in any study would be another one throughout; a teacher follows whole parameters.

    Regions are cut around the lesion or the gland where a row tells it. The way from there would be learnt from labels.
    """
    for name in sorted(model.strategy.needs & {"gland", "lesion"}):
        if all(getattr(row, f"{name}_mask") is None for row in manifest.rows):
            raise UsageError(
                f"strategy {model.method.strategy!r} looks at {name} masks, but no row of the manifest has a "
                f"{name}_mask; add them, or choose another strategy"
            )
    if model.target.name == "position" and (placed := sum(row.has_place for row in manifest.rows)):
        raise UsageError(
            f"target 'position' asks how far a crop is from the middle of its scan, but {placed} of "
            f"{len(manifest.rows)} rows say where to look instead: leave out gland_mask, and of lesions all columns "
            "but the study's"
        )
    if is_sharded() and model.teacher is not None:
        raise UsageError(
            f"target {model.method.target!r} with strategy {model.method.strategy!r} needs a teacher, which follows "
            "whole parameters; use DDP instead of FSDP (unset ACCELERATE_USE_FSDP)"
        )


def _task(config: PretrainConfig, prepared: PreparedManifest, run: Path, observe: Observer | None) -> Task:
    if config.objective == SIMCLR:
        contrast = contrastive_task(prepared.rows, config)
        task = Task(loss=contrast.loss, compile=contrast.compile)
    else:
        mim = MimTask(config.loop.seed, config.loop.steps, config.masks_per_crop, config.augmentation)
        task = Task(loss=mim.loss, compile=mim.compile, begin_step=mim.begin_step)
    return dataclasses.replace(
        task, begin=partial(_begin, run, config, prepared), observe=observe, report=partial(_report, run), score=score,
        label="pretraining",
    )  # fmt: skip


def _identity(config: PretrainConfig, data: str | None) -> dict[str, Any]:
    """What a resumed run must have in common with the one before; the loop adds its own part.

    Args:
        data: hash of what the studies hold; None where they are not read yet.
    """
    values = config.used(config_to_dict(config))
    for name in ("loop", "health", "watch", "begin_source"):  # how one looks, and where files lie, changes nothing
        values.pop(name, None)
    return {"task": "pretrain", "data": data, **values}


def _begin(run: Path, config: PretrainConfig, prepared: PreparedManifest, step: int) -> None:
    """Write down what runs, on what, with which configuration."""
    write_config(run / "config.toml", config)
    counts = {"studies": len(prepared.rows), "left_out": len(prepared.failures)}
    counts["without_sha256"] = sum(one.row.sha256 is None for one in prepared.rows)
    values = {"task": "pretrain", "step": step, "ranks": launched_ranks(), "seed": config.loop.seed}
    begin_record(run, {**values, "data_fingerprint": prepared.fingerprint, "counts": counts})


def _report(run: Path, state: str) -> None:
    write_report(run, state=state)


def _publish(weights: dict[str, Tensor], config: PretrainConfig, prepared: PreparedManifest, run: Path) -> None:
    training = {**config.used(config_to_dict(config)), "studies": len(prepared.rows), "name": config.release_name}
    for path in ("watch", "begin_source"):
        training.pop(path, None)
    details: dict[str, Any] = {"training": training}
    trained = make_contrastive(config) if config.objective == SIMCLR else make_model(config)
    trained.load_state_dict(weights, strict=True)
    decoder = None
    if isinstance(trained, MaskedImageModel):
        details["mim"], decoder = mim_details(trained, config.spec), trained.reconstructor()
    model = PreMIM(config.architecture, config.spec, name=config.release_name, details=details)
    model.encoder.load_state_dict(trained.encoder.state_dict(), strict=True)
    model.studies = studies_seen(config, prepared.voxel_hashes.values(), model.encoder.state_dict())
    release = model.eval().save_pretrained(run / "release", decoder=decoder)
    finish_record(run, step=config.loop.steps, weights_sha256=sha256_of(release / WEIGHTS))
    write_report(run)


def mim_details(model: MaskedImageModel, spec: InputSpec) -> dict[str, Any]:
    """What a reader needs to reconstruct with a release: method and block size as used, in plain values."""
    return {
        "method": model.method.to_dict(),
        "block_mm_zyx": list(model.grid.block_mm_zyx(spec.spacing_mm_zyx)),
        "self_supervised": model.strategy.self_supervised,
    }

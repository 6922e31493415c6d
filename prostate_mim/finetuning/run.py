"""finetune: encoder + labelled manifest -> patient folds -> figures with intervals -> classifier release."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch

from prostate_mim.classifier import LesionClassifier
from prostate_mim.engine.distributed import launched_rank, launched_ranks, pick_device
from prostate_mim.engine.overlap import check_overlap
from prostate_mim.engine.records import begin_record, finish_record
from prostate_mim.engine.runs import prepare_rows, prepare_run
from prostate_mim.files import sha256_of
from prostate_mim.finetuning.config import FinetuneConfig
from prostate_mim.finetuning.fit import fit, plain, starting_point
from prostate_mim.finetuning.lesions import Lesions, check_targets, gather
from prostate_mim.finetuning.regions import JITTER_ZYX, Features, predict_regions, region_features
from prostate_mim.finetuning.results import FinetuneRun, figures, score, write_results
from prostate_mim.finetuning.subsets import labelled_subset
from prostate_mim.folds import assign_folds
from prostate_mim.hub import Studies
from prostate_mim.hub.release import WEIGHTS
from prostate_mim.hub.studies import study_key
from prostate_mim.leaks import StudyHashes
from prostate_mim.manifest import read_manifest
from prostate_mim.store import PreparedManifest


def finetune(
    model: LesionClassifier,
    manifest: str | Path,
    out: str | Path,
    config: FinetuneConfig | None = None,
    *,
    resume: bool = False,
    store: str | Path | None = None,
    allow_overlap: bool = False,
    picai_labels: str | Path | None = None,
) -> FinetuneRun:
    """Cross-validate a lesion classifier over patients, then train it on everything and release it.

    Args:
        model: the starting point; it is left as it is.
        manifest: CSV with labels and, at level ``lesion``, places.
        out: run folder: ``results.json``, ``predictions.csv``, one folder per training, ``release/``.
        resume: go on where an interrupted run stopped.
        store: folder of prepared studies; None keeps them in memory.
        allow_overlap: go on where one image has two ids, one person is in two folds, or ``model`` was trained on
            studies of the manifest; every result then says so.
        picai_labels: the user's folder of that name, to find persons who are in PROSTATEx and in PI-CAI.

    Raises:
        ManifestError, VolumeError, NotFoundError: the data, overlap among it; found before training begins.
        UsageError: the configuration, too few patients for the folds, or ``out``.
        TrainingError: a loss is not finite.
    """
    config = config or FinetuneConfig()
    pick_device(config.loop.device)  # refuse it before an hour of reading
    start = starting_point(model, config)
    listed = read_manifest(manifest, labels=True, level=config.level)
    check_targets(listed, config)
    folds = assign_folds(listed, config.folds, config.loop.seed)
    run = prepare_run(out, resume)
    z, y, x = (n + 2 * j for n, j in zip(start.spec.size_zyx, JITTER_ZYX, strict=True))
    kept = None if store is None else Path(store)
    prepared = prepare_rows(listed, start.spec.with_size((z, y, x)), store=kept, workers=config.loop.workers)
    overlap = check_overlap(
        listed, prepared, folds, start.studies, allow=allow_overlap,
        picai_labels=None if picai_labels is None else Path(picai_labels),
    )  # fmt: skip
    if launched_rank() == 0:
        _begin(run, config, prepared, overlap)
    lesions = gather(listed, prepared, folds, start.spec, config)
    probabilities, final = _cross_validate(start, lesions, run, config, resume)
    scored = score(lesions, probabilities, run / "release", overlap, config)
    if launched_rank() == 0:
        final.details = {**start.details, "finetuning": {**plain(config), **figures(scored)}}
        final.studies = _seen(start, final, prepared)
        release = final.save_pretrained(scored.release, name=config.name or start.name)
        write_results(run, scored, lesions, config)
        finish_record(run, weights_sha256=sha256_of(release / WEIGHTS))
        for checkpoint in run.glob("*/checkpoint-*.safetensors"):
            checkpoint.unlink()  # they resume an unfinished run, and this one is finished
    return scored


def _cross_validate(
    start: LesionClassifier, lesions: Lesions, run: Path, config: FinetuneConfig, resume: bool
) -> tuple[Features, LesionClassifier]:
    """(N,) probabilities, each by a model that saw nobody of its fold; and the classifier to release."""
    views = _views(start, lesions, config)
    features = views[0] if views else None
    probabilities, members = np.zeros(len(lesions)), []

    def fitted_to(rows: list[int], name: str) -> LesionClassifier:
        chosen = labelled_subset(lesions.labels, lesions.patients, rows, config.fraction, config.fraction_seed)
        return fit(start, lesions, features, chosen, run / name, config, resume)

    for fold in sorted(set(lesions.folds.tolist())):
        held_out = np.flatnonzero(lesions.folds == fold).tolist()
        fitted = fitted_to(np.flatnonzero(lesions.folds != fold).tolist(), f"fold-{fold}")
        if config.mode == "linear":
            probabilities[held_out] = np.mean([_by_head(fitted, view[held_out]) for view in views], 0)
        else:
            regions = [lesions.regions[i] for i in held_out]
            probabilities[held_out] = predict_regions(fitted, regions, config.loop.device, flips=config.flips)
        members += [fitted] if config.ensemble else []
    if config.ensemble:
        return probabilities, LesionClassifier.ensemble(members)
    return probabilities, fitted_to(list(range(len(lesions))), "final")


def _views(start: LesionClassifier, lesions: Lesions, config: FinetuneConfig) -> list[Features]:
    """(N, F) features of the frozen encoder: of the crops, and of their mirror images where those count too."""
    if start.layout.head != "linear":
        return []
    mirrored = (False, True) if config.flips and config.mode == "linear" else (False,)
    return [region_features(start, lesions.regions, config.loop.device, mirrored=flip) for flip in mirrored]


def _by_head(model: LesionClassifier, features: Features) -> Features:
    with torch.inference_mode():
        logits = model.head(torch.from_numpy(features).float()) / model.temperature
        found: Features = torch.sigmoid(logits).double().numpy()
        return found


def _begin(run: Path, config: FinetuneConfig, prepared: PreparedManifest, overlap: tuple[str, ...]) -> None:
    """Write down what runs, on what."""
    rows = [one.row for one in prepared.rows]
    counts = {"rows": len(rows), "patients": len({row.patient_id for row in rows})}
    counts["without_sha256"] = sum(row.sha256 is None for row in rows)
    values = {"task": "finetune", "ranks": launched_ranks(), "seed": config.loop.seed, "counts": counts}
    begin_record(run, {**values, "data_fingerprint": prepared.fingerprint, "allowed_overlap": list(overlap)})


def _seen(model: LesionClassifier, final: LesionClassifier, prepared: PreparedManifest) -> Studies:
    """What the starting point had seen, and the studies of this manifest."""
    hashes = prepared.voxel_hashes.values()
    before = model.studies.fine_tuning
    now = before.extended(hashes) if before else StudyHashes.make(hashes, study_key(final.state_dict()))
    return dataclasses.replace(model.studies, fine_tuning=now)

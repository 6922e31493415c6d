"""finetune: encoder + labelled manifest -> patient folds -> figures with intervals -> classifier release."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from prostate_mim.classifier import LesionClassifier
from prostate_mim.config import config_to_dict, read_config, write_config
from prostate_mim.engine.announce import announce
from prostate_mim.engine.identity import check_same_run
from prostate_mim.engine.launched import launched_rank, launched_ranks
from prostate_mim.engine.overlap import check_overlap
from prostate_mim.engine.records import begin_record, finish_record
from prostate_mim.engine.run_folder import check_run_folder, prepare_run
from prostate_mim.engine.runs import prepare_rows
from prostate_mim.files import sha256_of
from prostate_mim.finetuning.config import ClassifierConfig, FinetuneConfig, FinetuneRunConfig, without_unused
from prostate_mim.finetuning.fit import fit, plain, starting_point
from prostate_mim.finetuning.lesions import Lesions, check_targets, gather
from prostate_mim.finetuning.regions import JITTER_ZYX, Features, predict_regions, region_features
from prostate_mim.finetuning.results import FinetuneRun, figures, score, warn_of_limits, write_results
from prostate_mim.finetuning.subsets import labelled_subset
from prostate_mim.folds import assign_folds, recorded_folds
from prostate_mim.hub import Studies
from prostate_mim.hub.release import WEIGHTS
from prostate_mim.hub.studies import study_key
from prostate_mim.leaks import StudyHashes
from prostate_mim.manifest import Manifest, read_manifest
from prostate_mim.store import PreparedManifest

CONFIG = "config.toml"


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

    With ``config.test_fold`` there is one training, on the other folds, and what was tested is released.

    Args:
        model: the starting point; it is left as it is.
        manifest: CSV with labels and, at level ``lesion``, places.
        out: run folder: ``config.toml``, ``run.json``, ``results.json``, ``predictions.csv``, one folder per training,
            ``release/``.
        config: defaults if None. A ``FinetuneRunConfig`` says too under which name ``model`` is found again, for
            ``config.toml``; the rest of its ``classifier`` is taken from ``model``.
        resume: go on where an interrupted run stopped.
        store: folder of prepared studies; None keeps them in memory.
        allow_overlap: go on where one image has two ids, one person is in two folds, or ``model`` was trained on
            studies that it is tested on; every result then says so.
        picai_labels: the user's folder of that name, to find persons who are in PROSTATEx and in PI-CAI.

    Raises:
        ManifestError, VolumeError, NotFoundError: the data, overlap among it; found before training begins.
        UsageError: the configuration, too few patients for the folds, no row in ``test_fold``, a run resumed with
            another configuration, or ``out``.
        TrainingError: a loss is not finite.
    """
    config = config or FinetuneConfig()
    check_run_folder(out, resume)  # refuse it before an hour of reading, as a device that is not there
    announce(config.loop, steps=config.mode != "linear")
    start = starting_point(model, config)
    listed = read_manifest(manifest, labels=True, level=config.level)
    check_targets(listed, config)
    folds = _folds_of(listed, config)
    run, whole = prepare_run(out, resume), _whole(start, config)
    if resume:
        _check_resumed(run, whole)
    z, y, x = (n + 2 * j for n, j in zip(start.spec.size_zyx, JITTER_ZYX, strict=True))
    kept = None if store is None else Path(store)
    prepared = prepare_rows(listed, start.spec.with_size((z, y, x)), store=kept, workers=config.loop.workers)
    overlap = check_overlap(
        listed, prepared, folds, start.studies, allow=allow_overlap,
        picai_labels=None if picai_labels is None else Path(picai_labels), test_fold=config.test_fold,
    )  # fmt: skip
    if launched_rank() == 0:
        _begin(run, whole, prepared, overlap)
    lesions = gather(listed, prepared, folds, start.spec, config)
    verb = _cross_validate if config.test_fold is None else _hold_out
    found = verb(start, lesions, run, config, resume)
    scored, final = score(found.tested, found.probabilities, run / "release", overlap, config), found.final
    if config.calibrate:
        scored = dataclasses.replace(scored, temperatures=found.temperatures)
    if launched_rank() == 0:
        warn_of_limits(scored, config)
        final.details = {**start.details, "finetuning": {**plain(config), **figures(scored)}}
        final.studies = _seen(start, final, prepared, folds, config)
        release = final.save_pretrained(scored.release, name=config.name or start.name)
        write_results(run, scored, found.tested, config)
        finish_record(run, weights_sha256=sha256_of(release / WEIGHTS))
        for checkpoint in run.glob("*/checkpoint-*.safetensors"):
            checkpoint.unlink()  # they resume an unfinished run, and this one is finished
    return scored


def _folds_of(listed: Manifest, config: FinetuneConfig) -> list[int]:
    """One a row; the manifest's own where one of them is to be tested."""
    if config.test_fold is not None:
        return recorded_folds(listed, config.test_fold)
    return assign_folds(listed, config.folds, config.loop.seed)


class _Found(NamedTuple):
    """What trainings leave.

    Attributes:
        tested: the rows that were tested.
        probabilities: (N,) theirs, each by a model that saw nobody of its fold.
        final: the classifier to release.
        temperatures: of the folds' classifiers, then of ``final`` where it is none of them.
    """

    tested: Lesions
    probabilities: Features
    final: LesionClassifier
    temperatures: tuple[float, ...]


def _fit_to(
    start: LesionClassifier,
    lesions: Lesions,
    features: Features | None,
    rows: list[int],
    folder: Path,
    config: FinetuneConfig,
    resume: bool,
    label: str,
) -> LesionClassifier:
    """A classifier from the labelled share of some rows; ``label`` is its progress bar's."""
    chosen = labelled_subset(lesions.labels, lesions.patients, rows, config.fraction, config.fraction_seed)
    return fit(start, lesions, features, chosen, folder, config, resume, label)


def _cross_validate(
    start: LesionClassifier, lesions: Lesions, run: Path, config: FinetuneConfig, resume: bool
) -> _Found:
    """Every fold in turn, then all rows."""
    views = _views(start, lesions, config)
    features = views[0] if views else None
    probabilities, members, temperatures = np.zeros(len(lesions)), [], []
    folds = sorted(set(lesions.folds.tolist()))
    for number, fold in enumerate(folds, 1):
        held_out, learned = (np.flatnonzero(part).tolist() for part in (lesions.folds == fold, lesions.folds != fold))
        label = f"fold {number} of {len(folds)}"
        fitted = _fit_to(start, lesions, features, learned, run / f"fold-{fold}", config, resume, label)
        if config.mode == "linear":
            probabilities[held_out] = np.mean([_by_head(fitted, view[held_out]) for view in views], 0)
        else:
            regions = [lesions.regions[i] for i in held_out]
            probabilities[held_out] = predict_regions(fitted, regions, config.loop.device, flips=config.flips)
        members += [fitted] if config.ensemble else []
        temperatures.append(float(fitted.temperature))
    if config.ensemble:
        return _Found(lesions, probabilities, LesionClassifier.ensemble(members), tuple(temperatures))
    every = list(range(len(lesions)))
    final = _fit_to(start, lesions, features, every, run / "final", config, resume, "all studies")
    return _Found(lesions, probabilities, final, (*temperatures, float(final.temperature)))


def _hold_out(start: LesionClassifier, lesions: Lesions, run: Path, config: FinetuneConfig, resume: bool) -> _Found:
    """The test fold alone, of which the classifier was given nothing else."""
    is_tested = lesions.folds == config.test_fold
    learned, tested = (lesions.part(np.flatnonzero(part).tolist()) for part in (~is_tested, is_tested))
    views = _views(start, learned, config)
    every, features = list(range(len(learned))), views[0] if views else None
    place, label = run / f"fold-{config.test_fold}", f"without fold {config.test_fold}"
    fitted = _fit_to(start, learned, features, every, place, config, resume, label)
    probabilities = predict_regions(fitted, tested.regions, config.loop.device, flips=config.flips)
    return _Found(tested, probabilities, fitted, (float(fitted.temperature),))


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


def _whole(start: LesionClassifier, config: FinetuneConfig) -> FinetuneRunConfig:
    """The configuration with what it begins with: everything that ``config.toml`` says."""
    model = config.classifier.model if isinstance(config, FinetuneRunConfig) else ""
    spec = {name: getattr(start.spec, name) for name in ("size_zyx", "spacing_mm_zyx", "channels", "single_slice")}
    begins = ClassifierConfig(model, **spec, pooling=start.layout.pooling)
    own = {one.name: getattr(config, one.name) for one in dataclasses.fields(FinetuneConfig)}
    return FinetuneRunConfig(**{**own, "loop": without_unused(config.loop)}, classifier=begins)


def _check_resumed(run: Path, config: FinetuneRunConfig) -> None:
    """Before the run's own ``config.toml`` is written anew; runs from before there was one have none."""
    path = run / CONFIG
    if path.exists():
        before, now = config_to_dict(read_config(path, FinetuneRunConfig)), config_to_dict(config)
        for values in (before, now):  # where it lies may be told in another way; the trainings know it by its revision
            del values["classifier"]["model"]
        check_same_run(run, before, now, allow_change=None)


def _begin(run: Path, config: FinetuneRunConfig, prepared: PreparedManifest, overlap: tuple[str, ...]) -> None:
    """Write down what runs, on what, with which configuration."""
    write_config(run / CONFIG, config)
    rows = [one.row for one in prepared.rows]
    counts = {"rows": len(rows), "patients": len({row.patient_id for row in rows})}
    counts["without_sha256"] = sum(row.sha256 is None for row in rows)
    values = {"task": "finetune", "ranks": launched_ranks(), "seed": config.loop.seed, "counts": counts}
    begin_record(run, {**values, "data_fingerprint": prepared.fingerprint, "allowed_overlap": list(overlap)})


def _seen(
    model: LesionClassifier,
    final: LesionClassifier,
    prepared: PreparedManifest,
    folds: Sequence[int],
    config: FinetuneConfig,
) -> Studies:
    """What the starting point had seen, and the studies of this manifest that are not kept for a test."""
    learned = [one for one, fold in zip(prepared.rows, folds, strict=True) if fold != config.test_fold]
    hashes = dataclasses.replace(prepared, rows=tuple(learned)).voxel_hashes.values()
    before = model.studies.fine_tuning
    now = before.extended(hashes) if before else StudyHashes.make(hashes, study_key(final.state_dict()))
    return dataclasses.replace(model.studies, fine_tuning=now)

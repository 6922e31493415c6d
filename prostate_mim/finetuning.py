"""finetune: encoder + labelled manifest -> patient folds -> AUROC with intervals -> classifier release."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prostate_mim.classifier import LesionClassifier
from prostate_mim.engine.augment import Augmentation
from prostate_mim.engine.data import DrawDataset, Region
from prostate_mim.engine.distributed import launched_rank, launched_ranks, pick_device, synchronise_norms
from prostate_mim.engine.loop import Task, train
from prostate_mim.engine.overlap import check_overlap
from prostate_mim.engine.records import begin_record, finish_record
from prostate_mim.engine.runs import prepare_rows, prepare_run, region_of
from prostate_mim.engine.settings import LoopConfig
from prostate_mim.engine.step import Batch, StepLoss
from prostate_mim.engine.tracker import progress_bar
from prostate_mim.errors import UsageError
from prostate_mim.files import make_folder, sha256_of, write_text
from prostate_mim.folds import assign_folds
from prostate_mim.hub import Studies
from prostate_mim.hub.release import WEIGHTS
from prostate_mim.hub.studies import study_key
from prostate_mim.leaks import StudyHashes
from prostate_mim.manifest import read_manifest
from prostate_mim.metrics import Auroc, auroc_interval
from prostate_mim.nets.depth import parameter_depths
from prostate_mim.preprocess import normalise
from prostate_mim.store import PreparedManifest

Features = np.ndarray[Any, np.dtype[np.float64]]

MODES = ("linear", "full")
_JITTER_ZYX = (1, 6, 6)


@dataclass(frozen=True)
class FinetuneConfig:
    """What ``finetune`` does.

    Attributes:
        mode: ``linear`` (frozen encoder, logistic regression) or ``full`` (the linear head first, then all weights).
        folds: patient-grouped folds, where the manifest does not give its own.
        epochs: passes over the training lesions in mode ``full``.
        inverse_penalty: C of the logistic regression; smaller is smoother.
        name: of the release; the encoder's name with ``.classifier`` if None.
        augmentation: of crops in mode ``full``, on the device.
        loop: batch, learning rate, device and so on; its ``steps`` follow from ``epochs``.
    """

    mode: str = "linear"
    folds: int = 5
    epochs: int = 10
    inverse_penalty: float = 0.1
    name: str | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(learning_rate=2e-4, warmup=10))

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UsageError(f"mode {self.mode!r} is unknown; choose {' or '.join(MODES)}")
        if self.epochs < 1:
            raise UsageError(f"epochs is {self.epochs}; it must be at least 1")


@dataclass(frozen=True)
class FinetuneRun:
    """What fine-tuning found.

    Attributes:
        folds: one AUROC per fold, on lesions of patients it was not trained on.
        pooled: AUROC of all out-of-fold probabilities together.
        release: the classifier trained on every row.
        labels, probabilities: out-of-fold, one per manifest row.
        allowed_overlap: why the figures may flatter: what ``allow_overlap`` let pass.
    """

    folds: tuple[Auroc, ...]
    pooled: Auroc
    release: Path
    labels: tuple[int, ...]
    probabilities: tuple[float, ...]
    allowed_overlap: tuple[str, ...] = ()

    @property
    def mean(self) -> float | None:
        """Mean of the folds' AUROCs that are defined."""
        defined = [fold.value for fold in self.folds if fold.value is not None]
        return sum(defined) / len(defined) if defined else None


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
        manifest: CSV with labels and lesion places.
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
    listed = read_manifest(manifest, labels=True)
    folds = assign_folds(listed, config.folds, config.loop.seed)
    run = prepare_run(out, resume)
    z, y, x = (n + 2 * j for n, j in zip(model.spec.size_zyx, _JITTER_ZYX, strict=True))
    kept = None if store is None else Path(store)
    prepared = prepare_rows(listed, model.spec.with_size((z, y, x)), store=kept, workers=config.loop.workers)
    overlap = check_overlap(
        listed, prepared, folds, model.studies, allow=allow_overlap,
        picai_labels=None if picai_labels is None else Path(picai_labels),
    )  # fmt: skip
    if launched_rank() == 0:
        _begin(run, config, prepared, overlap)
    regions = [region_of(one) for one in prepared.rows]
    features = region_features(model, regions, config.loop.device)
    probabilities = np.zeros(len(regions))
    for fold in sorted(set(folds)):
        held_out = [i for i, own in enumerate(folds) if own == fold]
        training = [i for i, own in enumerate(folds) if own != fold]
        fitted = _fit(model, regions, features, training, run / f"fold-{fold}", config, resume)
        if config.mode == "linear":
            probabilities[held_out] = _head_probabilities(fitted, features[held_out])
        else:
            probabilities[held_out] = predict_regions(fitted, [regions[i] for i in held_out], config.loop.device)
    final = _fit(model, regions, features, list(range(len(regions))), run / "final", config, resume)
    patients = [row.patient_id for row in listed.rows]
    scored = _score([region.label for region in regions], probabilities, patients, folds, run / "release")
    scored = dataclasses.replace(scored, allowed_overlap=overlap)
    if launched_rank() == 0:
        final.details = {**model.details, "finetuning": {**_plain(config), **_figures(scored)}}
        final.studies = _seen(model, final, prepared)
        release = final.save_pretrained(scored.release, name=config.name or model.name)
        _write_results(run, scored, folds)
        finish_record(run, weights_sha256=sha256_of(release / WEIGHTS))
        for checkpoint in run.glob("*/checkpoint-*.safetensors"):
            checkpoint.unlink()  # they resume an unfinished run, and this one is finished
    return scored


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


def _fit(
    model: LesionClassifier,
    regions: list[Region],
    features: Features,
    rows: list[int],
    folder: Path,
    config: FinetuneConfig,
    resume: bool,
) -> LesionClassifier:
    """A copy of ``model`` fitted to some rows: linear head, then all weights if the mode says so."""
    fitted = copy.deepcopy(model)
    training = [regions[i] for i in rows]
    _fit_head(fitted, features[rows], np.asarray([region.label for region in training]), config)
    if config.mode == "linear":
        return fitted.eval()
    make_folder(folder)
    steps = config.epochs * math.ceil(len(training) / config.loop.batch)
    loop = dataclasses.replace(config.loop, steps=steps)
    dataset = DrawDataset(training, model.spec, _JITTER_ZYX, loop.seed)
    depths = {f"encoder.encoder.{name}": depth for name, depth in parameter_depths(model.encoder.encoder).items()}
    identity = {"task": "finetune", "rows": rows, "start": model.encoder.revision, **_plain(config)}
    weights = train(
        synchronise_norms(copy.deepcopy(fitted)), dataset, Task(_lesion_loss, depths=depths, label=folder.name), loop,
        folder, identity=identity, augmentation=config.augmentation, resume=resume,
    )  # fmt: skip
    fitted.load_state_dict(weights, strict=True)
    return fitted.eval()


def _lesion_loss(model: nn.Module, batch: Batch, step: int) -> StepLoss:
    logits = model(batch["voxels"])
    loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), batch["label"].float())
    return StepLoss(loss, float(len(logits)))


def _fit_head(
    model: LesionClassifier, features: Features, labels: np.ndarray[Any, Any], config: FinetuneConfig
) -> None:
    """Standardise the features and set the head to a logistic regression on them."""
    from sklearn.linear_model import LogisticRegression

    mean, scale = features.mean(0), features.std(0) + 1e-6
    fitted = LogisticRegression(C=config.inverse_penalty, max_iter=1000).fit((features - mean) / scale, labels)
    with torch.no_grad():
        model.head.mean.copy_(torch.from_numpy(mean))
        model.head.scale.copy_(torch.from_numpy(scale))
        model.head.linear.weight.copy_(torch.from_numpy(fitted.coef_))
        model.head.linear.bias.copy_(torch.from_numpy(fitted.intercept_))


def _head_probabilities(model: LesionClassifier, features: Features) -> Features:
    with torch.inference_mode():
        return torch.sigmoid(model.head(torch.from_numpy(features).float())).double().numpy()


def region_features(model: LesionClassifier, regions: Sequence[Region], device: str) -> Features:
    """(N, C) float64 features of the middle crop of each region, without augmentation."""
    return np.concatenate([f.double().cpu().numpy() for f in _run(model, model.features, regions, device)])


def predict_regions(model: LesionClassifier, regions: Sequence[Region], device: str) -> Features:
    """(N,) probabilities of the middle crop of each region."""
    return np.concatenate([torch.sigmoid(f).double().cpu().numpy() for f in _run(model, model, regions, device)])


@torch.inference_mode()
def _run(model: LesionClassifier, call: Any, regions: Sequence[Region], device: str, batch: int = 8) -> list[Tensor]:
    where = pick_device(device)
    model.eval().to(where)
    results = []
    with progress_bar() as bar:
        task = bar.add_task("reading lesions with the network", total=len(regions))
        for first in range(0, len(regions), batch):
            crops = [_middle(region, model) for region in regions[first : first + batch]]
            results.append(call(torch.stack(crops).to(where)))
            bar.advance(task, len(crops))
    model.cpu()
    return results


def _middle(region: Region, model: LesionClassifier) -> Tensor:
    size = model.spec.size_zyx
    z, y, x = (slice(j, j + n) for j, n in zip(_JITTER_ZYX, size, strict=True))
    voxels, inside = region.study.intensities((z, y, x)), region.study.inside((z, y, x))
    return torch.from_numpy(normalise(voxels, inside, model.spec, f"row {region.row}"))[None]


def _score(
    labels: list[int], probabilities: Features, patients: list[str], folds: list[int], release: Path
) -> FinetuneRun:
    def part(chosen: list[int]) -> Auroc:
        return auroc_interval(
            [labels[i] for i in chosen], [float(probabilities[i]) for i in chosen], [patients[i] for i in chosen]
        )

    each = [part([i for i, own in enumerate(folds) if own == fold]) for fold in sorted(set(folds))]
    pooled = part(list(range(len(labels))))
    return FinetuneRun(tuple(each), pooled, release, tuple(labels), tuple(float(p) for p in probabilities))


def _figures(run: FinetuneRun) -> dict[str, Any]:
    return {
        "auroc_folds": [dataclasses.asdict(fold) for fold in run.folds],
        "auroc_pooled": dataclasses.asdict(run.pooled),
        "auroc_mean": run.mean,
        "allowed_overlap": list(run.allowed_overlap),
    }


def _write_results(run: Path, scored: FinetuneRun, folds: list[int]) -> None:
    write_text(run / "results.json", json.dumps(_figures(scored), indent=2) + "\n")
    lines = ["row,fold,label,probability"]
    for row, (fold, label, probability) in enumerate(zip(folds, scored.labels, scored.probabilities, strict=True), 1):
        lines.append(f"{row},{fold},{label},{probability:.6f}")
    write_text(run / "predictions.csv", "\n".join(lines) + "\n")


def _plain(config: FinetuneConfig) -> dict[str, Any]:
    values = dataclasses.asdict(config)
    del values["loop"]
    return values

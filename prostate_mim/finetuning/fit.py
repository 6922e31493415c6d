"""One classifier from some rows: the linear head, then, as the mode says, the attentive head or all weights."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prostate_mim.classifier import LesionClassifier
from prostate_mim.engine.data import DrawDataset
from prostate_mim.engine.distributed import synchronise_norms
from prostate_mim.engine.early import EarlyStop
from prostate_mim.engine.loop import Task, train
from prostate_mim.engine.seeding import derive_seed
from prostate_mim.errors import UsageError
from prostate_mim.files import make_folder
from prostate_mim.finetuning.config import FinetuneConfig
from prostate_mim.finetuning.crossfit import fit_rows
from prostate_mim.finetuning.lesions import Lesions
from prostate_mim.finetuning.linear import LinearProbe, fit_temperature
from prostate_mim.finetuning.objective import Objective, Trained
from prostate_mim.finetuning.regions import JITTER_ZYX, Features, HeldOut
from prostate_mim.finetuning.subsets import inner_folds
from prostate_mim.nets.depth import parameter_depths

_NEVER = -30.0  # logit of a grade that no training row reaches


def starting_point(model: LesionClassifier, config: FinetuneConfig) -> LesionClassifier:
    """The given model where it has the head that the mode and the target need; else its encoder with a new one.

    Raises:
        UsageError: it is an ensemble.
    """
    if model.others:
        raise UsageError("the model is an ensemble; fine-tune from an encoder, or from a classifier of one member")
    head = {"linear": "linear", "attentive": "attentive"}.get(config.mode, model.layout.head)
    if (head, config.target) == (model.layout.head, model.layout.target):
        return model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.loop.seed, "head"))
        made = LesionClassifier(
            model.encoder, model.spec, head=head, pooling=model.layout.pooling, target=config.target
        )
    made.name, made.details, made.studies = model.name, model.details, model.studies
    return made


def fit(
    model: LesionClassifier,
    lesions: Lesions,
    features: Features | None,
    rows: list[int],
    folder: Path,
    config: FinetuneConfig,
    resume: bool,
    label: str = "",
) -> LesionClassifier:
    """A copy of ``model`` fitted to some rows, and to nothing else.

    Args:
        model: with the right head (``starting_point``).
        features: (N, F) of all rows, for a linear head; None for an attentive one.
        rows: places in ``lesions``. With patience, or calibration of a trained network, one inner fold of their
            patients is held out of the training and decides both.
        folder: of this training.
        label: what its progress bar calls it; the folder's name if empty.

    Raises:
        UsageError: too few patients to hold some out, or one class only.
        TrainingError: a loss is not finite.
    """
    fitted = copy.deepcopy(model)
    fitted.temperature.fill_(1)
    learned, held = rows, list[int]()
    if config.mode != "linear" and (config.patience or config.calibrate):
        learned, held = split_inner(lesions, rows, config)
    if features is not None:
        set_head(fitted, fit_rows(features, lesions.targets, lesions.patients, learned, config, config.loop.seed))
        if config.mode == "linear":
            return fitted.eval()
    fitted.temperature.fill_(1)  # that of the linear head, which is trained on
    return _train(fitted, lesions, learned, held, folder, config, resume, label or folder.name).eval()


def split_inner(lesions: Lesions, rows: Sequence[int], config: FinetuneConfig) -> tuple[list[int], list[int]]:
    """Rows to learn from, and rows of other patients to choose on: the first inner fold of ``rows``.

    Raises:
        UsageError: a class has one patient only.
    """
    folds = inner_folds(
        lesions.labels[list(rows)], [lesions.patients[row] for row in rows], config.inner_folds, config.loop.seed
    )
    if folds.max() == 0:
        raise UsageError(
            f"{len(rows)} training rows have a class of one patient, so that no inner fold can be held out; leave out "
            "patience and calibrate, or use more labels"
        )
    pairs = list(zip(rows, folds.tolist(), strict=True))
    return [row for row, fold in pairs if fold], [row for row, fold in pairs if not fold]


def set_head(model: LesionClassifier, probe: LinearProbe) -> None:
    """Copy a probe into the classifier's linear head."""
    with torch.no_grad():
        model.head.mean.copy_(torch.from_numpy(probe.mean))
        model.head.scale.copy_(torch.from_numpy(probe.scale))
        model.head.linear.weight.copy_(torch.from_numpy(probe.weight)[None])
        model.head.linear.bias.fill_(probe.bias)
        if model.head.offsets is not None:
            biases = np.full(len(model.head.offsets), _NEVER)
            biases[: len(probe.cumulative)] = probe.cumulative
            model.head.offsets.copy_(torch.from_numpy(biases - probe.bias))
        model.temperature.fill_(probe.temperature)


def _train(
    fitted: LesionClassifier,
    lesions: Lesions,
    learned: list[int],
    held: list[int],
    folder: Path,
    config: FinetuneConfig,
    resume: bool,
    label: str,
) -> LesionClassifier:
    """The head with a frozen encoder, and then all weights, as the configuration says."""
    objective = Objective.of(lesions, learned, config)
    trained = Trained(fitted, len(lesions.zone_names) if config.zone_auxiliary else 0)
    watch = None
    if held:
        regions = [lesions.regions[row] for row in held]
        watch = HeldOut(copy.deepcopy(trained), regions, fitted.spec, config.loop.device)
    frozen = config.epochs if config.mode == "attentive" else config.freeze_epochs
    phases = [(folder.with_name(f"{folder.name}-frozen"), frozen, True), (folder, config.epochs - frozen, False)]
    phases = [phase for phase in phases if phase[1]]
    weights: dict[str, Tensor] = {}
    for number, (place, epochs, still) in enumerate(phases):
        fitted.freeze(still)
        last = number + 1 == len(phases)
        named = f"{label}, frozen" if still else label
        weights = _phase(
            trained, lesions, learned, objective, watch if last else None, place, epochs, config, resume, named
        )  # fmt: skip
        trained.load_state_dict(weights, strict=True)
    fitted.freeze(False)
    if watch is not None and config.calibrate:
        logits = watch.outputs(weights)[0][:, fitted.head.reported].double().numpy()
        fitted.temperature.fill_(fit_temperature(logits, lesions.labels[held]))
    return fitted


def _phase(
    trained: Trained,
    lesions: Lesions,
    learned: list[int],
    objective: Objective,
    watch: HeldOut | None,
    folder: Path,
    epochs: int,
    config: FinetuneConfig,
    resume: bool,
    label: str,
) -> dict[str, Tensor]:
    """Weights after some epochs; with ``watch``, the best among those at the ends of epochs."""
    make_folder(folder)
    classifier, early = trained.classifier, None
    each = math.ceil(len(learned) / config.loop.batch)
    loop = dataclasses.replace(config.loop, steps=epochs * each)
    if watch is not None and config.patience:
        rows = watch.rows
        early = EarlyStop(
            lambda weights: float(objective.of_outputs(watch.outputs(weights), rows).loss), each, config.patience
        )
    dataset = DrawDataset([lesions.regions[row] for row in learned], classifier.spec, JITTER_ZYX, loop.seed)
    depths = {
        f"classifier.encoder.encoder.{name}": depth
        for name, depth in parameter_depths(classifier.encoder.encoder).items()
    }
    return train(
        synchronise_norms(copy.deepcopy(trained)), dataset,
        Task(objective, depths=depths, label=label, early=early), loop, folder,
        identity={"task": "finetune", "rows": learned, "start": classifier.encoder.revision, **plain(config)},
        augmentation=config.augmentation, resume=resume, allow_change=None,
    )  # fmt: skip


def plain(config: FinetuneConfig) -> dict[str, Any]:
    """The configuration without that of the loop, which the loop writes down itself, and without where files lie."""
    values = dataclasses.asdict(config)
    del values["loop"]
    values.pop("classifier", None)  # of a FinetuneRunConfig: the release tells it in its own way
    if config.test_fold is None:  # as it was before there was a choice
        del values["test_fold"]
    return values

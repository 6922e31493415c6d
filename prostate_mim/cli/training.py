"""Commands that train, and what they leave: pretrain, finetune, report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from prostate_mim.cli import options as o
from prostate_mim.console import show
from prostate_mim.engine.run_folder import check_run_folder
from prostate_mim.errors import NotFoundError


def pretrain_command(
    manifest: o.Studies,
    out: o.Out,
    config: o.RunConfig = None,
    store: o.Store = None,
    skip_bad: o.SkipBad = False,
    architecture: o.Architecture = None,
    name: o.Name = None,
    steps: o.Steps = None,
    batch: o.Batch = None,
    accumulate: o.Accumulate = None,
    learning_rate: o.LearningRate = None,
    objective: o.Objective = None,
    begin: o.Begin = None,
    begin_source: o.BeginSource = None,
    method: o.MethodName = None,
    strategy: o.Strategy = None,
    mask_ratio: o.MaskRatio = None,
    target: o.Target = None,
    decoder: o.Decoder = None,
    loss: o.Loss = None,
    block_mm: o.BlockMm = None,
    size: o.Size = None,
    masks_per_crop: o.MasksPerCrop = None,
    ema: o.Ema = None,
    compiled: o.Compiled = None,
    precision: o.Precision = None,
    workers: o.LoaderWorkers = None,
    loader_timeout: o.LoaderTimeout = None,
    device: o.Device = None,
    seed: o.RunSeed = None,
    checkpoint_every: o.CheckpointEvery = None,
    keep_last: o.KeepLast = None,
    health_every: o.HealthEvery = None,
    watch: o.Watch = None,
    leave_out_fold: o.LeaveOutFold = None,
    trackers: o.Trackers = None,
    settings: o.Settings = None,
    resume: o.Resume = False,
    allow_change: o.AllowChange = None,
    as_json: o.Json = False,
) -> None:
    """Pretrain an encoder by masked image modelling, or contrastively."""
    _pretrain(dict(locals()))  # first of all: only the parameters, which settings.PRETRAIN knows by name


def _pretrain(given: dict[str, Any]) -> None:
    """The command, from its parameters by name."""
    from prostate_mim.cli.settings import pretrain_config

    check_run_folder(given["out"], given["resume"])  # before torch is imported, which takes seconds
    config = pretrain_config(given)
    from prostate_mim.pretraining import pretrain

    release = pretrain(
        given["manifest"], given["out"], config, resume=given["resume"], store=given["store"],
        skip_bad=given["skip_bad"], allow_change=frozenset(given["allow_change"] or ()),
    )  # fmt: skip
    _show_pretraining({"release": str(release)}, given["out"], given["as_json"])


def finetune_command(
    manifest: o.Lesions,
    out: o.Out,
    config: o.RunConfig = None,
    store: o.Store = None,
    model: o.StartModel = None,
    mode: o.Mode = None,
    target: o.TargetColumn = None,
    level: o.Level = None,
    aggregate: o.Aggregate = None,
    folds: o.Folds = None,
    test_fold: o.TestFold = None,
    fraction: o.Fraction = None,
    fraction_seed: o.FractionSeed = None,
    penalties: o.Penalties = None,
    inner_folds: o.InnerFolds = None,
    epochs: o.Epochs = None,
    freeze_epochs: o.FreezeEpochs = None,
    patience: o.Patience = None,
    batch: o.Batch = None,
    accumulate: o.Accumulate = None,
    learning_rate: o.FullLearningRate = None,
    layer_decay: o.LayerDecay = None,
    ema: o.Ema = None,
    loss: o.LesionLoss = None,
    class_weight: o.ClassWeight = None,
    zone_auxiliary: o.ZoneAuxiliary = None,
    calibrate: o.Calibrate = None,
    flips: o.Flips = None,
    ensemble: o.Ensemble = None,
    size: o.ClassifierSize = None,
    channels: o.Channels = None,
    single_slice: o.SingleSlice = None,
    pooling: o.Pooling = None,
    name: o.ClassifierName = None,
    precision: o.Precision = None,
    workers: o.LoaderWorkers = None,
    loader_timeout: o.LoaderTimeout = None,
    device: o.Device = None,
    seed: o.RunSeed = None,
    trackers: o.Trackers = None,
    settings: o.Settings = None,
    resume: o.Resume = False,
    picai_labels: o.PicaiLabels = None,
    allow_overlap: o.AllowOverlap = False,
    as_json: o.Json = False,
) -> None:
    """Cross-validate a lesion classifier over patients, then train it on everything.

    RUN/config.toml of any run lists the keys of --config and --set; its section classifier is what is begun with.
    """
    _finetune(dict(locals()))  # as in pretrain_command


def _finetune(given: dict[str, Any]) -> None:
    """The command, from its parameters by name."""
    from prostate_mim.cli.settings import finetune_config

    check_run_folder(given["out"], given["resume"])  # as in pretrain
    config = finetune_config(given)
    from prostate_mim.classifier import LesionClassifier
    from prostate_mim.encoder import PreMIM
    from prostate_mim.finetuning import finetune
    from prostate_mim.finetuning.results import summary

    begin, encoder = config.classifier, PreMIM.from_pretrained(config.classifier.model)
    model = LesionClassifier(encoder, begin.spec_of(encoder.spec), pooling=begin.pooling_at(config.level))
    run = finetune(
        model, given["manifest"], given["out"], config, resume=given["resume"], store=given["store"],
        allow_overlap=given["allow_overlap"], picai_labels=given["picai_labels"],
    )  # fmt: skip
    if given["as_json"]:
        show(json.loads((given["out"] / "results.json").read_text()) | {"release": str(run.release)}, True)
        return
    show(summary(run, config), False)


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a pretraining run, finished or not.")], as_json: o.Json = False
) -> None:
    """Write RUN/report.html anew from what the run has written: curves, pictures, configuration, hardware."""
    from prostate_mim.health.report import write_report

    if not (run / "metrics.jsonl").exists():
        raise NotFoundError(f"{run}: no run is here (no metrics.jsonl); give the --out folder of a pretraining")
    _show_pretraining({"report": str(write_report(run))}, run, as_json)


def _show_pretraining(made: dict[str, str], run: Path, as_json: bool) -> None:
    """What was written, and the verdict on hidden tissue where the run has looked at it."""
    from prostate_mim.health.verdict import read_verdict

    verdict = read_verdict(run)
    if verdict is None:
        show(made, as_json)
    elif as_json:
        show({**made, "hidden_tissue": verdict.to_dict()}, True)
    else:
        show({**made, verdict.subject: verdict.text}, False)

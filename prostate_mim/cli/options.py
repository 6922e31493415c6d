"""Options of the commands, each written once.

Options that set a value of a configuration are None when they are not given: the default is the configuration's, and
the help text only repeats it (a test compares the two).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

DEFAULT_MODEL = "resenc-s.mim-t2w"


def option(*names: str, help: str, default: str, **more: Any) -> Any:
    """An option whose default is no value of its own, said in its help: typer puts such words in brackets twice.

    Args:
        names: as for ``typer.Option``.
        help: a sentence.
        default: what happens without it, in words.
        more: as for ``typer.Option``.
    """
    return Option(*names, help=f"{help} Default: {default}.", show_default=False, **more)


def _group(title: str) -> Callable[..., Any]:
    """``option`` under a heading of its own in ``--help``."""

    def made(*names: str, default: str = "", **more: Any) -> Any:
        if default:
            return option(*names, default=default, rich_help_panel=title, **more)
        return Option(*names, rich_help_panel=title, **more)

    return made


_data, _network, _masking, _loop = map(_group, ("Data", "Network and input", "Masking", "Training"))
_evaluation, _machine, _output = map(_group, ("Evaluation", "Machine", "What the run writes"))

# ------------------------------------------------------------------------------------------ of several commands
Json = Annotated[bool, Option("--json", help="Print JSON on stdout; progress stays on stderr.")]
Out = Annotated[Path, Option("--out", help="Folder for everything the run writes.")]
Seed = Annotated[int, Option(help="Seed of everything random.")]
Resume = Annotated[bool, Option("--resume", help="Go on where an interrupted run stopped.")]
Model = Annotated[str, Option("--model", help="Bundled name, release or run folder, or org/name@revision.")]
NamedModel = Annotated[str, Argument(help="As --model elsewhere; the bundled encoder if left out.")]
Store = Annotated[Path | None, _data("--store", help="Folder of prepared studies ('data prepare'); else in memory.")]
SkipBad = Annotated[bool, Option("--skip-bad", help="Go on without unusable studies; they are reported.")]
Spacing = Annotated[str, option(help="Of a bare array, mm, 'z y x'.", default="the file's own")]
Position = Annotated[str, option(help="Lesion, 'x y z' in mm, LPS.", default="the centre of the image")]
Classifier = Annotated[
    str, Option("--model", help="A fine-tuned classifier: release or run folder, or hub name. Required.")
]
Strict = Annotated[bool, Option("--strict", help="Refuse an image that does not look like axial T2w of a prostate.")]
StudyFile = Annotated[Path | None, Argument(help="A study file or DICOM folder.")]
Rows = Annotated[Path | None, Option("--manifest", help="CSV of studies or lesions.")]

# ------------------------------------------------------------------------------------- of pretrain and finetune
Batch = Annotated[int | None, _loop(min=1, help="Crops per optimiser step.", default="8")]
Accumulate = Annotated[int | None, _loop(min=1, help="Micro-batches a step's crops come in.", default="1")]
Precision = Annotated[str | None, _machine(help="fp32 or bf16.", default="fp32")]
Ema = Annotated[
    float | None, _loop(help="Momentum of the average of weights that is published; 0 is none.", default="0.0")
]
LoaderWorkers = Annotated[int | None, _machine("--workers", min=0, help="Loader processes.", default="0")]
LoaderTimeout = Annotated[
    float | None, _machine(help="Seconds to wait for a loader process before the run stops.", default="120.0")
]
Device = Annotated[str | None, _machine(help="auto, cpu or cuda (cuda fails where there is none).", default="auto")]
RunSeed = Annotated[int | None, _loop("--seed", help="Seed of everything random.", default="0")]
Trackers = Annotated[
    list[str] | None,
    _output("--tracker", help="tensorboard, mlflow, wandb or none; repeatable.", default="tensorboard"),
]
RunConfig = Annotated[
    Path | None,
    Option("--config", help="TOML file of the run, as RUN/config.toml; options given beside it take precedence."),
]
Settings = Annotated[
    list[str] | None, Option("--set", help="Any other value of the configuration: loop.clip_norm=1.0; repeatable.")
]

# ------------------------------------------------------------------------------------------------- of pretrain
Studies = Annotated[Path, Option("--manifest", help="CSV of studies.")]
Architecture = Annotated[str | None, _network(help="Encoder to train.", default="resenc-s")]
Name = Annotated[str | None, _output(help="Name of the release.", default="ARCHITECTURE.OBJECTIVE, e.g. resenc-s.mim")]
Steps = Annotated[int | None, _loop(min=1, help="Optimiser steps in all.", default="1000")]
LearningRate = Annotated[float | None, _loop(help="Peak of the schedule.", default="0.003")]
Objective = Annotated[str | None, _network(help="mim (masked image modelling) or simclr (contrastive).", default="mim")]
Masks = Annotated[
    list[str] | None,
    Option("--mask", help="name=file: gland, lesion or zone (1 PZ, 2 TZ), for a model that looks at it; repeatable."),
]
Begin = Annotated[
    str | None,
    _network(
        help="Weights before the first step: random, imagenet, imagenet-centre, medicalnet or release.",
        default="random",
    ),
]
BeginSource = Annotated[
    str | None,
    _network(help="The release (name or folder), or the file of weights, that --begin needs.", default="none"),
]
MethodName = Annotated[
    str | None,
    _masking(
        "--method",
        help="fcmae, spark, topdown, zerofill, simmim, a2mim or genesis; replaces the whole section of --config.",
        default="fcmae",
    ),
]
_OWN = "the method's"
Strategy = Annotated[str | None, _masking(help="What is hidden: random, column, ...", default=_OWN)]
MaskRatio = Annotated[str | None, _masking(help="Share hidden: 0.6, 0.5..0.9 or 0.6|0.75.", default=_OWN)]
Target = Annotated[str | None, _masking(help="What is reconstructed: block, voxels, hog, ...", default=_OWN)]
Decoder = Annotated[str | None, _network(help="light, topdown, unet or linear.", default=_OWN)]
Loss = Annotated[str | None, _masking(help="l2, l1, ssim or focal_frequency.", default=_OWN)]
BlockMm = Annotated[
    str | None, _masking(help="Hidden block, mm, 'z y x'; inf is the whole crop.", default="12.0 8.0 8.0")
]
Size = Annotated[str | None, _network(help="Crop, voxels, 'z y x'.", default="16 96 96")]
MasksPerCrop = Annotated[
    int | None, _masking(min=1, help="How often each loaded crop is used, hidden anew.", default="1")
]
CheckpointEvery = Annotated[int | None, _output(min=1, help="Steps between checkpoints.", default="100")]
KeepLast = Annotated[int | None, _output(min=1, help="Newest checkpoints to keep.", default="2")]
Compiled = Annotated[
    bool | None, _network("--compile/--no-compile", help="Compile the network with torch.compile.", default="off")
]
HealthEvery = Annotated[
    int | None, _output(min=0, help="Steps between looks at what is learnt; 0 is off.", default="100")
]
Watch = Annotated[
    str | None, _data(help="Labelled manifest that the frozen encoder is probed on meanwhile.", default="none")
]
LeaveOutFold = Annotated[
    int | None,
    _data(min=0, help="Number in the manifest's column fold: its rows are not learnt from.", default="none"),
]
AllowChange = Annotated[
    list[str] | None,
    Option("--allow-change", help="Key of the configuration that --resume may change: loop.steps; one option a key."),
]

# ------------------------------------------------------------------------------------------------- of finetune
Lesions = Annotated[Path, Option("--manifest", help="CSV of lesions with labels.")]
Mode = Annotated[
    str | None,
    _network(help="linear or attentive (frozen encoder, linear or attentive probe), or full.", default="linear"),
]
TargetColumn = Annotated[
    str | None, _data("--target", help="label (0 or 1), or isup (0 to 5, ordinal).", default="label")
]
Level = Annotated[str | None, _data(help="lesion: rows have a place; study: a row is all of it.", default="lesion")]
Aggregate = Annotated[str | None, _evaluation(help="From lesions to patients: max or noisy-or.", default="max")]
Folds = Annotated[int | None, _evaluation(min=2, help="Patient-grouped folds.", default="5")]
TestFold = Annotated[
    int | None,
    _evaluation(
        min=0,
        help="Number in the manifest's column fold: train on the other folds, test on this one only, release that.",
        default="none",
    ),
]
StartModel = Annotated[
    str | None,
    _network("--model", help="Bundled name, release or run folder, or org/name@revision.", default=DEFAULT_MODEL),
]
Epochs = Annotated[int | None, _loop(min=1, help="Passes over the lesions in modes attentive and full.", default="10")]
FullLearningRate = Annotated[
    float | None,
    _loop("--learning-rate", help="Peak of the schedule in modes attentive and full.", default="0.0002"),
]
Penalties = Annotated[
    str | None,
    _loop(help="Values of C of the logistic regression.", default="0.0001 0.001 0.01 0.1 1.0 10.0"),
]
InnerFolds = Annotated[int | None, _evaluation(min=1, help="Folds of the training patients to choose on.", default="3")]
FreezeEpochs = Annotated[int | None, _loop(min=0, help="First epochs of mode full with a frozen encoder.", default="0")]
Patience = Annotated[
    int | None,
    _loop(min=0, help="Epochs without a lower loss on an inner fold before it stops; 0 is never.", default="0"),
]
LesionLoss = Annotated[str | None, _loop("--loss", help="bce or focal.", default="bce")]
ClassWeight = Annotated[
    bool | None, _loop("--class-weight/--no-class-weight", help="Both classes count the same.", default="off")
]
ZoneAuxiliary = Annotated[
    float | None, _loop(min=0, help="Weight of the zone as a second target; 0 is none.", default="0.0")
]
Flips = Annotated[
    bool | None, _evaluation("--flips/--no-flips", help="Predict the left-right mirror image too.", default="off")
]
Ensemble = Annotated[
    bool | None,
    _evaluation("--ensemble/--no-ensemble", help="Release the folds' models, not one of all rows.", default="off"),
]
Calibrate = Annotated[
    bool | None, _evaluation("--calibrate/--no-calibrate", help="Fit a temperature on inner folds.", default="off")
]
Fraction = Annotated[float | None, _data(help="Share of the training patients whose labels are used.", default="1.0")]
FractionSeed = Annotated[int | None, _data(help="Who they are.", default="0")]
Pooling = Annotated[
    str | None,
    _network(help="centre (of the crop) or mean (all of it).", default="centre; mean at --level study"),
]
Channels = Annotated[str | None, _network(help="t2w, then masks: gland, lesion, pz, tz.", default="the encoder's")]
SingleSlice = Annotated[str | None, _network(help="What a 2D crop becomes: pad or repeat.", default="the encoder's")]
AllowOverlap = Annotated[
    bool, _data("--allow-overlap", help="Go on where patients or studies are on both sides; every result says so.")
]
PicaiLabels = Annotated[
    Path | None, _data("--picai-labels", help="Your picai_labels folder: who is in PROSTATEx and in PI-CAI.")
]
LayerDecay = Annotated[
    float | None,
    _loop(help="Factor on the learning rate for each resolution further from the head.", default="1.0"),
]
ClassifierSize = Annotated[str | None, _network("--size", help="Crop, voxels, 'z y x'.", default="the encoder's")]
ClassifierName = Annotated[
    str | None, _output("--name", help="Name of the release.", default="the encoder's with .classifier")
]

# ----------------------------------------------------------------------------------------- of predict and embed
_archive = _group("With --engine ray")
Engine = Annotated[
    str, _archive(help="ray: many processes on one or more machines, parquet out.", default="one process")
]
ArchiveWorkers = Annotated[int | None, _archive("--workers", min=1, help="Processes.", default="2")]
ShardRows = Annotated[int | None, _archive(min=1, help="Rows a parquet file.", default="32")]
Attempts = Annotated[int | None, _archive(min=1, help="Workers a row may kill before it is a failure.", default="3")]

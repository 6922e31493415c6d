"""Options of the commands, each written once.

Options that set a value of a configuration are None when they are not given: the default is the configuration's, and
``show_default`` only repeats it in the help text (a test compares the two).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

DEFAULT_MODEL = "resenc-s.mim-t2w"

# ------------------------------------------------------------------------------------------ of several commands
Json = Annotated[bool, Option("--json", help="Print JSON on stdout; progress stays on stderr.")]
Out = Annotated[Path, Option("--out", help="Folder for everything the run writes.")]
Seed = Annotated[int, Option(help="Seed of everything random.")]
Resume = Annotated[bool, Option("--resume", help="Go on where an interrupted run stopped.")]
Model = Annotated[str, Option("--model", help="Bundled name, release or run folder, or org/name@revision.")]
NamedModel = Annotated[str, Argument(help="As --model elsewhere; the bundled encoder if left out.")]
Store = Annotated[Path | None, Option("--store", help="Folder of prepared studies ('data prepare'); else in memory.")]
SkipBad = Annotated[bool, Option("--skip-bad", help="Go on without unusable studies; they are reported.")]
Spacing = Annotated[str, Option(help="Of a bare array, mm, 'z y x'.")]
StudyFile = Annotated[Path | None, Argument(help="A study file or DICOM folder.")]
Rows = Annotated[Path | None, Option("--manifest", help="CSV of studies or lesions.")]

# ------------------------------------------------------------------------------------- of pretrain and finetune
Batch = Annotated[int | None, Option(min=1, help="Crops per optimiser step.", show_default="8")]
Accumulate = Annotated[int | None, Option(min=1, help="Micro-batches a step's crops come in.", show_default="1")]
Precision = Annotated[str | None, Option(help="fp32 or bf16.", show_default="fp32")]
Ema = Annotated[
    float | None, Option(help="Momentum of the average of weights that is published; 0 is none.", show_default="0.0")
]
LoaderWorkers = Annotated[int | None, Option("--workers", min=0, help="Loader processes.", show_default="0")]
LoaderTimeout = Annotated[
    float | None, Option(help="Seconds to wait for a loader process before the run stops.", show_default="120.0")
]
Device = Annotated[str | None, Option(help="auto, cpu or cuda (cuda fails where there is none).", show_default="auto")]
RunSeed = Annotated[int | None, Option("--seed", help="Seed of everything random.", show_default="0")]
Trackers = Annotated[
    list[str] | None,
    Option("--tracker", help="tensorboard, mlflow, wandb or none; repeatable.", show_default="tensorboard"),
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
Architecture = Annotated[str | None, Option(help="Encoder to train.", show_default="resenc-s")]
Name = Annotated[str | None, Option(help="Name of the release.", show_default="resenc-s.mim")]
Steps = Annotated[int | None, Option(min=1, help="Optimiser steps in all.", show_default="1000")]
LearningRate = Annotated[float | None, Option(help="Peak of the schedule.", show_default="0.003")]
Objective = Annotated[
    str | None, Option(help="mim (masked image modelling) or simclr (contrastive).", show_default="mim")
]
Masks = Annotated[
    list[str] | None,
    Option("--mask", help="name=file: gland, lesion or zone (1 PZ, 2 TZ), for a model that looks at it; repeatable."),
]
Begin = Annotated[
    str | None,
    Option(
        help="Weights before the first step: random, imagenet, imagenet-centre, medicalnet or release.",
        show_default="random",
    ),
]
BeginSource = Annotated[
    str | None,
    Option(help="The release (name or folder), or the file of weights, that --begin needs.", show_default="none"),
]
MethodName = Annotated[
    str | None,
    Option(
        "--method",
        help="fcmae, spark, topdown, zerofill, simmim, a2mim or genesis; replaces the whole section of --config.",
        show_default="fcmae",
    ),
]
_OWN = "the method's"
Strategy = Annotated[str | None, Option(help="What is hidden: random, column, ...", show_default=_OWN)]
MaskRatio = Annotated[str | None, Option(help="Share hidden: 0.6, 0.5..0.9 or 0.6|0.75.", show_default=_OWN)]
Target = Annotated[str | None, Option(help="What is reconstructed: block, voxels, hog, ...", show_default=_OWN)]
Decoder = Annotated[str | None, Option(help="light, topdown, unet or linear.", show_default=_OWN)]
Loss = Annotated[str | None, Option(help="l2, l1, ssim or focal_frequency.", show_default=_OWN)]
BlockMm = Annotated[
    str | None, Option(help="Hidden block, mm, 'z y x'; inf is the whole crop.", show_default="12.0 8.0 8.0")
]
Size = Annotated[str | None, Option(help="Crop, voxels, 'z y x'.", show_default="16 96 96")]
MasksPerCrop = Annotated[
    int | None, Option(min=1, help="How often each loaded crop is used, hidden anew.", show_default="1")
]
CheckpointEvery = Annotated[int | None, Option(min=1, help="Steps between checkpoints.", show_default="100")]
KeepLast = Annotated[int | None, Option(min=1, help="Newest checkpoints to keep.", show_default="2")]
Compiled = Annotated[
    bool | None, Option("--compile/--no-compile", help="Compile the network with torch.compile.", show_default="off")
]
HealthEvery = Annotated[
    int | None, Option(min=0, help="Steps between looks at what is learnt; 0 is off.", show_default="100")
]
Watch = Annotated[
    str | None, Option(help="Labelled manifest that the frozen encoder is probed on meanwhile.", show_default="none")
]
LeaveOutFold = Annotated[
    int | None,
    Option(min=0, help="Number in the manifest's column fold: its rows are not learnt from.", show_default="none"),
]
AllowChange = Annotated[
    list[str] | None,
    Option("--allow-change", help="Key of the configuration that --resume may change: loop.steps; repeatable."),
]

# ------------------------------------------------------------------------------------------------- of finetune
Lesions = Annotated[Path, Option("--manifest", help="CSV of lesions with labels.")]
Mode = Annotated[
    str | None,
    Option(help="linear or attentive (frozen encoder, linear or attentive probe), or full.", show_default="linear"),
]
TargetColumn = Annotated[
    str | None, Option("--target", help="label (0 or 1), or isup (0 to 5, ordinal).", show_default="label")
]
Level = Annotated[
    str | None, Option(help="lesion: rows have a place; study: a row is all of it.", show_default="lesion")
]
Aggregate = Annotated[str | None, Option(help="From lesions to patients: max or noisy-or.", show_default="max")]
Folds = Annotated[int | None, Option(min=2, help="Patient-grouped folds.", show_default="5")]
TestFold = Annotated[
    int | None,
    Option(
        min=0,
        help="Number in the manifest's column fold: train on the other folds, test on this one only, release that.",
        show_default="none",
    ),
]
StartModel = Annotated[
    str | None,
    Option("--model", help="Bundled name, release or run folder, or org/name@revision.", show_default=DEFAULT_MODEL),
]
Epochs = Annotated[
    int | None, Option(min=1, help="Passes over the lesions in modes attentive and full.", show_default="10")
]
FullLearningRate = Annotated[
    float | None,
    Option("--learning-rate", help="Peak of the schedule in modes attentive and full.", show_default="0.0002"),
]
Penalties = Annotated[
    str | None,
    Option(help="Values of C of the logistic regression.", show_default="0.0001 0.001 0.01 0.1 1.0 10.0"),
]
InnerFolds = Annotated[int | None, Option(min=1, help="Folds of the training patients to choose on.", show_default="3")]
FreezeEpochs = Annotated[
    int | None, Option(min=0, help="First epochs of mode full with a frozen encoder.", show_default="0")
]
Patience = Annotated[
    int | None,
    Option(min=0, help="Epochs without a lower loss on an inner fold before it stops; 0 is never.", show_default="0"),
]
LesionLoss = Annotated[str | None, Option("--loss", help="bce or focal.", show_default="bce")]
ClassWeight = Annotated[
    bool | None, Option("--class-weight/--no-class-weight", help="Both classes count the same.", show_default="off")
]
ZoneAuxiliary = Annotated[
    float | None, Option(min=0, help="Weight of the zone as a second target; 0 is none.", show_default="0.0")
]
Flips = Annotated[
    bool | None, Option("--flips/--no-flips", help="Predict the left-right mirror image too.", show_default="off")
]
Ensemble = Annotated[
    bool | None,
    Option("--ensemble/--no-ensemble", help="Release the folds' models, not one of all rows.", show_default="off"),
]
Calibrate = Annotated[
    bool | None, Option("--calibrate/--no-calibrate", help="Fit a temperature on inner folds.", show_default="off")
]
Fraction = Annotated[
    float | None, Option(help="Share of the training patients whose labels are used.", show_default="1.0")
]
FractionSeed = Annotated[int | None, Option(help="Who they are.", show_default="0")]
Pooling = Annotated[
    str | None,
    Option(help="centre (of the crop) or mean (all of it).", show_default="centre; mean at --level study"),
]
Channels = Annotated[str | None, Option(help="t2w, then masks: gland, lesion, pz, tz.", show_default="the encoder's")]
SingleSlice = Annotated[str | None, Option(help="What a 2D crop becomes: pad or repeat.", show_default="the encoder's")]
AllowOverlap = Annotated[
    bool, Option("--allow-overlap", help="Go on where patients or studies are on both sides; every result says so.")
]
PicaiLabels = Annotated[
    Path | None, Option("--picai-labels", help="Your picai_labels folder: who is in PROSTATEx and in PI-CAI.")
]
LayerDecay = Annotated[
    float | None,
    Option(help="Factor on the learning rate for each resolution further from the head.", show_default="1.0"),
]
ClassifierSize = Annotated[str | None, Option("--size", help="Crop, voxels, 'z y x'.", show_default="the encoder's")]
ClassifierName = Annotated[
    str | None, Option("--name", help="Name of the release.", show_default="the encoder's with .classifier")
]

# ----------------------------------------------------------------------------------------- of predict and embed
Engine = Annotated[str, Option(help="ray: many processes on one or more machines, parquet out; else one process.")]
ArchiveWorkers = Annotated[int | None, Option("--workers", min=1, help="With --engine ray: processes.")]
ShardRows = Annotated[int | None, Option(min=1, help="With --engine ray: rows a parquet file.")]
Attempts = Annotated[
    int | None, Option(min=1, help="With --engine ray: workers a row may kill before it is a failure.")
]

"""FinetuneConfig: what ``finetune`` does, and what it begins with. Plain values, so that they can be written down."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from prostate_mim.engine.augment import Augmentation
from prostate_mim.engine.settings import LoopConfig
from prostate_mim.errors import IntegrityError, UsageError
from prostate_mim.hub import BUNDLED_DEFAULT
from prostate_mim.spec import InputSpec

MODES = ("linear", "attentive", "full")
TARGETS = ("label", "isup")
LEVELS = ("lesion", "study")
AGGREGATES = ("max", "noisy-or")
LOSSES = ("bce", "focal")
POOLINGS = ("centre", "mean")
# Of LoopConfig: a fine-tuning does not look at them. -> What decides instead.
_UNUSED_OF_LOOP = {
    "steps": "epochs say how long it trains",
    "health_every": "nothing is looked at between its steps",
    "keep_best": "patience keeps the best weights",
}


@dataclass(frozen=True)
class FinetuneConfig:
    """What ``finetune`` does.

    Attributes:
        mode: ``linear`` (frozen encoder, logistic regression), ``attentive`` (frozen encoder, learned pooling) or
            ``full`` (the linear head first, then all weights).
        target: ``label`` (0 or 1) or ``isup`` (grades 0 to 5 in their order; the probability is that of 2 and above).
        level: what a row is: a ``lesion`` with its place, or a whole ``study``.
        aggregate: from the lesions' to the patient's probability: ``max`` or ``noisy-or``.
        folds: patient-grouped folds, where the manifest does not give its own.
        epochs: passes over the training lesions in the modes ``attentive`` and ``full``.
        penalties: values of C of the logistic regression, chosen among on inner folds; smaller is smoother.
        inner_folds: folds of the training patients on which that, the temperature and the end are chosen.
        freeze_epochs: of them at the start, only the head is trained in mode ``full``.
        patience: stop when the loss on one inner fold has not fallen for this many epochs; 0 = never.
        loss: ``bce`` or ``focal`` (Lin et al. 2017).
        focal_gamma: how strongly ``focal`` turns away from what is already right.
        class_weight: both classes count the same in all.
        zone_auxiliary: weight of the lesion's zone as a second target; 0 = none.
        flips: average predictions over the crop and its left-right mirror image.
        ensemble: release the folds' models together, in place of one trained on every row.
        calibrate: fit a temperature to predictions on inner folds.
        fraction: share of the training patients whose labels are used.
        fraction_seed: who they are.
        name: of the release; the encoder's name with ``.classifier`` if None.
        augmentation: of crops in the modes ``attentive`` and ``full``, on the device.
        loop: batch, learning rate, device and so on; its ``steps`` follow from ``epochs``.
        test_fold: a fold of the manifest's column ``fold``: train on the others, test on it alone, and release what was
            tested; None tests every fold in turn and trains what is released on all rows.
    """

    mode: str = "linear"
    target: str = "label"
    level: str = "lesion"
    aggregate: str = "max"
    folds: int = 5
    epochs: int = 10
    penalties: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    inner_folds: int = 3
    freeze_epochs: int = 0
    patience: int = 0
    loss: str = "bce"
    focal_gamma: float = 2.0
    class_weight: bool = False
    zone_auxiliary: float = 0.0
    flips: bool = False
    ensemble: bool = False
    calibrate: bool = False
    fraction: float = 1.0
    fraction_seed: int = 0
    name: str | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(learning_rate=2e-4, warmup=10))
    test_fold: int | None = None

    def __post_init__(self) -> None:
        known = {"mode": MODES, "target": TARGETS, "level": LEVELS, "aggregate": AGGREGATES, "loss": LOSSES}
        for name, allowed in known.items():
            if getattr(self, name) not in allowed:
                raise UsageError(f"{name} {getattr(self, name)!r} is unknown; choose {' or '.join(allowed)}")
        for name in ("epochs", "inner_folds"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("freeze_epochs", "patience", "focal_gamma", "zone_auxiliary"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must not be negative")
        if not 0 < self.fraction <= 1:
            raise UsageError(f"fraction is {self.fraction}; it must be above 0 and at most 1, for example 0.1")
        if not self.penalties or not all(c > 0 for c in self.penalties):
            raise UsageError(f"penalties are {self.penalties}; give at least one, all above 0")
        self._check_together()

    def _check_together(self) -> None:
        """Settings that only mean something with others."""
        if self.mode == "linear" and (self.patience or self.loss == "focal" or self.zone_auxiliary):
            raise UsageError("patience, focal loss and zone_auxiliary are of the modes attentive and full")
        if self.freeze_epochs and self.mode != "full":
            raise UsageError(f"freeze_epochs is of mode full; in mode {self.mode} the encoder stays frozen")
        if self.freeze_epochs >= self.epochs and self.mode == "full":
            raise UsageError(f"freeze_epochs {self.freeze_epochs} leave nothing of {self.epochs} epochs; use fewer")
        if (self.patience or self.calibrate) and self.inner_folds < 2:
            raise UsageError("patience and calibrate hold out an inner fold of the training patients; inner_folds >= 2")
        if self.test_fold is not None and self.test_fold < 0:
            raise UsageError(f"test_fold is {self.test_fold}; give a number of the manifest's column fold, 0 or more")
        if self.test_fold is not None and self.ensemble:
            raise UsageError(
                "an ensemble is of the models of all folds, and with test_fold there is one; leave out one"
            )


@dataclass(frozen=True)
class ClassifierConfig:
    """What a fine-tuning begins with: an encoder, and how its classifier looks at a lesion.

    What is None is the encoder's own. ``mode`` and ``target`` of the fine-tuning decide the head.

    Attributes:
        model: bundled name, folder, or ``org/name@revision``; empty where a program gave it, and nobody knows its name.
        size_zyx: crop, voxels.
        spacing_mm_zyx: voxel size, mm. Pretrained kernels see structures of other sizes under another one.
        channels: ``t2w``, then any of ``gland``, ``lesion``, ``pz`` and ``tz``.
        single_slice: what a 2D crop becomes: ``pad`` or ``repeat``.
        pooling: ``centre`` or ``mean``; None: ``mean`` at level ``study``, else ``centre``.
    """

    model: str = BUNDLED_DEFAULT
    size_zyx: tuple[int, int, int] | None = None
    spacing_mm_zyx: tuple[float, float, float] | None = None
    channels: tuple[str, ...] | None = None
    single_slice: str | None = None
    pooling: str | None = None

    def __post_init__(self) -> None:
        if self.pooling not in (None, *POOLINGS):
            raise UsageError(f"pooling {self.pooling!r} is unknown; choose {' or '.join(POOLINGS)}")
        try:
            self.spec_of(InputSpec())
        except IntegrityError as error:  # not a damaged file: a setting
            raise UsageError(
                f"{error}; channels are t2w and then any of gland, lesion, pz, tz; single_slice is pad or repeat"
            ) from error

    def spec_of(self, spec: InputSpec) -> InputSpec:
        """An encoder's contract with what is given here in place of its own."""
        names = ("size_zyx", "spacing_mm_zyx", "channels", "single_slice")
        asked: dict[str, Any] = {name: getattr(self, name) for name in names}
        return replace(spec, **{name: value for name, value in asked.items() if value is not None})

    def pooling_at(self, level: str) -> str:
        """How cells become a vector, for rows that are lesions or whole studies."""
        return self.pooling or ("mean" if level == "study" else "centre")


@dataclass(frozen=True)
class FinetuneRunConfig(FinetuneConfig):
    """A fine-tuning and what it begins with, in one file: what the command reads, and a run's ``config.toml`` holds.

    Attributes:
        classifier: what it begins with.
    """

    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        default = LoopConfig()
        for name, instead in _UNUSED_OF_LOOP.items():
            if getattr(self.loop, name) != getattr(default, name):
                raise UsageError(
                    f"loop.{name} is {getattr(self.loop, name)}, at which fine-tuning does not look ({instead}); "
                    "leave it out"
                )


def without_unused(loop: LoopConfig) -> LoopConfig:
    """With the default of everything at which a fine-tuning does not look."""
    default = LoopConfig()
    return replace(loop, **{name: getattr(default, name) for name in _UNUSED_OF_LOOP})

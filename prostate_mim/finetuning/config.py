"""FinetuneConfig: what ``finetune`` does. Plain values, so that they can be written down."""

from __future__ import annotations

from dataclasses import dataclass, field

from prostate_mim.engine.augment import Augmentation
from prostate_mim.engine.settings import LoopConfig
from prostate_mim.errors import UsageError

MODES = ("linear", "attentive", "full")
TARGETS = ("label", "isup")
LEVELS = ("lesion", "study")
AGGREGATES = ("max", "noisy-or")
LOSSES = ("bce", "focal")
POOLINGS = ("centre", "mean")


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

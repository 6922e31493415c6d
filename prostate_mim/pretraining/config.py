"""PretrainConfig: everything that defines a pretraining run, as plain values that a TOML file can hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from prostate_mim.contrastive import ContrastiveConfig
from prostate_mim.engine.augment import Augmentation
from prostate_mim.engine.settings import LoopConfig
from prostate_mim.errors import UsageError
from prostate_mim.health import HealthConfig
from prostate_mim.initialisations import INITIALISATIONS
from prostate_mim.mim import METHODS, Method
from prostate_mim.spec import InputSpec

MIM, SIMCLR = "mim", "simclr"
RANDOM = "random"
OBJECTIVES = (MIM, SIMCLR)
# What each objective does not look at; the other one's way of training.
_UNUSED = {
    MIM: ("objective", "contrastive"),
    SIMCLR: ("method", "block_mm_zyx", "masks_per_crop", "augmentation"),
}
_FEWEST_VIEWS = 4  # of two studies: with fewer, nothing is to be told apart


@dataclass(frozen=True)
class PretrainConfig:
    """What ``pretrain`` does.

    Attributes:
        architecture: key of ``nets.ARCHITECTURES``.
        spec: the input contract; its size is the training crop.
        region_zyx: voxels kept of each study around its centre; crops are drawn from there.
        jitter_zyx: how far a crop may wander from the region's centre, voxels.
        block_mm_zyx: size of a hidden block in mm, rounded to the encoder's stride; ``inf`` is the whole crop.
        method: what is hidden, how the encoder is kept from it, and what is reconstructed.
        masks_per_crop: how often each loaded crop is hidden in another way within a step.
        name: of the release; the default gives way to ``ARCHITECTURE.OBJECTIVE``, such as ``resnet10.mim``.
        augmentation: of crops, on the device.
        health: what is looked at during training, every ``loop.health_every`` steps.
        watch: labelled manifest for the frozen probes; none if empty. It never trains anything.
        loop: how long and how fast.
        objective: ``mim`` (masked image modelling) or ``simclr`` (contrastive). The latter looks at ``contrastive``
            and not at method, blocks, masks_per_crop and augmentation.
        contrastive: how two views of a study are made and compared. ``loop.batch`` counts views, two a study.
        begin: key of ``initialisations.INITIALISATIONS``: the encoder's weights before the first step.
        begin_source: what that needs: a release, or a file of weights.
        freeze_encoder: only the decoder learns: pictures and masked error of weights that exist.
        leave_out_fold: a fold of the manifest's column ``fold`` whose rows are not learnt from, so that what is
            fine-tuned from this encoder can be tested on it. Weights of ``begin`` may have seen it all the same, and
            then their release says so. None learns from all rows.
    """

    architecture: str = "resenc-s"
    spec: InputSpec = field(default_factory=InputSpec)
    region_zyx: tuple[int, int, int] = (24, 256, 256)
    jitter_zyx: tuple[int, int, int] = (4, 48, 48)
    block_mm_zyx: tuple[float, float, float] = (12.0, 8.0, 8.0)
    method: Method = METHODS["fcmae"]
    masks_per_crop: int = 1
    name: str = "resenc-s.mim"
    augmentation: Augmentation = field(default_factory=Augmentation)
    health: HealthConfig = field(default_factory=HealthConfig)
    watch: str = ""
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(health_every=100))
    objective: str = MIM
    contrastive: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    begin: str = RANDOM
    begin_source: str = ""
    freeze_encoder: bool = False
    leave_out_fold: int | None = None

    def __post_init__(self) -> None:
        if any(room < n for room, n in zip(self.region_zyx, self.spec.size_zyx, strict=True)):
            raise UsageError(
                f"region_zyx {self.region_zyx} is smaller than the crop {self.spec.size_zyx}; make it at least as large"
            )
        if any(reach < 0 for reach in self.jitter_zyx):
            raise UsageError(f"jitter_zyx {self.jitter_zyx} is negative; use 0 or more voxels")
        if self.masks_per_crop < 1:
            raise UsageError(f"masks_per_crop is {self.masks_per_crop}; it must be at least 1")
        if self.objective not in OBJECTIVES:
            raise UsageError(f"objective {self.objective!r} is unknown; choose {' or '.join(OBJECTIVES)}")
        if self.spec.masks:
            raise UsageError(
                f"spec.channels is {self.spec.channels}; pretraining sees the image alone: masks are added to the "
                "classifier's spec, where the pretrained stem is widened"
            )
        if self.begin not in INITIALISATIONS:
            raise UsageError(f"begin {self.begin!r} is unknown; choose {', '.join(INITIALISATIONS)}")
        if self.freeze_encoder and (self.begin == RANDOM or self.objective != MIM):
            raise UsageError(
                "freeze_encoder trains a decoder of weights that exist: it needs objective mim and a begin that is "
                "not random"
            )
        if self.leave_out_fold is not None and self.leave_out_fold < 0:
            raise UsageError(
                f"leave_out_fold is {self.leave_out_fold}; give a number of the manifest's column fold, 0 or more"
            )
        if self.objective == SIMCLR:
            self._check_contrastive()
        else:
            self._check_position()

    def _check_position(self) -> None:
        if self.method.target == "position" and not any(self.jitter_zyx):
            raise UsageError(
                "jitter_zyx is 0, so every crop is the middle of its study, and target 'position' has nothing to ask; "
                "let crops wander"
            )

    def _check_contrastive(self) -> None:
        batch = self.loop.batch
        if batch < _FEWEST_VIEWS or batch % 2:
            raise UsageError(
                f"loop.batch is {batch}; objective simclr needs an even number of at least {_FEWEST_VIEWS} views, two "
                "of each study"
            )
        if self.loop.accumulate > 1:
            raise UsageError(
                f"loop.accumulate is {self.loop.accumulate}; a contrastive step cannot be divided, because every view "
                "is compared with all others: use 1, and a smaller batch if memory is short"
            )

    @property
    def release_name(self) -> str:
        """Of the release."""
        return f"{self.architecture}.{self.objective}" if self.name == type(self).name else self.name

    @property
    def crop_augmentation(self) -> Augmentation:
        """The augmentation that this objective uses."""
        return self.contrastive.augmentation if self.objective == SIMCLR else self.augmentation

    def used(self, values: dict[str, Any]) -> dict[str, Any]:
        """Of this configuration's plain values those that its objective looks at.

        Those of ``mim`` do not name it: they are as they were before there was another. The same goes for ``begin``
        and ``freeze_encoder``.
        """
        unused = (*_UNUSED[self.objective], *(("begin", "begin_source") if self.begin == RANDOM else ()))
        unused += () if self.freeze_encoder else ("freeze_encoder",)
        return {name: value for name, value in values.items() if name not in unused}

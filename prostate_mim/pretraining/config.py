"""PretrainConfig: everything that defines a pretraining run, as plain values that a TOML file can hold."""

from __future__ import annotations

from dataclasses import dataclass, field

from prostate_mim.engine.augment import Augmentation
from prostate_mim.engine.settings import LoopConfig
from prostate_mim.errors import UsageError
from prostate_mim.health import HealthConfig
from prostate_mim.mim import METHODS, Method
from prostate_mim.spec import InputSpec


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
        name: of the release.
        augmentation: of crops, on the device.
        health: what is looked at during training, every ``loop.health_every`` steps.
        watch: labelled manifest for the frozen probes; none if empty. It never trains anything.
        loop: how long and how fast.
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

    def __post_init__(self) -> None:
        if any(room < n for room, n in zip(self.region_zyx, self.spec.size_zyx, strict=True)):
            raise UsageError(
                f"region_zyx {self.region_zyx} is smaller than the crop {self.spec.size_zyx}; make it at least as large"
            )
        if any(reach < 0 for reach in self.jitter_zyx):
            raise UsageError(f"jitter_zyx {self.jitter_zyx} is negative; use 0 or more voxels")
        if self.masks_per_crop < 1:
            raise UsageError(f"masks_per_crop is {self.masks_per_crop}; it must be at least 1")

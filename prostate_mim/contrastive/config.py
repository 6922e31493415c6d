"""ContrastiveConfig: what SimCLR does, as plain values that a TOML file can hold."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from prostate_mim.engine.augment import Augmentation
from prostate_mim.errors import UsageError
from prostate_mim.nets.pooling import POOLINGS


def strong_augmentation() -> Augmentation:
    """Stronger than for masked modelling: here the augmentation is the task (Chen et al. 2020, section 3).

    Intensities above all: two crops of one study share its contrast, noise and coil, which would match them without
    looking at anatomy (their colour histograms, figure 6).
    """
    return Augmentation(
        affine_chance=0.8, rotation_degrees=20.0, scaling=0.2, thick_chance=0.3, blur_chance=0.5, blur_voxels=1.5,
        bias_chance=0.6, bias=0.5, gamma_chance=0.6, gamma=0.5, contrast_chance=0.8, contrast=0.3, brightness=0.3,
        noise_chance=0.6, noise=0.2,
    )  # fmt: skip


@dataclass(frozen=True)
class ContrastiveConfig:
    """How two views are made and compared.

    Attributes:
        temperature: of the softmax over similarities (Chen et al. 2020, table 5).
        projection: length P of the vectors that are compared; they are not published.
        hidden: width of the projection head between embedding and projection.
        shift_mm: how far apart the centres of a study's two crops may lie, mm.
        pooling: from the encoder's stages to its embedding; key of ``nets.pooling.POOLINGS``. ``centre`` is what
            releases give as their embedding.
        augmentation: of each view, on the device; it takes the place of the run's own ``augmentation``.
    """

    temperature: float = 0.2
    projection: int = 128
    hidden: int = 512
    shift_mm: float = 6.0
    pooling: str = "centre"
    augmentation: Augmentation = field(default_factory=strong_augmentation)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise UsageError(f"contrastive temperature is {self.temperature}; use a positive number such as 0.2")
        for name in ("projection", "hidden"):
            if getattr(self, name) < 1:
                raise UsageError(f"contrastive {name} is {getattr(self, name)}; use 1 or more")
        if not 0 <= self.shift_mm < math.inf:
            raise UsageError(f"contrastive shift_mm is {self.shift_mm}; use 0 or more millimetres")
        if self.pooling not in POOLINGS:
            raise UsageError(f"contrastive pooling {self.pooling!r} is unknown; choose {' or '.join(POOLINGS)}")

"""How far crops may be varied, and what is drawn for each of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from prostate_mim.engine.seeding import numpy_generator
from prostate_mim.errors import UsageError

Numbers = npt.NDArray[Any]

BIAS_DEGREE = 3


@dataclass(frozen=True)
class Augmentation:
    """How often and how far crops are varied. A chance is the share of samples; 0 switches a change off.

    Attributes:
        flip_chance: mirrored left-right.
        affine_chance: rotated about the z axis and scaled in-plane.
        rotation_degrees: largest rotation, degrees.
        scaling: largest in-plane change of size (0.1 = from 1/1.1 to 1.1 times).
        thick_chance: seen as through thicker slices: averaged along z, then interpolated back.
        thickness: largest thickness, in slices.
        blur_chance: blurred in-plane.
        blur_voxels: largest standard deviation of the blur, voxels; a third of it is the smallest.
        bias_chance: multiplied by a smooth field, as a receive coil makes.
        bias: largest logarithm of the field (0.3: from 0.74 to 1.35 times).
        gamma_chance: intensities from the crop's darkest to its brightest raised to a power.
        gamma: largest logarithm of the power.
        contrast_chance: multiplied by one factor and shifted by one value.
        contrast: largest relative change (0.1 = 10 %).
        brightness: largest shift, standard deviations of the crop.
        noise_chance: Gaussian noise is added.
        noise: its largest standard deviation, in those of the crop.
    """

    flip_chance: float = 0.5
    affine_chance: float = 0.3
    rotation_degrees: float = 10.0
    scaling: float = 0.1
    thick_chance: float = 0.1
    thickness: float = 2.0
    blur_chance: float = 0.15
    blur_voxels: float = 1.0
    bias_chance: float = 0.3
    bias: float = 0.3
    gamma_chance: float = 0.3
    gamma: float = 0.3
    contrast_chance: float = 0.5
    contrast: float = 0.1
    brightness: float = 0.1
    noise_chance: float = 0.3
    noise: float = 0.1

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            largest = 1.0 if field.name.endswith("_chance") else math.inf
            if not 0 <= value <= largest or math.isinf(value):
                wanted = "a chance lies between 0 and 1" if largest == 1 else "it must be 0 or more"
                raise UsageError(f"augmentation {field.name} is {value}; {wanted}")
        if self.thickness < 1:
            raise UsageError(f"augmentation thickness is {self.thickness} slices; it must be 1 or more")

    @classmethod
    def none(cls) -> Augmentation:
        """Nothing is varied."""
        return cls(**{field.name: 0.0 for field in dataclasses.fields(cls) if field.name.endswith("_chance")})

    @property
    def nothing(self) -> bool:
        """Whether every change is switched off."""
        return not any(getattr(self, f.name) for f in dataclasses.fields(self) if f.name.endswith("_chance"))


@dataclass(frozen=True)
class Amounts:
    """What happens to each sample; NumPy arrays over the batch. 0 (thickness: 1) leaves a sample as it is."""

    flip: Numbers
    angle: Numbers  # radians
    size: Numbers  # logarithm
    thickness: Numbers
    blur: Numbers
    bias: Numbers  # (N, terms)
    gamma: Numbers  # logarithm
    gain: Numbers
    shift: Numbers
    noise: Numbers

    def kept_still(self, which: Numbers) -> Amounts:
        """The same without rotation and scaling for some samples."""
        return dataclasses.replace(self, angle=np.where(which, 0, self.angle), size=np.where(which, 0, self.size))


BIAS_TERMS = [
    (i, j, k)
    for i in range(BIAS_DEGREE + 1)
    for j in range(BIAS_DEGREE + 1)
    for k in range(BIAS_DEGREE + 1)
    if 1 <= i + j + k <= BIAS_DEGREE
]


def draw_amounts(settings: Augmentation, seed: int, draws: Sequence[int]) -> Amounts:
    """Every sample takes the same count of numbers, whatever is switched off: switches do not move other changes."""
    numbers = np.stack([numpy_generator(seed, "augment", draw).random(18 + len(BIAS_TERMS)) for draw in draws])
    chance, amount, terms = numbers[:, :8], numbers[:, 8:18], 2 * numbers[:, 18:] - 1
    either = 2 * amount - 1

    def when(column: int, share: float, values: Numbers) -> Numbers:
        return np.where(chance[:, column] < share, values, 0.0)

    largest = np.abs(terms).sum(1, keepdims=True)
    field = terms / largest * amount[:, 4:5] * settings.bias
    return Amounts(
        flip=chance[:, 0] < settings.flip_chance,
        angle=when(1, settings.affine_chance, either[:, 0] * math.radians(settings.rotation_degrees)),
        size=when(1, settings.affine_chance, either[:, 1] * math.log1p(settings.scaling)),
        thickness=1 + when(2, settings.thick_chance, amount[:, 2] * (settings.thickness - 1)),
        blur=when(3, settings.blur_chance, (1 + 2 * amount[:, 3]) / 3 * settings.blur_voxels),
        bias=np.where(chance[:, 4:5] < settings.bias_chance, field, 0.0),
        gamma=when(5, settings.gamma_chance, either[:, 5] * settings.gamma),
        gain=1 + when(6, settings.contrast_chance, either[:, 6] * settings.contrast),
        shift=when(6, settings.contrast_chance, either[:, 7] * settings.brightness),
        noise=when(7, settings.noise_chance, amount[:, 8] * settings.noise),
    )

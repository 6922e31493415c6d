"""Cheap checks with a number and an allowed range: is this axial T2w of a prostate, at the right scale? No torch.

The ranges were chosen on training volumes (34 PROMISE12 with assumed spacing, 9 PROSTATEx series, 1 Prostate158) and
phantoms, all of which pass, and widened to known protocols of public sets; ``docs/modality.md`` gives the ranges found.
A finding is a reason to look, not a proof.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from prostate_mim.modality.measures import geometry_measures, intensity_measures, sharpness_measures, symmetry
from prostate_mim.volume import Volume


@dataclass(frozen=True)
class Finding:
    """One thing that is off.

    Attributes:
        check: its short name.
        value: the number found; a word where it has none.
        allowed: the range or words that pass.
        message: one line: what, how much, allowed, and what it may mean.
    """

    check: str
    value: float | str
    allowed: str
    message: str


@dataclass(frozen=True)
class Limit:
    """An allowed range of one measure.

    Attributes:
        check: name of the finding.
        measure: key of the numbers in ``measures``.
        low, high: inclusive; infinite where there is no bound.
        what: how a message calls the measure.
        unit: after the number; empty for ratios.
        hint: what it may mean.
    """

    check: str
    measure: str
    low: float
    high: float
    what: str
    unit: str
    hint: str

    @property
    def allowed(self) -> str:
        """The range in words, with its unit."""
        unit = f" {self.unit}" if self.unit else ""
        if math.isinf(self.high):
            return f"at least {self.low:g}{unit}"
        return f"at most {self.high:g}{unit}" if math.isinf(self.low) else f"{self.low:g} to {self.high:g}{unit}"

    def finding(self, value: float) -> Finding | None:
        """What to say of a value; None if it lies in the range, or cannot be told (NaN)."""
        if math.isnan(value) or self.low <= value <= self.high:
            return None
        unit = f" {self.unit}" if self.unit else ""
        message = f"{self.what} is {value:.3g}{unit}, allowed {self.allowed}: {self.hint}"
        return Finding(self.check, round(value, 4), self.allowed, message)


_ANY = math.inf
_SCALE = "is the spacing right, and is this a prostate series?"
_CONTRAST = "is this T2w, and not inverted?"
GEOMETRY = (
    Limit("pixel spacing", "pixel_mm", 0.2, 1.4, "in-plane spacing", "mm", "diffusion, localiser, or wrong unit?"),
    Limit("pixel shape", "pixel_shape", 0.8, 1.25, "spacing along y / along x", "", "sagittal or coronal as axial?"),
    Limit("slice spacing", "slice_mm", 0.8, 5.5, "slice spacing", "mm", "localiser, or wrong unit?"),
    Limit("field of view y", "fov_y_mm", 85, 270, "field of view along y", "mm", _SCALE),
    Limit("field of view x", "fov_x_mm", 85, 270, "field of view along x", "mm", _SCALE),
    Limit("slices", "slices", 10, _ANY, "number of slices", "", "a localiser, or a part of a series?"),
    Limit("stack height", "extent_mm", 40, 150, "height of the stack", "mm", _SCALE),
    Limit("slice thickness", "thickness", 0.8, 16, "slice spacing / in-plane spacing", "", "sagittal, or thick slabs?"),
)  # fmt: skip
SIGN = (
    Limit("lowest value", "lowest", -200, _ANY, "lowest value", "", "CT numbers (air is -1000)?"),
    Limit("negative values", "negative", -_ANY, 0.01, "share of voxels below 0", "", "CT, or normalised before?"),
)  # fmt: skip
INTENSITY = (
    *SIGN,
    Limit("zeros", "zeros", -_ANY, 0.3, "share of voxels that are 0", "", "was the background removed or padded?"),
    Limit("typical intensity", "typical", 0.06, 0.8, "median / 99th percentile", "", _CONTRAST),
    Limit("darkest intensity", "darkest", -_ANY, 0.12, "1st / 99th percentile", "", _CONTRAST),
    Limit("middle intensities", "middle", 0.08, _ANY, "share of voxels at 15 to 45 % of the 99th percentile", "",
          "CT, or a head in air?"),
    Limit("spread of intensities", "spread", 0.5, 5.0, "interquartile range / median", "", _CONTRAST),
    Limit("skewness", "skewness", -0.6, _ANY, "skewness of the histogram", "", _CONTRAST),
)  # fmt: skip
SHARPNESS = (
    Limit("sharpness", "sharpness", 0.29, 0.85, "squared difference of neighbours / of pixels two apart", "",
          "interpolated from fewer pixels (low), or noise (high)?"),
)  # fmt: skip
REPEATED = (Limit("repeated pixels", "repeated", -_ANY, 0.35, "share of equal neighbours", "", "scaled up?"),)
SYMMETRY = (
    Limit("left-right symmetry", "symmetry", 0.45, _ANY, "correlation with the mirror image", "",
          "a sagittal stack, or a part of the pelvis?"),
)  # fmt: skip
_CROP = ("pixel spacing", "pixel shape", "slice spacing")


def check_volume(volume: Volume) -> tuple[Finding, ...]:
    """Every cheap check of a whole series.

    Args:
        volume: as ``read_volume`` returns it.

    Returns:
        what is off, in the order of the checks; empty if nothing is.
    """
    limits = (*GEOMETRY, *INTENSITY, *SHARPNESS, *REPEATED, *SYMMETRY)
    return _findings(limits, measured(volume))


def check_crop(volume: Volume) -> tuple[Finding, ...]:
    """What can be asked of a piece around a lesion: spacing, sign, and whether pixels were repeated.

    Args:
        volume: a crop (z, y, x), of depth 1 for a 2-D one.
    """
    numbers = {**geometry_measures(volume), **intensity_measures(volume), **sharpness_measures(volume)}
    return _findings((*(limit for limit in GEOMETRY if limit.check in _CROP), *SIGN, *REPEATED), numbers)


def measured(volume: Volume) -> dict[str, float]:
    """Every number the checks look at, by the name of ``Limit.measure``."""
    return {
        **geometry_measures(volume),
        **intensity_measures(volume),
        **sharpness_measures(volume),
        "symmetry": symmetry(volume),
    }


def _findings(limits: tuple[Limit, ...], numbers: dict[str, float]) -> tuple[Finding, ...]:
    found = (limit.finding(numbers[limit.measure]) for limit in limits)
    return tuple(finding for finding in found if finding is not None)

"""InputSpec: what a network expects of its input. It travels with the weights and inside the ONNX file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prostate_mim.errors import IntegrityError

SPEC_VERSION = 2
"""The newest version of the rules; contracts that use nothing new are still written as version 1."""

SINGLE_SLICE = ("pad", "repeat")
IMAGE = "t2w"
CHANNELS = (IMAGE, "gland", "lesion", "pz", "tz")

_SINCE_2 = {"single_slice", "channels"}
_ORIENTATION = "axial-LPS"
_NORMALISATION = "zscore-before-padding"
_INTERPOLATION = "linear-antialiased"


@dataclass(frozen=True)
class InputSpec:
    """The preprocessing contract of one network.

    Attributes:
        spacing_mm_zyx: voxel size after resampling, mm, through-plane first.
        size_zyx: crop size in voxels.
        orientation: always ``axial-LPS``: rows run to the patient's Left, columns Posterior, slices Superior.
        clip_percentiles: intensities outside these percentiles of the crop are clipped, before z-scoring.
        normalisation: always ``zscore-before-padding``.
        interpolation: always ``linear-antialiased``.
        version: version of these rules; settled by the contract itself: 1 while ``single_slice`` and ``channels`` have
            their defaults, so that contracts (and fingerprints) published before there was more stay as they are.
        single_slice: what becomes of a volume of depth 1, such as a 2D crop around a lesion. ``pad``: one slice of the
            crop holds it, the others are padding. ``repeat``: every slice of the crop is a copy of it, all measured.
        channels: what the network is given, one channel each: ``t2w`` first, then any masks of ``CHANNELS``, each
            once, as 0 and 1 in the crop and 0 in padding.
    """

    spacing_mm_zyx: tuple[float, float, float] = (3.0, 0.5, 0.5)
    size_zyx: tuple[int, int, int] = (16, 96, 96)
    orientation: str = _ORIENTATION
    clip_percentiles: tuple[float, float] = (0.5, 99.5)
    normalisation: str = _NORMALISATION
    interpolation: str = _INTERPOLATION
    version: int = 1
    single_slice: str = SINGLE_SLICE[0]
    channels: tuple[str, ...] = (IMAGE,)

    def __post_init__(self) -> None:
        self._settle("spacing_mm_zyx", float, 3)
        self._settle("size_zyx", operator.index, 3)
        self._settle("clip_percentiles", float, 2)
        if isinstance(self.channels, list):
            object.__setattr__(self, "channels", tuple(self.channels))
        low, high = self.clip_percentiles
        problems = [
            (not all(0.1 <= s <= 10 for s in self.spacing_mm_zyx), "spacing_mm_zyx"),
            (not all(1 <= n <= 1024 for n in self.size_zyx), "size_zyx"),
            (self.orientation != _ORIENTATION, "orientation"),
            (not 0 <= low < high <= 100, "clip_percentiles"),
            (self.normalisation != _NORMALISATION, "normalisation"),
            (self.interpolation != _INTERPOLATION, "interpolation"),
            (type(self.version) is not int or not 1 <= self.version <= SPEC_VERSION, "version"),
            (self.single_slice not in SINGLE_SLICE, "single_slice"),
            (not _good_channels(self.channels), "channels"),
        ]
        for wrong, field in problems:
            if wrong:
                raise IntegrityError(f"InputSpec.{field} = {getattr(self, field)!r} is not supported by this version")
        plain = self.single_slice == SINGLE_SLICE[0] and self.channels == (IMAGE,)
        object.__setattr__(self, "version", 1 if plain else 2)

    def _settle(self, name: str, kind: Callable[[Any], Any], count: int) -> None:
        """One type for equal values (3 and 3.0, list and tuple), so that equal specs have equal fingerprints."""
        found = getattr(self, name)
        try:
            values = tuple(kind(n) for n in found)
        except (TypeError, ValueError, OverflowError):
            values = ()
        if len(values) != count:
            raise IntegrityError(f"InputSpec.{name} = {found!r}: expected {count} numbers")
        object.__setattr__(self, name, values)

    @property
    def size_mm_zyx(self) -> tuple[float, float, float]:
        """Extent of the crop in mm."""
        z, y, x = (n * s for n, s in zip(self.size_zyx, self.spacing_mm_zyx, strict=True))
        return z, y, x

    def with_size(self, size_zyx: tuple[int, int, int]) -> InputSpec:
        """The same rules for another crop size (voxels)."""
        return dataclasses.replace(self, size_zyx=size_zyx)

    @property
    def masks(self) -> tuple[str, ...]:
        """The channels that are masks, in order; none by default."""
        return self.channels[1:]

    def with_channels(self, *channels: str) -> InputSpec:
        """The same rules for other channels, such as ``with_channels("t2w", "gland")``."""
        return dataclasses.replace(self, channels=channels)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; those of version 1 exactly as they were before there was a version 2."""
        left_out = _SINCE_2 if self.version == 1 else set()
        values = {k: v for k, v in dataclasses.asdict(self).items() if k not in left_out}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces. Its hash is the fingerprint."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @property
    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    @classmethod
    def from_dict(cls, values: object) -> InputSpec:
        """Read a closed schema: every field present, none unknown, right types.

        Raises:
            IntegrityError: naming the field.
        """
        if not isinstance(values, dict):
            raise IntegrityError("InputSpec is not a JSON object; the file is damaged or from another program")
        names = {field.name for field in dataclasses.fields(cls)}
        newer = values.get("version") == 2
        if not newer:
            names -= _SINCE_2
        if names != set(values):
            odd = sorted(str(name) for name in names.symmetric_difference(values))
            raise IntegrityError(f"InputSpec has missing or unknown fields {odd}; it is from another version")
        spec = cls(
            spacing_mm_zyx=_numbers(values, "spacing_mm_zyx", int | float),
            size_zyx=_numbers(values, "size_zyx", int),
            clip_percentiles=_numbers(values, "clip_percentiles", int | float),
            **{k: values[k] for k in names - {"spacing_mm_zyx", "size_zyx", "clip_percentiles"}},
        )
        if spec.version != values["version"]:  # two texts for one contract would be two fingerprints
            raise IntegrityError(
                f"InputSpec.version = {values['version']!r}, but its rules are those of version {spec.version}; the "
                "file is damaged or from another program"
            )
        return spec


def _good_channels(channels: object) -> bool:
    """Whether they are a tuple of known names, the image first and each once."""
    if not isinstance(channels, tuple) or not all(isinstance(name, str) for name in channels):
        return False
    return channels[:1] == (IMAGE,) and set(channels) <= set(CHANNELS) and len(set(channels)) == len(channels)


def _numbers(values: dict[str, Any], name: str, kind: Any) -> Any:
    found = values[name]
    good = isinstance(found, list | tuple)
    if not good or not all(isinstance(n, kind) and not isinstance(n, bool) for n in found):
        what = "whole numbers" if kind is int else "numbers"
        raise IntegrityError(f"InputSpec.{name} = {found!r}: missing or impossible numbers; expected a list of {what}")
    return found

"""A study on the network's grid, as integers: the one form in which training reads it, from memory or from disk."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from prostate_mim.errors import UsageError, VolumeError
from prostate_mim.preprocess import BoolArray, Crop, FloatArray, resample
from prostate_mim.spec import InputSpec
from prostate_mim.studies import MASKS, Study
from prostate_mim.volume.geometry import Geometry
from prostate_mim.volume.voxel_hash import voxel_hash

Interval = tuple[int, int]
Box = tuple[Interval, Interval, Interval]
Piece = tuple[slice, slice, slice]

BITS = {name: 1 << place for place, name in enumerate(MASKS)}
"""Value of each mask's bit in ``PreparedStudy.labels``: gland 1, lesion 2, pz 4, tz 8."""

_LOW, _HIGH = -32768, 32767
_STEPS_PER_DEVIATION = 512  # half a step is a thousandth of a deviation: far below the noise of any scanner
_FEWEST_STEPS = 32  # in a deviation of the clipped intensities; with fewer, rounding would show
_EVERYTHING = (slice(None), slice(None), slice(None))


class Voxels(Protocol):
    """What a study's arrays can do: tell their shape, and give any piece as a NumPy array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along z, y, x."""

    def __getitem__(self, piece: Piece, /) -> npt.NDArray[np.integer]:
        """The voxels of a piece."""


@dataclass(frozen=True, eq=False)
class PreparedStudy:
    """A region around a study's centre, resampled, in the study's own intensities, stored as integers.

    It can be pickled: a stored one travels as the names of its files, and every process opens them for itself.

    Attributes:
        voxels: (z, y, x) int16, read-only; intensity = voxels * scale + offset.
        scale: intensity of one step.
        offset: intensity of 0.
        inside_zyx: the measured box in voxels, half-open; beyond it is padding, where ``voxels`` holds 0.
        labels: (z, y, x) uint8, read-only; bit values as in ``BITS``; None where the row names no mask.
        masks: which of ``BITS`` the row names.
        geometry: where the grid lies (LPS, mm).
        voxel_hash: of the whole volume as it was read, see ``volume.voxel_hash``; empty where nobody took it.
    """

    voxels: Voxels
    scale: float
    offset: float
    inside_zyx: Box
    labels: Voxels | None
    masks: frozenset[str]
    geometry: Geometry
    voxel_hash: str = ""

    def __post_init__(self) -> None:
        for array in (self.voxels, self.labels):
            if isinstance(array, np.ndarray):
                array.setflags(write=False)

    def __reduce__(self) -> tuple[Any, ...]:
        # By the constructor: an unpickled array forgets that it was read-only.
        return PreparedStudy, tuple(getattr(self, field.name) for field in dataclasses.fields(self))

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Voxels of the region along z, y, x."""
        z, y, x = self.voxels.shape
        return z, y, x

    def intensities(self, piece: Piece = _EVERYTHING) -> FloatArray:
        """(z, y, x) float32: a piece in the study's own intensities, 0 in padding."""
        # In 64 bits: integers beyond 2**24 would be rounded before the offset is added.
        found = self.voxels[piece].astype(np.float64) * self.scale + self.offset
        found[~self.inside(piece)] = 0
        return found.astype(np.float32)

    def inside(self, piece: Piece = _EVERYTHING) -> BoolArray:
        """(z, y, x) bool: which voxels of a piece were measured."""
        z, y, x = (
            (np.arange(count)[part] >= low) & (np.arange(count)[part] < high)
            for count, part, (low, high) in zip(self.shape_zyx, piece, self.inside_zyx, strict=True)
        )
        return np.asarray(z[:, None, None] & y[None, :, None] & x[None, None, :])

    def mask(self, name: str, piece: Piece = _EVERYTHING) -> BoolArray | None:
        """(z, y, x) bool: a mask on a piece, False in padding; None where the row has none.

        Args:
            name: one of ``BITS``; ``lesion`` is the row's own.
            piece: what to read.

        Raises:
            UsageError: an unknown name.
        """
        if name not in BITS:
            raise UsageError(f"mask {name!r} is unknown; choose one of {', '.join(BITS)}")
        if name not in self.masks or self.labels is None:
            return None
        return np.asarray((self.labels[piece] & BITS[name]) > 0)


def prepare_study(study: Study, spec: InputSpec) -> PreparedStudy:
    """Resample an opened study around its centre and round it to integers, in memory.

    Args:
        study: an opened row; every mask it names is read.
        spec: spacing, what becomes of a single slice, and the size of the region (not of the crops that are drawn from
            it); its channels decide nothing, every mask is kept.

    Raises:
        VolumeError: so wide a range of intensities that a step would blur the image.
        VolumeError, ManifestError, NotFoundError: a mask, see ``Study.read_mask``.
    """
    crop = resample(study.volume, spec, study.centre_mm_lps)
    box = measured_box(crop.inside)
    voxels, scale, offset = quantise(crop.voxels, box)
    _check_step(crop, scale, spec, study.volume.source)
    labels, names = _labels(study, crop)
    return PreparedStudy(voxels, scale, offset, box, labels, names, crop.geometry, voxel_hash(study.volume))


def measured_box(inside: BoolArray) -> Box:
    """The box that ``inside`` (z, y, x), always a product of three intervals, is made of."""
    z, y, x = (np.flatnonzero(inside.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1)))
    return _interval(z), _interval(y), _interval(x)


def _interval(indices: npt.NDArray[np.intp]) -> Interval:
    return int(indices[0]), int(indices[-1]) + 1


def quantise(voxels: FloatArray, box: Box) -> tuple[npt.NDArray[np.int16], float, float]:
    """Round intensities to int16.

    Whole numbers that fit are kept exactly (scale 1). Other values are rounded to steps of a 512th of their standard
    deviation, or to larger ones where their range needs it.

    Args:
        voxels: (z, y, x) float32, finite.
        box: what of it was measured; the rest becomes 0.

    Returns:
        (z, y, x) int16; scale; offset. The error is at most half a step, scale / 2.
    """
    piece = tuple(slice(low, high) for low, high in box)
    measured = voxels[piece].astype(np.float64)
    low, high = float(measured.min()), float(measured.max())
    if high - low <= _HIGH - _LOW and np.array_equal(measured, np.rint(measured)):
        scale, offset = 1.0, 0.0 if low >= _LOW and high <= _HIGH else low - _LOW
    else:
        # One step less than there are integers: the outermost values then round to -32767 and 32767.
        scale = max(float(measured.std()) / _STEPS_PER_DEVIATION, (high - low) / (_HIGH - _LOW - 1)) or 1.0
        offset = (low + high) / 2
    whole = np.zeros(voxels.shape, np.int16)
    whole[piece] = np.rint((measured - offset) / scale)
    return whole, scale, offset


def _check_step(crop: Crop, scale: float, spec: InputSpec, source: str) -> None:
    """Refuse a study whose few extreme voxels leave hardly any steps for the others."""
    if scale == 1.0:
        return
    measured = crop.voxels[crop.inside]
    low, high = np.percentile(measured, spec.clip_percentiles)
    deviation = float(np.clip(measured, low, high).std(dtype=np.float64))
    if deviation > 0 and scale > deviation / _FEWEST_STEPS:
        raise VolumeError(
            f"{source}: intensities run from {measured.min():g} to {measured.max():g}, but without the extreme ones "
            f"(percentiles {spec.clip_percentiles}) only from {low:g} to {high:g}; remove the extreme voxels"
        )


def _labels(study: Study, crop: Crop) -> tuple[npt.NDArray[np.uint8] | None, frozenset[str]]:
    """The masks that a row names, as bits on the grid of its crop, and their names."""
    z, y, x = crop.voxels.shape
    labels = np.zeros((z, y, x), np.uint8)
    names = set()
    for name in MASKS:
        found = study.mask_on(crop, name)
        if found is None:
            continue
        names.add(name)
        labels |= np.where(found, BITS[name], 0).astype(np.uint8)
    return (labels if names else None), frozenset(names)

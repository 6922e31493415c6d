"""The fixed crops that health is measured on: cut once, the same at every step and in every run of one seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prostate_mim.engine.data import Piece
from prostate_mim.engine.seeding import numpy_generator
from prostate_mim.errors import UsageError, VolumeError
from prostate_mim.mim.layout import Triple
from prostate_mim.preprocess import BoolArray, FloatArray, normalise
from prostate_mim.spec import InputSpec
from prostate_mim.store import PreparedStudy

# A crop that is mostly padding tells little about the study, and much about where its border lies.
_LEAST_INSIDE = 0.5
_TRIES = 20


@dataclass(frozen=True, eq=False)
class Watched:
    """A study that health is measured on.

    Attributes:
        study: its voxels and masks, as the store holds them.
        label: 0, 1, or -1 where there is none.
        group: number of the patient, one numbering over all watched and labelled studies.
        centre: number of the scanner centre or data set, -1 where it is not known.
    """

    study: PreparedStudy
    label: int = -1
    group: int = 0
    centre: int = -1


@dataclass(frozen=True, eq=False)
class Window:
    """One crop, ready for the network.

    Attributes:
        voxels: (D, H, W) float32, z-scored, 0 in padding.
        inside: (D, H, W) bool, True = measured.
        gland: (D, H, W) bool, or None where the study has no gland mask.
        lesion: (D, H, W) bool, or None.
        owner: index of its study in the sequence it was cut from.
        start_zyx: its first voxel in the study's region.
        offset_zyx: its middle, from that of the study's region, voxels.
    """

    voxels: FloatArray
    inside: BoolArray
    gland: BoolArray | None
    lesion: BoolArray | None
    owner: int
    start_zyx: Triple = (0, 0, 0)
    offset_zyx: tuple[float, float, float] = (0.0, 0.0, 0.0)


def central_windows(studies: Sequence[Watched], spec: InputSpec) -> list[Window]:
    """One window in the middle of each study, where its lesion, its gland or the image's centre lies.

    Raises:
        UsageError: a study is smaller than the crop.
        VolumeError: a study's middle is constant.
    """
    return [_cut(each, owner, _middle(each, spec), spec) for owner, each in enumerate(studies)]


def random_windows(studies: Sequence[Watched], spec: InputSpec, count: int, seed: int) -> list[Window]:
    """``count`` windows at random places of each study; those of a study with a gland mask hold the gland's centre.

    The gland's centre lies anywhere in such a window with equal chance, as far as the study's extent allows, so that
    the place of a cell in its window says little about whether it is gland.

    Args:
        studies: where to cut.
        spec: size and normalisation.
        count: windows a study. A place of padding or air is drawn anew; after 20 draws the middle is taken.
        seed: of the places.

    Raises:
        UsageError, VolumeError: as ``central_windows``.
    """
    found = []
    for owner, each in enumerate(studies):
        low, high = _starts(each, spec)
        for number in range(count):
            rng = numpy_generator(seed, "health", "window", owner, number)
            found.append(_cut_anywhere(each, owner, low, high, spec, rng))
    return found


def _starts(watched: Watched, spec: InputSpec) -> tuple[npt.NDArray[np.int_], npt.NDArray[np.int_]]:
    """First and last start (z, y, x) of a window."""
    room = np.asarray(_room(watched, spec))
    gland = watched.study.mask("gland", everything(watched))
    if gland is None or not gland.any():
        return np.zeros(3, int), room
    centre = np.argwhere(gland).mean(0)
    low = np.maximum(0, np.ceil(centre).astype(int) - np.asarray(spec.size_zyx) + 1)
    high = np.minimum(room, np.floor(centre).astype(int))
    return np.minimum(low, room), np.maximum(high, np.minimum(low, room))


def _cut_anywhere(
    watched: Watched,
    owner: int,
    low: npt.NDArray[np.int_],
    high: npt.NDArray[np.int_],
    spec: InputSpec,
    rng: np.random.Generator,
) -> Window:
    for _ in range(_TRIES):
        z, y, x = (int(n) for n in rng.integers(low, high + 1))
        try:
            window = _cut(watched, owner, (z, y, x), spec)
        except VolumeError:
            continue  # nothing but padding or air
        if window.inside.mean() >= _LEAST_INSIDE:
            return window
    return _cut(watched, owner, _middle(watched, spec), spec)


def _cut(watched: Watched, owner: int, start: Triple, spec: InputSpec) -> Window:
    z, y, x = (slice(a, a + n) for a, n in zip(start, spec.size_zyx, strict=True))
    piece = (z, y, x)
    inside = watched.study.inside(piece)
    voxels = normalise(watched.study.intensities(piece), inside, spec, f"watched study {owner + 1}")
    gland, lesion = (watched.study.mask(name, piece) for name in ("gland", "lesion"))
    dz, dy, dx = (a - free / 2 for a, free in zip(start, _room(watched, spec), strict=True))
    return Window(voxels, inside, _within(gland, inside), _within(lesion, inside), owner, start, (dz, dy, dx))


def _within(labelled: BoolArray | None, inside: BoolArray) -> BoolArray | None:
    return None if labelled is None else labelled & inside


def everything(watched: Watched) -> Piece:
    """The piece that is the whole study."""
    z, y, x = (slice(0, int(n)) for n in watched.study.shape_zyx)
    return z, y, x


def _middle(watched: Watched, spec: InputSpec) -> Triple:
    z, y, x = (n // 2 for n in _room(watched, spec))
    return z, y, x


def _room(watched: Watched, spec: InputSpec) -> Triple:
    z, y, x = (int(n) - size for n, size in zip(watched.study.shape_zyx, spec.size_zyx, strict=True))
    if min(z, y, x) < 0:
        raise UsageError(
            f"a watched study has {watched.study.shape_zyx} voxels, less than the crop's {spec.size_zyx}; "
            "prepare the studies with a larger region, or use a smaller crop"
        )
    return z, y, x

"""From a file's own axes to the canonical axial orientation, by permutation and flip only."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
import numpy.typing as npt

from prostate_mim.errors import VolumeError
from prostate_mim.volume.checks import Array, check_spacing
from prostate_mim.volume.geometry import FloatArray, Geometry, Volume

ORTHONORMAL_TOLERANCE = 1e-3
MAX_DISTANCE_MM = 5000.0
_CLEARLY_LARGEST = 1.1
_STACKS = ("sagittal", "coronal", "axial")


@dataclass(frozen=True)
class RawImage:
    """An image as its file stores it.

    Attributes:
        voxels: (k, j, i): the file's fastest axis last.
        spacing_mm_ijk: distance between voxel centres along the file's axes i, j, k.
        origin_mm_lps: (x, y, z) of voxel [0, 0, 0], LPS.
        direction: (3, 3); column a is the patient direction (LPS) of file axis i, j, k for a = 0, 1, 2.
        field: where the file states its axes, for messages (for example ``sform``).
    """

    voxels: Array
    spacing_mm_ijk: tuple[float, float, float]
    origin_mm_lps: tuple[float, float, float]
    direction: FloatArray
    field: str


def closest_axes(direction: npt.ArrayLike) -> tuple[int, int, int]:
    """For patient axes x, y, z: the file axis (0, 1, 2) that runs closest along each, no file axis used twice."""
    size = np.abs(np.asarray(direction, float))
    best = max(permutations(range(3)), key=lambda order: sum(size[axis, order[axis]] for axis in range(3)))
    return best[0], best[1], best[2]


def stack_of(direction: npt.ArrayLike, spacing_mm_ijk: tuple[float, float, float]) -> str:
    """``axial``, ``coronal`` or ``sagittal``: the patient axis closest to the through-plane axis.

    The through-plane axis is the one with clearly (10%) the largest spacing; where there is none, the file's third.
    """
    ordered = np.argsort(spacing_mm_ijk)
    clear = spacing_mm_ijk[ordered[2]] > _CLEARLY_LARGEST * spacing_mm_ijk[ordered[1]]
    through = int(ordered[2]) if clear else 2
    return _STACKS[closest_axes(direction).index(through)]


def check_frame(name: str, image: RawImage) -> None:
    """Refuse geometry that cannot be that of a scanner.

    Raises:
        VolumeError: non-finite or far-off origin, axes not orthonormal, or spacing outside 0.1 to 10 mm.
    """
    check_spacing(name, f"{image.field} spacing", image.spacing_mm_ijk)
    gram = image.direction.T @ image.direction
    off = float(np.abs(gram - np.eye(3)).max())
    if not off <= ORTHONORMAL_TOLERANCE:
        raise VolumeError(
            f"{name}: {image.field} axes are not orthonormal (off by {off:.3g}, at most {ORTHONORMAL_TOLERANCE:g});"
            " resample to an unsheared grid"
        )
    far = float(np.abs(np.asarray(image.origin_mm_lps)).max())
    if not far <= MAX_DISTANCE_MM:
        raise VolumeError(
            f"{name}: {image.field} origin is {far:g} mm off, at most {MAX_DISTANCE_MM:g} allowed; correct it"
        )


def on_file_axes(voxels: Array, image: RawImage) -> Array:
    """The way back: voxels (z, y, x) on the canonical grid of ``image`` -> (k, j, i) on the axes of its file."""
    axes = closest_axes(image.direction)
    flips = [bool(image.direction[axis, axes[axis]] < 0) for axis in range(3)]
    voxels = voxels[tuple(slice(None, None, -1 if flip else 1) for flip in flips[::-1])]
    return voxels.transpose(np.argsort([2 - axis for axis in axes[::-1]]))


def canonical(image: RawImage, name: str, *, any_stack: bool = False) -> Volume:
    """Reorient to (z, y, x) with x to the Left, y to Posterior, z to Superior; physical positions are unchanged.

    Args:
        image: as stored.
        name: the source, as the user gave it.
        any_stack: skip the refusal of sagittal and coronal stacks (bare arrays, axial by convention).

    Returns:
        Volume with C-contiguous, native-endian voxels of the same number type; oblique stays oblique. They are
        those of ``image`` themselves, not a copy, where nothing had to be moved.

    Raises:
        VolumeError: implausible geometry, or a sagittal or coronal stack.
    """
    check_frame(name, image)
    stack = stack_of(image.direction, image.spacing_mm_ijk)
    if stack != "axial" and not any_stack:
        raise VolumeError(
            f"{name}: {image.field} describes a {stack} stack, only axial series are read; give the axial one"
        )
    axes = closest_axes(image.direction)
    direction = image.direction[:, axes]
    flips = [bool(direction[axis, axis] < 0) for axis in range(3)]
    sizes = np.asarray(image.voxels.shape)[::-1][list(axes)]
    spacing = np.asarray(image.spacing_mm_ijk, float)[list(axes)]
    steps = np.where(flips, (sizes - 1) * spacing, 0.0)
    origin = np.asarray(image.origin_mm_lps, float) + direction @ steps
    direction = direction * np.where(flips, -1.0, 1.0)[None, :]
    voxels = image.voxels.transpose([2 - axis for axis in axes[::-1]])
    voxels = voxels[tuple(slice(None, None, -1 if flip else 1) for flip in flips[::-1])]
    native = np.require(voxels, image.voxels.dtype.newbyteorder("="), ["C", "A", "W"])
    x, y, z = (float(value) for value in spacing)
    geometry = Geometry((z, y, x), (float(origin[0]), float(origin[1]), float(origin[2])), direction)
    return Volume(native, geometry, name)

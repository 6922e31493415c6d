"""Files of lesion detections as the PI-CAI challenge's scorer (picai_eval, PyPI) reads them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prostate_mim.errors import UsageError
from prostate_mim.files import make_folder
from prostate_mim.metrics.scored import BoolArray
from prostate_mim.volume import Volume, write_volume
from prostate_mim.volume.grids import same_grid

DETECTION, LABEL = "_detection_map", "_label"
_NEIGHBOURS = np.ones((3, 3, 3), bool)
"""picai_eval joins voxels that touch at a corner."""
_LEAST = 1e-6
"""Stored for a probability of 0: in a detection map, 0 means that there is no candidate."""

Place = Sequence[float] | npt.NDArray[np.float64] | Volume
"""(x, y, z) in mm, LPS; or a mask, 1 in the candidate, on the grid of the volume."""


@dataclass(frozen=True, eq=False)
class PicaiCase:
    """One study for picai_eval.

    Attributes:
        case_id: letters, digits, ``.``, ``_`` and ``-``; it becomes the file names, so never a patient's name.
        detection: (z, y, x) from 0 to 1, each connected candidate of one value (``detection_map`` makes it).
        label: (z, y, x) 0 or 1 on the same grid: the clinically significant lesions, none in a benign study.
    """

    case_id: str
    detection: Volume
    label: Volume


@dataclass(frozen=True)
class PicaiFigures:
    """What picai_eval found.

    Attributes:
        auroc: of studies, whose score is the highest of their detection map.
        average_precision: of lesions.
        score: PI-CAI's, the mean of both.
        cases: studies.
        lesions: connected lesions in the labels.
    """

    auroc: float
    average_precision: float
    score: float
    cases: int
    lesions: int


def write_picai(folder: str | Path, cases: Iterable[PicaiCase]) -> list[Path]:
    """Write ``<case_id>_detection_map.nii.gz`` and ``<case_id>_label.nii.gz`` for each case, atomically.

    ``picai_eval.evaluate_folder(folder)`` scores every detection map that lies in the folder, so it must hold none
    before: those of an earlier run would be scored too.

    Args:
        folder: made if it does not exist.
        cases: one after the other, so that a generator need not hold them all.

    Returns:
        the paths, in the order of the cases, detection map before label.

    Raises:
        UsageError: a case that picai_eval would refuse or misread (named by its number from 1), one whose maps are no
            ``Volume``, or detection maps in the folder already.
        ResourceError: the disk is full.
    """
    folder = make_folder(folder)
    if any(DETECTION in path.name for path in folder.iterdir()):
        raise UsageError(f"{folder}: holds detection maps already, which would be scored too; choose an empty folder")
    written: list[Path] = []
    seen: set[str] = set()
    for number, case in enumerate(cases, 1):
        _check_case(case, number)
        if case.case_id in seen:
            raise UsageError(f"case {number}: an earlier case has the same case_id; give each its own")
        seen.add(case.case_id)
        stored = [
            (DETECTION, Volume(case.detection.voxels.astype(np.float32), case.detection.geometry)),
            (LABEL, Volume(case.label.voxels.astype(np.uint8), case.detection.geometry)),
        ]
        for ending, volume in stored:
            path = folder / f"{case.case_id}{ending}.nii.gz"
            write_volume(volume, path)
            written.append(path)
    return written


def score_picai(folder: str | Path) -> PicaiFigures | None:
    """What picai_eval makes of a folder that ``write_picai`` wrote; None where that package is not installed.

    What it prints, when it is imported too, goes to stderr.
    """
    with redirect_stdout(sys.stderr):
        try:
            import picai_eval  # type: ignore[import-untyped,import-not-found]
        except ImportError:
            return None
        found = picai_eval.evaluate_folder(str(folder), verbose=0)
        figures = (found.auroc, found.AP, found.score)
    auroc, precision, score = (float(value) + 0.0 for value in figures)  # its AP of nothing found is -0.0
    return PicaiFigures(auroc, precision, score, int(found.num_cases), int(found.num_lesions))


def _check_case(case: PicaiCase, number: int) -> None:
    from scipy import ndimage

    given: dict[str, object] = {"detection map": case.detection, "label": case.label}
    for name, found in given.items():
        if not isinstance(found, Volume):
            raise UsageError(
                f"case {number}: its {name} is of type {type(found).__name__}, and a Volume is needed; give "
                "Volume(voxels, t2w.geometry)"
            )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", case.case_id) or re.search(f"{DETECTION}|{LABEL}", case.case_id):
        raise UsageError(
            f"case {number}: the case_id cannot be a file name of picai_eval; use letters, digits and . _ - only, "
            f"without {DETECTION} or {LABEL}"
        )
    if not same_grid(case.detection, case.label):
        raise UsageError(f"case {number}: detection map and label are on different grids; put both on that of the t2w")
    if not np.isin(case.label.voxels, (0, 1)).all():
        raise UsageError(f"case {number}: the label holds other values than 0 and 1; mark the significant lesions as 1")
    detection = case.detection.voxels.astype(np.float32)
    if not (np.isfinite(detection).all() and detection.min() >= 0 and detection.max() <= 1):
        raise UsageError(f"case {number}: the detection map has values outside 0 to 1; give probabilities")
    names, count = ndimage.label(detection, structure=_NEIGHBOURS)
    index = np.arange(1, count + 1)
    if count and not np.array_equal(ndimage.minimum(detection, names, index), ndimage.maximum(detection, names, index)):
        raise UsageError(
            f"case {number}: a connected candidate of the detection map has several values, as a probability map would;"
            " give each candidate one (detection_map does)"
        )


def detection_map(volume: Volume, candidates: Sequence[tuple[Place, float]], radius_mm: float = 5.0) -> Volume:
    """Draw scored lesion candidates on the grid of a volume, one connected component each.

    A position becomes a ball; a mask keeps its shape (its largest component). Where candidates meet, a voxel goes to
    the nearer centre, and the candidate of lower probability gives way by one voxel, because scorers join what touches.

    Args:
        volume: the T2w volume, for its grid.
        candidates: (position or mask, probability from 0 to 1); an empty list gives an empty map.
        radius_mm: of the balls.

    Returns:
        (z, y, x) float32: the probability in each candidate, 0 elsewhere. A probability of 0 is drawn as 1e-6.

    Raises:
        UsageError: a candidate (named by its number from 1) outside the volume, on another grid, without a voxel, with
            a probability outside 0 to 1, or covered by the others.
    """
    if not radius_mm > 0:
        raise UsageError(f"a radius of {radius_mm} mm draws nothing; use 5")
    shapes: list[BoolArray] = []
    nearest = np.full(volume.shape_zyx, np.inf)
    owner = np.full(volume.shape_zyx, -1)
    for number, (place, probability) in enumerate(candidates, 1):
        if not 0 <= probability <= 1:
            raise UsageError(f"candidate {number}: probability {probability} lies outside 0 to 1")
        shape, distance = _shape(volume, place, radius_mm, f"candidate {number}")
        mine = shape & (distance < nearest)
        nearest[mine], owner[mine] = distance[mine], number - 1
        shapes.append(shape)
    drawn = np.zeros(volume.shape_zyx, np.float32)
    taken = np.zeros(volume.shape_zyx, bool)
    for index in sorted(range(len(shapes)), key=lambda number: -candidates[number][1]):
        own = _largest((owner == index) & ~taken)
        if not own.any():
            raise UsageError(f"candidate {index + 1}: lies within other candidates; merge them first")
        drawn[own] = max(candidates[index][1], _LEAST)
        taken |= _grown(own)
    return Volume(drawn, volume.geometry, volume.source)


def _shape(volume: Volume, place: Place, radius_mm: float, where: str) -> tuple[BoolArray, npt.NDArray[np.float64]]:
    """A candidate's voxels, and every voxel's distance in mm from its centre."""
    if isinstance(place, Volume):
        if not same_grid(place, volume):
            raise UsageError(f"{where}: its mask is on another grid than the volume; resample it first")
        shape = _largest(place.voxels > 0)
        if not shape.any():
            raise UsageError(f"{where}: its mask is empty")
        return shape, _distance_mm(volume, np.argwhere(shape).mean(0))
    if not volume.contains(place):
        raise UsageError(f"{where}: its position lies outside the volume; positions are x, y, z in mm, LPS")
    centre = volume.geometry.position_to_index(place)
    distance = _distance_mm(volume, centre)
    shape = distance <= radius_mm
    # a ball smaller than the slice distance may fall between voxel centres
    shape[tuple(np.clip(np.rint(centre).astype(int), 0, np.asarray(volume.shape_zyx) - 1))] = True
    return shape, distance


def _distance_mm(volume: Volume, centre_zyx: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    axes = [
        ((np.arange(size) - centre) * spacing) ** 2
        for size, centre, spacing in zip(volume.shape_zyx, centre_zyx, volume.geometry.spacing_mm_zyx, strict=True)
    ]
    return np.asarray(np.sqrt(axes[0][:, None, None] + axes[1][None, :, None] + axes[2][None, None, :]))


def _largest(shape: BoolArray) -> BoolArray:
    from scipy import ndimage

    names, count = ndimage.label(shape, structure=_NEIGHBOURS)
    if count < 2:
        return np.asarray(shape, bool)
    return np.asarray(names == 1 + int(np.argmax(np.bincount(names.ravel())[1:])))


def _grown(shape: BoolArray) -> BoolArray:
    from scipy import ndimage

    return np.asarray(ndimage.binary_dilation(shape, _NEIGHBOURS), bool)

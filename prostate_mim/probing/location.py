"""The control ``location``: where in the body a voxel lies, known exactly, in place of what a network sees there."""

from __future__ import annotations

from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prostate_mim.engine.runs import prepare_rows
from prostate_mim.manifest import read_manifest
from prostate_mim.probing.data import ASKED, Questions
from prostate_mim.probing.task import ProbeTask
from prostate_mim.studies import open_study

Floats = npt.NDArray[np.float64]
_SCALE_MM = 30.0
_DEGREE = 4  # an organ of any place and, about, any convex shape


def location_features(asked: Questions, task: ProbeTask, store: Path | None = None) -> list[Floats]:
    """One (V, C) per window: powers and products, up to the fourth, of where a voxel lies along z, y and x in mm.

    It is measured from the middle of the scan, as the target ``position`` has it; where a task asks about parts of the
    gland, from the gland's middle too. So a probe of them finds what the usual places of things tell, and no more.

    Args:
        asked: what ``ask`` gave for the task.
        task: on which studies; they are read again.
        store: folder of prepared studies; None prepares them in memory.

    Raises:
        ManifestError, VolumeError, NotFoundError: the data.
    """
    listed = read_manifest(task.manifest)
    origins = []
    for row, prepared in zip(listed.rows, prepare_rows(listed, task.region, store=store).rows, strict=True):
        scan = open_study(listed, row, ()).volume
        own = [prepared.study.geometry.position_to_index(scan.centre_mm_lps)]
        gland = prepared.study.mask("gland")
        if ASKED[task.kind][1] is not None and gland is not None:
            own.append(np.argwhere(gland).mean(0))
        origins.append(own)
    step = np.asarray(task.spacing_mm_zyx) / _SCALE_MM
    found = []
    for window, places in zip(asked.windows, asked.places, strict=True):
        at = places + np.asarray(window.start_zyx)
        found.append(np.concatenate([powers((at - middle) * step, _DEGREE) for middle in origins[window.owner]], 1))
    return found


def powers(at: Floats, degree: int) -> Floats:
    """(V, 3) -> (V, C): z, y, x, zz, zy, zx, yy, ... up to a degree; C is 9 for 2, 34 for 4."""
    chosen = [axes for n in range(1, degree + 1) for axes in combinations_with_replacement(range(3), n)]
    return np.stack([at[:, list(axes)].prod(1) for axes in chosen], 1)

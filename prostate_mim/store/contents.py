"""What a prepared study holds, as a hash: of the numbers that are read from it, not of the code that made them."""

from __future__ import annotations

import hashlib

import numpy as np

from prostate_mim.store.keys import canonical
from prostate_mim.store.prepared import PreparedStudy


def contents_of(study: PreparedStudy) -> str:
    """A hash (64 hex digits), equal for studies from which the same crops are drawn, in memory and from a store.

    Of the shape, voxels, scale, offset, measured box, and masks with their labels. Where the grid lies in the scanner
    is not in it: its spacing is the input contract's, and no number of a training or a prediction comes from the rest.

    Raises:
        IntegrityError: the study's array can no longer be read.
    """
    stated = {
        "shape_zyx": study.shape_zyx,
        "scale": study.scale,
        "offset": study.offset,
        "inside_zyx": study.inside_zyx,
        "masks": sorted(study.masks),
    }
    found = hashlib.sha256(canonical(stated).encode() + b"\n")
    for array, kind in ((study.voxels, "<i2"), (study.labels, "u1")):
        if array is not None:
            found.update(np.ascontiguousarray(array[:, :, :], kind).reshape(-1).data)
    return found.hexdigest()

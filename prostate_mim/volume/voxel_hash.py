"""One hash for one image, whatever format, orientation or number type its file has."""

from __future__ import annotations

import hashlib

import numpy as np

from prostate_mim.volume.geometry import Volume


def voxel_hash(volume: Volume) -> str:
    """SHA-256 (64 hex digits) of a volume's shape and intensities.

    Volumes are read in one orientation, so the same series as DICOM, NIfTI or MetaImage, stored in any order of axes
    and as whole numbers or floating point, has one hash. Geometry is left out: converters round it differently. A
    resampled, cropped or rescaled copy has another hash.

    Args:
        volume: as ``read_volume`` returns it.
    """
    voxels = np.ascontiguousarray(volume.voxels, dtype="<f4") + np.float32(0)  # -0.0 becomes 0.0
    head = "x".join(str(size) for size in volume.shape_zyx).encode()
    return hashlib.sha256(head + b"\0" + voxels.tobytes()).hexdigest()

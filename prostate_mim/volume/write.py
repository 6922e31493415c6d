"""Writing: .nii, .nii.gz and .mha, byte for byte the same for the same volume."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from prostate_mim import files
from prostate_mim.errors import UsageError, VolumeError
from prostate_mim.volume.checks import check_dtype
from prostate_mim.volume.geometry import FloatArray, Volume

_META_TYPES = {
    "i1": "MET_CHAR", "u1": "MET_UCHAR", "i2": "MET_SHORT", "u2": "MET_USHORT", "i4": "MET_INT", "u4": "MET_UINT",
    "i8": "MET_LONG_LONG", "u8": "MET_ULONG_LONG", "f4": "MET_FLOAT", "f8": "MET_DOUBLE",
}  # fmt: skip
_NIFTI1_ROUNDING_MM = 1e-5

# MR noise hardly compresses: level 2, ITK's own default, is much faster than 6 for a few per cent more bytes.
COMPRESSION = 2


def write_volume(volume: Volume, path: str | Path) -> None:
    """Write a volume atomically; ``read_volume`` returns the same voxels, and geometry within 1e-5 mm.

    Args:
        volume: voxels (z, y, x) of 1 to 8 byte whole numbers, float32 or float64.
        path: ends in ``.nii``, ``.nii.gz`` or ``.mha`` (compressed). NIfTI-1, or NIfTI-2 where NIfTI-1's single
            precision would move the origin or the spacing by over 1e-5 mm.

    Raises:
        UsageError: another ending, or the folder cannot be written.
        ResourceError: the disk is full.
        VolumeError: a number type no format stores.
    """
    path = Path(path)
    lower = path.name.lower()
    check_dtype(str(path), volume.voxels.dtype)
    kind = volume.voxels.dtype.newbyteorder("=").str[1:]
    if kind not in _META_TYPES:
        raise VolumeError(f"{path}: voxel type {volume.voxels.dtype} cannot be written; convert to int16 or float32")
    if lower.endswith(".nii.gz"):
        files.write_bytes(path, gzip.compress(_nifti(volume), compresslevel=COMPRESSION, mtime=0))
    elif lower.endswith(".nii"):
        files.write_bytes(path, _nifti(volume))
    elif lower.endswith(".mha"):
        files.write_bytes(path, _meta(volume, _META_TYPES[kind]))
    else:
        raise UsageError(f"{path}: {path.suffix or 'no extension'} cannot be written; use .nii, .nii.gz or .mha")


def _affine(volume: Volume) -> FloatArray:
    """(4, 4) index (x, y, z) -> RAS mm, NIfTI's convention."""
    geometry = volume.geometry
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(geometry.direction) * np.asarray(geometry.spacing_mm_zyx[::-1])[None, :]
    affine[:3, 3] = geometry.origin_mm_lps
    return np.asarray(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)


def _nifti(volume: Volume) -> bytes:
    import nibabel

    affine = _affine(volume)
    rounding = float(np.abs(affine.astype(np.float32) - affine).max())
    make: Any = nibabel.Nifti1Image if rounding <= _NIFTI1_ROUNDING_MM else nibabel.Nifti2Image
    voxels = volume.voxels.astype(volume.voxels.dtype.newbyteorder("<"), copy=False)
    image = make(voxels.transpose(2, 1, 0), affine, dtype=voxels.dtype)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    return bytes(image.to_bytes())


def _meta(volume: Volume, element_type: str) -> bytes:
    geometry = volume.geometry
    voxels = np.ascontiguousarray(volume.voxels, dtype=volume.voxels.dtype.newbyteorder("<"))
    packed = zlib.compress(voxels.tobytes(), level=COMPRESSION)
    # MetaIO lists the matrix by columns: the direction of x, then of y, then of z
    matrix = np.asarray(geometry.direction, float).T.reshape(-1)
    lines = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "True",
        "CompressedDataSize": str(len(packed)),
        "TransformMatrix": _join(matrix),
        "Offset": _join(geometry.origin_mm_lps),
        "CenterOfRotation": "0 0 0",
        "AnatomicalOrientation": _letters(geometry.direction),
        "ElementSpacing": _join(geometry.spacing_mm_zyx[::-1]),
        "DimSize": " ".join(str(size) for size in volume.shape_zyx[::-1]),
        "ElementType": element_type,
        "ElementDataFile": "LOCAL",
    }
    return "".join(f"{key} = {value}\n" for key, value in lines.items()).encode() + packed


def _letters(direction: FloatArray) -> str:
    """Where each axis comes from: RAI (right, anterior, inferior) for LPS axes. A remark; no reader goes by it."""
    nearest = [int(np.abs(column).argmax()) for column in np.asarray(direction).T]
    return "".join("RAI"[n] if direction[n][axis] > 0 else "LPS"[n] for axis, n in enumerate(nearest))


def _join(values: Any) -> str:
    return " ".join(repr(float(value)) for value in values)

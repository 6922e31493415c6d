"""Bare arrays: .npy, .npy.gz, .npz and numpy arrays, whose spacing the caller must state."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from prostate_mim.errors import VolumeError
from prostate_mim.volume.checks import Array, check_dtype, check_size
from prostate_mim.volume.orient import RawImage
from prostate_mim.volume.payload import GZIP, collect, inflated_chunks, raw_chunks


def array_image(array: Array, name: str, spacing_mm_zyx: Sequence[float] | None, max_voxels: int) -> RawImage:
    """A bare array (z, y, x), or (y, x) taken as depth 1, in the spacing given; axial LPS axes by convention.

    Raises:
        VolumeError: no spacing, wrong number of axes, too many voxels, or not a real number type.
    """
    if spacing_mm_zyx is None:
        raise VolumeError(f"{name}: spacing_mm_zyx is missing and a bare array stores none; give it as (z, y, x) in mm")
    check_dtype(name, array.dtype)
    if array.ndim not in (2, 3):
        raise VolumeError(
            f"{name}: the array has {array.ndim} axes, allowed 3 (z, y, x) or 2 (y, x); split or squeeze it"
        )
    check_size(name, "array shape", array.shape, max_voxels)
    voxels = array.reshape((1, *array.shape)) if array.ndim == 2 else array
    if voxels.dtype.kind == "b":
        voxels = voxels.astype(np.uint8)
    z, y, x = spacing_mm_zyx
    return RawImage(voxels, (x, y, z), (0.0, 0.0, 0.0), np.eye(3), "spacing_mm_zyx")


def read_npy(path: Path, name: str, max_voxels: int) -> Array:
    """Read ``.npy`` or ``.npy.gz``: no pickles, exact length, gzip checksum verified.

    Raises:
        VolumeError: damaged, wrong length, over ``max_voxels``, or not real numbers.
    """
    with path.open("rb") as stream:
        zipped = path.suffix.lower() == ".gz"
        return _decode(inflated_chunks(stream, name, GZIP) if zipped else raw_chunks(stream), name, max_voxels)


def read_npz(path: Path, name: str, max_voxels: int) -> Array:
    """Read a ``.npz`` that holds exactly one array, its CRC verified.

    Raises:
        VolumeError: no array or several, damaged, over ``max_voxels``, or not real numbers.
    """
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                if len(members) != 1 or not members[0].filename.endswith(".npy"):
                    raise VolumeError(f"{name}: holds {len(members)} arrays, exactly 1 allowed; save the volume alone")
                with archive.open(members[0]) as stream:
                    return _decode(raw_chunks(stream), name, max_voxels)
        except (VolumeError, MemoryError):
            raise
        except Exception as error:  # zipfile and its decompressors raise whatever damage they met
            raise VolumeError(f"{name}: damaged zip archive ({_first_line(error)}); copy the file again") from error


def _first_line(error: Exception) -> str:
    line = (str(error).splitlines() or [type(error).__name__])[0][:100]  # numpy repeats the header, whatever it holds
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def _decode(chunks: Iterable[bytes], name: str, max_voxels: int) -> Array:
    header: list[tuple[tuple[int, ...], bool, np.dtype[np.generic], int]] = []

    def declare(data: bytearray) -> int | None:
        start = _header_end(data, name)
        if start is None:
            return None
        shape, fortran, dtype = _parse(bytes(data[:start]), name)
        check_dtype(name, dtype)
        total = start + check_size(name, "array shape", shape, max_voxels) * dtype.itemsize
        header.append((shape, fortran, dtype, start))
        return total

    data = collect(chunks, name, declare)
    shape, fortran, dtype, start = header[0]
    return np.frombuffer(data, dtype, math.prod(shape), start).reshape(shape, order="F" if fortran else "C")


def _header_end(data: bytearray, name: str) -> int | None:
    """Where the voxels start; None while ``data`` is too short to tell."""
    if len(data) < 12:
        return None
    if data[:6] != b"\x93NUMPY" or data[6] not in (1, 2):
        raise VolumeError(f"{name}: does not start as a .npy file (version 1 or 2); save it with numpy.save")
    width = 2 if data[6] == 1 else 4
    end = 8 + width + int.from_bytes(data[8 : 8 + width], "little")
    if end > 10_000:
        raise VolumeError(f"{name}: .npy header of {end} bytes, at most 10000 allowed; the file is damaged")
    return end if len(data) >= end else None


def _parse(head: bytes, name: str) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    stream = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(stream)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = reader(stream)
    except Exception as error:  # numpy raises whatever its literal parser met
        raise VolumeError(f"{name}: damaged .npy header ({_first_line(error)}); copy the file again") from error
    return tuple(int(size) for size in shape), bool(fortran), dtype

"""One channel of a 4-D NIfTI file (MSD stores T2w and ADC in one), read as strictly as a volume of its own."""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path

from prostate_mim.errors import NotFoundError, VolumeError
from prostate_mim.volume import checks, nifti
from prostate_mim.volume.checks import MAX_VOXELS
from prostate_mim.volume.geometry import Volume
from prostate_mim.volume.nifti import NiftiHeader
from prostate_mim.volume.orient import RawImage, canonical
from prostate_mim.volume.read import one_line, typed_errors

# sizeof_hdr -> (offset, struct format) of dim, in the two versions of the standard, as in volume/nifti.py
_DIM = {348: (40, "8h"), 540: (16, "8q")}
_LONGEST_HEADER = 544
_MAX_CHANNELS = 64


def read_channel(path: str | os.PathLike[str], channel: int, *, max_voxels: int = MAX_VOXELS) -> Volume:
    """Read one 3-D volume of a 4-D ``.nii`` or ``.nii.gz``; every byte of all channels is verified first.

    Args:
        path: the file; its last axis counts the channels.
        channel: which, from 0.
        max_voxels: most voxels allowed in all channels together, checked before anything is allocated.

    Returns:
        Volume: the channel's voxels (z, y, x) in the canonical orientation, as ``read_volume`` returns them.

    Raises:
        NotFoundError: the path does not exist.
        VolumeError: not 4-D, no such channel, or anything that ``read_volume`` refuses.
        ResourceError: out of memory.
    """
    source = Path(path)
    name = one_line(source)
    if not source.exists():
        raise NotFoundError(f"{name}: no such file; check the path")
    if not source.name.lower().endswith((".nii", ".nii.gz")) or not source.is_file():
        raise VolumeError(f"{name}: channels are read from .nii or .nii.gz files only; convert it")
    with typed_errors(name):
        volume = canonical(_image(source, name, channel, max_voxels), name)
    checks.check_finite(name, volume.voxels)
    checks.check_varies(name, volume.voxels)
    return volume


def _image(path: Path, name: str, channel: int, max_voxels: int) -> RawImage:
    """The channel as a file with this one channel would be read: the same header with three sizes, its own voxels."""
    found: list[tuple[bytearray, NiftiHeader, int]] = []

    def declare(data: bytearray) -> int | None:
        single = _single_header(data, name, max_voxels)
        if single is None:
            return None
        head, channels = single
        header = nifti.parse_header(head, name, max_voxels)
        if header is None:
            return None
        found.append((head, header, channels))
        return header.offset + channels * _bytes(header)

    data = nifti.whole_file(path, name, declare)
    head, header, channels = found[0]
    if not 0 <= channel < channels:
        raise VolumeError(f"{name}: channel {channel} was asked for, there are {channels}, counted from 0")
    start = header.offset + channel * _bytes(header)
    # What lies between the header and the voxels (extensions) stays where it is
    single_file = bytearray().join((head, data[len(head) : header.offset], data[start : start + _bytes(header)]))
    return nifti.image_of(header, single_file, name)


def _bytes(header: NiftiHeader) -> int:
    """Length of one channel's voxels."""
    return math.prod(header.sizes_ijk) * header.dtype.itemsize


def _single_header(data: bytearray, name: str, max_voxels: int) -> tuple[bytearray, int] | None:
    """A copy of the header that declares one channel, and how many there are; None while ``data`` is too short.

    Raises:
        VolumeError: not a 4-D NIfTI, too many channels, or over ``max_voxels`` in all.
    """
    if len(data) < 4:
        return None
    order = next((o for o in "<>" if struct.unpack_from(o + "i", data)[0] in _DIM), None)
    if order is None:
        return bytearray(data), 1  # parse_header refuses it, and says why
    length = struct.unpack_from(order + "i", data)[0]
    if len(data) < length + 4:
        return None
    at, form = _DIM[length]
    dim = struct.unpack_from(order + form, data, at)
    if not 4 <= dim[0] <= 7 or any(size != 1 for size in dim[5 : dim[0] + 1]):
        raise VolumeError(f"{name}: dim is {list(dim)}, only 4-D files have channels; is it a single volume?")
    if not 1 <= dim[4] <= _MAX_CHANNELS:
        raise VolumeError(f"{name}: dim[4] is {dim[4]}, allowed 1 to {_MAX_CHANNELS} channels; the header is damaged")
    checks.check_size(name, "dim", dim[1:5], max_voxels)
    head = bytearray(data[:_LONGEST_HEADER] if length == 540 else data[:352])
    struct.pack_into(order + form, head, at, 3, *dim[1:4], 1, 1, 1, 1)
    return head, dim[4]

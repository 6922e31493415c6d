"""MetaImage (.mha, .mhd): verified here (header, exact length, zlib's checksum), as SimpleITK reads it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from prostate_mim.errors import VolumeError
from prostate_mim.volume.checks import check_size
from prostate_mim.volume.itk import read_verified
from prostate_mim.volume.orient import RawImage
from prostate_mim.volume.payload import ZLIB, exactly, inflated_chunks, raw_chunks

MAX_HEADER = 1 << 16
PLAIN_BYTES = 4096  # writers need no more
_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_ALIASES = {
    "Position": "Offset",
    "Origin": "Offset",
    "Orientation": "TransformMatrix",
    "Rotation": "TransformMatrix",
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}
_FIXED = {"ObjectType": "Image", "NDims": "3", "BinaryData": "True", "ElementNumberOfChannels": "1", "HeaderSize": "0"}
# Fields of which our reading and ITK's can differ in nothing but the values that ITK reports, in the one form that
# writers use. A colon, a strange space, a long line or any other field could mean other voxels to ITK. Its own fields
# begin with capitals: ITK_ and small letters are remarks that it copies from a DICOM or NIfTI file.
_PLAIN = re.compile(
    rb"(?:(?:ObjectType|NDims|BinaryData|BinaryDataByteOrderMSB|CompressedData|CompressedDataSize|TransformMatrix|Offset"
    rb"|CenterOfRotation|AnatomicalOrientation|ElementSpacing|DimSize|ElementType"
    rb"|ElementDataFile|(?:ITK_|[a-z])\w{0,60}(?:\[\d\])?)"
    rb" = [\w?.+-]{1,40}(?: [\w?.+-]{1,40}){0,8}\n)+"
)
_OPTIONAL = ("ElementNumberOfChannels", "HeaderSize")


def read_meta(path: Path, name: str, max_voxels: int, *, alone: bool) -> RawImage:
    """Read ``.mha`` or ``.mhd`` to its last byte.

    Args:
        path: the header file.
        name: as the user gave it.
        max_voxels: most voxels allowed.
        alone: refuse voxels in a second file (a hash of this one would not cover them).

    Raises:
        VolumeError: damaged, wrong length, no geometry, a reference outside its folder, or read otherwise by SimpleITK.
    """
    fields, head = _fields(path, name)
    sizes, dtype = _layout(fields, name, max_voxels)
    i, j, k = numbers(fields.get("ElementSpacing", "missing"), 3, name, "ElementSpacing")
    x, y, z = numbers(fields.get("Offset", "missing"), 3, name, "Offset")
    # MetaIO lists the matrix by columns: the direction of i, then of j, then of k
    matrix = np.asarray(numbers(fields.get("TransformMatrix", "missing"), 9, name, "TransformMatrix")).reshape(3, 3)
    local = fields["ElementDataFile"] == "LOCAL"
    data = path if local else sibling(path, name, "ElementDataFile", fields["ElementDataFile"], alone=alone)
    packed = _flag(fields, "CompressedData", name)
    with data.open("rb") as stream:
        stream.seek(len(head) if local else 0)
        stated = fields.get("CompressedDataSize")
        size = data.stat().st_size - stream.tell()
        if packed and stated is not None and stated != str(size):
            raise VolumeError(f"{name}: CompressedDataSize is {stated[:20]} but {size} bytes follow; copy it again")
        chunks = inflated_chunks(stream, name, ZLIB) if packed else raw_chunks(stream)
        content = exactly(chunks, name, math.prod(sizes) * dtype.itemsize)
    if packed and stated is None:
        raise VolumeError(f"{name}: CompressedDataSize is missing and SimpleITK needs it; convert the file again")
    voxels = np.frombuffer(content, dtype).reshape(sizes[::-1])
    verified = RawImage(voxels, (i, j, k), (x, y, z), matrix.T, "TransformMatrix")
    plain = local and dtype.str[0] != ">" and len(head) <= PLAIN_BYTES and _PLAIN.fullmatch(head)
    return read_verified(path, "MetaImageIO", verified, name, decode=not plain)


def _fields(path: Path, name: str) -> tuple[dict[str, str], bytes]:
    """The ``Key = value`` lines up to ElementDataFile, which must be the last; as fields and as bytes."""
    with path.open("rb") as stream:
        head = stream.read(MAX_HEADER)
    fields: dict[str, str] = {}
    start = 0
    while (end := head.find(b"\n", start)) >= 0:
        key, equals, value = header_line(head[start:end], name).partition("=")
        key = _ALIASES.get(key.strip(), key.strip())
        if not equals or not key or key in fields:
            raise VolumeError(f"{name}: header line {len(fields) + 1} is damaged or repeated; copy the file again")
        fields[key] = value.strip()
        start = end + 1
        if key == "ElementDataFile":
            return fields, head[:start]
    raise VolumeError(f"{name}: ElementDataFile is missing from the header; not a MetaImage file, or truncated")


def _layout(fields: Mapping[str, str], name: str, max_voxels: int) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """Sizes (i, j, k) and number type the header declares."""
    for key, value in _FIXED.items():
        found = fields.get(key, value if key in _OPTIONAL else "missing")
        if found != value:
            raise VolumeError(f"{name}: {key} is {found[:20]!r}, must be {value}; convert it to a plain 3-D image")
    kind = fields.get("ElementType", "missing")
    if kind not in _TYPES:
        raise VolumeError(f"{name}: ElementType is {kind[:20]!r}, allowed {', '.join(_TYPES)}; convert it")
    order = ">" if _flag(fields, "BinaryDataByteOrderMSB", name) else "<"
    if _TYPES[kind][1] != "1" and "BinaryDataByteOrderMSB" not in fields:
        raise VolumeError(f"{name}: BinaryDataByteOrderMSB is missing, must be True or False; correct the header")
    sizes = whole_numbers(fields.get("DimSize", "missing"), name, "DimSize")
    check_size(name, "DimSize", sizes, max_voxels)
    return sizes, np.dtype(order + _TYPES[kind])


def _flag(fields: Mapping[str, str], key: str, name: str) -> bool:
    value = fields.get(key, "False")
    if value.lower() not in ("true", "false"):
        raise VolumeError(f"{name}: {key} is {value[:20]!r}, must be True or False; the header is damaged")
    return value.lower() == "true"


def header_line(raw: bytes, name: str) -> str:
    """One line of a text header.

    Raises:
        VolumeError: it holds a control character, which no writer puts there.
    """
    line = raw.decode("latin-1").removesuffix("\r")
    if any(letter < " " and letter != "\t" for letter in line):
        raise VolumeError(f"{name}: a header line holds a control character; the file is damaged, copy it again")
    return line


def numbers(text: str, length: int, name: str, key: str) -> list[float]:
    """Exactly ``length`` finite numbers.

    Raises:
        VolumeError: naming the field and its text.
    """
    try:
        values = [float(word) for word in text.split()]
    except ValueError:
        values = []
    if len(values) != length or not all(math.isfinite(value) for value in values):
        raise VolumeError(f"{name}: {key} is {text[:60]!r}, must be {length} finite numbers; correct the header")
    return values


def whole_numbers(text: str, name: str, key: str) -> tuple[int, ...]:
    """Exactly three whole numbers.

    Raises:
        VolumeError: naming the field and its text.
    """
    values = numbers(text, 3, name, key)
    if any(value != int(value) for value in values):
        raise VolumeError(f"{name}: {key} is {text[:60]!r}, must be 3 whole numbers; correct the header")
    return tuple(int(value) for value in values)


def sibling(path: Path, name: str, key: str, value: str, *, alone: bool) -> Path:
    """The file beside ``path`` that a header refers to by its plain name.

    Messages do not repeat the name: files are named after patients.

    Raises:
        VolumeError: a path, a list or a pattern instead of a name; a missing file; or ``alone``.
    """
    strange = not value or value in (".", "..") or any(letter in value for letter in "/\\:%\0 \t")
    if strange or value.upper().startswith("LIST"):
        raise VolumeError(f"{name}: {key} must be LOCAL or the plain name of a file beside it; correct the header")
    if alone:
        raise VolumeError(f"{name}: sha256 cannot cover the second file that {key} names; convert to one file")
    data = path.parent / value
    if not data.is_file():
        raise VolumeError(f"{name}: {key} names a file that is not beside it; copy both files")
    return data

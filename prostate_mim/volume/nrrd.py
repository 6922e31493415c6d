"""NRRD (.nrrd), raw or gzip: verified here (header, exact length, checksum), as SimpleITK reads it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from prostate_mim.errors import VolumeError
from prostate_mim.volume.checks import check_size
from prostate_mim.volume.geometry import FloatArray
from prostate_mim.volume.itk import read_verified
from prostate_mim.volume.metaimage import MAX_HEADER, PLAIN_BYTES, header_line, numbers, sibling, whole_numbers
from prostate_mim.volume.orient import RawImage
from prostate_mim.volume.payload import GZIP, exactly, inflated_chunks, raw_chunks

_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
_SPACES = {
    **dict.fromkeys(("left-posterior-superior", "lps"), (1.0, 1.0, 1.0)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (-1.0, -1.0, 1.0)),
    **dict.fromkeys(("left-anterior-superior", "las"), (1.0, -1.0, 1.0)),
}
# As in metaimage.py: fields of which our reading and ITK's can differ in nothing but what ITK reports
_PLAIN = re.compile(
    rb"NRRD000[1-5]\n(?:#[ -~]{0,200}\n|(?:type|dimension|space|sizes|space directions|endian|encoding|space origin)"
    rb": [\w.,()+-]{1,90}(?: [\w.,()+-]{1,90}){0,8}\n|kinds: domain domain domain\n"
    rb"|(?:ITK_|Modality|[a-z])\w{0,60}(?:\[\d\])?:=[\w?.+-]{1,40}(?: [\w?.+-]{1,40}){0,8}\n)+\n"
)
_SKIPS = ("line skip", "lineskip", "byte skip", "byteskip")


def read_nrrd(path: Path, name: str, max_voxels: int, *, alone: bool) -> RawImage:
    """Read ``.nrrd`` to its last byte; the arguments are those of ``read_meta``.

    Raises:
        VolumeError: damaged, wrong length, no geometry, unsupported encoding, a reference outside its folder, or read
            otherwise by SimpleITK.
    """
    fields, head = _fields(path, name)
    sizes, dtype = _layout(fields, name, max_voxels)
    spacing, origin, direction = _frame(fields, name)
    detached = fields.get("data file", fields.get("datafile"))
    data = path if detached is None else sibling(path, name, "data file", detached, alone=alone)
    packed = _choice(fields, "encoding", ("raw", "gzip", "gz"), name) != "raw"
    with data.open("rb") as stream:
        stream.seek(len(head) if detached is None else 0)
        chunks = inflated_chunks(stream, name, GZIP) if packed else raw_chunks(stream)
        content = exactly(chunks, name, math.prod(sizes) * dtype.itemsize)
    voxels = np.frombuffer(content, dtype).reshape(sizes[::-1])
    verified = RawImage(voxels, spacing, origin, direction, "space directions")
    plain = detached is None and dtype.str[0] != ">" and len(head) <= PLAIN_BYTES and _PLAIN.fullmatch(head)
    return read_verified(path, "NrrdImageIO", verified, name, decode=not plain)


def _fields(path: Path, name: str) -> tuple[dict[str, str], bytes]:
    """The ``field: value`` lines, and the header they are in (to the first blank line, or the end of the file)."""
    with path.open("rb") as stream:
        head = stream.read(MAX_HEADER)
    if head[:7] != b"NRRD000":
        raise VolumeError(f"{name}: starts with {head[:7]!r}, must be b'NRRD000'; not a NRRD file")
    fields: dict[str, str] = {}
    start = head.find(b"\n") + 1
    while start and (end := head.find(b"\n", start)) >= 0:
        line = header_line(head[start:end], name)
        start = end + 1
        if not line:
            return fields, head[:start]
        key, colon, value = line.partition(":")
        if line.startswith("#") or value.startswith("="):
            continue
        if not colon or key.strip().lower() in fields:
            raise VolumeError(f"{name}: header field {key[:30]!r} is damaged or repeated; copy the file again")
        fields[key.strip().lower()] = value.strip()
    if not {"data file", "datafile"} & fields.keys():
        raise VolumeError(f"{name}: the header has no end; not a NRRD file, or truncated")
    return fields, head[:start]


def _choice(fields: Mapping[str, str], key: str, allowed: tuple[str, ...], name: str) -> str:
    value = fields.get(key, "missing").lower()
    if value not in allowed:
        raise VolumeError(f"{name}: {key} is {value[:40]!r}, allowed {', '.join(allowed)}; convert the file")
    return value


def _layout(fields: Mapping[str, str], name: str, max_voxels: int) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """Sizes (i, j, k) and number type the header declares."""
    _choice(fields, "dimension", ("3",), name)
    for key in _SKIPS:
        if key in fields:
            _choice(fields, key, ("0",), name)
    kind = _TYPES[_choice(fields, "type", tuple(_TYPES), name)]
    order = "<"
    if kind[1] != "1":
        order = "<" if _choice(fields, "endian", ("little", "big"), name) == "little" else ">"
    sizes = whole_numbers(fields.get("sizes", "missing"), name, "sizes")
    check_size(name, "sizes", sizes, max_voxels)
    return sizes, np.dtype(order + kind)


def _frame(
    fields: Mapping[str, str], name: str
) -> tuple[tuple[float, float, float], tuple[float, float, float], FloatArray]:
    """Spacing (i, j, k), origin and direction (columns: i, j, k), LPS."""
    to_lps = np.asarray(_SPACES[_choice(fields, "space", tuple(_SPACES), name)])
    rows = np.asarray(_vectors(fields, "space directions", 3, name)).reshape(3, 3) * to_lps
    x, y, z = np.asarray(_vectors(fields, "space origin", 1, name)) * to_lps
    lengths = np.linalg.norm(rows, axis=1)
    if not lengths.all():
        raise VolumeError(f"{name}: space directions hold a vector of length 0; correct the header")
    i, j, k = (float(length) for length in lengths)
    return (i, j, k), (float(x), float(y), float(z)), (rows / lengths[:, None]).T


def _vectors(fields: Mapping[str, str], key: str, number: int, name: str) -> list[float]:
    """The numbers of ``number`` vectors written (x,y,z)."""
    text = fields.get(key, "missing")
    if not re.fullmatch(r"\s*".join([r"\([^(),]+,[^(),]+,[^(),]+\)"] * number), text):
        raise VolumeError(f"{name}: {key} is {text[:60]!r}, must be {number} vectors (x,y,z); convert the file again")
    return numbers(re.sub(r"[(),]", " ", text), 3 * number, name, key)

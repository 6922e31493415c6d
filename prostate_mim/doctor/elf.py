"""Which shared libraries a Linux library asks for, read from its own file; nothing of it is run."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

_DYNAMIC, _LOAD = 2, 1  # types of program headers
_END, _NEEDED, _STRINGS = 0, 1, 5  # tags of the dynamic section
_MOST = 4096
"""Entries of a table, and characters of a name: a damaged file may claim any number."""


def needed(path: Path) -> list[str]:
    """Names such as ``libcurand.so.10``, in the file's order.

    Raises:
        ValueError: not a 64-bit little-endian ELF library, or a damaged one.
        OSError: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return _needed(stream)
    except (struct.error, UnicodeDecodeError, OverflowError) as error:
        raise ValueError(f"{path.name} is damaged ({error})") from error


def _needed(stream: BinaryIO) -> list[str]:
    head = _at(stream, 0, 64)
    if head[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    (start,) = struct.unpack_from("<Q", head, 32)
    size, count = struct.unpack_from("<HH", head, 54)
    if size != 56 or count > _MOST:
        raise ValueError("its table of segments is damaged")
    segments = [struct.unpack("<IIQQQQQQ", _at(stream, start + 56 * number, 56)) for number in range(count)]
    sections = [(offset, length) for kind, _, offset, _, _, length, _, _ in segments if kind == _DYNAMIC]
    if len(sections) != 1:
        raise ValueError(f"it has {len(sections)} dynamic sections")
    ((offset, length),) = sections
    tags = [struct.unpack("<qQ", _at(stream, offset + 16 * n, 16)) for n in range(min(length // 16, _MOST))]
    if (_END, 0) in tags:
        tags = tags[: tags.index((_END, 0))]
    strings = next((value for tag, value in tags if tag == _STRINGS), None)
    if strings is None:
        return []
    place = _place(strings, segments)
    return [_text(stream, place + value) for tag, value in tags if tag == _NEEDED]


def _place(address: int, segments: list[tuple[int, ...]]) -> int:
    """Where in the file an address of memory is loaded from."""
    for kind, _, offset, virtual, _, length, _, _ in segments:
        if kind == _LOAD and virtual <= address < virtual + length:
            return offset + address - virtual
    raise ValueError("its table of strings is nowhere in the file")


def _text(stream: BinaryIO, place: int) -> str:
    text, end, _ = _at(stream, place, _MOST).partition(b"\0")
    if not end:
        raise ValueError("a name in it has no end")
    return text.decode("ascii")


def _at(stream: BinaryIO, place: int, length: int) -> bytes:
    """Bytes from a place on; fewer at the end of the file."""
    if place > os.fstat(stream.fileno()).st_size:
        raise ValueError(f"it points behind its end, to byte {place}")
    stream.seek(place)
    return stream.read(length)

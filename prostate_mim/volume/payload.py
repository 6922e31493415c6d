"""Bounded reading: inflate with every checksum verified, and never take more bytes than the header declares.

Inflating is most of the time of reading. ISA-L (Intel's library; ARM has assembly too) needs less than half of zlib's
and verifies the same checksums. Where it is not installed, Python's zlib does the same work; that both refuse the same
is tested (tests/volume/test_payload.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

import numpy as np

from prostate_mim.errors import VolumeError

inflate: Any
try:
    from isal import isal_zlib as inflate
except ImportError:  # a machine that only predicts needs few packages
    import zlib as inflate

GZIP = 31  # zlib's window-bits code for a gzip member (CRC-32 and length verified by the library)
ZLIB = 15  # zlib's window-bits code for a zlib stream (Adler-32 verified by the library)
_IN = 1 << 20
_OUT = 1 << 20
_NAMES = {GZIP: "gzip", ZLIB: "zlib"}
_NUMBERED = re.compile(r"^Error -?\d+ (while decompressing data: )?")  # how reasons of both libraries begin


def raw_chunks(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield the rest of ``stream`` in pieces of at most 1 MiB."""
    while chunk := stream.read(_OUT):
        yield chunk


def inflated_chunks(stream: IO[bytes], name: str, window_bits: int) -> Iterator[bytes]:
    """Yield the decompressed rest of ``stream`` in pieces of at most 1 MiB, to the very last checksum.

    Args:
        stream: positioned at the first compressed byte.
        name: the file, as the user gave it (for messages).
        window_bits: ``GZIP`` (several members allowed) or ``ZLIB`` (exactly one stream).

    Raises:
        VolumeError: truncated stream, wrong checksum or length, or bytes after the end.
    """
    pending = stream.read(_IN)
    while True:
        inflater = inflate.decompressobj(window_bits)
        while not inflater.eof:
            pending = pending or stream.read(_IN)
            given = len(pending)
            try:
                chunk = inflater.decompress(pending, _OUT)
            except inflate.error as error:
                reason = _NUMBERED.sub("", str(error))
                raise VolumeError(
                    f"{name}: damaged {_NAMES[window_bits]} data ({reason}); copy the file again"
                ) from error
            pending = inflater.unconsumed_tail
            if chunk:
                yield chunk
            elif len(pending) == given and not inflater.eof:  # nothing left to give, or nothing taken
                raise VolumeError(f"{name}: truncated {_NAMES[window_bits]} data (ends early); copy the file again")
        pending = inflater.unused_data or stream.read(_IN)
        if not pending:
            return
        if window_bits != GZIP or pending[:1] != b"\x1f":
            raise VolumeError(f"{name}: bytes after the end of the {_NAMES[window_bits]} data; copy the file again")


def collect(chunks: Iterable[bytes], name: str, declare: Callable[[bytearray], int | None]) -> memoryview:
    """Gather exactly as many bytes as the header declares, and stop at the first byte too many.

    Args:
        chunks: pieces of the (decompressed) file.
        name: the file, as the user gave it (for messages).
        declare: reads the header from the bytes so far; the total length in bytes, or None while it needs more.
            It bounds the length: so much is allocated at once.

    Returns:
        The bytes; they may be written to.

    Raises:
        VolumeError: fewer or more bytes than declared, or the header is refused by ``declare``.
    """
    head = bytearray()
    data: memoryview | None = None
    filled = 0
    for chunk in chunks:
        piece: bytes | bytearray = chunk
        if data is None:
            head += chunk
            total = declare(head)
            if total is None:
                continue
            # NumPy's: pages that are never filled cost nothing, and large ones (where Linux has them) half the time
            data, piece = np.empty(total, np.uint8).data, head
        if filled + len(piece) > len(data):
            raise VolumeError(
                f"{name}: length over the {len(data)} bytes its header declares; copy or convert the file again"
            )
        data[filled : filled + len(piece)] = piece
        filled += len(piece)
    if data is None:
        raise VolumeError(f"{name}: length {len(head)} bytes, too short for a header; copy the file again")
    if filled < len(data):
        raise VolumeError(f"{name}: truncated, length {filled} of {len(data)} bytes its header declares; copy it again")
    return data


def exactly(chunks: Iterable[bytes], name: str, expected: int) -> memoryview:
    """Gather ``chunks``, which must hold exactly ``expected`` bytes, at least 1.

    Raises:
        VolumeError: fewer or more bytes than expected.
    """
    return collect(chunks, name, lambda _: expected)

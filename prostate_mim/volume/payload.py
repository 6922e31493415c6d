"""Bounded reading: inflate with every checksum verified, and never take more bytes than the header declares."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO

from prostate_mim.errors import VolumeError

GZIP = 31  # zlib's window-bits code for a gzip member (CRC-32 and length verified by zlib)
ZLIB = 15  # zlib's window-bits code for a zlib stream (Adler-32 verified by zlib)
_IN = 1 << 16
_OUT = 1 << 20
_NAMES = {GZIP: "gzip", ZLIB: "zlib"}


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
        inflater = zlib.decompressobj(window_bits)
        while not inflater.eof:
            pending = pending or stream.read(_IN)
            starved = not pending
            try:
                chunk = inflater.decompress(pending, _OUT)
            except zlib.error as error:
                raise VolumeError(
                    f"{name}: damaged {_NAMES[window_bits]} data ({str(error).split(': ')[-1]}); copy the file again"
                ) from error
            pending = inflater.unconsumed_tail
            if chunk:
                yield chunk
            elif starved and not inflater.eof:
                raise VolumeError(f"{name}: truncated {_NAMES[window_bits]} data (ends early); copy the file again")
        pending = inflater.unused_data or stream.read(_IN)
        if not pending:
            return
        if window_bits != GZIP or pending[:1] != b"\x1f":
            raise VolumeError(f"{name}: bytes after the end of the {_NAMES[window_bits]} data; copy the file again")


def collect(chunks: Iterable[bytes], name: str, declare: Callable[[bytearray], int | None]) -> bytearray:
    """Gather exactly as many bytes as the header declares, and stop at the first byte too many.

    Args:
        chunks: pieces of the (decompressed) file.
        name: the file, as the user gave it (for messages).
        declare: reads the header from the bytes so far; the total length in bytes, or None while it needs more.

    Raises:
        VolumeError: fewer or more bytes than declared, or the header is refused by ``declare``.
    """
    data = bytearray()
    total: int | None = None
    for chunk in chunks:
        data += chunk
        if total is None:
            total = declare(data)
        if total is not None and len(data) > total:
            raise VolumeError(
                f"{name}: length over the {total} bytes its header declares; copy or convert the file again"
            )
    if total is None:
        raise VolumeError(f"{name}: length {len(data)} bytes, too short for a header; copy the file again")
    if len(data) < total:
        raise VolumeError(f"{name}: truncated, length {len(data)} of {total} bytes its header declares; copy it again")
    return data


def exactly(chunks: Iterable[bytes], name: str, expected: int) -> bytearray:
    """Gather ``chunks``, which must hold exactly ``expected`` bytes.

    Raises:
        VolumeError: fewer or more bytes than expected.
    """
    return collect(chunks, name, lambda _: expected) if expected else bytearray()

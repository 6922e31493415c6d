"""Look for words in everything a file holds: as it lies on disk, and behind every packing that our files use."""

from __future__ import annotations

import base64
import binascii
import bz2
import html
import io
import lzma
import re
import tarfile
import urllib.parse
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

_BASE64 = re.compile(rb"[A-Za-z0-9+/]{64,}={0,2}")
_DEEPEST = 5
_MOST_BYTES = 1 << 28


def hits(path: Path, words: Iterable[str]) -> list[str]:
    """Which words a file holds, in any case, encoding or packing: ``["word in gzip > base64", ...]``."""
    wanted = {word: forms(word) for word in words}
    found = []
    for how, content in contents(path.read_bytes()):
        lower = content.lower()
        found += [f"{word} in {how}" for word, as_bytes in wanted.items() if any(form in lower for form in as_bytes)]
    return found


def forms(word: str) -> set[bytes]:
    """How a word may lie in bytes: one, two or four bytes a letter (UTF-8, -16, -32), escaped for a page or URL."""
    written = {word, html.escape(word), urllib.parse.quote(word), urllib.parse.quote_plus(word)}
    encoded = {text.lower().encode(kind) for text in written for kind in ("utf-8", "utf-16-le", "utf-16-be")}
    return encoded | {text.lower().encode(kind) for text in written for kind in ("utf-32-le", "utf-32-be")}


def contents(data: bytes, how: str = "bytes", depth: int = 0) -> Iterator[tuple[str, bytes]]:
    """The bytes themselves, then what each unpacking of them gives, and again of that."""
    yield how, data
    if depth < _DEEPEST:
        for kind, inner in unpacked(data):
            yield from contents(inner, f"{how} > {kind}", depth + 1)


def unpacked(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Everything one packing deep."""
    if data[:2] == b"\x1f\x8b":
        yield "gzip", _inflated(data, 31)
    elif data[:4] == b"PK\x03\x04":
        yield from _zip(data)
    elif data[:4] == b"PAR1":
        yield from _parquet(data)
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        yield from _png(data)
    elif data[:3] == b"BZh":
        yield "bzip2", bz2.decompress(data)
    elif data[:6] == b"\xfd7zXZ\0":
        yield "xz", lzma.decompress(data)
    elif data[257:262] == b"ustar":
        yield from _tar(data)
    elif b"b2frame" in data[:32]:
        yield from _blosc2(data)
    else:
        yield from _in_text(data)


def _inflated(data: bytes, window_bits: int) -> bytes:
    made = zlib.decompressobj(window_bits)
    return made.decompress(data, _MOST_BYTES)


def _zip(data: bytes) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for entry in archive.infolist():
            yield f"zip {entry.filename}", archive.read(entry)


def _tar(data: bytes) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for entry in archive.getmembers():
            content = archive.extractfile(entry)
            yield f"tar {entry.name}", content.read() if content else b""


def _parquet(data: bytes) -> Iterator[tuple[str, bytes]]:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(io.BytesIO(data))
    yield "parquet schema", repr(table.schema.metadata).encode()
    for name in table.column_names:
        column = table.column(name)
        if "float" not in str(column.type):
            yield f"parquet {name}", "\n".join(map(str, column.to_pylist())).encode()


def _png(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Text chunks (a picture's pixels hold no text that can be searched)."""
    at = 8
    while at + 8 <= len(data):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        chunk = data[at + 8 : at + 8 + size]
        if kind in (b"zTXt", b"iTXt", b"iCCP"):
            yield f"png {kind.decode()}", _anywhere(chunk)
        at += 12 + size


def _anywhere(data: bytes) -> bytes:
    """The first zlib stream within some bytes."""
    for start in range(len(data)):
        try:
            return zlib.decompress(data[start:])
        except zlib.error:
            continue
    return b""


def _blosc2(data: bytes) -> Iterator[tuple[str, bytes]]:
    import blosc2

    array = blosc2.ndarray_from_cframe(data) if b"b2nd" in data else blosc2.schunk_from_cframe(data)
    chunks = array.schunk if hasattr(array, "schunk") else array
    yield "blosc2 metadata", repr(dict(chunks.vlmeta.getall())).encode() + repr(dict(chunks.meta)).encode()
    yield "blosc2 data", b"".join(chunks.decompress_chunk(index) for index in range(chunks.nchunks))


def _in_text(data: bytes) -> Iterator[tuple[str, bytes]]:
    """What pages carry as base64, and streams that begin within other bytes (MetaImage, HTML that inflates itself)."""
    for match in _BASE64.finditer(data):
        try:
            yield "base64", base64.b64decode(match[0] + b"=" * (-len(match[0]) % 4))
        except (binascii.Error, ValueError):
            continue
    for signature, bits, kind in ((b"\x1f\x8b\x08", 31, "gzip"), (b"LOCAL\n\x78", 15, "zlib")):
        start = data.find(signature)
        if start > 0:
            try:
                yield f"inner {kind}", _inflated(data[start + (6 if bits == 15 else 0) :], bits)
            except zlib.error:
                continue

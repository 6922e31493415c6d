"""Inflating: what zlib refuses is refused, what it reads is read, whatever the sizes of the pieces; no bit passes.

All of it with ISA-L and with Python's zlib, which takes its place where it is not installed.
"""

from __future__ import annotations

import gzip
import io
import random
import re
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from isal import isal_zlib

from prostate_mim.errors import VolumeError
from prostate_mim.volume import payload
from prostate_mim.volume.payload import GZIP, ZLIB, inflated_chunks

RAW = np.random.default_rng(0).normal(300, 80, 1500).astype("<i2").tobytes() + bytes(5000)
KINDS = pytest.mark.parametrize("bits", [GZIP, ZLIB])
REASONS = r"checksum|check|lookback|distance|deflate|literal|code|bit length|block|wrapper|header|compress|symbols"


@pytest.fixture(params=["isal", "zlib"], autouse=True)
def library(request, monkeypatch):
    """Which of the two inflates."""
    monkeypatch.setattr(payload, "inflate", {"isal": isal_zlib, "zlib": zlib}[request.param])
    return request.param


def pack(data: bytes, bits: int) -> bytes:
    """Compressed by zlib."""
    packer = zlib.compressobj(6, zlib.DEFLATED, bits)
    return packer.compress(data) + packer.flush()


def ours(data: bytes, bits: int) -> bytes | None:
    """What we inflate, or None where it is refused."""
    try:
        return b"".join(inflated_chunks(io.BytesIO(data), "x", bits))
    except VolumeError:
        return None


def by_zlib(data: bytes, bits: int) -> bytes | None:
    """The same by zlib: one whole stream and nothing after it."""
    inflater = zlib.decompressobj(bits)
    try:
        content = inflater.decompress(data)
    except zlib.error:
        return None
    return content if inflater.eof and not inflater.unused_data else None


@KINDS
@pytest.mark.parametrize(("taken", "given"), [(1, 4096), (3, 7), (64, 100), (5000, 13), (1 << 20, 1 << 20)])
def test_pieces_of_any_size(monkeypatch, bits, taken, given):
    """Input and output are cut anywhere: the content is whole, and no piece is larger than allowed."""
    monkeypatch.setattr(payload, "_IN", taken)
    monkeypatch.setattr(payload, "_OUT", given)
    packed = pack(RAW, bits)
    pieces = list(inflated_chunks(io.BytesIO(packed), "x", bits))
    assert b"".join(pieces) == RAW
    assert max(map(len, pieces)) <= given
    for cut in (1, 2, 4, 5, 8, 9, len(packed) // 2, len(packed) - 1):
        assert ours(packed[:-cut], bits) is None
    for tail in (b"x", bytes(3), packed[:30], b"\x1f\x8b"):
        assert ours(packed + tail, bits) is None
    assert ours(packed * 2, bits) == (RAW * 2 if bits == GZIP else None)


@KINDS
def test_every_flipped_bit_at_the_ends(bits, library):
    """Each bit of the header and of the checksum (and length): as zlib judges it, and no other content, ever.

    gzip's reserved flags alone are refused by zlib and ignored by ISA-L; the content is the same, by its checksum.
    """
    packed = pack(RAW, bits)
    size = 8 * len(packed)
    inner = random.Random(1).sample(range(200, size - 64), 600)
    for bit in [*range(200), *inner, *range(size - 64, size)]:
        damaged = bytearray(packed)
        damaged[bit // 8] ^= 1 << bit % 8
        found = ours(bytes(damaged), bits)
        assert found in (None, RAW)
        if not (library == "isal" and bits == GZIP and bit in (29, 30, 31)):
            assert found == by_zlib(bytes(damaged), bits)
        if bit >= size - 8 * (8 if bits == GZIP else 4):
            assert found is None


def test_headers_with_all_optional_parts():
    """A gzip header with extra field, name, comment and its own checksum is read; the content needs its checksum."""
    plain = pack(RAW, GZIP)
    head = b"\x1f\x8b\x08\x1e" + bytes(5) + b"\xff" + b"\x03\0abc" + b"name\0" + b"remark\0"
    packed = head + (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little") + plain[10:]
    assert gzip.decompress(packed) == ours(packed, GZIP) == RAW
    assert ours(packed[:-8] + bytes(4) + packed[-4:], GZIP) is None
    assert ours(packed[:-4] + bytes(4), GZIP) is None


def test_control_without_checksums(monkeypatch):
    """Control: a decompressor that skips the checksum passes other content, and the test above would see it."""

    class Careless:
        def __init__(self, bits):
            self.inner, self.first = zlib.decompressobj(-15), True

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def decompress(self, data, most):
            data, self.first = (data[2:-4] if self.first else data), False
            return self.inner.decompress(data, most)

    monkeypatch.setattr(payload, "inflate", SimpleNamespace(decompressobj=Careless, error=zlib.error))
    packed = bytearray(zlib.compress(RAW, 0))  # stored: every byte is a byte of the content
    packed[500] ^= 1
    assert ours(bytes(packed), ZLIB) not in (None, RAW)


@KINDS
def test_messages_are_one_line_of_one_form(bits):
    """Whichever library found it: which file, what, in its words without its numbers, and what to do."""
    packed = pack(RAW, bits)
    name = {GZIP: "gzip", ZLIB: "zlib"}[bits]
    wrong = bytearray(packed)
    wrong[-1] ^= 1
    for damaged in (bytes(wrong), b"\0" * 50, packed[:20] + b"\xff" * 50 + packed[20:]):
        with pytest.raises(VolumeError) as caught:
            list(inflated_chunks(io.BytesIO(damaged), "a.gz", bits))
        assert re.fullmatch(rf"a\.gz: damaged {name} data \([^()\n]*\); copy the file again", str(caught.value))
        assert re.search(REASONS, str(caught.value))
        assert not re.search(r"Error|while|-\d", str(caught.value))
    for cut in (1, 9, 2000):
        with pytest.raises(VolumeError, match=rf"a\.gz: truncated {name} data \(ends early\); copy the file again"):
            list(inflated_chunks(io.BytesIO(packed[:-cut]), "a.gz", bits))


def test_zlib_where_isal_is_missing(tmp_path, library):
    """A Python without the package isal reads the same bytes; with it, ISA-L is used."""
    (tmp_path / "a.gz").write_bytes(gzip.compress(RAW))
    hidden = "sys.modules['isal'] = None" if library == "zlib" else ""
    code = f"""
import sys
{hidden}
from prostate_mim.volume import payload
with open({str(tmp_path / "a.gz")!r}, "rb") as stream:
    print(payload.inflate.__name__, sum(map(len, payload.inflated_chunks(stream, "a", payload.GZIP))))
"""
    root = Path(payload.__file__).parents[2]
    ran = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert (ran.stderr, ran.stdout.split()) == (
        "",
        [{"isal": "isal.isal_zlib", "zlib": "zlib"}[library], str(len(RAW))],
    )

"""Weights files that lie: 37 headers made by hand and 2,000 random mutations; nothing is accepted silently (T2.1)."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from prostate_mim.errors import IntegrityError
from prostate_mim.hub.registry import Entry, FileEntry, check_registered
from prostate_mim.hub.release import SUMS, WEIGHTS, read_release, verify_sums, write_release, write_sums
from prostate_mim.hub.weights import read_tensors
from prostate_mim.spec import InputSpec

GOOD = b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[2],"data_offsets":[16,24]}}'
BODY = bytes(range(24))


def with_header(header: bytes, body: bytes = BODY, length: int | None = None) -> bytes:
    """A safetensors file."""
    return struct.pack("<Q", len(header) if length is None else length) + header + body


def changed(old: bytes, new: bytes) -> bytes:
    """The good header with one thing in another way."""
    assert old in GOOD
    return with_header(GOOD.replace(old, new, 1))


A, SPAN = b'"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}', b'"data_offsets":[0,16]'
LIES: dict[str, bytes] = {
    "no header": b"",
    "seven bytes": bytes(7),
    "length only": struct.pack("<Q", 8),
    "empty header": with_header(b""),
    "length beyond the file": with_header(GOOD, length=len(GOOD) * 9),
    "length of 2**63": with_header(GOOD, length=2**63),
    "length of 100 MB": with_header(GOOD, length=100 << 20),
    "length one too small": with_header(GOOD, length=len(GOOD) - 1),
    "length one too large": with_header(GOOD, length=len(GOOD) + 1),
    "half an object": with_header(b"{"),
    "a list": with_header(b"[]"),
    "null": with_header(b"null"),
    "two objects": with_header(GOOD * 2),
    "depth of 50,000": with_header(b"[" * 50_000),
    "not UTF-8": changed(b'"a"', b'"\xff"'),
    "unknown dtype": changed(b"F32", b"F99"),
    "narrower dtype": changed(b"F32", b"F16"),
    "wider dtype": changed(b"F32", b"F64"),
    "dtype as number": changed(b'"F32"', b"32"),
    "larger shape": changed(b"[4]", b"[5]"),
    "smaller shape": changed(b"[4]", b"[3]"),
    "negative shape": changed(b"[4]", b"[-4]"),
    "shape of fractions": changed(b"[4]", b"[4.5]"),
    "shape of 1e99": changed(b"[4]", b"[1e99]"),
    "shape that overflows": changed(b"[4]", b"[4294967296,4294967296,4294967296]"),
    "shape as text": changed(b"[4]", b'"4"'),
    "offsets beyond the file": changed(SPAN, b'"data_offsets":[0,1600]'),
    "offsets turned round": changed(SPAN, b'"data_offsets":[16,0]'),
    "offsets that overlap": changed(b"[16,24]", b"[8,16]"),
    "offsets with a gap": changed(b"[16,24]", b"[20,28]"),
    "negative offsets": changed(SPAN, b'"data_offsets":[-16,0]'),
    "one offset": changed(SPAN, b'"data_offsets":[0]'),
    "no offsets": changed(b"," + SPAN, b""),
    "one byte too few": with_header(GOOD, BODY[:-1]),
    "one byte too many": with_header(GOOD, BODY + b"\0"),
    "a field too many": changed(A, A[:-1] + b',"run":"me"}'),
    "the same name twice": changed(A, A + b"," + A),
}


def test_as_many_lies_as_were_promised() -> None:
    """Each is a file of its own, and the file that they were made from is read."""
    assert len(LIES) == len(set(LIES.values())) == 37
    assert with_header(GOOD) not in LIES.values()


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused(tmp_path: Path, lie: str) -> None:
    """Whatever the header says that is not so, or could be read in two ways."""
    path = tmp_path / "lie.safetensors"
    path.write_bytes(LIES[lie])
    with pytest.raises(IntegrityError, match="not a readable safetensors file"):
        read_tensors(path)
    path.write_bytes(with_header(GOOD))
    assert set(read_tensors(path)) == {"a", "b"}, "the control"


# --------------------------------------------------------------------------------------------------------- mutations


def mutations(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Bits flipped in the header and in the data, bytes cut off, added, left out, doubled and exchanged."""
    rng = np.random.default_rng(seed)
    header = 8 + struct.unpack("<Q", data[:8])[0]
    kinds: list[Callable[[bytearray], None]] = [
        lambda b: _flip(b, int(rng.integers(0, header)), rng),
        lambda b: _flip(b, int(rng.integers(header, len(b))), rng),
        lambda b: _flip(b, int(rng.integers(0, 8)), rng),
        lambda b: b.__delitem__(slice(int(rng.integers(0, len(b))), None)),
        lambda b: b.extend(rng.bytes(int(rng.integers(1, 64)))),
        lambda b: b.__delitem__(int(rng.integers(0, header))),
        lambda b: b.insert(int(rng.integers(0, header)), int(rng.integers(256))),
        lambda b: b.__setitem__(slice(header, header + 16), b[header + 16 : header + 32]),
    ]
    for number in range(count):
        made = bytearray(data)
        while bytes(made) == data:
            kinds[number % len(kinds)](made)
        yield bytes(made)


def _flip(data: bytearray, place: int, rng: np.random.Generator) -> None:
    data[place] ^= 1 << int(rng.integers(8))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A release folder with few and small tensors."""
    generator = torch.Generator().manual_seed(5)
    weights = {
        name: torch.randn(shape, generator=generator) for name, shape in (("a.weight", (8, 4)), ("a.bias", (8,)))
    }
    config = {
        "kind": "encoder", "name": "small.test", "architecture": "resenc-s", "spec": InputSpec().to_dict(),
        "weights_dtype": "float32", "details": {},
    }  # fmt: skip
    return write_release(tmp_path / "release", config=config, card="# small", weights=weights, golden=weights)


def test_two_thousand_mutations(small: Path) -> None:
    """SHA256SUMS finds every one, and where that was made anew, the file's form or models.json do: none is silent.

    Whoever changes a file can change SHA256SUMS as well; models.json came with the package.
    """
    folder, entry = small, published(small)
    sums = (folder / SUMS).read_bytes()
    data = (folder / WEIGHTS).read_bytes()
    found = dict.fromkeys(("sums", "form", "registry"), 0)
    for made in mutations(data, 2000, 11):
        (folder / WEIGHTS).write_bytes(made)
        (folder / SUMS).write_bytes(sums)
        with pytest.raises(IntegrityError, match="sha256 is"):
            read_release(folder)
        found["sums"] += 1
        try:
            read_tensors(folder / WEIGHTS)
        except IntegrityError:
            found["form"] += 1
            continue
        write_sums(folder)
        with pytest.raises(IntegrityError, match=f"{WEIGHTS} is another file"):
            check_registered(entry, verify_sums(folder), "here")
        found["registry"] += 1
    assert found["form"] + found["registry"] == 2000
    assert min(found.values()) >= 200, found


def published(folder: Path) -> Entry:
    """What models.json would say of a folder."""
    files = {name: FileEntry((folder / name).stat().st_size, digest) for name, digest in verify_sums(folder).items()}
    config = json.loads((folder / "config.json").read_text())
    return Entry("small.test", "encoder", config["architecture"], "test", 1, "", "x", (), "", "", files)

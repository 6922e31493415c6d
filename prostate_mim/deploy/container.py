"""What a prostate-mim .onnx carries beside its graph: header, golden sample, digest. One writer, one reader, no torch.

Three entries of ONNX's ``metadata_props``, nothing else:

- ``prostate_mim``: JSON; format, kind, name, revision, input contract and its fingerprint, stride, library version.
- ``golden``: JSON; an input (float16, base64) and the outputs (float32, base64) that torch gave for it.
- ``prostate_mim_sha256``: SHA-256 of the whole file with this value blanked. Whatever edits the file must go
  through ``seal`` again, so damage and half-finished conversions never reach a session.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prostate_mim.deploy.contract import EXPORT_AGAIN, GOLDEN_KEY, HEADER_KEY, OUTPUTS, Header, Sample
from prostate_mim.deploy.onnx_parser import Message, parse
from prostate_mim.errors import IntegrityError, NotFoundError, nearest

MAX_BYTES = 2**31 - 1  # protobuf's own limit: larger networks would need external data, which is refused
MAX_METADATA_BYTES = 16 * 2**20

_DIGEST_KEY = "prostate_mim_sha256"
_BLANK = "sha256 of this file with this text in its place".ljust(64, ".")
_FOREIGN = {"FunctionProto", "TrainingInfoProto"}
_OF_OPERATORS = {"NodeProto", "OperatorSetIdProto"}
_OF_DEVICES = {"DeviceConfigurationProto", "NodeDeviceConfigurationProto"}
_ENDS = ("input", "output")


@dataclass(frozen=True)
class Container:
    """A verified file: its bytes, what it is, and its golden sample."""

    data: bytes
    header: Header
    golden: Sample


def seal(model: Any, header: Header, golden: Sample) -> bytes:
    """Put header, golden sample and digest into an ONNX model and serialise it.

    Args:
        model: ``onnx.ModelProto``; its metadata is replaced.

    Raises:
        IntegrityError: 2 GB or more, which one ONNX file cannot hold.
    """
    import onnx

    onnx.helper.set_model_props(
        model, {HEADER_KEY: header.to_json(), GOLDEN_KEY: golden.to_json(), _DIGEST_KEY: _BLANK}
    )
    if model.ByteSize() > MAX_BYTES:
        raise IntegrityError(f"the network needs {model.ByteSize()} bytes, one ONNX file holds {MAX_BYTES}; shrink it")
    blank = bytes(model.SerializeToString(deterministic=True))
    return blank.replace(_BLANK.encode(), hashlib.sha256(blank).hexdigest().encode())


def read_container(path: str | Path) -> Container:
    """Read and verify a file that ``seal`` wrote. Nothing is executed and no other file is opened.

    Raises:
        NotFoundError: no such file; the nearest name is suggested.
        IntegrityError: not an ONNX file of this library, truncated, edited, newer, or pointing at external data.
    """
    data = _bytes_of(Path(path))
    try:
        model = parse(data)
        texts = _metadata(model)
        header = Header.from_json(texts[HEADER_KEY])
        _check_graph(model, header)
        _check_digest(data, texts[_DIGEST_KEY])
        return Container(data, header, Sample.from_json(texts[GOLDEN_KEY], header))
    except IntegrityError as error:
        raise IntegrityError(f"{path}: {error}") from error


def _bytes_of(path: Path) -> bytes:
    if not path.is_file():
        names = [item.name for item in path.parent.glob("*.onnx")] if path.parent.is_dir() else []
        near = nearest(path.name, sorted(names))
        advice = f"did you mean {near}?" if near else "check the path, or write one with `prostate-mim export`"
        raise NotFoundError(f"{path}: no such .onnx file; {advice}")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise IntegrityError(f"{path}: {size} bytes, a prostate-mim .onnx has at most {MAX_BYTES}; {EXPORT_AGAIN}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise IntegrityError(f"{path}: cannot be read ({error.strerror}); check the permissions") from error


def _metadata(model: Message) -> dict[str, str]:
    """The three entries, after the sizes of all texts of this kind were checked, at nodes and tensors too."""
    notes = (part for part in model.walk() if part.kind == "StringStringEntryProto")
    if sum(len(note.text("key")) + len(note.text("value")) for note in notes) > MAX_METADATA_BYTES:
        raise IntegrityError(f"metadata is larger than {MAX_METADATA_BYTES} bytes; {EXPORT_AGAIN}")
    entries = model.all("metadata_props")
    texts = {entry.text("key"): entry.text("value") for entry in entries}
    if HEADER_KEY not in texts:
        raise IntegrityError("no prostate_mim metadata: from another program; write one with `prostate-mim export`")
    if len(entries) != 3 or set(texts) != {HEADER_KEY, GOLDEN_KEY, _DIGEST_KEY}:
        raise IntegrityError(f"metadata entries are {sorted(texts)[:8]}, not the three expected; {EXPORT_AGAIN}")
    return texts


def _check_graph(model: Message, header: Header) -> None:
    """Only standard operators, all weights inside, no choice of devices, and the expected inputs and outputs."""
    for part in model.walk():
        if part.kind in _FOREIGN or (part.kind in _OF_OPERATORS and part.text("domain") not in ("", "ai.onnx")):
            raise IntegrityError(f"uses operators outside the ONNX standard; {EXPORT_AGAIN}")
        if part.kind in _OF_DEVICES:
            raise IntegrityError(f"says which devices are to compute, which is not for a file to say; {EXPORT_AGAIN}")
        if part.kind == "TensorProto" and (part.all("external_data") or any(part.all("data_location"))):
            raise IntegrityError(
                f"tensor {part.text('name')[:80]!r} points at another file (external data), which is never followed; "
                f"{EXPORT_AGAIN}"
            )
    found = [[item.text("name") for graph in model.all("graph") for item in graph.all(end)] for end in _ENDS]
    if found != [list(header.inputs), list(OUTPUTS[header.kind])]:
        raise IntegrityError(
            f"inputs and outputs {found} are not those of a prostate-mim {header.kind}; {EXPORT_AGAIN}"
        )  # fmt: skip


def _check_digest(data: bytes, digest: str) -> None:
    stored = digest.encode()
    place = data.find(stored)
    if len(stored) == len(_BLANK) and place >= 0 and data.find(stored, place + 1) < 0:
        whole = memoryview(data)  # nothing is copied
        found = hashlib.sha256(whole[:place])
        found.update(_BLANK.encode())
        found.update(whole[place + len(stored) :])
        if found.hexdigest() == digest:
            return
    raise IntegrityError(f"its SHA-256 is not the stored {digest[:16]!r}: damaged or edited; {EXPORT_AGAIN}")

"""safetensors -> module: strict keys, shapes and dtypes; every adapted key is reported."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from prostate_mim.errors import IntegrityError, UsageError
from prostate_mim.hub.registry import read_registry
from prostate_mim.hub.release import WEIGHTS, Release

_LARGEST_HEADER = 16 << 20
DTYPES = {"float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class LoadReport:
    """What loading did.

    Attributes:
        loaded: number of tensors taken.
        adapted: one line per key that is not byte for byte what the file holds, and per change that was asked for.
        source: ``bundled``, ``checkout``, ``folder`` or ``hub``; empty for a model that was not loaded.
        commit: 40 hex digits, of a hub only.
        files: SHA-256 of every file that was verified, by name.
        notes: what one should know besides.
    """

    loaded: int
    adapted: tuple[str, ...]
    source: str = ""
    commit: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        IntegrityError: not a readable safetensors file.
    """
    try:
        _check_header(path)
        return load_file(path)
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise IntegrityError(f"{path}: not a readable safetensors file ({error}); fetch the release again") from error


def _check_header(path: Path) -> None:
    """Refuse what the library reads but other readers might read otherwise: a repeated key, a field too many.

    Raises:
        ValueError: naming it. What the library refuses by itself is left to it.
    """
    with path.open("rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8).ljust(8, b"\0"))
        if size > _LARGEST_HEADER:
            raise ValueError(f"its header of {size} bytes is longer than any release's")
        header = stream.read(size)
    values = json.loads(header, object_pairs_hook=_once)
    if not isinstance(values, dict):
        raise ValueError("its header is not a table")
    metadata = values.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata is not text")
    for name, entry in values.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"its header says of {name[:80]!r} something that is not of the format")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is in its header twice")
    return found


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], stored_dtype: str, source: str) -> LoadReport:
    """Fill ``module`` from ``tensors``, which must have exactly its keys and shapes, all of ``stored_dtype``.

    Whole numbers (the batches a batch norm has seen) keep their own type.

    Raises:
        IntegrityError: naming the first missing, surplus, misshapen or mistyped tensors.
    """
    own = module.state_dict()
    missing, surplus = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or surplus:
        raise IntegrityError(
            f"{source}: weights are of another architecture: missing {_some(missing)}, unexpected {_some(surplus)}"
        )
    if stored_dtype not in DTYPES:
        raise IntegrityError(f"{source}: weights_dtype {stored_dtype!r} is not one of {sorted(DTYPES)}")
    adapted = []
    for key, value in tensors.items():
        if value.shape != own[key].shape:
            raise IntegrityError(
                f"{source}: {key} has shape {tuple(value.shape)}, the architecture has {tuple(own[key].shape)}"
            )
        expected = DTYPES[stored_dtype] if own[key].is_floating_point() else own[key].dtype
        if value.dtype != expected:
            says = str(expected).removeprefix("torch.")
            raise IntegrityError(f"{source}: {key} is {value.dtype}, config.json says {says}")
        if not torch.isfinite(value).all():
            raise IntegrityError(f"{source}: {key} holds values that are not finite")
        if value.dtype != own[key].dtype:
            adapted.append(f"{key}: {stored_dtype} -> {str(own[key].dtype).removeprefix('torch.')}")
    module.load_state_dict({key: value.to(own[key].dtype) for key, value in tensors.items()}, strict=True)
    return LoadReport(len(tensors), tuple(adapted))


def load_release(module: nn.Module, release: Release) -> LoadReport:
    """Fill ``module`` from a verified release's weights, strictly.

    Raises:
        IntegrityError: as ``read_tensors`` and ``load_strictly``.
    """
    path = release.folder / WEIGHTS
    report = load_strictly(module, read_tensors(path), release.weights_dtype, str(path))
    notes: tuple[str, ...] = ()
    if release.name in read_registry() and not release.published:
        notes = (f"it calls itself {release.name!r}, a published name, and was loaded from elsewhere: not compared",)
    return dataclasses.replace(
        report, source=release.source, commit=release.commit, files=dict(release.sums), notes=notes
    )  # fmt: skip


def stored(module: nn.Module, dtype: str) -> dict[str, Tensor]:
    """A module's tensors in their published dtype; whole numbers keep their own.

    Raises:
        UsageError: weights are not published in that dtype.
        IntegrityError: a value does not fit it.
    """
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r}: weights are published as one of {sorted(DTYPES)}")
    tensors = {
        key: value.detach().cpu().to(DTYPES[dtype] if value.is_floating_point() else value.dtype).contiguous()
        for key, value in module.state_dict().items()
    }
    for key, value in tensors.items():
        if not torch.isfinite(value).all():
            raise IntegrityError(f"{key} does not fit {dtype}; publish float32")
    return tensors


def weights_digest(module: nn.Module, report: LoadReport) -> str:
    """SHA-256 of the ``model.safetensors`` that a model's weights are: the file they are from, while they are as in it.

    Else that of the float32 file that saving them would write.

    Args:
        module: the published parts of the model.
        report: of its loading.
    """
    for dtype in DTYPES:
        try:
            digest = hashlib.sha256(save(stored(module, dtype))).hexdigest()
        except IntegrityError:  # a value beyond float16: then no file of that type is this model
            continue
        if digest == report.files.get(WEIGHTS):
            return digest
    return hashlib.sha256(save(stored(module, "float32"))).hexdigest()


def _some(names: list[str]) -> str:
    if not names:
        return "none"
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

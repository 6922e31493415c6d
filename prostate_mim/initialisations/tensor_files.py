"""Weights files of others: read as tensors and nothing else, checked, and named by their SHA-256."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from prostate_mim.errors import IntegrityError, NotFoundError, UsageError
from prostate_mim.files import sha256_of
from prostate_mim.hub.weights import read_tensors

_LARGEST_BYTES = 4 << 30  # MedicalNet-200, the largest of its family, is about 0.5 GB
_WRAPPERS = ("state_dict", "model", "model_state", "net")
_PREFIX = "module."  # of torch's DataParallel


@dataclass(frozen=True)
class TensorFile:
    """The tensors of a weights file.

    Attributes:
        path: as it was given; for messages only, it goes into no release.
        sha256: of the file, 64 hex digits.
        tensors: key -> tensor on the CPU; ``module.`` before every key is taken off.
    """

    path: Path
    sha256: str
    tensors: dict[str, Tensor]


def read_tensor_file(path: str | Path, expected_sha256: str | None = None) -> TensorFile:
    """Read a ``.safetensors`` file, or a ``.pth`` / ``.pt`` file of torch, as a state dict.

    Torch's files are pickles; they are read with ``weights_only``, which builds tensors and plain containers and
    refuses everything else. The hash, if one is expected, is compared before anything is read.

    Args:
        path: the file. The state dict may lie in it under ``state_dict`` or ``model``.
        expected_sha256: 64 hex digits, or None if whatever lies there is meant.

    Raises:
        NotFoundError: no such file.
        UsageError: a folder, or ``expected_sha256`` is not a SHA-256.
        IntegrityError: another hash, not such a file, too large, something in it that is not a tensor, or values that
            are not finite.
    """
    file = Path(path)
    if not file.exists():
        raise NotFoundError(f"{file}: no such file; --source names the weights file")
    if not file.is_file():
        raise UsageError(f"{file}: not a file; --source names the weights file itself")
    if file.stat().st_size > _LARGEST_BYTES:
        raise IntegrityError(f"{file}: more than {_LARGEST_BYTES >> 30} GB; that is no weights file of this kind")
    sha256 = sha256_of(file)
    _check_sha256(file, sha256, expected_sha256)
    loaded = dict(read_tensors(file)) if file.suffix == ".safetensors" else _load_torch_file(file)
    tensors = _state_dict(loaded, file)
    return TensorFile(file, sha256, tensors)


def _check_sha256(file: Path, found: str, expected: str | None) -> None:
    if expected is None:
        return
    wanted = expected.strip().lower()
    if len(wanted) != 64 or set(wanted) - set("0123456789abcdef"):
        raise UsageError(f"{expected!r} is no SHA-256; give 64 hex digits")
    if found != wanted:
        raise IntegrityError(
            f"{file}: sha256 is {found[:16]}..., expected {wanted[:16]}...; it is not the published file or was "
            "damaged: install or download it again"
        )


def _load_torch_file(file: Path) -> object:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # whatever a damaged or hostile pickle makes torch's reader raise
        reason = " ".join(str(error).split())[:160]
        raise IntegrityError(
            f"{file}: cannot be read as tensors only ({type(error).__name__}: {reason}); it is damaged or holds code, "
            "and code is not run: get the weights as a plain state dict or as .safetensors"
        ) from error


def _state_dict(loaded: object, file: Path) -> dict[str, Tensor]:
    """The key -> tensor part of what was read."""
    for wrapper in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
            break
    if not isinstance(loaded, Mapping) or not loaded:
        raise IntegrityError(f"{file}: holds {type(loaded).__name__}, not weights by name; give a state dict")
    tensors: dict[str, Tensor] = {}
    for key, value in loaded.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise IntegrityError(
                f"{file}: {str(key)[:80]!r} is {type(value).__name__}, not a tensor; give a state dict"
            )
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise IntegrityError(f"{file}: {key[:80]} holds values that are not finite; the file is of no use")
        tensors[key] = value
    if all(key.startswith(_PREFIX) for key in tensors):
        return {key.removeprefix(_PREFIX): value for key, value in tensors.items()}
    return tensors

"""safetensors -> module: strict keys, shapes and dtypes; every adapted key is reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from prostate_mim.errors import IntegrityError, UsageError

DTYPES = {"float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class LoadReport:
    """What loading did.

    Attributes:
        loaded: number of tensors taken.
        adapted: one line per key that is not byte for byte what the file holds.
    """

    loaded: int
    adapted: tuple[str, ...]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        IntegrityError: not a readable safetensors file.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise IntegrityError(f"{path}: not a readable safetensors file ({error}); fetch the release again") from error


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


def _some(names: list[str]) -> str:
    if not names:
        return "none"
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

"""What is asked of an initialisation, and how what it found becomes a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prostate_mim.encoder import PreMIM
from prostate_mim.errors import UsageError
from prostate_mim.hub import Studies
from prostate_mim.hub.studies import study_key
from prostate_mim.leaks import StudyHashes
from prostate_mim.nets import build_encoder
from prostate_mim.nets.encoder import Encoder
from prostate_mim.spec import InputSpec

SECTION = "initialisation"  # of a release's details


@dataclass(frozen=True)
class Request:
    """One initialisation of one encoder.

    Attributes:
        name: key of ``INITIALISATIONS``.
        architecture: key of ``nets.ARCHITECTURES``.
        seed: of whatever is random.
        source: file or release, where one is needed or given.
        spec: the input contract; the default one, or that of the release, if None.
        sha256: what the file must be, 64 hex digits; not compared if None.
    """

    name: str
    architecture: str
    seed: int
    source: str | Path | None
    spec: InputSpec | None
    sha256: str | None


def random_state(architecture: str, seed: int) -> dict[str, Tensor]:
    """Untrained weights for one input channel; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_encoder(architecture).state_dict()


def bare_encoder(architecture: str) -> Encoder:
    """An encoder of one input channel on the meta device: names, shapes and types without values."""
    with torch.device("meta"):
        return build_encoder(architecture)


def model_with(
    request: Request,
    weights: Mapping[str, Tensor],
    details: Mapping[str, Any],
    *,
    like: PreMIM | None = None,
    saw_none: bool = False,
) -> PreMIM:
    """A ``PreMIM`` in evaluation mode with exactly these weights.

    Args:
        weights: the complete state dict of an encoder of one channel, or of as many as the spec has; further channels
            of the spec begin at zero.
        details: of this initialisation, kept with the release.
        like: the model whose name, other details and studies are kept.
        saw_none: these weights have seen no study at all, and the release says so.
    """
    kept = {} if like is None else {**like.details}
    none = Studies(pretraining=StudyHashes.make((), study_key(weights))) if saw_none else None
    with torch.random.fork_rng(devices=[]):
        model = PreMIM(
            request.architecture,
            request.spec,
            name=f"{request.architecture}.{request.name}" if like is None else like.name,
            details={**kept, SECTION: dict(details)},
            studies=none if like is None else like.studies,
        )
    own = model.encoder.state_dict()
    model.encoder.load_state_dict({key: _widened(value, own[key]) for key, value in weights.items()}, strict=True)
    return model.eval()


def _widened(value: Tensor, own: Tensor) -> Tensor:
    """A first convolution's weight with zeros for the channels that it does not have, as ``widen_stem`` does it."""
    if value.ndim < 2 or value.shape[1] == own.shape[1]:
        return value
    if value.shape[1] > own.shape[1]:
        raise UsageError(
            f"the weights take {value.shape[1]} channels and the spec has {own.shape[1]}; give a spec with all of them"
        )
    rest = value.new_zeros((value.shape[0], own.shape[1] - value.shape[1], *value.shape[2:]))
    return torch.cat([value, rest], 1)

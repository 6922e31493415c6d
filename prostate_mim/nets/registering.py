"""What an encoder of one's own has to keep to, tried on a small volume before it is registered."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from prostate_mim.errors import UsageError
from prostate_mim.nets.encoder import Encoder, StageInfo

Builder = Callable[[], Encoder]

# No dot: a release is called ARCHITECTURE.recipe.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]{0,63}")
_CELLS_ZYX = (2, 3, 5)  # of the coarsest resolution: different ones, so that swapped axes show
_MOST_VOXELS = 1 << 24  # of the volume; beyond it a declared stride is a slip, and would take the memory of a machine
_LONGEST_REASON = 300


def check_name(name: str) -> None:
    """Refuse what could not be a part of a release's name, or of a file's.

    Raises:
        UsageError: another name.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        shown = repr(name if len(str(name)) <= 80 else f"{str(name)[:77]}...")
        raise UsageError(
            f"architecture name {shown}: use at most 64 letters, digits and _ + -, beginning with a letter or digit"
        )


def same_builder(one: Builder, other: Builder) -> bool:
    """Whether two builders are one, or one definition executed twice.

    That is a notebook's cell run again, a module loaded again, or a script that is imported as a module too.
    """
    places = [_place(item) for item in (one, other)]
    named = bool(places[0][1]) and "<" not in places[0][1]  # not <lambda>, nor what is local to a function
    return one is other or (named and places[0] == places[1])


def _place(builder: Builder) -> tuple[str, str]:
    """The file (in a notebook the module) and the name that a builder has in it."""
    module = str(getattr(builder, "__module__", ""))
    return str(getattr(sys.modules.get(module), "__file__", module)), str(getattr(builder, "__qualname__", ""))


def check_encoder(name: str, builder: Builder) -> None:
    """Build an encoder once and compare what it declares with what it gives for a small random volume.

    In evaluation mode and without gradients; torch's generator stays as it is.

    Args:
        name: for messages.
        builder: gives an encoder of one channel, without arguments.

    Raises:
        UsageError: it fails, or declares something else than it gives; the message says what.
    """
    with torch.random.fork_rng(devices=[]):
        encoder = _built(name, builder)
    _check_declared(name, encoder)
    size = [n * stride for n, stride in zip(_CELLS_ZYX, encoder.total_stride_zyx, strict=True)]
    voxels = torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(0))
    handed: list[tuple[int, Tensor]] = []

    def between(resolution: int, features: Tensor) -> Tensor:
        handed.append((resolution, features.clone()))
        return features

    encoder.eval()
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            found = encoder(voxels, between=between)
    except Exception as error:  # the user's own code: whatever it raises is the reason
        raise UsageError(
            f"architecture {name!r}: forward failed on a volume of {_shown(size)} voxels with {_reason(error)}; it "
            "takes (voxels, between=unchanged), and sizes that are multiples of the total stride"
        ) from error
    _check_features(name, encoder, size, found)
    _check_handed(name, found, handed)


def _built(name: str, builder: Builder) -> Encoder:
    if not callable(builder) or isinstance(builder, nn.Module):
        raise UsageError(
            f"architecture {name!r}: the builder is a {type(builder).__name__}; give a class or function that takes no "
            "arguments and returns an Encoder"
        )
    try:
        encoder: Any = builder()
    except Exception as error:
        raise UsageError(
            f"architecture {name!r}: the builder failed with {_reason(error)}; it is called without arguments"
        ) from error
    if not isinstance(encoder, Encoder):
        raise UsageError(
            f"architecture {name!r}: the builder gave a {type(encoder).__name__}, expected an Encoder; derive a class "
            "from prostate_mim.nets.Encoder that holds your network and returns its features"
        )
    return encoder


def _check_declared(name: str, encoder: Encoder) -> None:
    """Refuse stages that cannot be."""
    stages = encoder.stage_info
    if not stages:
        raise UsageError(f"architecture {name!r} declares no resolution; give strides_zyx and channels of each")
    values = [value for stage in stages for value in (stage.channels, *stage.stride_zyx)]
    if not all(isinstance(value, int) and value >= 1 for value in values):
        raise UsageError(
            f"architecture {name!r} declares {_declared(stages)}; channels and strides are whole numbers of at least 1"
        )
    if encoder.in_channels != 1:
        raise UsageError(
            f"architecture {name!r} takes {encoder.in_channels} channels; an encoder is built for one, and widened "
            "where there are more"
        )
    z, y, x = (n * stride for n, stride in zip(_CELLS_ZYX, encoder.total_stride_zyx, strict=True))
    if z * y * x > _MOST_VOXELS:
        raise UsageError(
            f"architecture {name!r} declares {_declared(stages)}, a total stride that no crop of a study holds; each "
            "stride is relative to the resolution before"
        )


def _check_features(name: str, encoder: Encoder, size: list[int], found: Any) -> None:
    """Refuse other features than those declared."""
    stages = encoder.stage_info
    if not isinstance(found, list | tuple) or not all(isinstance(one, Tensor) for one in found):
        raise UsageError(
            f"architecture {name!r}: forward returned a {type(found).__name__}; expected a list of {len(stages)} "
            "tensors (N, C, d, h, w), coarse last"
        )
    if len(found) != len(stages):
        raise UsageError(
            f"architecture {name!r} declares {len(stages)} resolutions ({_declared(stages)}), and forward returned "
            f"{len(found)} feature maps; return one of each, coarse last"
        )
    for number, (stage, features) in enumerate(zip(stages, found, strict=True)):
        cells = [n // stride for n, stride in zip(size, stage.stride_zyx, strict=True)]
        if tuple(features.shape) != (1, stage.channels, *cells):
            raise UsageError(
                f"architecture {name!r}: resolution {number} is declared with {stage.channels} channels at stride "
                f"{_shown(stage.stride_zyx)}, for {_shown(size)} voxels {(1, stage.channels, *cells)}, and forward "
                f"returned {tuple(features.shape)}; correct strides_zyx or channels, or what is returned"
            )
        if features.dtype != torch.float32 or not bool(features.isfinite().all()):
            what = "values that are not finite" if features.dtype == torch.float32 else str(features.dtype)
            raise UsageError(f"architecture {name!r}: resolution {number} holds {what}; expected finite float32")


def _check_handed(name: str, found: list[Tensor], handed: list[tuple[int, Tensor]]) -> None:
    """Refuse a ``forward`` that goes past ``between``: mask tokens and saliency would be lost without a word."""
    numbers = [number for number, _ in handed]
    if numbers != list(range(len(found))):
        raise UsageError(
            f"architecture {name!r}: forward called between for the resolutions {numbers}, expected each of "
            f"{list(range(len(found)))} once, in order: features = between(0, ...), and go on with those"
        )
    for number, features in handed:
        if not torch.equal(found[number], features):
            raise UsageError(
                f"architecture {name!r}: resolution {number} is returned with other values than between was given; "
                "return what between gives, and let no in-place operation follow it"
            )


def _declared(stages: tuple[StageInfo, ...]) -> str:
    return ", ".join(f"{stage.channels} channels at {_shown(stage.stride_zyx)}" for stage in stages)


def _shown(values: tuple[int, ...] | list[int]) -> str:
    return " x ".join(map(str, values))


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:_LONGEST_REASON]

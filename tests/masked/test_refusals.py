"""What has no masked form is refused by name; nothing is left dense in silence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from masked_cases import PATHS, context_of, voxels_of, world
from torch import nn

from prostate_mim.errors import UsageError


class Curious(nn.Module):
    """A leaf nobody knows."""

    def forward(self, features: Any) -> Any:
        """Itself."""
        return features


class Calling(nn.Module):
    """A known convolution, then a function of its features."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(4, 4, 1)
        self.function = function

    def forward(self, voxels: Any) -> Any:
        """The function of the convolved."""
        return self.function(self.convolution(voxels))


def attempt(module: nn.Module, path: str, where: str = "odd-ragged") -> Any:
    """Convert and call."""
    from prostate_mim.masked import masked_twin

    context = context_of(world(where))
    return masked_twin(module)(context.hide(voxels_of(world(where), dtype=torch.float32), path=path))


MODULES: dict[str, Callable[[], nn.Module]] = {
    "Curious": Curious,
    "Upsample": lambda: nn.Upsample(scale_factor=2),
    "Conv2d": lambda: nn.Conv2d(4, 4, 1),
    "LayerNorm": lambda: nn.LayerNorm([4, 5, 10, 7]),
    "Softmax": lambda: nn.Softmax(2),
    "LocalResponseNorm": lambda: nn.LocalResponseNorm(2),
    "MultiheadAttention": lambda: nn.MultiheadAttention(4, 1),
    "LPPool3d": lambda: nn.LPPool3d(2, 2),
    "daptive": lambda: nn.AdaptiveAvgPool3d(2),
    "Flatten": lambda: nn.Flatten(),
    "Linear": lambda: nn.Linear(7, 7),
    "PixelShuffle": lambda: nn.PixelShuffle(2),
    "ReflectionPad3d": lambda: nn.ReflectionPad3d(1),
    "RReLU": lambda: nn.RReLU(),  # random: the paths would draw differently
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", MODULES)
def test_unknown_modules(kind: str, path: str) -> None:
    """The type is named, and where it stands."""
    module = nn.Sequential(nn.Conv3d(4, 4, 1), nn.Sequential(nn.ReLU(), MODULES[kind]()))
    with pytest.raises(UsageError, match=kind) as refusal:
        attempt(module, path)
    assert "\n" not in str(refusal.value)
    if kind in ("Curious", "Upsample", "Conv2d", "LocalResponseNorm", "LPPool3d"):
        assert "1.1" in str(refusal.value)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "module",
    [
        nn.Conv3d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv3d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.ConstantPad3d(1, 2.0),
        nn.MaxPool3d(2, return_indices=True),
        nn.AvgPool3d(2, divisor_override=3),
    ],
)
def test_options_without_masked_form(module: nn.Module, path: str) -> None:
    """Known modules with an option that would use what is hidden, or outside."""
    with pytest.raises(UsageError, match=type(module).__name__):
        attempt(nn.Sequential(module, nn.Conv3d(4, 4, 3)), path)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "after",
    [
        nn.BatchNorm3d(4),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm3d(4),
        nn.InstanceNorm3d(4, track_running_stats=True),
        nn.Dropout(),
        nn.Dropout3d(),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
    ],
)
def test_padding_is_not_lost(after: nn.Module, path: str) -> None:
    """Zeros around are for convolutions and pools; anything else would silently drop them."""
    with pytest.raises(UsageError, match="padding must lead straight into"):
        attempt(nn.Sequential(nn.Conv3d(4, 4, 1), nn.ConstantPad3d(1, 0.0), after), path)
    attempt(nn.Sequential(nn.Conv3d(4, 4, 1), nn.ConstantPad3d(1, 0.0), nn.Conv3d(4, 4, 3)), path)  # control


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "interpolate": lambda x: F.interpolate(x, scale_factor=2),
    "cumsum": lambda x: torch.cumsum(x, 2),
    "softmax": lambda x: torch.softmax(x, 2),
    "mean": lambda x: x.mean(),
    "flip": lambda x: torch.flip(x, (2,)),
    "roll": lambda x: torch.roll(x, 1, 2),
    "einsum": lambda x: torch.einsum("ncdhw,ck->nkdhw", x, torch.ones(4, 4)),
    "permute": lambda x: x.permute(0, 1, 4, 3, 2),
    "cat": lambda x: torch.cat([x, x], 2),
    "stack": lambda x: torch.stack([x, x]),
    "instance_norm": lambda x: F.instance_norm(x),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_unknown_functions(name: str, path: str) -> None:
    """The function is named."""
    with pytest.raises(UsageError, match=name):
        attempt(Calling(FUNCTIONS[name]), path)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + torch.ones(3, 4, 5, 10, 7),  # a full tensor: is it masked?
        lambda x: x * torch.ones(3, 4, 5, 10, 7),
        lambda x: torch.cat([x, torch.zeros(3, 2, 5, 10, 7)], 1),
        lambda x: x[:, :, 1:],
        lambda x: torch.as_tensor(x),
        lambda x: x.unknown_method(),
    ],
)
def test_nothing_dense_slips_in(function: Callable[[Any], Any], path: str) -> None:
    """Refused, or hidden positions are zero afterwards."""
    try:
        out = attempt(Calling(function), path)
    except (UsageError, AttributeError, TypeError, RuntimeError):
        return
    assert not isinstance(out, torch.Tensor)
    assert not bool((out.dense() * ~out.visible).any())


@pytest.mark.parametrize("path", PATHS)
def test_features_of_two_kinds_do_not_mix(path: str) -> None:
    """Other levels, other contexts, other paths."""
    from prostate_mim.masked import masked_twin

    place, other = world("odd-ragged"), world("odd-columns")
    voxels = voxels_of(place, dtype=torch.float32)
    first, second = (context_of(w).hide(voxels, path=path) for w in (place, other))
    coarse = masked_twin(nn.MaxPool3d((1, 1, 1), (1, 2, 2)))(first)
    swapped = context_of(place).hide(voxels, path=PATHS[1 - PATHS.index(path)])
    for stranger in (second, coarse, swapped):
        for mix in (lambda a, b: a + b, lambda a, b: torch.cat([a, b], 1)):
            with pytest.raises(UsageError):
                mix(first, stranger)


@pytest.mark.parametrize("path", PATHS)
def test_stride_beyond_the_block(path: str) -> None:
    """Stride 8 with blocks of 4, and stride 3: both numbers are named."""
    with pytest.raises(UsageError, match=r"(?s)8.*4|4.*8"):
        attempt(nn.Sequential(nn.Conv3d(4, 4, 1, (1, 4, 4)), nn.Conv3d(4, 4, 3, (1, 2, 2), 1)), path)
    with pytest.raises(UsageError, match=r"(?s)3.*4|4.*3"):
        attempt(nn.MaxPool3d((1, 3, 3), (1, 3, 3)), path)
    attempt(nn.Sequential(nn.Conv3d(4, 4, 1, (1, 2, 2)), nn.Conv3d(4, 4, 3, (1, 2, 2), 1)), path)  # the control


def test_contexts_that_make_no_sense() -> None:
    """Grid, type, block, path and voxels that do not fit."""
    from prostate_mim.masked import MaskContext

    hidden = torch.zeros(2, 2, 2, 2, dtype=torch.bool)
    block, size = (2, 4, 4), (4, 8, 8)
    good = MaskContext(hidden, block, size)
    for arguments in (
        (hidden, block, (4, 8, 9)),
        (hidden, (2, 4, 0), size),
        (hidden[0], block, size),
        (hidden.float(), block, size),
    ):
        with pytest.raises(UsageError):
            MaskContext(*arguments)
    good.hide(torch.zeros(2, 1, 4, 8, 8), path="rows")
    for voxels, path in (
        (torch.zeros(2, 1, 4, 8, 8), "sparse"),
        (torch.zeros(3, 1, 4, 8, 8), "rows"),
        (torch.zeros(2, 1, 4, 8, 7), "rows"),
        (torch.zeros(2, 4, 8, 8), "dense"),
    ):
        with pytest.raises(UsageError):
            good.hide(voxels, path=path)

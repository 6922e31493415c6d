"""inflate: any 2D network made of known parts as a 3D one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prostate_mim.errors import UsageError
from prostate_mim.nets.inflation.kernels import HOWS, sum_colours
from prostate_mim.nets.inflation.parts import CONVERTERS, Converter, DepthRule

BORDERS = ("replicate", "zero")
# Slices for every part that is wider than one pixel in-plane, or (dotted name, 2D part) -> slices.
Slices = int | Callable[[str, nn.Module], int]
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def inflate(
    network2d: nn.Module,
    *,
    in_channels: int = 1,
    depth_kernels: Slices = 3,
    depth_strides: Slices = 1,
    how: str = "spread",
    border: str = "replicate",
    also: Mapping[type[nn.Module], Converter] | None = None,
) -> nn.Module:
    """A 3D copy of a 2D network: the same code and names, each part as ``parts.CONVERTERS`` says.

    On a volume (N, C, z, y, x) that is the same in every slice, each slice of the output is what the 2D network gives
    for that slice, or the output itself where the network has pooled all positions. That is exact with replicated
    borders (the default), with ``how="centre"``, and with kernels of one slice; ``constant_depth_difference`` measures
    it. A network's own ``forward`` runs as it is, so one that calls 2D functions itself (``functional.avg_pool2d``, a
    mean over axes 2 and 3, axes permuted to channels-last) fails there or gives another result: measure it.

    Args:
        network2d: as of torch, torchvision, timm or the user's own; it is not changed.
        in_channels: of the 3D network's input. If the first convolution takes three colours and this says otherwise,
            its weight is summed over the colours for the first channel and zero for others (``kernels.sum_colours``).
        depth_kernels: slices of kernels, odd: a number for all convolutions wider than one pixel, or a function of
            (dotted name, 2D part).
        depth_strides: through-plane steps: a number for all strided convolutions, pools and upsampling parts, or a
            function of (dotted name, 2D part). 1 keeps the number of slices.
        how: what kernels of several slices are filled with, ``spread`` or ``centre``.
        border: how convolutions are padded through-plane, ``replicate`` or ``zero``.
        also: converters for further types of parts; ``parts.keep`` leaves one as it is.

    Raises:
        UsageError: a part that is not known, by type and dotted name; a setting that does not exist; a first
            convolution that takes neither ``in_channels`` nor three colours.
    """
    if how not in HOWS or border not in BORDERS:
        raise UsageError(f"how={how!r}, border={border!r}: choose of {', '.join(HOWS)} and of {', '.join(BORDERS)}")
    network = copy.deepcopy(network2d)
    _colours(network, in_channels)
    settings = _Settings(depth_kernels, depth_strides, how, border, {**CONVERTERS, **(also or {})})
    return _inflated(network, "", settings, {})


@torch.no_grad()
def constant_depth_difference(network2d: nn.Module, network3d: nn.Module, plane: Tensor, depth: int = 8) -> float:
    """How far a 3D network is from the 2D one on a volume that is the same in every slice.

    Args:
        network2d, network3d: in evaluation mode; outputs are tensors, or lists, tuples or dicts of them.
        plane: (N, 1, y, x), one grey image each; the 2D network sees it in as many channels as it takes.
        depth: slices of the volume.

    Returns:
        The largest absolute difference over all outputs and slices, in units of the 2D network's output.

    Raises:
        UsageError: the outputs do not have corresponding shapes.
    """
    first = _first_convolution(network2d)
    flat = network2d(plane if first is None else plane.expand(-1, first.in_channels, -1, -1))
    deep = network3d(plane[:, :, None].expand(-1, -1, depth, -1, -1).contiguous())
    largest = 0.0
    for one, other in zip(_tensors(flat), _tensors(deep), strict=True):
        wide = one.unsqueeze(2) if other.ndim == one.ndim + 1 else one
        if wide.ndim != other.ndim or (wide.shape[:2] + wide.shape[3:] != other.shape[:2] + other.shape[3:]):
            raise UsageError(f"an output is {tuple(one.shape)} in 2D and {tuple(other.shape)} in 3D; compare features")
        largest = max(largest, float((wide - other).abs().max()))
    return largest


@dataclass(frozen=True)
class _Settings:
    kernels: Slices
    strides: Slices
    how: str
    border: str
    converters: Mapping[type[nn.Module], Converter]

    def rule(self, name: str, part: nn.Module) -> DepthRule:
        kernel = _slices(self.kernels, name, part, ("kernel_size",))
        stride = _slices(self.strides, name, part, ("stride", "scale_factor"))
        return DepthRule(name, kernel, stride, self.how, self.border)


def _slices(wanted: Slices, name: str, part: nn.Module, attributes: tuple[str, ...]) -> int:
    found = wanted if isinstance(wanted, int) else wanted(name, part)
    if found < 1:
        raise UsageError(f"{name or 'the network'}: {found} slices; give 1 or more")
    if not isinstance(wanted, int):
        return found
    lengths = [getattr(part, attribute, None) or 1 for attribute in attributes]
    flat = [n for length in lengths for n in (length if isinstance(length, tuple | list) else (length,))]
    return found if max(flat) > 1 else 1


def _colours(network: nn.Module, in_channels: int) -> None:
    first = _first_convolution(network)
    if first is None or first.in_channels == in_channels:
        return
    if first.groups > 1:
        raise UsageError(f"the first convolution treats its {first.in_channels} channels apart; they cannot be summed")
    weight = sum_colours(first.weight.detach(), in_channels)
    first.weight = nn.Parameter(weight, requires_grad=first.weight.requires_grad)
    first.in_channels = in_channels


def _first_convolution(network: nn.Module) -> nn.Conv2d | None:
    return next((part for part in network.modules() if isinstance(part, nn.Conv2d)), None)


def _inflated(part: nn.Module, name: str, settings: _Settings, done: dict[int, nn.Module]) -> nn.Module:
    """``part`` in 3D; one that stands at two places stays one part."""
    if id(part) in done:
        return done[id(part)]
    kind, shown = type(part), name or "the network"
    if kind in settings.converters:
        made = settings.converters[kind](part, settings.rule(shown, part)).train(part.training)
        done[id(part)] = made
        return made
    of_torch = kind.__module__.split(".")[0] == "torch"
    own = [key for key, value in (*part._parameters.items(), *part._buffers.items()) if value is not None]
    if kind not in _CONTAINERS and (of_torch or own or not part._modules):
        why = f" with its own {own[0]!r}" if own and not of_torch else ""
        raise UsageError(
            f"{shown}: {kind.__name__}{why} has no 3D form here; replace it, or say what it becomes: "
            f"inflate(..., also={{{kind.__name__}: converter}})"
        )
    done[id(part)] = part
    for key, child in part._modules.items():
        if child is not None:
            part._modules[key] = _inflated(child, f"{name}.{key}".strip("."), settings, done)
    return part


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
        return
    for value in output.values() if isinstance(output, Mapping) else output:
        yield from _tensors(value)

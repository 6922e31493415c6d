"""masked_twin: any network made of known parts, made exact on visible positions, with the same parameters and names."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from monai.networks.blocks.activation import MemoryEfficientSwish, Mish, Swish
from monai.networks.layers.drop_path import DropPath
from torch import nn

from prostate_mim.errors import UsageError
from prostate_mim.masked import convolution, elementwise, norms, pooling
from prostate_mim.masked.choice import KernelChoice
from prostate_mim.masked.features import MaskedFeatures
from prostate_mim.masked.over_ranks import BatchNormOverRanks
from prostate_mim.nets.convnext import ChannelLayerNorm, GlobalResponseNorm

Operator = Callable[[Any, MaskedFeatures], Any]


class MaskedModule:
    """Mix-in of every masked class: its operator for masked features, the ordinary forward for plain tensors."""

    operator: Operator
    kernels: KernelChoice

    def forward(self, features: Any) -> Any:
        """Masked features -> masked features (or a tensor, for global pooling); a tensor -> a tensor."""
        if isinstance(features, MaskedFeatures):
            return type(self).operator(self, features)
        return self.ordinary(features)

    def ordinary(self, values: Any) -> Any:
        """The forward of the class that was masked."""
        return super().forward(values)  # type: ignore[misc]


# What every leaf of a network becomes. A type that is not here is refused: left as it is, it would see hidden voxels.
_OF_POSITIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish,
    nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.Softsign, nn.Sigmoid, nn.Tanh, nn.LogSigmoid,
    Swish, Mish, ChannelLayerNorm,
)  # fmt: skip
OPERATORS: dict[type[nn.Module], Operator] = {
    nn.Conv3d: convolution.convolution,
    nn.ConvTranspose3d: convolution.transposed_convolution,
    nn.MaxPool3d: pooling.max_pool_module,
    nn.AvgPool3d: pooling.average_pool_module,
    nn.AdaptiveAvgPool3d: lambda module, features: pooling.adaptive_average_pool(features, module.output_size),
    nn.AdaptiveMaxPool3d: lambda module, features: pooling.adaptive_max_pool(features, module.output_size),
    nn.BatchNorm3d: norms.batch_norm,
    nn.SyncBatchNorm: norms.batch_norm,
    BatchNormOverRanks: norms.batch_norm,
    nn.InstanceNorm3d: norms.instance_norm,
    nn.GroupNorm: norms.group_norm,
    nn.Dropout: elementwise.dropout,
    nn.Dropout3d: elementwise.channel_dropout,
    nn.ConstantPad3d: elementwise.pad,
    nn.ZeroPad3d: elementwise.pad,
    nn.Identity: elementwise.pass_on,
    nn.Linear: elementwise.plain_only,
    nn.Flatten: elementwise.plain_only,
    MemoryEfficientSwish: elementwise.silu,
    **dict.fromkeys(_OF_POSITIONS, elementwise.of_positions),
}
# Leaves whose own code is arithmetic that masked features understand.
TRANSPARENT: tuple[type[nn.Module], ...] = (DropPath, GlobalResponseNorm)
_CONTAINERS: tuple[type[nn.Module], ...] = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def masked_twin(
    module: nn.Module, extra: Mapping[type[nn.Module], Operator] | None = None, kernels: str = "auto"
) -> nn.Module:
    """The same network for masked features.

    The twin shares every parameter and buffer with ``module``, under the same names; both may be used. Given plain
    tensors, the twin is the ordinary network.

    Args:
        module: built of parts in ``OPERATORS``, put together by any code that uses only functions in ``FUNCTIONS``.
        extra: operators for further leaf types.
        kernels: how convolutions on rows choose between kernels; see ``KernelChoice``.

    Raises:
        UsageError: a part that is not known, by type and dotted name.
    """
    classes = {kind: _masked_class(kind, operator) for kind, operator in {**OPERATORS, **(extra or {})}.items()}
    twin = _twin(module, "", classes, {})
    for part in twin.modules():
        if isinstance(part, MaskedModule):
            part.kernels = KernelChoice(kernels)
    return twin


def _twin(
    module: nn.Module, name: str, classes: Mapping[type[nn.Module], type], done: dict[int, nn.Module]
) -> nn.Module:
    if id(module) in done:
        return done[id(module)]
    kind = type(module)
    if issubclass(kind, MaskedModule):
        raise UsageError(f"{name or 'the network'} ({kind.__name__}) is a masked twin already")
    twin = copy.copy(module)  # shares the dictionaries of parameters and buffers
    done[id(module)] = twin
    if kind in classes:
        twin.__class__ = classes[kind]
        return twin
    children = dict(module.named_children())
    part_of_torch = kind.__module__.split(".")[0] == "torch" and kind not in _CONTAINERS
    if kind not in TRANSPARENT and (part_of_torch or (not children and kind not in _CONTAINERS)):
        raise UsageError(
            f"{name or 'the network'}: module {kind.__name__} has no masked form, and left as it is it would see "
            f"hidden voxels; replace it, or pass masked_twin(..., extra={{{kind.__name__}: operator}})"
        )
    twin._modules = {
        key: None if child is None else _twin(child, f"{name}.{key}".strip("."), classes, done)
        for key, child in module._modules.items()
    }
    return twin


def _masked_class(kind: type[nn.Module], operator: Operator) -> type:
    return type(f"Masked{kind.__name__}", (MaskedModule, kind), {"operator": operator, "__doc__": kind.__doc__})

"""What each part of a 2D network becomes in 3D: CONVERTERS is the whole table.

Every converter keeps this law: on a volume that is the same in every slice, each slice of the 3D part's output is the
2D part's output. (With ``border="zero"`` a spread kernel breaks it in the first and last slices; see ``DepthRule``.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from prostate_mim.errors import UsageError
from prostate_mim.nets.inflation.kernels import inflate_convolution


@dataclass(frozen=True)
class DepthRule:
    """What one part of the network does through-plane.

    Attributes:
        name: the part's dotted name, for errors.
        kernel: slices of a convolution's kernel, odd. Pooling windows follow the stride instead.
        stride: through-plane step of a convolution or pool; how often slices are repeated by an upsampling part.
        how: ``spread`` or ``centre``, see ``inflate_convolution``.
        border: ``replicate`` pads convolutions through-plane with the outermost slice, ``zero`` with zeros (which plain
            ``nn.Conv3d`` does, and the registered encoders do).
    """

    name: str
    kernel: int
    stride: int
    how: str
    border: str


Converter = Callable[[Any, DepthRule], nn.Module]


class DepthReplicatedConv3d(nn.Conv3d):
    """``nn.Conv3d`` that pads through-plane with the outermost slices, and in-plane with zeros.

    Attributes:
        depth_padding: slices added on each side; ``padding`` itself has none through-plane.
    """

    depth_padding: int = 0

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, d, h, w) -> (N, C', d', h', w')."""
        padding = (0, 0, 0, 0, self.depth_padding, self.depth_padding)
        return super().forward(functional.pad(features, padding, mode="replicate"))


def convolution(module: nn.Conv2d, rule: DepthRule) -> nn.Conv3d:
    """``nn.Conv2d`` of any kernel, stride, padding, dilation and groups; dilation stays in-plane.

    Also what a converter of a subclass of ``nn.Conv2d`` calls for the convolution itself.

    Raises:
        UsageError: an even number of slices.
    """
    depth = rule.kernel
    if depth % 2 == 0:
        raise UsageError(f"{rule.name}: {depth} slices of a kernel have no middle one; give an odd number")
    kind, reach = nn.Conv3d, depth // 2
    padding: Any = module.padding
    if isinstance(padding, str):  # the length along an axis of one slice is kept by either word
        padding = padding if depth == 1 else _in_numbers(module, rule)
    replicated = rule.border == "replicate" and reach > 0 and module.padding_mode == "zeros"
    if not isinstance(padding, str):
        padding = (0 if replicated else reach, *padding)
    if replicated:
        kind = DepthReplicatedConv3d
    made = kind(
        module.in_channels, module.out_channels, (depth, *_pair(module.kernel_size)),
        (rule.stride, *_pair(module.stride)), padding, (1, *_pair(module.dilation)), module.groups,
        module.bias is not None, module.padding_mode, device=module.weight.device, dtype=module.weight.dtype,
    )  # fmt: skip
    if isinstance(made, DepthReplicatedConv3d):
        made.depth_padding = reach
    _take(made, "weight", inflate_convolution(module.weight.detach(), depth, rule.how), module.weight)
    if module.bias is not None:
        _take(made, "bias", module.bias.detach().clone(), module.bias)
    return made


def _in_numbers(module: nn.Conv2d, rule: DepthRule) -> tuple[int, int]:
    """Padding given as a word: voxels added at either end, (y, x)."""
    if module.padding == "valid":
        return 0, 0
    y, x = (d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True))
    if y % 2 or x % 2:
        raise UsageError(
            f"{rule.name}: padding 'same' of an even kernel is lopsided, which has no 3D form beside a kernel of "
            f"{rule.kernel} slices; give it one slice (depth_kernels)"
        )
    return y // 2, x // 2


def _take(module: nn.Module, name: str, values: Tensor, old: Tensor) -> None:
    setattr(module, name, nn.Parameter(values, requires_grad=old.requires_grad))


def _transposed(module: nn.ConvTranspose2d, rule: DepthRule) -> nn.Module:
    made = nn.ConvTranspose3d(
        module.in_channels, module.out_channels, (rule.stride, *_pair(module.kernel_size)),
        (rule.stride, *_pair(module.stride)), (0, *_pair(module.padding)), (0, *_pair(module.output_padding)),
        module.groups, module.bias is not None, (1, *_pair(module.dilation)),
        device=module.weight.device, dtype=module.weight.dtype,
    )  # fmt: skip
    # As many slices as the stride: each slice of the output comes from one of the input, and none is shared.
    _take(made, "weight", module.weight.detach().unsqueeze(2).repeat(1, 1, rule.stride, 1, 1), module.weight)
    if module.bias is not None:
        _take(made, "bias", module.bias.detach().clone(), module.bias)
    return made


def _norm(kind: type[Any]) -> Converter:
    """Batch or instance norm: weights, statistics, step count and all settings are kept."""

    def convert(module: Any, rule: DepthRule) -> nn.Module:
        example = next((value for value in module.state_dict().values() if value.is_floating_point()), None)
        placed = {} if example is None else {"device": example.device, "dtype": example.dtype}
        made: nn.Module = kind(
            module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats, **placed
        )
        made.load_state_dict(module.state_dict())
        for own, old in zip(made.parameters(), module.parameters(), strict=True):
            own.requires_grad_(old.requires_grad)
        return made

    return convert


def _max_pool(module: nn.MaxPool2d, rule: DepthRule) -> nn.Module:
    if module.return_indices:
        raise UsageError(f"{rule.name}: a max pool that returns indices has no 3D form here; unpool another way")
    reach = rule.stride // 2  # 3 slices at stride 2: sizes are rounded up, as by a convolution of stride 2
    return nn.MaxPool3d(
        (2 * reach + 1, *_pair(module.kernel_size)), (rule.stride, *_pair(module.stride)),
        (reach, *_pair(module.padding)), (1, *_pair(module.dilation)), ceil_mode=module.ceil_mode,
    )  # fmt: skip


def _average_pool(module: nn.AvgPool2d, rule: DepthRule) -> nn.Module:
    """One slice of each step: a window of several would count padded slices, or round sizes down."""
    return nn.AvgPool3d(
        (1, *_pair(module.kernel_size)), (rule.stride, *_pair(module.stride)), (0, *_pair(module.padding)),
        module.ceil_mode, module.count_include_pad, module.divisor_override,
    )  # fmt: skip


def _adaptive(kind: type[nn.Module]) -> Converter:
    """One slice comes out, so that a classifier behind it meets as many values as in 2D."""

    def convert(module: Any, rule: DepthRule) -> nn.Module:
        if getattr(module, "return_indices", False):
            raise UsageError(f"{rule.name}: a max pool that returns indices has no 3D form here; unpool another way")
        made: Any = kind((1, *_pair(module.output_size)))  # type: ignore[call-arg]
        return made  # type: ignore[no-any-return]

    return convert


def _upsample(module: nn.Upsample, rule: DepthRule) -> nn.Module:
    modes = {"nearest": "nearest", "nearest-exact": "nearest-exact", "bilinear": "trilinear"}
    if module.mode not in modes or module.scale_factor is None:
        what = f"mode {module.mode!r}" if module.mode not in modes else "a fixed size"
        raise UsageError(f"{rule.name}: upsampling with {what} has no 3D form; give a scale, nearest or bilinear")
    scale = (float(rule.stride), *(float(value) for value in _pair(module.scale_factor)))
    return nn.Upsample(None, scale, modes[module.mode], module.align_corners, module.recompute_scale_factor)


def _pad(kind: type[Any]) -> Converter:
    def convert(module: Any, rule: DepthRule) -> nn.Module:
        given = (module.value,) if kind is nn.ConstantPad3d else ()
        return kind((*module.padding, 0, 0), *given)  # type: ignore[no-any-return]

    return convert


def _layer_norm(module: nn.LayerNorm, rule: DepthRule) -> nn.Module:
    if len(module.normalized_shape) > 1:
        raise UsageError(f"{rule.name}: a layer norm over whole images of one size has no 3D form; norm channels only")
    return module


def _flatten(module: nn.Flatten, rule: DepthRule) -> nn.Module:
    if (module.start_dim, module.end_dim) != (1, -1):
        raise UsageError(f"{rule.name}: flattening axes {module.start_dim} to {module.end_dim} would mix in the depth")
    return module


def _softmax(module: Any, rule: DepthRule) -> nn.Module:
    if module.dim != 1:
        raise UsageError(f"{rule.name}: softmax over axis {module.dim}; only over channels (1) it is the same in 3D")
    return module  # type: ignore[no-any-return]


def keep(module: nn.Module, rule: DepthRule) -> nn.Module:
    """The part as it is: for what works alike on (N, C, y, x) and (N, C, z, y, x)."""
    return module


def _pair(value: Any) -> tuple[Any, Any]:
    if isinstance(value, tuple | list | torch.Size):
        return value[0], value[1]
    return value, value


_ALIKE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Hardshrink, nn.Softshrink, nn.Softplus, nn.Softsign, nn.Sigmoid,
    nn.Tanh, nn.Tanhshrink, nn.LogSigmoid, nn.Threshold, nn.Identity, nn.Dropout, nn.AlphaDropout, nn.GroupNorm,
    nn.SyncBatchNorm, nn.Linear, nn.LocalResponseNorm,
)  # fmt: skip
CONVERTERS: dict[type[nn.Module], Converter] = {
    **dict.fromkeys(_ALIKE, keep),
    nn.Conv2d: convolution,
    nn.ConvTranspose2d: _transposed,
    nn.BatchNorm2d: _norm(nn.BatchNorm3d),
    nn.InstanceNorm2d: _norm(nn.InstanceNorm3d),
    nn.LayerNorm: _layer_norm,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _average_pool,
    nn.AdaptiveAvgPool2d: _adaptive(nn.AdaptiveAvgPool3d),
    nn.AdaptiveMaxPool2d: _adaptive(nn.AdaptiveMaxPool3d),
    nn.Dropout2d: lambda module, rule: nn.Dropout3d(module.p, module.inplace),
    nn.Upsample: _upsample,
    nn.UpsamplingNearest2d: _upsample,
    nn.UpsamplingBilinear2d: _upsample,
    nn.ZeroPad2d: _pad(nn.ZeroPad3d),
    nn.ConstantPad2d: _pad(nn.ConstantPad3d),
    nn.ReplicationPad2d: _pad(nn.ReplicationPad3d),
    nn.ReflectionPad2d: _pad(nn.ReflectionPad3d),
    nn.Flatten: _flatten,
    nn.Softmax: _softmax,
    nn.LogSoftmax: _softmax,
    nn.Softmax2d: lambda module, rule: nn.Softmax(1),
}

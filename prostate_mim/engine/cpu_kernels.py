"""Convolutions on CPUs: those that torch 2.13 gets wrong in bfloat16, made right; slow gradients, made faster."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# Positions of a crop above which torch's own gradient of the weight is the faster one.
_MOST_POSITIONS = 4096


class PaddedAhead(nn.Conv3d):
    """``nn.Conv3d`` that puts its zeros along z in place before the kernel runs.

    In bfloat16 on CPUs torch 2.13's weight gradient reads memory nobody wrote where few planes meet zero padding along
    z: NaN, infinity or rubbish. With the zeros in place it does not. See ``masked.convolution`` for masked networks.
    """

    def forward(self, voxels: Tensor) -> Tensor:
        """(N, C, D, H, W) -> the same numbers."""
        z, y, x = (int(count) for count in self.padding)
        padded = functional.pad(voxels, (0, 0, 0, 0, z, z))
        return functional.conv3d(padded, self.weight, self.bias, self.stride, (0, y, x), self.dilation, self.groups)


class DepthwiseOnCpu(nn.Conv3d):
    """``nn.Conv3d``, depthwise with "same" padding and stride 1, with other kernels for its gradients.

    Torch 2.13's backward pass of these takes ten to a hundred times the forward pass. Both gradients are themselves
    convolutions, which the forward kernels compute: the input's is the arriving gradient under the kernel turned round,
    the weight's is the input under the arriving gradient as a kernel.
    """

    def forward(self, voxels: Tensor) -> Tensor:
        """(N, C, D, H, W) -> the same numbers."""
        plain = voxels.device.type == "cpu" and voxels.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if not plain or not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return super().forward(voxels)
        out: Tensor = _Depthwise.apply(voxels, self.weight)  # type: ignore[no-untyped-call]
        return out if self.bias is None else out + self.bias.view(-1, 1, 1, 1)


def use_cpu_kernels(model: nn.Module, precision: str) -> None:
    """Give a model's plain convolutions the kernels they need on CPUs, in place; names and attributes stay.

    Args:
        model: ordinary layers; those of a masked twin have kernels of their own.
        precision: ``bf16`` or ``fp32``.
    """
    for part in model.modules():
        if type(part) is not nn.Conv3d or part.padding_mode != "zeros" or isinstance(part.padding, str):
            continue
        if precision == "bf16" and part.padding[0]:
            part.__class__ = PaddedAhead
        if precision == "fp32" and _is_same_depthwise(part):
            part.__class__ = DepthwiseOnCpu


def _is_same_depthwise(part: nn.Conv3d) -> bool:
    depthwise = part.groups == part.in_channels == part.out_channels > 1
    same = part.kernel_size == tuple(2 * zeros + 1 for zeros in part.padding if isinstance(zeros, int))
    return depthwise and same and set(part.stride) == set(part.dilation) == {1}


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, voxels: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(voxels, weight)
        return _same(voxels, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        voxels, weight = ctx.saved_tensors
        of_voxels = of_weight = None
        if ctx.needs_input_grad[0]:
            rows = gradient.contiguous(memory_format=torch.channels_last_3d)
            of_voxels = _same(rows, weight.flip(2, 3, 4))
        if ctx.needs_input_grad[1]:
            of_weight = _weight_gradient(voxels, gradient, weight)
        return of_voxels, of_weight


def _same(voxels: Tensor, weight: Tensor) -> Tensor:
    padding = [size // 2 for size in weight.shape[2:]]
    return functional.conv3d(voxels, weight, None, 1, padding, 1, weight.shape[0])


def _weight_gradient(voxels: Tensor, gradient: Tensor, weight: Tensor) -> Tensor:
    count, channels, *size = voxels.shape
    padding = [reach // 2 for reach in weight.shape[2:]]
    if size[0] * size[1] * size[2] > _MOST_POSITIONS:
        rows = (tensor.contiguous(memory_format=torch.channels_last_3d) for tensor in (gradient, voxels))
        only = [False, True, False]
        own: Tensor = torch.ops.aten.convolution_backward(
            *rows, weight, None, [1] * 3, padding, [1] * 3, False, [0] * 3, channels, only
        )[1]
        return own
    # Every channel of every crop is a channel, and the gradient that arrives there its kernel.
    planes = voxels.contiguous().view(1, count * channels, *size)
    kernels = gradient.contiguous().view(count * channels, 1, *size)
    found = functional.conv3d(planes, kernels, None, 1, padding, 1, count * channels)
    return found.view(count, channels, *weight.shape[2:]).sum(0).unsqueeze(1)

"""What is traced for ONNX: the network with its named outputs, in a form that engines run fast."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn


class ClassifierGraph(nn.Module):
    """Voxels -> logit and probability, so that nobody has to guess the link function."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, voxels: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, D, H, W) -> (N,) logit, (N,) probability."""
        logit: Tensor = self.model(voxels)
        return logit, torch.sigmoid(logit)


class EncoderGraph(nn.Module):
    """Voxels -> pooled vector and last stage."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, voxels: Tensor) -> tuple[Tensor, Tensor]:
        """(N, channels, D, H, W) -> (N, C) embedding, (N, C, d, h, w) features."""
        stages: list[Tensor] = self.model(voxels)
        return cast(Any, self.model).pool(stages), stages[-1]


class HalfGraph(nn.Module):
    """A graph whose weights and activations are float16; input and outputs stay float32."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.inner = graph.half()

    def forward(self, voxels: Tensor) -> tuple[Tensor, ...]:
        """(N, C, D, H, W) float32 -> the graph's outputs, float32."""
        return tuple(output.float() for output in self.inner(voxels.half()))


class ChannelwiseGroupNorm(nn.Module):
    """``nn.GroupNorm`` of one that no longer learns, without reshaping what it normalises.

    Exporters write group norm as reshape, instance norm, reshape. That reshape forces engines with channels last
    (OpenVINO) to copy the whole of the features twice for every norm, which took them longer than all convolutions.
    Here the statistics of channels are averaged over groups by a small matrix. In float16, statistics are of float32.

    Args:
        norm: weights, groups and epsilon are taken from it.
    """

    average: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        share = norm.num_channels // norm.num_groups
        groups = torch.kron(torch.eye(norm.num_groups), torch.full((share, share), 1 / share))
        self.register_buffer("average", groups)
        one = torch.ones(norm.num_channels)
        self.register_buffer("weight", (norm.weight if norm.affine else one).detach().clone())
        self.register_buffer("bias", (norm.bias if norm.affine else 0 * one).detach().clone())
        self.eps = norm.eps

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, D, H, W) -> the same shape, normalised over groups of channels and all voxels."""
        centred = features - self._mean(features)
        scale = self.weight[:, None, None, None] * torch.rsqrt(self._mean(centred * centred) + self.eps)
        return centred * scale + self.bias[:, None, None, None]

    def _mean(self, features: Tensor) -> Tensor:
        """(N, C, D, H, W) -> (N, C, 1, 1, 1): of each channel's group."""
        return (features.mean((2, 3, 4)) @ self.average)[:, :, None, None, None]


def graph_of(model: nn.Module, kind: str) -> nn.Module:
    """A float32 copy on the CPU in evaluation mode, wrapped to give the outputs of ``contract.OUTPUTS``."""
    network = copy.deepcopy(model).cpu().float().eval()
    return ClassifierGraph(network) if kind == "classifier" else EncoderGraph(network)


def for_engines(graph: nn.Module) -> nn.Module:
    """A copy that computes the same with norms of the form above."""
    changed = copy.deepcopy(graph)
    for module in list(changed.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, ChannelwiseGroupNorm(child))
    return changed

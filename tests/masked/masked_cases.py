"""What the tests run over: hidden patterns (worlds), operators, and how two results are compared."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from masked_oracle import Field, World, judge
from monai.networks.blocks import ChannelSELayer, ResidualSELayer
from torch import Tensor, nn

PATHS = ("dense", "rows")
CHANNELS = 4
EVEN = ((4, 8, 8), (2, 4, 4))
ODD = ((5, 10, 7), (2, 4, 4))


def grid_of(size: tuple[int, int, int], block: tuple[int, int, int]) -> tuple[int, int, int]:
    """Blocks per axis; the last one may be cut."""
    z, y, x = (-(-s // b) for s, b in zip(size, block, strict=True))
    return z, y, x


def hide_blocks(pattern: str, grid: tuple[int, int, int], samples: int = 3, seed: int = 0) -> Tensor:
    """(N, gz, gy, gx) bool, True = hidden."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.rand(samples, *grid, generator=generator) < 0.6
    if pattern == "columns":
        hidden = hidden[:, :1].expand(-1, grid[0], -1, -1).clone()
    elif pattern == "nothing":
        hidden[:] = False
    elif pattern == "everything":
        hidden[:] = True
    elif pattern == "ragged":  # one block, the random ones, all but one
        hidden[0] = True
        hidden[0].view(-1)[1] = False
        hidden[-1] = False
        hidden[-1].view(-1)[0] = True
    elif pattern == "empty sample":
        hidden[1] = True
        hidden[0].view(-1)[0] = False
    return hidden


# name -> (size and block, pattern). Kept few: every operator meets each.
WORLDS: dict[str, tuple[tuple[tuple[int, int, int], tuple[int, int, int]], str]] = {
    "even-random": (EVEN, "random"),
    "odd-ragged": (ODD, "ragged"),
    "odd-empty": (ODD, "empty sample"),
    "even-empty": (EVEN, "empty sample"),
    "odd-nothing": (ODD, "nothing"),
    "odd-columns": (ODD, "columns"),
    "odd-everything": (ODD, "everything"),
}


@cache
def world(name: str) -> World:
    """One of WORLDS."""
    (size, block), pattern = WORLDS[name]
    return World(hide_blocks(pattern, grid_of(size, block)), block, size)


def context_of(place: World) -> Any:
    """The engine's context of a world."""
    from prostate_mim.masked import MaskContext

    return MaskContext(place.blocks, place.block_zyx, place.size_zyx)


def voxels_of(place: World, channels: int = CHANNELS, seed: int = 7, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random voxels with values at hidden positions too."""
    generator = torch.Generator().manual_seed(seed)
    shape = (place.samples, channels, *place.size_zyx)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


# ----------------------------------------------------------------------------------------------- operators


class Wired(nn.Module):
    """A function between two convolutions, as networks write it in their forward."""

    def __init__(self, function: Callable[[Any, Any, nn.Module], Any], outputs: int = CHANNELS) -> None:
        super().__init__()
        self.left = nn.Conv3d(CHANNELS, CHANNELS, 1)
        self.right = nn.Conv3d(CHANNELS, CHANNELS, (1, 3, 3), padding=(0, 1, 1))
        self.scale = nn.Parameter(torch.randn(1, CHANNELS, 1, 1, 1))
        self.slim = nn.Parameter(torch.randn(CHANNELS, 1, 1, 1))
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.last = nn.Conv3d(outputs, CHANNELS, 1)
        self.function = function

    def forward(self, voxels: Any) -> Any:
        """Left branch, right branch, the function of both, a convolution."""
        return self.last(self.function(self.left(voxels), self.right(voxels), self))


def _accumulate(left: Any, right: Any, module: Any) -> Any:
    left += right
    return left


class Chain(nn.Module):
    """A small network: three levels, both kinds of pooling, a residual, a gate."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv3d(CHANNELS, 6, 3, padding=1, bias=False), norm(6), nn.LeakyReLU(0.1, True))
        self.down = nn.Conv3d(6, 6, 3, (1, 2, 2), 1)
        self.block = nn.Sequential(norm(6), nn.SiLU(), nn.Conv3d(6, 6, (1, 3, 3), padding=(0, 1, 1), groups=2), norm(6))
        self.pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        self.gate = ChannelSELayer(3, 6)
        self.mean = nn.AvgPool3d((2, 1, 1))

    def forward(self, voxels: Any) -> Any:
        """Features of the coarsest level."""
        fine = self.down(self.stem(voxels))
        fine = F.relu(fine + self.block(fine))
        return self.mean(self.gate(self.pool(fine)))


def ours(name: str, *arguments: Any) -> nn.Module:
    """A norm of the ConvNeXt."""
    from prostate_mim.nets import convnext

    return getattr(convnext, name)(*arguments)  # type: ignore[no-any-return]


C = CHANNELS
CONVOLUTIONS: dict[str, Callable[[], nn.Module]] = {
    "conv 1": lambda: nn.Conv3d(C, 5, 1),
    "conv 3": lambda: nn.Conv3d(C, 5, 3, padding=1),
    "conv 3 without bias": lambda: nn.Conv3d(C, 5, 3, padding=1, bias=False),
    "conv 1x3x3": lambda: nn.Conv3d(C, 3, (1, 3, 3), padding=(0, 1, 1)),
    "conv 3x1x1": lambda: nn.Conv3d(C, 3, (3, 1, 1), padding=(1, 0, 0)),
    "conv 3 stride 1x2x2": lambda: nn.Conv3d(C, 5, 3, (1, 2, 2), 1),
    "conv 3 stride 2": lambda: nn.Conv3d(C, 5, 3, 2, 1),
    "conv 1x2x2 stride 1x2x2": lambda: nn.Conv3d(C, 5, (1, 2, 2), (1, 2, 2)),
    "conv 1 stride 2": lambda: nn.Conv3d(C, 5, 1, 2),
    "conv 1x7x7 stride 1x2x2": lambda: nn.Conv3d(C, 3, (1, 7, 7), (1, 2, 2), (0, 3, 3)),
    "conv 5 stride 1x4x4": lambda: nn.Conv3d(C, 3, (1, 5, 5), (1, 4, 4), (0, 2, 2)),
    "conv 2x4x4 stride 2x4x4": lambda: nn.Conv3d(C, 5, (2, 4, 4), (2, 4, 4)),
    "conv 3 dilation 2": lambda: nn.Conv3d(C, 3, 3, padding=2, dilation=2),
    "conv 3 dilation 1x3x2 stride 1x2x1": lambda: nn.Conv3d(C, 3, 3, (1, 2, 1), (1, 3, 2), (1, 3, 2)),
    "conv groups": lambda: nn.Conv3d(C, 6, 3, padding=1, groups=2),
    "conv depthwise": lambda: nn.Conv3d(C, C, 3, padding=1, groups=C),
    "conv depthwise 1x5x5": lambda: nn.Conv3d(C, C, (1, 5, 5), padding=(0, 2, 2), groups=C, bias=False),
    "conv depthwise twice": lambda: nn.Conv3d(C, 2 * C, 3, (1, 2, 2), 1, groups=C),
    "conv same": lambda: nn.Conv3d(C, 3, (1, 3, 5), padding="same"),
    "padded conv": lambda: nn.Sequential(nn.ConstantPad3d((0, 1, 0, 1, 1, 1), 0.0), nn.Conv3d(C, 3, 3, (1, 2, 2))),
    "transposed 1x2x2": lambda: nn.Sequential(
        nn.Conv3d(C, 6, 1, (1, 2, 2)), nn.ConvTranspose3d(6, 3, (1, 2, 2), (1, 2, 2))
    ),
    "transposed groups": lambda: nn.Sequential(
        nn.Conv3d(C, 6, 1, (1, 2, 2)),
        nn.ConvTranspose3d(6, 4, (3, 4, 4), (1, 2, 2), (1, 1, 1), groups=2, bias=False),
    ),
    "transposed stride 1": lambda: nn.ConvTranspose3d(C, 3, 3, padding=1),
    "transposed dilated": lambda: nn.ConvTranspose3d(C, 3, (1, 3, 3), padding=(0, 2, 2), dilation=(1, 2, 2)),
}
# Their outputs do not line up with the blocks: equal to the oracle, or refused.
DOUBTFUL: dict[str, Callable[[], nn.Module]] = {
    "conv same, even kernel": lambda: nn.Conv3d(C, 3, (2, 3, 4), padding="same"),
    "conv 3 without border": lambda: nn.Conv3d(C, 3, (1, 3, 3), (1, 2, 2)),
    "transposed to an odd size": lambda: nn.Sequential(
        nn.Conv3d(C, 6, 1, (1, 2, 2)), nn.ConvTranspose3d(6, 3, 3, (1, 2, 2), 1, (0, 1, 0))
    ),
    "mean with a counted border": lambda: nn.AvgPool3d(3, (1, 2, 2), 1),
    "dilated max": lambda: nn.MaxPool3d((1, 3, 3), 1, (0, 1, 1), dilation=(1, 1, 1)),
    "constant added": lambda: Wired(lambda a, b, m: a + 1.0 + b),
    "sigmoid function": lambda: Wired(lambda a, b, m: torch.sigmoid(a) * b),
    "parameter added": lambda: Wired(lambda a, b, m: a + m.scale + b),
    "subtraction": lambda: Wired(lambda a, b, m: (a - b) / 3.0),
    "parameter of four axes": lambda: Wired(lambda a, b, m: a * m.slim + b),
}
POOLS: dict[str, Callable[[], nn.Module]] = {
    "max 2": lambda: nn.MaxPool3d(2),
    "max 1x3x3 stride 1x2x2": lambda: nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
    "max 3 stride 2": lambda: nn.MaxPool3d(3, 2, 1),
    "max 3 stride 1": lambda: nn.MaxPool3d(3, 1, 1),
    "max ceil": lambda: nn.MaxPool3d(2, 2, ceil_mode=True),
    "max ceil without border": lambda: nn.MaxPool3d(3, 2, ceil_mode=True),
    "max 1x3x3 stride 1": lambda: nn.MaxPool3d((1, 3, 3), 1, (0, 1, 1)),
    "avg 2": lambda: nn.AvgPool3d(2, 2),
    "avg 1x2x2": lambda: nn.AvgPool3d((1, 2, 2)),
    "avg 3 inside": lambda: nn.AvgPool3d(3, (1, 2, 2), 1, count_include_pad=False),
    "avg 3 stride 1 inside": lambda: nn.AvgPool3d(3, 1, 1, count_include_pad=False),
    "avg ceil": lambda: nn.AvgPool3d(2, 2, ceil_mode=True),
    "global mean": lambda: nn.AdaptiveAvgPool3d(1),
    "global max": lambda: nn.AdaptiveMaxPool3d(1),
    "squeeze and excite": lambda: ChannelSELayer(3, C),
    "residual squeeze and excite": lambda: ResidualSELayer(3, C),
}
NORMS: dict[str, Callable[[], nn.Module]] = {
    "batch": lambda: nn.BatchNorm3d(C),
    "batch evaluating": lambda: nn.BatchNorm3d(C).eval(),
    "batch plain": lambda: nn.BatchNorm3d(C, affine=False, momentum=0.3),
    "batch cumulative": lambda: nn.BatchNorm3d(C, momentum=None),
    "batch untracked": lambda: nn.BatchNorm3d(C, track_running_stats=False),
    "batch untracked evaluating": lambda: nn.BatchNorm3d(C, track_running_stats=False).eval(),
    "batch synchronised, alone": lambda: nn.SyncBatchNorm(C),
    "instance": lambda: nn.InstanceNorm3d(C, affine=True),
    "instance plain": lambda: nn.InstanceNorm3d(C, eps=1e-3),
    "group 2": lambda: nn.GroupNorm(2, C),
    "group 1": lambda: nn.GroupNorm(1, C),
    "group plain": lambda: nn.GroupNorm(4, C, affine=False),
    "layer": lambda: ours("ChannelLayerNorm", C),
    "global response": lambda: ours("GlobalResponseNorm", C),
}
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(),
    "relu in place": lambda: nn.Sequential(nn.Conv3d(C, C, 1), nn.ReLU(inplace=True)),
    "leaky relu": lambda: nn.LeakyReLU(0.2),
    "gelu": lambda: nn.GELU(),
    "gelu tanh": lambda: nn.GELU(approximate="tanh"),
    "silu": lambda: nn.SiLU(),
    "elu": lambda: nn.ELU(),
    "prelu": lambda: nn.PReLU(),
    "prelu per channel": lambda: nn.PReLU(C),
    "sigmoid": lambda: nn.Sigmoid(),
    "softplus": lambda: nn.Softplus(),
    "identity": lambda: nn.Identity(),
    "dropout": lambda: nn.Dropout(0.4),
    "dropout evaluating": lambda: nn.Dropout(0.4).eval(),
    "dropout of channels": lambda: nn.Dropout3d(0.4),
}
FUNCTIONS: dict[str, Callable[[], nn.Module]] = {
    "add": lambda: Wired(lambda a, b, m: a + b),
    "accumulate": lambda: Wired(_accumulate),
    "concatenate": lambda: Wired(lambda a, b, m: torch.cat([a, b], 1), 2 * C),
    "concatenate, dim named": lambda: Wired(lambda a, b, m: torch.cat((b, a), dim=1), 2 * C),
    "scale by parameter": lambda: Wired(lambda a, b, m: a + m.scale * b),
    "scale on the right": lambda: Wired(lambda a, b, m: a * m.scale + b),
    "scale by a number": lambda: Wired(lambda a, b, m: a * 0.5 + 2.0 * b),
    "gate": lambda: Wired(lambda a, b, m: a * torch.sigmoid(m.pool(b))),
    "relu function": lambda: Wired(lambda a, b, m: F.relu(a) + F.leaky_relu(b, 0.3)),
    "gelu function": lambda: Wired(lambda a, b, m: F.gelu(a + b)),
    "silu function": lambda: Wired(lambda a, b, m: F.silu(a + b)),
    "chain, batch": lambda: Chain(nn.BatchNorm3d),
    "chain, instance": lambda: Chain(lambda c: nn.InstanceNorm3d(c, affine=True)),
    "chain, group": lambda: Chain(lambda c: nn.GroupNorm(3, c)),
    "chain, layer": lambda: Chain(lambda c: ours("ChannelLayerNorm", c)),
}
OPERATORS = {**CONVOLUTIONS, **POOLS, **NORMS, **ACTIVATIONS, **FUNCTIONS}


def build(name: str, seed: int = 1) -> nn.Module:
    """One of OPERATORS in float64, all its parameters and running moments away from their defaults."""
    return scramble({**OPERATORS, **DOUBTFUL}[name](), seed).double()


def scramble(network: nn.Module, seed: int = 1) -> nn.Module:
    """Random offsets, scales and running moments, so that a forgotten one shows."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        spread = 0.3 if parameter.ndim == 1 or parameter.squeeze().ndim <= 1 else 1 / (parameter[0].numel() ** 0.5)
        offset = 0.5 if parameter.squeeze().ndim <= 1 else 0.0
        parameter.data = offset + spread * torch.randn(parameter.shape, generator=generator)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.randn(buffer.shape, generator=generator))
        elif name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return network


# ---------------------------------------------------------------------------------------------- comparison


@dataclass
class Result:
    """What one forward and backward gave."""

    outputs: list[Tensor]
    voxel_gradient: Tensor
    gradients: dict[str, Tensor | None]
    buffers: dict[str, Tensor]


def as_dense(output: Any) -> list[Tensor]:
    """Every output as a dense tensor."""
    if isinstance(output, list | tuple):
        return [tensor for part in output for tensor in as_dense(part)]
    return [output if isinstance(output, Tensor) else output.dense()]


def differentiate(network: nn.Module, hide: Callable[[Tensor], Any], voxels: Tensor, seed: int = 3) -> Result:
    """Forward, a fixed random linear loss, backward."""
    voxels = voxels.clone().requires_grad_()
    torch.manual_seed(11)  # dropout
    network.zero_grad(set_to_none=True)
    outputs = as_dense(network(hide(voxels)))
    generator = torch.Generator().manual_seed(seed)
    loss = sum(
        (output * torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)).sum()
        for output in outputs
    )
    if loss.requires_grad:
        loss.backward()
    return Result(
        [output.detach() for output in outputs],
        torch.zeros_like(voxels) if voxels.grad is None else voxels.grad,
        {name: parameter.grad for name, parameter in network.named_parameters()},
        {name: buffer.clone() for name, buffer in network.named_buffers()},
    )


def distance(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative where values exceed 1; infinite where one of them is not finite."""
    assert found.shape == expected.shape, (found.shape, expected.shape)
    if not found.numel():
        return 0.0
    if not bool(torch.isfinite(found).all()):
        return float("inf")
    scale = max(1.0, float(expected.abs().max()))
    return float((found.double() - expected.double()).abs().max()) / scale


def differences(found: Result, expected: Result) -> dict[str, float]:
    """Distance of each part; a missing gradient counts as zero."""
    parts = {
        f"output {k}": distance(a, b) for k, (a, b) in enumerate(zip(found.outputs, expected.outputs, strict=True))
    }
    parts["gradient of voxels"] = distance(found.voxel_gradient, expected.voxel_gradient)
    for name, wanted in expected.gradients.items():
        given = found.gradients[name]
        if wanted is not None or given is not None:
            like = wanted if wanted is not None else given
            assert like is not None
            zero = torch.zeros_like(like)
            parts[f"gradient of {name}"] = distance(
                zero if given is None else given, zero if wanted is None else wanted
            )
    for name, wanted in expected.buffers.items():
        if not name.endswith("num_batches_tracked"):
            parts[name] = distance(found.buffers[name], wanted)
    return parts


def too_far(found: Result, expected: Result, tolerance: float = 1e-10) -> dict[str, float]:
    """The parts that differ by more than the tolerance."""
    return {name: gap for name, gap in differences(found, expected).items() if not gap <= tolerance}


@cache
def judged(operator: str, where: str) -> Result:
    """The oracle's result of an operator in a world; both paths are compared with it."""
    place = world(where)
    return differentiate(judge(build(operator)), lambda voxels: Field.hide(place, voxels), voxels_of(place))


def engine(operator: str, where: str, path: str) -> Result:
    """The engine's result."""
    from prostate_mim.masked import masked_twin

    place = world(where)
    context = context_of(place)
    twin = masked_twin(deepcopy(build(operator)))
    return differentiate(twin, lambda voxels: context.hide(voxels, path=path), voxels_of(place))

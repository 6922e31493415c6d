"""Whole networks made small, with the crop and the block that suit their strides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from masked_cases import grid_of, hide_blocks, scramble
from masked_oracle import World
from monai.networks.blocks import ResidualSELayer
from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetResBlock
from monai.networks.nets import DenseNet, EfficientNet, EfficientNetBN, MedNeXt, ResNet, SegResNet, SEResNet50
from torch import nn

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Net:
    """A network, an input size and a block; ``norm`` says what its statistics are taken over."""

    make: Callable[[], nn.Module]
    size_zyx: Triple
    block_zyx: Triple
    norm: str

    def build(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """Weights and running moments away from their defaults, in training mode."""
        torch.manual_seed(2)
        return scramble(self.make()).to(dtype).train()

    def world(self, pattern: str = "random", samples: int = 3, seed: int = 4) -> World:
        """Its crop with blocks hidden."""
        grid = grid_of(self.size_zyx, self.block_zyx)
        return World(hide_blocks(pattern, grid, samples, seed), self.block_zyx, self.size_zyx)


def _resnet(kind: str, layers: list[int], **options: Any) -> ResNet:
    return ResNet(
        kind, layers, [4, 6, 8, 8], n_input_channels=1, conv1_t_size=(3, 7, 7), conv1_t_stride=(1, 2, 2), **options
    )


def _resnet_trunk(kind: str, layers: list[int]) -> nn.Module:
    net = _resnet(kind, layers)
    return nn.Sequential(net.conv1, net.bn1, net.act, net.maxpool, net.layer1, net.layer2, net.layer3, net.layer4)


class SegEncoder(nn.Module):
    """SegResNet's encoder: every level."""

    def __init__(self) -> None:
        super().__init__()
        net = SegResNet(init_filters=4, norm=("group", {"num_groups": 2}), blocks_down=(1, 2, 2), dropout_prob=0.2)
        self.convInit, self.down_layers, self.dropout = net.convInit, net.down_layers, net.dropout

    def forward(self, voxels: Any) -> list[Any]:
        """As ``SegResNet.encode``."""
        voxels = self.dropout(self.convInit(voxels))
        levels = []
        for down in self.down_layers:
            voxels = down(voxels)
            levels.append(voxels)
        return levels


def _seresnet() -> nn.Module:
    net = SEResNet50(layers=(1, 2, 1, 1), spatial_dims=3, in_channels=1, num_classes=2)
    return nn.Sequential(net.layer0, net.layer1, net.layer2, net.layer3, net.layer4)


def _dynunet() -> nn.Module:
    norm = ("instance", {"affine": True})
    return nn.Sequential(
        UnetResBlock(3, 1, 4, (1, 3, 3), (1, 2, 2), norm),
        UnetResBlock(3, 4, 8, 3, (2, 2, 2), norm, dropout=0.1),
        ResidualSELayer(3, 8),
        UnetBasicBlock(3, 8, 8, 3, (1, 2, 2), norm),
    )


def _mednext(response: bool) -> nn.Module:
    net = MedNeXt(
        init_filters=4, kernel_size=3, blocks_down=(1, 1), blocks_up=(1, 1), blocks_bottleneck=1,
        use_residual_connection=True, global_resp_norm=response,
    )  # fmt: skip
    return nn.Sequential(
        net.stem, net.enc_stages[0], net.down_blocks[0], net.enc_stages[1], net.down_blocks[1], net.bottleneck
    )


def narrow(network: nn.Module, factor: int = 4) -> nn.Module:
    """The same network with a quarter of its channels: every module, name and resolution, and fast."""
    for module in network.modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            lengths = [n if n == 1 or axis > 1 else n // factor for axis, n in enumerate(tensor.shape)]
            tensor.data = tensor.data[tuple(slice(n) for n in lengths)].clone()
        for name in ("in_channels", "out_channels", "num_features", "num_channels", "channels", "groups", "num_groups"):
            count = getattr(module, name, None)
            if isinstance(count, int) and count > 1:
                setattr(module, name, count // factor)
    return network


def _ours(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from prostate_mim.nets import ARCHITECTURES

        return narrow(ARCHITECTURES[name]())

    return make


def _whole() -> nn.Module:
    from prostate_mim.nets import ARCHITECTURES

    return ARCHITECTURES["resenc-s"]()


def _sampled(**fields: Any) -> Net:
    return Net(**{"size_zyx": (4, 32, 32), "block_zyx": (4, 16, 16), "norm": "batch", **fields})


DEEP = {"size_zyx": (2, 64, 64), "block_zyx": (16, 32, 32)}  # total stride 16x32x32: one cut block through-plane
DEEPER = {"size_zyx": (4, 64, 64), "block_zyx": (32, 32, 32)}

_EFFICIENT = ["r1_k3_s11_e1_i32_o16_se0.25", "r2_k5_s22_e6_i16_o24_se0.25", "r1_k3_s11_e6_i24_o24_se0.25"]

MONAI_NETS: dict[str, Net] = {
    "resnet18": _sampled(make=lambda: _resnet_trunk("basic", [2, 2, 2, 2]), **DEEP),
    "resnet50": _sampled(make=lambda: _resnet_trunk("bottleneck", [3, 4, 6, 3]), **DEEP),
    "resnet with head": _sampled(make=lambda: _resnet("basic", [1, 1, 1, 1], num_classes=3), **DEEP),
    "densenet with head": _sampled(
        make=lambda: DenseNet(3, 1, 2, init_features=4, growth_rate=2, block_config=(2, 2), dropout_prob=0.1),
        size_zyx=(8, 16, 24),
        block_zyx=(8, 8, 8),
    ),
    "efficientnet": _sampled(
        make=lambda: EfficientNet(_EFFICIENT, 3, 1, 3, 0.25, drop_connect_rate=0.4),
        size_zyx=(8, 16, 16),
        block_zyx=(4, 8, 8),
    ),
    "seresnet50": _sampled(make=_seresnet, **DEEPER),
    "segresnet": _sampled(make=SegEncoder, size_zyx=(4, 12, 16), block_zyx=(4, 4, 4), norm="group"),
    "dynunet": _sampled(make=_dynunet, size_zyx=(4, 24, 16), block_zyx=(2, 8, 8), norm="instance"),
    "mednext": _sampled(make=lambda: _mednext(False), size_zyx=(4, 12, 8), block_zyx=(4, 4, 4), norm="group"),
    "mednext with response": _sampled(
        make=lambda: _mednext(True), size_zyx=(4, 12, 8), block_zyx=(4, 4, 4), norm="group"
    ),
}
_NORMS = {"resenc": "group", "convnext": "layer"}
ARCHITECTURES = (
    "resenc-s", "resenc-b", "resenc-l", "resnet10", "resnet18", "resnet34", "resnet50", "densenet121",
    "effnet-lite0", "convnext-a", "convnext-t", "medicalnet-resnet10", "medicalnet-resnet18", "medicalnet-resnet34",
    "medicalnet-resnet50",
)  # fmt: skip
_CUBES = {"size_zyx": (8, 32, 32), "block_zyx": (8, 16, 16)}  # total stride 8 x 8 x 8
OUR_NETS: dict[str, Net] = {
    f"our {name}": _sampled(
        make=_ours(name),
        norm=_NORMS.get(name.partition("-")[0], "batch"),
        **(_CUBES if name.startswith("medicalnet-") else {}),
    )
    for name in ARCHITECTURES
}
LARGE: dict[str, Net] = {  # too slow for the oracle
    "efficientnet-b0": _sampled(
        make=lambda: EfficientNetBN("efficientnet-b0", False, False, 3, 1, 3),
        size_zyx=(32, 32, 64),
        block_zyx=(32, 32, 32),
    ),
    "our resenc-s, full width": _sampled(make=_whole, norm="group"),
}
NETS: dict[str, Net] = {**MONAI_NETS, **OUR_NETS, **LARGE}
SMALL: dict[str, Net] = {**MONAI_NETS, **OUR_NETS}
# The deeper ones of a family repeat the blocks of its smallest: they meet the oracle, and the main law once.
FAMILIES = ("our resenc-s", "our resnet10", "our densenet121", "our effnet-lite0", "our convnext-a")
LAWFUL: dict[str, Net] = {**MONAI_NETS, **{name: OUR_NETS[name] for name in FAMILIES}}
DEEP_NETS = [name for name in NETS if name not in LAWFUL]


@cache
def _world(size_zyx: Triple, block_zyx: Triple, pattern: str, samples: int) -> World:
    grid = grid_of(size_zyx, block_zyx)
    return World(hide_blocks(pattern, grid, samples, seed=4), block_zyx, size_zyx)


def net_world(name: str, pattern: str = "ragged", samples: int = 2) -> World:
    """The crop of a network with blocks hidden; networks of one crop share what the oracle remembers."""
    net = NETS[name]
    return _world(net.size_zyx, net.block_zyx, pattern, samples)

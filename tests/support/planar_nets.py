"""2D networks as torchvision and timm build theirs, small and by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """torchvision's names."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, values: Tensor) -> Tensor:
        shortcut = values if self.downsample is None else self.downsample(values)
        values = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(values)))))
        return self.relu(values + shortcut)


class ResNet(nn.Module):
    """Stem, max pool, two layers, global pool, classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(BasicBlock(8, 8, 1), BasicBlock(8, 8, 1))
        self.layer2 = nn.Sequential(BasicBlock(8, 16, 2))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(16, 5)

    def forward(self, values: Tensor) -> dict[str, Tensor]:
        stem = self.maxpool(self.relu(self.bn1(self.conv1(values))))
        deep = self.layer2(self.layer1(stem))
        return {"stem": stem, "deep": deep, "logits": self.fc(torch.flatten(self.avgpool(deep), 1))}


class SqueezedBlock(nn.Module):
    """Inverted bottleneck of MobileNet and EfficientNet, with squeeze and excitation."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, 4 * channels, 1)
        self.depthwise = nn.Conv2d(
            4 * channels, 4 * channels, (5, 3), padding=(2 * dilation, dilation), dilation=dilation, groups=4 * channels
        )
        self.norm = nn.GroupNorm(2, 4 * channels)
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(4 * channels, 2, 1),
            nn.SiLU(),
            nn.Conv2d(2, 4 * channels, 1),
            nn.Sigmoid(),
        )
        self.project = nn.Conv2d(4 * channels, channels, 1)

    def forward(self, values: Tensor) -> Tensor:
        wide = nn.functional.hardswish(self.norm(self.depthwise(self.expand(values))))
        return values + self.project(wide * self.squeeze(wide))


def mobile() -> nn.Module:
    return nn.Sequential(
        nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU6(inplace=True),
        SqueezedBlock(8, 1), SqueezedBlock(8, 2), nn.Dropout2d(0.2), nn.AvgPool2d(3, 2, 1), nn.Hardswish(),
        nn.Conv2d(8, 12, 3, padding="same", groups=4, padding_mode="reflect"), nn.InstanceNorm2d(12, affine=True),
    )  # fmt: skip


def vgg() -> nn.Module:
    """A classifier that flattens a grid of positions."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2), nn.LocalResponseNorm(3),
        nn.Conv2d(6, 6, 3, padding="same"), nn.PReLU(6), nn.AdaptiveMaxPool2d((3, 2)), nn.Flatten(), nn.Dropout(),
        nn.Linear(36, 7), nn.LayerNorm(7), nn.LogSoftmax(1),
    )  # fmt: skip


class UNet(nn.Module):
    """Down, up both ways, and joined."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.ELU(), nn.MaxPool2d(2, ceil_mode=True))
        self.middle = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.GELU())
        self.ups = nn.ModuleList(
            [
                nn.ConvTranspose2d(8, 4, 4, 2, 1, groups=2),
                nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
                nn.UpsamplingNearest2d(scale_factor=2),
            ]
        )
        self.end = nn.Conv2d(20, 2, 1)

    def forward(self, values: Tensor) -> list[Tensor]:
        middle = self.middle(self.down(values))
        joined = torch.cat([up(middle) for up in self.ups], 1)
        return [middle, torch.softmax(self.end(joined), 1)]


NETS = {"resnet": ResNet, "mobile": mobile, "vgg": vgg, "unet": UNet}


def made(name: str) -> nn.Module:
    """One of ``NETS`` in float64 and evaluation mode, with statistics and affine weights that matter."""
    torch.manual_seed(0)
    network = NETS[name]().double()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
        for _ in range(3):
            network(torch.randn(4, 3, 32, 48, dtype=torch.float64))
    return network.eval()

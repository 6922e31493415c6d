"""MedicalNet's geometry: its strides, dilations and shortcuts, against a network written by hand from its table."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from prostate_mim.nets import build_encoder
from prostate_mim.nets.medicalnet import MEDICALNET_STRIDES_ZYX

DEPTHS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
DILATIONS = {1: 1, 2: 1, 3: 2, 4: 4}


def by_hand(state: dict[str, Tensor], depth: int, voxels: Tensor) -> list[Tensor]:
    """Med3D's ResNet from its weights alone: stem, layer 1, layer 2, layer 4."""

    def norm(values: Tensor, name: str) -> Tensor:
        mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return functional.batch_norm(values, mean, variance, state[f"{name}.weight"], state[f"{name}.bias"])

    def convolve(values: Tensor, name: str, stride: int, dilation: int) -> Tensor:
        weight = state[f"{name}.weight"]
        padding = dilation * (weight.shape[-1] // 2)
        return functional.conv3d(values, weight, None, stride, padding, dilation)

    def block(values: Tensor, name: str, stride: int, dilation: int) -> Tensor:
        relu = functional.relu
        if depth == 50:
            inside = relu(norm(convolve(values, f"{name}.conv1", 1, 1), f"{name}.bn1"))
            inside = relu(norm(convolve(inside, f"{name}.conv2", stride, dilation), f"{name}.bn2"))
            inside = norm(convolve(inside, f"{name}.conv3", 1, 1), f"{name}.bn3")
        else:
            inside = relu(norm(convolve(values, f"{name}.conv1", stride, dilation), f"{name}.bn1"))
            inside = norm(convolve(inside, f"{name}.conv2", 1, dilation), f"{name}.bn2")
        if f"{name}.downsample.0.weight" in state:  # shortcut B
            values = norm(convolve(values, f"{name}.downsample.0", stride, 1), f"{name}.downsample.1")
        elif values.shape != inside.shape:  # shortcut A
            values = values[:, :, ::stride, ::stride, ::stride]
            values = torch.cat([values, torch.zeros_like(values)], 1)
        return relu(inside + values)

    values = functional.relu(norm(convolve(voxels, "conv1", 2, 1), "bn1"))
    given = [values]
    values = functional.max_pool3d(values, 3, 2, 1)
    for layer, count in enumerate(DEPTHS[depth], 1):
        for number in range(count):
            stride = 2 if (layer, number) == (2, 0) else 1
            values = block(values, f"layer{layer}.{number}", stride, DILATIONS[layer])
        given.append(values)
    return [given[0], given[1], given[2], given[4]]


@pytest.mark.parametrize("depth", DEPTHS)
def test_it_is_medicalnets_network(depth: int) -> None:
    """All features equal those of the network written by hand; with the anisotropic strides they do not."""
    torch.manual_seed(depth)
    encoder = build_encoder(f"medicalnet-resnet{depth}").eval()
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        voxels = torch.randn(1, 1, 16, 32, 32)
        found, expected = encoder(voxels), by_hand(encoder.state_dict(), depth, voxels)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
        other = build_encoder(f"resnet{depth}").eval()  # negative control: same weights, other geometry
        other.load_state_dict(encoder.state_dict(), strict=True)
        assert other(voxels)[-1].shape != found[-1].shape
        encoder.layer4[0].conv2.dilation = encoder.layer4[0].conv2.padding = (1, 1, 1)  # and the dilation matters
        assert not torch.allclose(encoder(voxels)[-1], expected[-1], atol=1e-3)


def test_cells_are_cubes_of_voxels() -> None:
    """2, 4, 8 and 8 voxels along every axis; layer 3 and 4 keep the resolution of layer 2."""
    encoder = build_encoder("medicalnet-resnet10")
    assert [stage.stride_zyx for stage in encoder.stage_info] == [(n, n, n) for n in (2, 4, 8, 8)]
    assert encoder.total_stride_zyx == (8, 8, 8)
    assert MEDICALNET_STRIDES_ZYX[3] == (1, 1, 1)
    with torch.inference_mode():
        shapes = [tuple(values.shape) for values in encoder(torch.zeros(1, 1, 24, 32, 40))]
    assert shapes == [(1, 64, 12, 16, 20), (1, 64, 6, 8, 10), (1, 128, 3, 4, 5), (1, 512, 3, 4, 5)]


def test_padded_shortcuts_have_no_parameters() -> None:
    """Depth 18 pads, depth 10 projects; the others are in test_it_is_medicalnets_network."""
    for depth, projects in ((10, True), (18, False)):
        with torch.device("meta"):
            keys = build_encoder(f"medicalnet-resnet{depth}").state_dict()
        assert any("downsample" in key for key in keys) == projects

"""effnet-lite0: the names, shapes and numbers of EfficientNet-Lite0's 2D ImageNet weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from prostate_mim.nets import build_encoder

# The 2D net by hand: block -> (channels in, channels inside, channels out, kernel, stride).
BLOCKS = [
    (32, 32, 16, 3, 1),
    (16, 96, 24, 3, 2),
    (24, 144, 24, 3, 1),
    (24, 144, 40, 5, 2),
    (40, 240, 40, 5, 1),
    (40, 240, 80, 3, 2),
    (80, 480, 80, 3, 1),
    (80, 480, 80, 3, 1),
    (80, 480, 112, 5, 1),
    (112, 672, 112, 5, 1),
    (112, 672, 112, 5, 1),
    (112, 672, 192, 5, 2),
    (192, 1152, 192, 5, 1),
    (192, 1152, 192, 5, 1),
    (192, 1152, 192, 5, 1),
    (192, 1152, 320, 3, 1),
]
LAST_STRIDED = 11


def batch_norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    parts = ("weight", "bias", "running_mean", "running_var")
    return {**{f"{name}.{part}": (channels,) for part in parts}, f"{name}.num_batches_tracked": ()}


def imagenet_shapes() -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the 2D weights, in their order, without the classifier."""
    found: dict[str, tuple[int, ...]] = {"_conv_stem.weight": (32, 3, 3, 3), **batch_norm("_bn0", 32)}
    for number, (inputs, inside, outputs, kernel, _) in enumerate(BLOCKS):
        block = f"_blocks.{number}"
        if inside != inputs:
            found[f"{block}._expand_conv.weight"] = (inside, inputs, 1, 1)
            found |= batch_norm(f"{block}._bn0", inside)
        found[f"{block}._depthwise_conv.weight"] = (inside, 1, kernel, kernel)
        found |= batch_norm(f"{block}._bn1", inside)
        found[f"{block}._project_conv.weight"] = (outputs, inside, 1, 1)
        found |= batch_norm(f"{block}._bn2", outputs)
    return found


def flattened(key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The 2D shape that a 3D tensor comes from: no depth, and three colours in the stem."""
    if len(shape) != 5:
        return shape
    return (shape[0], 3 if key == "_conv_stem.weight" else shape[1], *shape[3:])


def test_keys_and_shapes_are_those_of_the_2d_weights() -> None:
    """One to one, in order: 296 tensors in the published file, less 8 of the classifier."""
    own = {key: flattened(key, tuple(value.shape)) for key, value in build_encoder("effnet-lite0").state_dict().items()}
    assert list(own.items()) == list(imagenet_shapes().items())
    assert len(own) == 296 - 8
    assert own["_blocks.15._depthwise_conv.weight"] == (1152, 1, 3, 3)


def test_settings_outside_the_weights() -> None:
    """Epsilon 1e-3 and ReLU6, as the weights were trained; through-plane kernels only past the first z stride."""
    encoder = build_encoder("effnet-lite0")
    assert {module.eps for module in encoder.modules() if isinstance(module, nn.BatchNorm3d)} == {1e-3}
    assert not [module for module in encoder.modules() if type(module) is nn.ReLU]
    kernels = [block._depthwise_conv.kernel_size for block in encoder._blocks]
    assert kernels == [(1 if number < 3 else 3, kernel, kernel) for number, (*_, kernel, _) in enumerate(BLOCKS)]
    strides = [block._depthwise_conv.stride for block in encoder._blocks]
    assert [stride[0] for stride in strides] == [2 if number in (3, 5) else 1 for number in range(16)]
    own = [1 if number == LAST_STRIDED else stride for number, (*_, stride) in enumerate(BLOCKS)]
    assert [stride[1] for stride in strides] == [stride[2] for stride in strides] == own


def planar(weights: dict[str, Tensor], plane: Tensor, strides: list[int], *, skips: bool = True) -> list[Tensor]:
    """The 2D net on (N, 1, H, W), written from the keys: features before each strided block, and the last."""

    def norm(values: Tensor, name: str) -> Tensor:
        mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
        return functional.batch_norm(
            values, mean, variance, weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-3
        )

    values = functional.conv2d(plane, weights["_conv_stem.weight"], stride=2, padding=1)
    values = functional.relu6(norm(values, "_bn0"))
    given = []
    for number, (inputs, inside, outputs, kernel, _) in enumerate(BLOCKS):
        block, stride, before = f"_blocks.{number}", strides[number], values
        if stride > 1:
            given.append(values)
        if inside != inputs:
            values = functional.relu6(
                norm(functional.conv2d(values, weights[f"{block}._expand_conv.weight"]), f"{block}._bn0")
            )
        depthwise = weights[f"{block}._depthwise_conv.weight"]
        values = functional.conv2d(values, depthwise, stride=stride, padding=kernel // 2, groups=inside)
        values = functional.relu6(norm(values, f"{block}._bn1"))
        values = norm(functional.conv2d(values, weights[f"{block}._project_conv.weight"]), f"{block}._bn2")
        if skips and stride == 1 and inputs == outputs:
            values = values + before
    return [*given, values]


@pytest.fixture(scope="module")
def inflated() -> tuple[nn.Module, dict[str, Tensor], Tensor]:
    """A 3D net whose kernels act in their middle plane only, its 2D weights, and a depth-constant volume; float64."""
    torch.manual_seed(0)
    encoder = build_encoder("effnet-lite0").double()
    with torch.no_grad():
        for _ in range(3):
            encoder(torch.randn(2, 1, 4, 32, 32, dtype=torch.float64))  # running statistics that matter
        weights = {}
        for key, value in encoder.state_dict().items():
            weights[key] = value.clone()
            if value.ndim == 5:
                middle = value.shape[2] // 2
                weights[key] = value[:, :, middle].clone()
                value.zero_()
                value[:, :, middle] = weights[key]
    volume = torch.randn(2, 1, 1, 64, 64, dtype=torch.float64).expand(-1, -1, 8, -1, -1)
    return encoder.eval(), weights, volume


def test_it_is_the_2d_network(inflated: tuple[nn.Module, dict[str, Tensor], Tensor]) -> None:
    """On a depth-constant volume, features are those of the 2D net in every slice; without shortcuts they are not."""
    encoder, weights, volume = inflated
    strides = [1 if number == LAST_STRIDED else stride for number, (*_, stride) in enumerate(BLOCKS)]
    with torch.inference_mode():
        found = encoder(volume)
        for values, plane in zip(found, planar(weights, volume[:, :, 0], strides), strict=True):
            torch.testing.assert_close(values, plane[:, :, None].expand_as(values), atol=1e-10, rtol=1e-10)
        control = planar(weights, volume[:, :, 0], strides, skips=False)[-1]
    assert not torch.allclose(found[-1][:, :, 0], control)


def test_only_the_last_resolution_differs_in_stride(inflated: tuple[nn.Module, dict[str, Tensor], Tensor]) -> None:
    """With 2D's own strides, all features before the last strided block are equal, and the end is half the size."""
    encoder, weights, volume = inflated
    with torch.inference_mode():
        found, planes = encoder(volume), planar(weights, volume[:, :, 0], [stride for *_, stride in BLOCKS])
    for values, plane in zip(found[:3], planes, strict=False):
        torch.testing.assert_close(values[:, :, 0], plane, atol=1e-10, rtol=1e-10)
    assert found[-1].shape[3:] == (4, 4)
    assert planes[-1].shape[2:] == (2, 2)

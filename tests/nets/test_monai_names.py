"""ResNets and DenseNet: MONAI's names and numbers, so that a user's MedicalNet file fits."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import densenet121 as monai_densenet121
from monai.networks.nets import resnet as monai_resnet
from torch import nn

from prostate_mim.nets import build_encoder
from prostate_mim.nets.resnet import ZeroPadShortcut


def medicalnet(depth: int, shortcut: str | None = None) -> nn.Module:
    """MONAI's network that takes the MedicalNet file of a depth (geometry apart)."""
    bias, right = monai_resnet.get_medicalnet_pretrained_resnet_args(depth)
    build = getattr(monai_resnet, f"resnet{depth}")
    return build(  # type: ignore[no-any-return]
        spatial_dims=3, n_input_channels=1, feed_forward=False, shortcut_type=shortcut or right, bias_downsample=bias
    )


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


@pytest.mark.parametrize("depth", [10, 18, 34, 50])
def test_a_medicalnet_file_fits(depth: int) -> None:
    """Same keys, same order, same shapes as the MONAI network of that depth; not with the other kind of shortcut."""
    with torch.device("meta"):  # shapes only
        own, right = shapes(build_encoder(f"resnet{depth}")), shapes(medicalnet(depth))
        wrong = shapes(medicalnet(depth, "A" if depth in (10, 50) else "B"))
    assert list(own.items()) == list(right.items())
    assert own.keys() != wrong.keys()  # negative control


def test_medicalnet_keys_by_hand() -> None:
    """The names a MedicalNet-10 file has, less batch norm's buffers."""
    expected = ["conv1.weight", "bn1.weight", "bn1.bias"]
    for layer in (1, 2, 3, 4):
        block = f"layer{layer}.0"
        expected += [f"{block}.{name}" for name in ("conv1.weight", "bn1.weight", "bn1.bias")]
        expected += [f"{block}.{name}" for name in ("conv2.weight", "bn2.weight", "bn2.bias")]
        if layer > 1:
            expected += [f"{block}.downsample.{name}" for name in ("0.weight", "1.weight", "1.bias")]
    assert [name for name, _ in build_encoder("resnet10").named_parameters()] == expected
    padded = [name for name, _ in build_encoder("resnet18").named_parameters()]
    assert not [name for name in padded if "downsample" in name]


@pytest.mark.parametrize("depth", [10, 18, 50])
def test_features_are_those_of_monai(depth: int) -> None:
    """With MONAI's network set to the same strides and given the same weights, all features are equal."""
    torch.manual_seed(0)
    own, theirs = build_encoder(f"resnet{depth}").eval(), medicalnet(depth).eval()
    theirs.load_state_dict(own.state_dict(), strict=True)
    theirs.conv1.stride, theirs.maxpool.stride = (1, 2, 2), (1, 2, 2)
    entry = theirs.layer4[0]
    (entry.conv2 if depth == 50 else entry.conv1).stride = (1, 1, 1)
    if isinstance(entry.downsample, nn.Module):
        entry.downsample[0].stride = (1, 1, 1)
    else:
        entry.downsample.keywords["stride"] = 1
    voxels = torch.randn(1, 1, 8, 32, 32)

    def expected() -> list[torch.Tensor]:
        stem = theirs.act(theirs.bn1(theirs.conv1(voxels)))
        first = theirs.layer1(theirs.maxpool(stem))
        second = theirs.layer2(first)
        return [stem, first, second, theirs.layer4(theirs.layer3(second))]

    with torch.inference_mode():
        features = own(voxels)
        for found, wanted in zip(features, expected(), strict=True):
            torch.testing.assert_close(found, wanted)
        theirs.layer3[0].bn2.bias += 1  # negative control
        assert not torch.allclose(features[-1], expected()[-1])


def test_padded_shortcut_by_hand() -> None:
    """Every second voxel along each axis, then as many channels of zeros; the gradient passes, as MONAI's does not."""
    shortcut = ZeroPadShortcut((2, 2, 2))
    values = torch.arange(2 * 2 * 2 * 4.0).reshape(1, 2, 2, 2, 4).requires_grad_()
    found = shortcut(values)
    assert found.shape == (1, 4, 1, 1, 2)
    assert found.flatten().tolist() == [0, 2, 16, 18, 0, 0, 0, 0]
    found.sum().backward()
    assert values.grad is not None
    assert values.grad.sum() == 4
    monai = medicalnet(18)._downsample_basic_block(values, planes=4, stride=2)
    assert torch.equal(monai, found)
    assert not monai.requires_grad  # negative control


def test_densenet_has_monais_keys() -> None:
    """Same keys, order and shapes as MONAI's 3D DenseNet121, less its classifier."""
    theirs = shapes(monai_densenet121(spatial_dims=3, in_channels=1, out_channels=2))
    expected = {key: shape for key, shape in theirs.items() if not key.startswith("class_layers.")}
    assert list(shapes(build_encoder("densenet121")).items()) == list(expected.items())
    assert len(theirs) == len(expected) + 2


def test_densenet_strides() -> None:
    """All strides are where the docstring says, and the classifier's ReLU ends it."""
    encoder = build_encoder("densenet121").eval()
    strided = {}
    for name, module in encoder.named_modules():
        stride = getattr(module, "stride", 1)
        if stride not in (1, (1, 1, 1)):
            strided[name] = stride if isinstance(stride, tuple) else (stride,) * 3
    assert strided == {
        "features.conv0": (1, 2, 2),
        "features.pool0": (1, 2, 2),
        "features.transition1.pool": (2, 2, 2),
        "features.transition2.pool": (2, 2, 2),
    }
    with torch.inference_mode():
        assert encoder(torch.randn(1, 1, 4, 32, 32))[-1].min() == 0

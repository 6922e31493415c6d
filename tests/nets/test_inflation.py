"""2D networks in 3D: on a volume that is the same in every slice, each slice is what the 2D network gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planar_nets import NETS, made
from torch import Tensor, nn

from prostate_mim.errors import UsageError
from prostate_mim.nets.inflation import (
    DepthRule,
    constant_depth_difference,
    convolution,
    inflate,
    inflate_convolution,
    keep,
    sum_colours,
)

EXACT = [("spread", "replicate"), ("centre", "replicate"), ("centre", "zero")]


def plane(seed: int = 1, size: tuple[int, int] = (32, 48)) -> Tensor:
    return torch.randn(2, 1, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------------ kernels


def test_kernels_by_hand() -> None:
    """Spread: a third of the kernel in each of three slices. Centre: all of it in the middle one."""
    kernel = torch.arange(6.0).reshape(1, 1, 2, 3)
    spread, centre = inflate_convolution(kernel, 3), inflate_convolution(kernel, 3, "centre")
    assert spread.shape == centre.shape == (1, 1, 3, 2, 3)
    assert spread[0, 0, :, 1, 2].tolist() == pytest.approx([5 / 3] * 3)
    assert centre[0, 0, :, 1, 2].tolist() == [0, 5, 0]
    torch.testing.assert_close(spread.sum(2), kernel)
    assert torch.equal(inflate_convolution(kernel, 1)[:, :, 0], kernel)
    assert inflate_convolution(kernel, 2).shape[2] == 2


@pytest.mark.parametrize(
    ("weight", "depth", "how", "says"),
    [
        (torch.zeros(1, 1, 3, 3, 3), 3, "spread", "5"), (torch.zeros(1, 1, 3, 3), 3, "even", "centre"),
        (torch.zeros(1, 1, 3, 3), 2, "centre", "odd"), (torch.zeros(1, 1, 3, 3), 0, "spread", "at least one"),
    ],
)  # fmt: skip
def test_impossible_kernels_are_refused(weight: Tensor, depth: int, how: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        inflate_convolution(weight, depth, how)


def test_colours_by_hand() -> None:
    """Red 1, green 10, blue 100: grey gets 111, further channels nothing; three channels stay."""
    weight = torch.tensor([1.0, 10, 100]).reshape(1, 3, 1, 1)
    assert sum_colours(weight, 1).flatten().tolist() == [111]
    assert sum_colours(weight, 2).flatten().tolist() == [111, 0]
    assert sum_colours(weight, 3) is weight
    with pytest.raises(UsageError, match="2 channels"):
        sum_colours(weight[:, :2], 1)


# -------------------------------------------------------------------------------------------- one convolution


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)), stride=st.integers(1, 3), padding=st.integers(0, 2),
    dilation=st.integers(1, 2), groups=st.sampled_from([1, 2, 4]),
    mode=st.sampled_from(["zeros", "reflect", "circular"]), bias=st.booleans(),
    depth=st.sampled_from([1, 3, 5]), step=st.integers(1, 2), exact=st.sampled_from(EXACT),
)  # fmt: skip
def test_any_convolution(kernel, stride, padding, dilation, groups, mode, bias, depth, step, exact) -> None:
    """Law: whatever its settings, each slice is the 2D convolution."""
    flat = nn.Conv2d(
        4, 8, kernel, stride, padding, dilation, groups, bias, padding_mode=mode, dtype=torch.float64
    )  # fmt: skip
    deep = convolution(flat, DepthRule("c", depth, step, *exact))
    image = torch.randn(1, 4, 11, 10, dtype=torch.float64)
    with torch.no_grad():
        expected, found = flat(image), deep(image[:, :, None].expand(-1, -1, 7, -1, -1))
    assert found.shape[2] == -(-7 // step)  # rounded up
    torch.testing.assert_close(found, expected[:, :, None].expand_as(found), atol=1e-10, rtol=1e-10)


def test_zero_border_takes_weight_from_a_spread_kernel() -> None:
    """The control: with zeros, exact inside, and exactly a third short in the first and last slice."""
    flat = nn.Conv2d(1, 1, 1, bias=False).double()
    deep = convolution(flat, DepthRule("c", 3, 1, "spread", "zero"))
    assert type(deep) is nn.Conv3d
    with torch.no_grad():
        ratio = deep(torch.ones(1, 1, 5, 2, 2, dtype=torch.float64)) / flat.weight
    assert ratio[0, 0, :, 0, 0].tolist() == pytest.approx([2 / 3, 1, 1, 1, 2 / 3])


# --------------------------------------------------------------------------------------------- whole networks


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(("how", "border"), EXACT)
@pytest.mark.parametrize("steps", [1, 2])
def test_it_is_the_2d_network(name: str, how: str, border: str, steps: int) -> None:
    """Law: features and logits of every network, 1e-10 in float64, with through-plane steps too."""
    flat = made(name)
    strides = steps if name != "unet" else 1  # its two ends must have as many slices
    deep = inflate(flat, how=how, border=border, depth_strides=strides)
    assert constant_depth_difference(flat, deep, plane(), depth=8) < 1e-10


@pytest.mark.parametrize("name", NETS)
def test_in_float32(name: str) -> None:
    """The bar as written: 1e-4."""
    flat = made(name).float()
    assert constant_depth_difference(flat, inflate(flat), plane().float()) < 1e-4


def test_unequal_networks_are_found() -> None:
    """The controls: zero borders with a spread kernel, another statistic, forgotten colours."""
    flat = made("resnet")
    assert constant_depth_difference(flat, inflate(flat, border="zero"), plane()) > 1e-2
    deep = inflate(flat)
    deep.get_submodule("layer2.0.bn1").running_var *= 1.1
    assert constant_depth_difference(flat, deep, plane()) > 1e-3
    deep = inflate(flat)
    deep.get_submodule("conv1").weight.data *= 2 / 3
    assert constant_depth_difference(flat, deep, plane()) > 1e-2


def test_depth_matters_in_a_spread_network() -> None:
    """On a volume that changes from slice to slice, spread looks at the neighbours and centre does not."""
    flat = made("resnet")
    volume = torch.randn(1, 1, 6, 32, 32, dtype=torch.float64)
    for how, alone in (("centre", True), ("spread", False)):
        deep = inflate(flat, how=how)
        with torch.no_grad():
            given, by_slice = deep(volume)["deep"], flat(volume[:, :, 2].expand(-1, 3, -1, -1))["deep"]
        assert torch.allclose(given[:, :, 2], by_slice, atol=1e-10) == alone


def test_the_original_is_not_touched() -> None:
    """Names and settings are kept, the 2D network stays as it was, and shares nothing with the 3D one."""
    flat = made("mobile")
    flat[1].weight.requires_grad_(False)
    before = {key: value.clone() for key, value in flat.state_dict().items()}
    deep = inflate(flat)
    assert list(deep.state_dict()) == list(before)
    assert not deep[1].weight.requires_grad
    assert deep[2].weight.requires_grad
    for module in deep.modules():
        assert not isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.MaxPool2d | nn.AvgPool2d)
    with torch.no_grad():
        for value in deep.parameters():
            value.zero_()
    assert all(torch.equal(value, before[key]) for key, value in flat.state_dict().items())
    assert not deep.training
    assert inflate(flat.train()).training


def test_a_part_used_twice_stays_one() -> None:
    """Shared weights are shared in 3D too."""
    shared = nn.Conv2d(3, 3, 3, padding=1)
    deep = inflate(nn.Sequential(shared, nn.ReLU(), shared), in_channels=3)
    assert deep[0] is deep[2]


def test_slices_by_name() -> None:
    """Kernels and steps as a function of the part: one slice in the stem, five later, a step in layer 2."""
    flat = made("resnet")

    def kernels(name: str, part: nn.Module) -> int:
        return 5 if name.startswith("layer") and getattr(part, "kernel_size", 1) == (3, 3) else 1

    def steps(name: str, part: nn.Module) -> int:
        return 2 if name in ("layer2.0.conv1", "layer2.0.downsample.0") else 1

    deep = inflate(flat, depth_kernels=kernels, depth_strides=steps)
    assert deep.get_submodule("conv1").kernel_size == (1, 7, 7)
    assert type(deep.get_submodule("conv1")) is nn.Conv3d
    assert deep.get_submodule("layer1.0.conv1").kernel_size == (5, 3, 3)
    with torch.no_grad():
        features = deep(torch.randn(1, 1, 8, 32, 32, dtype=torch.float64))
    assert [features[key].shape[2] for key in ("stem", "deep")] == [8, 4]
    assert constant_depth_difference(flat, deep, plane()) < 1e-10
    with pytest.raises(UsageError, match="0 slices"):
        inflate(flat, depth_kernels=lambda name, part: 0)
    with pytest.raises(UsageError, match="conv1"):
        inflate(flat, depth_kernels=4)


class OwnScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(3, 1, 1))
        self.inner = nn.ReLU()

    def forward(self, values: Tensor) -> Tensor:
        return self.inner(values) * self.gamma


class Swish(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values * values.sigmoid()


@pytest.mark.parametrize(
    ("part", "says"),
    [
        (nn.PixelShuffle(2), "0: PixelShuffle"), (nn.Conv1d(3, 3, 3), "0: Conv1d"), (Swish(), "0: Swish"),
        (OwnScale(), "0: OwnScale with its own 'gamma'"), (nn.LayerNorm((3, 8, 8)), "layer norm"),
        (nn.Upsample(size=(8, 8)), "fixed size"), (nn.Upsample(scale_factor=2, mode="bicubic"), "bicubic"),
        (nn.MaxPool2d(2, return_indices=True), "indices"), (nn.Softmax(-1), "axis -1"), (nn.Flatten(2), "axes 2"),
        (nn.Conv2d(3, 3, 2, padding="same"), "lopsided"), (nn.AdaptiveMaxPool2d(1, return_indices=True), "indices"),
        (nn.MultiheadAttention(4, 2), "MultiheadAttention"),
    ],
)  # fmt: skip
def test_unknown_parts_are_refused_by_name(part: nn.Module, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        inflate(nn.Sequential(part), in_channels=3)


def test_unknown_parts_can_be_told() -> None:
    """``also`` says what a part becomes; a subclass of Conv2d is not taken for a Conv2d."""

    class Padded(nn.Conv2d):
        def forward(self, values: Tensor) -> Tensor:
            return super().forward(nn.functional.pad(values, (0, 1, 0, 1)))

    flat = nn.Sequential(Padded(3, 4, 3, 2), Swish()).double().eval()
    with pytest.raises(UsageError, match="0: Padded"):
        inflate(flat, also={Swish: keep})

    def padded(module: Padded, rule: DepthRule) -> nn.Module:
        return nn.Sequential(nn.ZeroPad3d((0, 1, 0, 1, 0, 0)), convolution(module, rule))

    deep = inflate(flat, also={Swish: keep, Padded: padded})
    assert constant_depth_difference(flat, deep, plane()) < 1e-10


@pytest.mark.parametrize("wrong", [{"how": "even"}, {"border": "wrap"}])
def test_unknown_settings_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="choose of"):
        inflate(made("vgg"), **wrong)  # type: ignore[arg-type]


def test_channels_of_the_input() -> None:
    """Three colours stay three if asked for; masks beside T2w begin without weight; others cannot be made."""
    flat = made("resnet")
    volume = torch.randn(1, 3, 4, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        deep = inflate(flat, in_channels=3, how="centre")
        torch.testing.assert_close(deep(volume)["stem"][:, :, 1], flat(volume[:, :, 1])["stem"])
        two, one = inflate(flat, in_channels=2), inflate(flat)
        torch.testing.assert_close(two(volume[:, :2])["logits"], one(volume[:, :1])["logits"])
    with pytest.raises(UsageError, match="2 channels"):
        inflate(nn.Sequential(nn.Conv2d(2, 4, 3)))
    with pytest.raises(UsageError, match="apart"):
        inflate(nn.Sequential(nn.Conv2d(3, 3, 3, groups=3)))


def test_outputs_that_do_not_correspond() -> None:
    """A comparison of two different networks is refused, not broadcast."""
    flat = made("vgg")
    with pytest.raises(UsageError, match="compare features"):
        constant_depth_difference(flat, inflate(flat[:7]), plane())

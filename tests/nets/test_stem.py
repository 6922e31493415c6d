"""Further input channels: nothing changes until they are trained."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from prostate_mim.errors import UsageError
from prostate_mim.nets import ARCHITECTURES, Encoder, build_encoder
from prostate_mim.nets.depth import parameter_depths
from prostate_mim.nets.stem import stem_convolutions, widen_stem

SMALL = ["resenc-s", "resnet10", "densenet121", "effnet-lite0", "convnext-a"]


def inputs(encoder: Encoder, masks: int) -> tuple[Tensor, Tensor]:
    """An image, and the same with masks behind it."""
    generator = torch.Generator().manual_seed(0)
    size = [2 * stride for stride in encoder.total_stride_zyx]
    image = torch.randn(2, 1, *size, generator=generator)
    return image, torch.cat([image, (torch.rand(2, masks, *size, generator=generator) > 0.5).float()], 1)


@pytest.mark.parametrize("architecture", SMALL)
def test_a_widened_encoder_gives_what_the_narrow_one_gives(architecture):
    """Exactly, at every stage, in evaluation and in training; with other weights for the masks it does not."""
    torch.manual_seed(1)
    narrow = build_encoder(architecture)
    wide = copy.deepcopy(narrow)
    widen_stem(wide, 3)
    image, both = inputs(narrow, 2)
    for mode in (False, True):
        narrow.train(mode), wide.train(mode)
        with torch.inference_mode():
            for before, after in zip(narrow(image), wide(both), strict=True):
                assert torch.equal(before, after)
    wide.eval()
    with torch.no_grad():
        quiet = wide(both)[-1]
        for convolution in stem_convolutions(wide):
            convolution.weight[:, 1:].normal_()
        assert not torch.allclose(wide(both)[-1], quiet)  # the control


@pytest.mark.parametrize("architecture", SMALL)
def test_building_wide_is_building_and_widening(architecture):
    """The same numbers are drawn, names and shapes of all other weights stay."""
    torch.manual_seed(2)
    narrow = build_encoder(architecture)
    torch.manual_seed(2)
    wide = build_encoder(architecture, 4)
    after_narrow = torch.rand(1)
    assert wide.in_channels == 4
    stems = {id(convolution.weight) for convolution in stem_convolutions(wide)}
    assert stems
    for (name, before), (same, after) in zip(narrow.named_parameters(), wide.named_parameters(), strict=True):
        assert name == same
        if id(after) in stems:
            assert torch.equal(after[:, :1], before)
            assert not after[:, 1:].any()
            assert after.shape[1] == 4
        else:
            assert torch.equal(before, after)
    torch.manual_seed(2)
    build_encoder(architecture)
    assert torch.equal(torch.rand(1), after_narrow)


def test_a_residual_stem_has_two():
    """resenc-s reads the voxels twice: in its first convolution and in the shortcut around it."""
    assert len(stem_convolutions(build_encoder("resenc-s"))) == 2
    assert len(stem_convolutions(build_encoder("effnet-lite0"))) == 1


def test_new_weights_learn():
    """Their gradient is not 0, although they are."""
    wide = build_encoder("effnet-lite0", 2)
    _, both = inputs(wide, 1)
    wide(both)[-1].square().sum().backward()
    (convolution,) = stem_convolutions(wide)
    assert convolution.weight.grad is not None
    assert convolution.weight.grad[:, 1:].abs().sum() > 0


def test_widening_twice_and_narrowing():
    """Again to the same width changes nothing; further keeps what there is; back is refused."""
    wide = build_encoder("convnext-a", 2)
    before = {name: value.clone() for name, value in wide.state_dict().items()}
    widen_stem(wide, 2)
    assert all(torch.equal(before[name], value) for name, value in wide.state_dict().items())
    widen_stem(wide, 5)
    assert wide.state_dict()["stages.0.0.weight"].shape[1] == 5
    assert torch.equal(wide.state_dict()["stages.0.0.weight"][:, :2], before["stages.0.0.weight"])
    with pytest.raises(UsageError, match="takes 5 channels and cannot be narrowed to 1"):
        widen_stem(wide, 1)


def test_frozen_weights_stay_frozen():
    """Widening does not thaw."""
    encoder = build_encoder("effnet-lite0").requires_grad_(False)
    widen_stem(encoder, 2)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_depths_of_a_wide_encoder():
    """Layer-wise learning rates find the resolutions as of a narrow one."""
    assert parameter_depths(build_encoder("resenc-s", 3)) == parameter_depths(build_encoder("resenc-s"))


def test_every_architecture_has_a_stem():
    """Each registered encoder begins with convolutions of one channel; none of them is depthwise."""
    for name in ARCHITECTURES:
        if name.endswith(("-l", "-b", "-t", "34", "50")):
            continue  # as the smaller one of its kind, but slow to build
        assert 1 <= len(stem_convolutions(build_encoder(name))) <= 2

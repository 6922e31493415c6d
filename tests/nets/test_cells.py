"""Where a cell looks: what encoders say of themselves, against kernels and paddings, and against gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from receptive_fields import cell_centres
from torch import nn

from prostate_mim.nets import ARCHITECTURES, build_encoder
from prostate_mim.nets.encoder import StageChain
from prostate_mim.saliency.cells import over_voxels


def chain(*layers: nn.Module) -> StageChain:
    """Stages of one layer each, with the strides of those layers."""
    strides = [tuple(int(n) for n in np.broadcast_to(layer.stride, 3)) for layer in layers]
    return StageChain(list(layers), strides, [1] * len(layers))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("layers", "centres"),
    [
        ([nn.Conv3d(1, 1, 3, 2, 1)], [0.0]),  # voxels -1, 0, 1
        ([nn.Conv3d(1, 1, 2, 2)], [0.5]),  # voxels 0, 1
        ([nn.Conv3d(1, 1, 2, 2), nn.Conv3d(1, 1, 2, 2)], [0.5, 1.5]),  # voxels 0 to 3
        ([nn.Conv3d(1, 1, 3, 2, 1), nn.Conv3d(1, 1, 2, 2)], [0.0, 1.0]),  # cells at 0 and 2
        ([nn.Conv3d(1, 1, 4, 4), nn.Conv3d(1, 1, 3, 2, 1)], [1.5, 1.5]),
        ([nn.Conv3d(1, 1, 3, 2, 2, dilation=2)], [0.0]),
        ([nn.Conv3d(1, 1, 3, 1, 1), nn.Conv3d(1, 1, 3, 2, 0)], [0.0, 1.0]),  # no padding: voxels 0, 1, 2
    ],
)
def test_centres_by_hand(layers: list[nn.Module], centres: list[float]) -> None:
    """Kernels, paddings, strides and dilations of a line of layers."""
    assert cell_centres(chain(*layers)) == [(c, c, c) for c in centres]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_encoder_says_where_its_cells_look(architecture: str) -> None:
    """The literal numbers are those that kernels, paddings and strides add up to."""
    encoder = build_encoder(architecture)
    assert [info.begin_zyx for info in encoder.stage_info] == cell_centres(encoder)


@pytest.mark.parametrize("architecture", ["resenc-s", "effnet-lite0", "resnet10", "densenet121", "convnext-a"])
def test_centres_are_those_of_the_gradient(architecture: str) -> None:
    """With equal positive weights and no norms the middle of what a cell sees is where its gradient is largest.

    The control: half a cell further, where an ordinary upsampling puts the cell, is too far for most of them.
    """
    encoder = build_encoder(architecture).eval()
    for module in encoder.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif "norm" in type(module).__name__.lower():
            module.register_forward_hook(lambda _, given, __: given[0])
        elif isinstance(module, nn.MaxPool3d):  # of equal values it would see the first alone
            module.register_forward_hook(lambda pool, given, _: _mean_of(pool, given[0]))
    stage = 2
    stride = encoder.stage_info[stage].stride_zyx
    crop = torch.full((1, 1, 8, 80, 80), 1e-6, requires_grad=True)  # so small that no activation bends it
    encoder(crop)[stage].sum(1)[0, 2, 5, 5].backward()
    assert crop.grad is not None
    seen = crop.grad[0, 0].numpy()
    expected = np.asarray(encoder.stage_info[stage].begin_zyx) + np.array([2, 5, 5]) * stride
    for axis in (1, 2):  # 80 voxels: what lies beyond the border hardly matters
        profile = np.convolve(seen.sum(tuple({0, 1, 2} - {axis})), np.ones(stride[axis] + 1), "same")
        middle = float(np.flatnonzero(profile > 0.999 * profile.max()).mean())
        assert middle == pytest.approx(expected[axis], abs=1.0)
    half = (stride[1] - 1) / 2
    assert (expected[1] == 5 * stride[1] + half) == (architecture == "convnext-a")


def _mean_of(pool: nn.MaxPool3d, features: torch.Tensor) -> torch.Tensor:
    return nn.functional.avg_pool3d(features, pool.kernel_size, pool.stride, pool.padding)


def test_over_voxels_by_hand() -> None:
    """Two cells at voxels 1 and 5: linear between them, level beyond."""
    cells = np.array([[[0.0, 4.0]]], np.float32)
    spread = over_voxels(cells, (0.0, 0.0, 1.0), (1, 1, 4), (1, 1, 8))
    assert spread[0, 0].tolist() == [0, 0, 1, 2, 3, 4, 4, 4]

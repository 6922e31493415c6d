"""The oracle judged first: nothing hidden is PyTorch, and small cases are checked by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from masked_cases import DOUBTFUL, OPERATORS, build, differentiate, judged, too_far, voxels_of, world
from masked_oracle import Field, World, judge
from torch import nn


@pytest.mark.parametrize("operator", [*OPERATORS, *DOUBTFUL])
def test_nothing_hidden_is_the_ordinary_operator(operator: str) -> None:
    """Outputs, gradients and running moments of torch itself to 1e-12."""
    place = world("odd-nothing")
    plain = differentiate(build(operator), lambda voxels: voxels, voxels_of(place))
    assert too_far(judged(operator, "odd-nothing"), plain, 1e-12) == {}


@pytest.mark.parametrize("operator", ["conv 3", "conv 3 stride 2", "conv groups", "conv same"])
@pytest.mark.parametrize("where", ["even-random", "odd-ragged"])
def test_convolution_is_the_zeroed_and_remasked_one(operator: str, where: str) -> None:
    """A second definition: zero what is hidden, convolve everything, zero hidden outputs."""
    place, module, voxels = world(where), build(operator), voxels_of(world(where))
    hidden_as_zero = Field.hide(place, voxels)
    out = judge(module)(hidden_as_zero)
    expected = module(hidden_as_zero.dense()) * out.visible
    assert torch.allclose(out.dense(), expected, rtol=0, atol=1e-12)


def _one_row(values: list[float], hidden: list[bool]) -> Field:
    """One sample of 1x1xn, one channel, blocks of one voxel."""
    place = World(torch.tensor(hidden).reshape(1, 1, 1, -1), (1, 1, 1), (1, 1, len(values)))
    return Field.hide(place, torch.tensor(values, dtype=torch.float64).reshape(1, 1, 1, 1, -1))


def test_moments_by_hand() -> None:
    """Visible 1, 3, 8: mean 4, variance 26 / 3; running variance moves to 26 / 2."""
    field = _one_row([1, 100, 3, 8], [False, True, False, False])
    norm = nn.BatchNorm3d(1, eps=0, momentum=1).double()
    out = judge(norm)(field)
    assert torch.allclose(out.rows[:, 0], (torch.tensor([1.0, 3, 8]).double() - 4) / (26 / 3) ** 0.5)
    judged_norm = judge(norm)
    judged_norm(field)
    assert judged_norm.running_mean.item() == pytest.approx(4)
    assert judged_norm.running_var.item() == pytest.approx(13)
    group = judge(nn.GroupNorm(1, 1, eps=0).double())(field)
    assert torch.allclose(group.rows, out.rows)


def test_pools_by_hand() -> None:
    """Windows (-5, hidden) and (hidden, hidden): the second level's voxels see -5, and do not exist."""
    place = World(torch.tensor([False, True]).reshape(1, 1, 1, 2), (1, 1, 2), (1, 1, 4))
    field = Field.hide(place, torch.tensor([-5.0, -7, 100, 100]).double().reshape(1, 1, 1, 1, 4))
    pool = {"kernel_size": (1, 1, 3), "stride": (1, 1, 2), "padding": (0, 0, 1)}
    assert judge(nn.MaxPool3d(**pool))(field).dense().flatten().tolist() == [-5, 0]
    inside = judge(nn.AvgPool3d(**pool, count_include_pad=False))(field)
    assert inside.dense().flatten().tolist() == [-6, 0]
    assert judge(nn.AvgPool3d(**pool))(field).dense().flatten().tolist() == [-4, 0]  # border: (0 - 5 - 7) / 3
    assert judge(nn.AdaptiveAvgPool3d(1))(field).item() == -6
    assert judge(nn.AdaptiveMaxPool3d(1))(field).item() == -5


def test_response_by_hand() -> None:
    """Visible (3, 4) per channel one and (0, 0) in channel two: lengths 5 and 0, mean 2.5, gain 2 and 0."""
    place = World(torch.tensor([False, False, True]).reshape(1, 1, 1, 3), (1, 1, 1), (1, 1, 3))
    field = Field.hide(place, torch.tensor([[3.0, 4, 9], [0, 0, 9]]).double().reshape(1, 2, 1, 1, 3))
    length = torch.norm(field, p=2, dim=(-3, -2, -1), keepdim=True)
    assert length.flatten().tolist() == [5, 0]
    gain = length / length.mean(1, keepdim=True)
    assert (field * gain).rows.tolist() == [[6, 0], [8, 0]]


def test_visibility_by_hand() -> None:
    """5 voxels in blocks of 2, the middle one hidden: 3 positions at stride 2, the last block is cut."""
    place = World(torch.tensor([False, True, False]).reshape(1, 1, 1, 3), (1, 1, 2), (1, 1, 5))
    field = Field.hide(place, torch.arange(5.0).reshape(1, 1, 1, 1, 5))
    assert field.visible.flatten().tolist() == [True, True, False, False, True]
    coarse = judge(nn.MaxPool3d((1, 1, 1), (1, 1, 2)))(field)
    assert coarse.visible.flatten().tolist() == [True, False, True]
    assert coarse.dense().flatten().tolist() == [0, 0, 4]


def test_a_wrong_oracle_would_be_noticed() -> None:
    """The control: moments over all voxels instead of the visible ones are far from the oracle's."""
    place, voxels = world("odd-ragged"), voxels_of(world("odd-ragged"))
    field = Field.hide(place, voxels)
    module = build("batch")
    polluted = F.batch_norm(field.dense(), None, None, module.weight, module.bias, True) * field.visible
    assert not torch.allclose(judge(module)(field).dense(), polluted, atol=1e-2)

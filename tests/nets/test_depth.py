"""The resolution of every parameter, for every registered encoder."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from prostate_mim.nets import ARCHITECTURES, Encoder, build_encoder
from prostate_mim.nets.depth import parameter_depths
from prostate_mim.nets.encoder import Between, unchanged

# One of each family and kind of block; the others differ in width and number of blocks alone.
SHOWN = ["resenc-s", "resnet10", "resnet50", "densenet121", "effnet-lite0", "convnext-a"]
assert set(SHOWN) <= set(ARCHITECTURES)


@pytest.fixture(scope="module", params=SHOWN)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(str(request.param))


def test_every_parameter_has_one(encoder: Encoder) -> None:
    """And nothing else; all four resolutions have some."""
    depths = parameter_depths(encoder)
    assert list(depths) == [name for name, _ in encoder.named_parameters()]
    assert set(depths.values()) == {0, 1, 2, 3}


def test_depths_rise_from_the_stem(encoder: Encoder) -> None:
    """In the order of the network, 0 at the stem, 3 at the end, never back."""
    found = list(parameter_depths(encoder).values())
    assert (found[0], found[-1]) == (0, 3)
    assert found == sorted(found)


def test_depth_is_where_a_parameter_works(encoder: Encoder) -> None:
    """The gradient of resolution k reaches parameters of depth up to k, and none beyond."""
    depths, training = parameter_depths(encoder), encoder.training
    size = [2 * stride for stride in encoder.total_stride_zyx]
    encoder.eval()
    stages = encoder(torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(0)))
    named = list(encoder.named_parameters())
    for resolution in (0, 2):
        total = stages[resolution].square().sum()
        grads = torch.autograd.grad(total, [p for _, p in named], retain_graph=True, allow_unused=True)
        reached = {name for (name, _), grad in zip(named, grads, strict=True) if grad is not None}
        assert reached <= {name for name, depth in depths.items() if depth <= resolution}
        assert reached & {name for name, depth in depths.items() if depth == resolution}
    encoder.train(training)


def test_looking_leaves_no_trace() -> None:
    """No hook stays, no mode and no running statistic changes."""
    encoder = build_encoder("resnet10").train()
    before = copy.deepcopy(encoder.state_dict())
    assert parameter_depths(encoder) == parameter_depths(encoder)
    assert encoder.training
    assert all(module.training and not module._forward_pre_hooks for module in encoder.modules())
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


class Odd(Encoder):
    """Two resolutions, a parameter of its own, one module that works twice and one that never does."""

    def __init__(self) -> None:
        super().__init__([(1, 1, 1), (1, 2, 2)], [2, 2])
        self.unused = nn.Conv3d(2, 2, 1)
        self.deep = nn.Conv3d(2, 2, 1, stride=(1, 2, 2))
        self.stem = nn.Conv3d(1, 2, 1)
        self.twice = nn.Conv3d(2, 2, 1)
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, voxels: torch.Tensor, between: Between = unchanged) -> list[torch.Tensor]:
        first = between(0, self.twice(self.stem(voxels) * self.gain))
        return [first, between(1, self.twice(self.deep(first)))]


def test_by_hand() -> None:
    """Not by the order of writing: first use counts, and what is never used belongs to the last."""
    depths = parameter_depths(Odd())
    assert {name.split(".")[0]: depth for name, depth in depths.items()} == {
        "unused": 1, "deep": 1, "stem": 0, "twice": 0, "gain": 0,
    }  # fmt: skip

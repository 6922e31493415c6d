"""Whole networks: the oracle, one path against the other, and the ordinary network where nothing is hidden."""

from __future__ import annotations

import itertools
from functools import cache

import pytest
import torch
from masked_cases import PATHS, Result, as_dense, context_of, differentiate, distance, too_far, voxels_of
from masked_nets import ARCHITECTURES, LARGE, LAWFUL, NETS, SMALL, net_world
from masked_oracle import Field, judge

# The deep ones meet one pattern; operators meet them all.
WITH_EMPTY = ("dynunet", "segresnet", "mednext with response", "our resenc-s")


@cache
def judged_net(name: str, pattern: str) -> Result:
    """The oracle's result of a network."""
    place = net_world(name, pattern)
    network = judge(NETS[name].build())
    return differentiate(network, lambda voxels: Field.hide(place, voxels), voxels_of(place, 1))


def engine_net(name: str, pattern: str, path: str) -> Result:
    """The engine's result of a network."""
    from prostate_mim.masked import masked_twin

    place = net_world(name, pattern)
    context = context_of(place)
    twin = masked_twin(NETS[name].build())
    return differentiate(twin, lambda voxels: context.hide(voxels, path=path), voxels_of(place, 1))


def test_every_architecture_is_here() -> None:
    """A new architecture is added to these tests."""
    from prostate_mim import nets

    assert set(nets.ARCHITECTURES) == set(ARCHITECTURES)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("name", "pattern"),
    [*((name, "ragged") for name in SMALL), *itertools.product(WITH_EMPTY, ["empty sample", "everything"])],
)
def test_equal_to_the_oracle(name: str, pattern: str, path: str) -> None:
    """Forward, gradients of voxels and of all parameters, running moments, in training mode: 1e-10."""
    assert too_far(engine_net(name, pattern, path), judged_net(name, pattern)) == {}


@pytest.mark.parametrize("name", LARGE)
def test_paths_agree(name: str) -> None:
    """The wide ones: dense and rows to 1e-10, forward and the gradients of all parameters."""
    assert too_far(engine_net(name, "ragged", "rows"), engine_net(name, "ragged", "dense")) == {}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", LAWFUL)
def test_hide_nothing_is_the_plain_network(name: str, training: bool) -> None:
    """Both paths, both modes; and a plain tensor through the twin."""
    from prostate_mim.masked import masked_twin

    place = net_world(name, "nothing")
    voxels = voxels_of(place, 1)
    torch.manual_seed(9)
    expected = as_dense(NETS[name].build().train(training)(voxels.clone()))
    context = context_of(place)
    for given in (voxels.clone(), *(context.hide(voxels, path=path) for path in PATHS)):
        torch.manual_seed(9)
        found = as_dense(masked_twin(NETS[name].build().train(training))(given))
        assert max(distance(a, b) for a, b in zip(found, expected, strict=True)) < 1e-10

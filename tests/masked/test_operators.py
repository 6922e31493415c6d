"""Every masked operator against the oracle: outputs, gradients, running moments; and one path against the other."""

from __future__ import annotations

import pytest
import torch
from masked_cases import (
    DOUBTFUL,
    OPERATORS,
    PATHS,
    WORLDS,
    build,
    context_of,
    differences,
    engine,
    judged,
    too_far,
    voxels_of,
    world,
)
from torch import Tensor, nn


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("where", WORLDS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_equal_to_the_oracle(operator: str, where: str, path: str) -> None:
    """Forward, gradients of voxels and of every parameter, running moments: 1e-10 in float64."""
    assert too_far(engine(operator, where, path), judged(operator, where)) == {}


@pytest.mark.parametrize("operator", OPERATORS)
def test_paths_agree_in_float32(operator: str) -> None:
    """Dense and rows to 1e-5, forward."""
    from prostate_mim.masked import masked_twin

    place = world("odd-ragged")
    voxels = voxels_of(place, dtype=torch.float32)
    found = []
    for path in PATHS:
        torch.manual_seed(5)
        twin = masked_twin(build(operator).float())
        out = twin(context_of(place).hide(voxels, path=path))
        found.append(out if isinstance(out, Tensor) else out.dense())
    assert found[0].dtype == torch.float32
    assert torch.allclose(found[0], found[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("where", ["odd-ragged", "odd-empty", "odd-everything"])
@pytest.mark.parametrize("operator", ["conv 3 stride 1x2x2", "batch", "max 3 stride 2", "chain, group"])
def test_visibility(operator: str, where: str, path: str) -> None:
    """``visible`` is the oracle's, and hidden positions are exactly zero."""
    from masked_oracle import Field, judge

    from prostate_mim.masked import masked_twin

    place, voxels = world(where), voxels_of(world(where))
    out = masked_twin(build(operator))(context_of(place).hide(voxels, path=path))
    expected = judge(build(operator))(Field.hide(place, voxels))
    assert out.visible.dtype == torch.bool
    assert torch.equal(out.visible, expected.visible)
    assert torch.equal(out.dense() * ~out.visible, torch.zeros_like(out.dense()))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("operator", DOUBTFUL)
def test_right_or_refused(operator: str, path: str) -> None:
    """Never something else in silence."""
    from prostate_mim.errors import UsageError

    for where in ("odd-nothing", "odd-ragged"):
        try:
            found = engine(operator, where, path)
        except UsageError:
            continue
        assert too_far(found, judged(operator, where)) == {}, where


@pytest.mark.parametrize("path", PATHS)
def test_running_moments_are_the_module_s_own(path: str) -> None:
    """The ordinary network that is exported afterwards holds what the twin has learnt about its inputs."""
    from prostate_mim.masked import masked_twin

    module = nn.BatchNorm3d(4).double()
    masked_twin(module)(context_of(world("odd-ragged")).hide(voxels_of(world("odd-ragged")), path=path))
    assert not torch.equal(module.running_mean, torch.zeros(4).double())
    assert int(module.num_batches_tracked) == 1


@pytest.mark.parametrize("path", PATHS)
def test_single_visible_voxel(path: str) -> None:
    """One visible voxel in the whole batch: every norm stays finite, running variance too."""
    from prostate_mim.masked import MaskContext, masked_twin

    hidden = torch.ones(2, 1, 1, 3, dtype=torch.bool)
    hidden[0, 0, 0, 1] = False
    for norm in (nn.BatchNorm3d(4), nn.InstanceNorm3d(4, affine=True), nn.GroupNorm(2, 4)):
        voxels = torch.randn(2, 4, 1, 1, 3, requires_grad=True)
        out = masked_twin(norm)(MaskContext(hidden, (1, 1, 1), (1, 1, 3)).hide(voxels, path=path)).dense()
        out.square().sum().backward()
        assert bool(torch.isfinite(out).all()) and bool(torch.isfinite(voxels.grad).all())
        assert all(bool(torch.isfinite(buffer).all()) for buffer in norm.buffers())


def test_a_wrong_engine_would_be_noticed() -> None:
    """The control: the oracle of another world, of another weight, of another momentum is far away."""
    good = judged("batch", "odd-ragged")
    assert max(differences(good, judged("batch", "odd-columns")).values()) > 1e-3
    assert too_far(judged("batch", "odd-ragged"), judged("batch cumulative", "odd-ragged")) != {}

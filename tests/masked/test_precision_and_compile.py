"""The dense path compiles as one graph, both paths work under bfloat16 autocast, kept instance moments follow."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from prostate_mim.masked import MaskContext, masked_twin
from prostate_mim.nets import build_encoder

BLOCK, SIZE = (4, 16, 16), (8, 48, 48)


def hidden_blocks(seed: int = 0) -> Tensor:
    """(2, 2, 3, 3) bool; the samples differ in number."""
    return torch.rand(2, 2, 3, 3, generator=torch.Generator().manual_seed(seed)) < 0.5


def crops() -> Tensor:
    return torch.randn(2, 1, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("architecture", ["resenc-s", "resnet10", "convnext-a"])
def test_dense_path_compiles_as_one_graph(architecture: str) -> None:
    """``fullgraph`` raises at the first thing Dynamo cannot follow; another mask needs no other graph."""
    torch.manual_seed(0)
    twin = masked_twin(build_encoder(architecture)).eval()

    def stages(voxels: Tensor, hidden: Tensor) -> list[Tensor]:
        context = MaskContext(hidden, BLOCK, SIZE)
        return [stage.dense() for stage in twin(context.hide(voxels, "dense"))]

    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(stages, backend=counter, fullgraph=True)
    for seed in range(3):
        with torch.no_grad():
            found, expected = compiled(crops(), hidden_blocks(seed)), stages(crops(), hidden_blocks(seed))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert counter.frame_count == 1


@pytest.mark.parametrize("path", ["rows", "dense"])
@pytest.mark.parametrize("architecture", ["resenc-s", "resnet10", "convnext-a"])
def test_bfloat16_autocast_is_near(architecture: str, path: str) -> None:
    """Features within bfloat16's rounding of float32's, gradients of every parameter finite, weights' gradients too."""
    torch.manual_seed(0)
    twin = masked_twin(build_encoder(architecture))

    def stages() -> list[Tensor]:
        return [stage.dense() for stage in twin(MaskContext(hidden_blocks(), BLOCK, SIZE).hide(crops(), path))]

    exact = stages()
    with torch.autocast("cpu", torch.bfloat16):
        near = stages()
        loss = sum((stage.float().square().mean() for stage in near), torch.zeros(()))
    loss.backward()
    for a, b in zip(exact, near, strict=True):
        assert (a - b.float()).norm() < 0.05 * a.norm()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in twin.parameters())


def leave_rubbish() -> None:
    """NaN in the allocator's free blocks: a kernel that reads what nobody wrote is found out."""
    for power in range(12, 24, 2):
        for _ in range(3):
            torch.full((1 << power,), torch.nan)


@pytest.mark.parametrize("reach", [3, 5])
def test_bfloat16_gradients_are_written(reach: int) -> None:
    """Where few planes meet zero padding torch 2.13 reads unwritten memory; the dense path keeps it from doing so."""
    torch.manual_seed(0)
    net, size = nn.Conv3d(64, 64, reach, padding=reach // 2, bias=False), (reach // 2 + 1, 6, 6)
    twin = masked_twin(net)
    for _ in range(8):
        context = MaskContext(torch.rand(2, 1, 2, 2) < 0.5, (size[0], 3, 3), size)
        with torch.autocast("cpu", torch.bfloat16):
            out = twin(context.hide(torch.randn(2, 64, *size).requires_grad_(), "dense")).dense()
        loss = out.float().square().mean()
        net.zero_grad()
        leave_rubbish()
        loss.backward()
        assert net.weight.grad is not None and net.weight.grad.isfinite().all()


@pytest.mark.parametrize("path", ["rows", "dense"])
def test_kept_instance_moments(path: str) -> None:
    """Hide nothing: torch's own, running moments included. Hide one sample whole: those of the other alone."""
    torch.manual_seed(0)
    plain = nn.InstanceNorm3d(1, affine=True, track_running_stats=True).double()
    voxels = crops().double()
    for hidden, given in ((torch.zeros(2, 2, 3, 3, dtype=torch.bool), voxels), (None, voxels[:1])):
        if hidden is None:
            hidden = torch.zeros(2, 2, 3, 3, dtype=torch.bool)
            hidden[1] = True
        expected, masked = (nn.InstanceNorm3d(1, affine=True, track_running_stats=True).double() for _ in range(2))
        masked.load_state_dict(plain.state_dict())
        expected.load_state_dict(plain.state_dict())
        twin = masked_twin(masked)
        found = twin(MaskContext(hidden, BLOCK, SIZE).hide(voxels, path)).dense()
        assert torch.allclose(found[: len(given)], expected(given), atol=1e-10)
        assert torch.allclose(twin.running_mean, expected.running_mean, atol=1e-12)
        assert torch.allclose(twin.running_var, expected.running_var, atol=1e-12)
        twin.eval()
        expected.eval()
        found = twin(MaskContext(hidden, BLOCK, SIZE).hide(voxels, path)).dense()
        assert torch.allclose(found[: len(given)], expected(given), atol=1e-10)

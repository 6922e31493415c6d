"""Depthwise convolutions on CPUs have torch's own gradients, by other kernels."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from prostate_mim.engine.cpu_kernels import DepthwiseOnCpu, use_cpu_kernels
from prostate_mim.nets import build_encoder


def gradients(module: nn.Module, voxels: Tensor) -> list[Tensor]:
    """Output, and the gradients of the input and of every parameter, of a weighted sum of the outputs."""
    module.zero_grad()
    voxels = voxels.clone().requires_grad_()
    out = module(voxels)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    (out * weights).sum().backward()
    assert voxels.grad is not None
    return [out.detach(), voxels.grad, *(part.grad for part in module.parameters() if part.grad is not None)]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize(
    ("kernel", "size", "bias"),
    [((3, 3, 3), (5, 6, 7), False), ((1, 5, 3), (4, 4, 4), True), ((5, 5, 5), (2, 3, 3), False),
     ((3, 3, 3), (8, 24, 24), True)],  # the last is above the number of positions where torch's own kernel is taken
)  # fmt: skip
def test_gradients_are_torchs(
    kernel: tuple[int, int, int], size: tuple[int, int, int], bias: bool, layout: torch.memory_format
) -> None:
    """Outputs and every gradient agree with ``nn.Conv3d`` in double precision."""
    torch.manual_seed(0)
    z, y, x = kernel
    ours = nn.Sequential(nn.Conv3d(6, 6, kernel, padding=(z // 2, y // 2, x // 2), groups=6, bias=bias))
    torchs = copy.deepcopy(ours).double()
    use_cpu_kernels(ours, "fp32")
    assert type(ours[0]) is DepthwiseOnCpu
    voxels = torch.randn(2, 6, *size).contiguous(memory_format=layout)
    expected = gradients(torchs, voxels.double())
    found = gradients(ours, voxels)
    assert len(found) == len(expected) == 3 + bias
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one.double(), other, rtol=1e-4, atol=1e-4 * other.abs().max().item())


def test_what_is_not_plain_stays() -> None:
    """Strided, dilated, grouped and unpadded convolutions keep their class, and so do their names and numbers."""
    net = nn.Sequential(
        nn.Conv3d(4, 4, 3, 2, 1, groups=4), nn.Conv3d(4, 4, 3, 1, 2, dilation=2, groups=4),
        nn.Conv3d(4, 4, 3, groups=4), nn.Conv3d(4, 4, 3, padding=1, groups=2), nn.Conv3d(4, 8, 3, padding=1, groups=4),
        nn.Conv3d(1, 1, 3, padding=1), nn.Conv3d(4, 4, 3, padding="same", groups=4),
        nn.Conv3d(4, 4, 3, padding=1, groups=4, padding_mode="replicate"),
    )  # fmt: skip
    use_cpu_kernels(net, "fp32")
    assert {type(part) for part in net} == {nn.Conv3d}


def test_network_learns_the_same() -> None:
    """A whole network's outputs, gradients and state names are those of the plain one; without gradients too."""
    torch.manual_seed(0)
    plain = build_encoder("effnet-lite0").eval()  # batch statistics of few cells would magnify the last digits
    fast = copy.deepcopy(plain)
    use_cpu_kernels(fast, "fp32")
    assert sum(isinstance(part, DepthwiseOnCpu) for part in fast.modules()) == 13
    voxels = torch.randn(2, 1, 8, 32, 32)
    for net in (plain, fast):
        torch.stack([stage.square().mean() for stage in net(voxels)]).sum().backward()  # type: ignore[no-untyped-call]
    for (name, one), (other_name, other) in zip(plain.named_parameters(), fast.named_parameters(), strict=True):
        assert name == other_name
        assert one.grad is not None
        assert other.grad is not None
        assert torch.allclose(one.grad, other.grad, rtol=1e-3, atol=1e-5 * one.grad.abs().max().item() + 1e-9), name
    with torch.no_grad():
        assert all(torch.equal(one, other) for one, other in zip(plain(voxels), fast(voxels), strict=True))

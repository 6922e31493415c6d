"""ConvNeXt-V2's two norms: numbers by hand, and laws."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prostate_mim.nets import build_encoder
from prostate_mim.nets.convnext import ChannelLayerNorm, GlobalResponseNorm


def test_channel_norm_by_hand() -> None:
    """Channels 1 and 3: mean 2, variance 1, so -1 and 1; times weight plus bias."""
    norm = ChannelLayerNorm(2)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0]))
        norm.bias.copy_(torch.tensor([0.0, 5.0]))
    values = torch.tensor([1.0, 3.0]).reshape(1, 2, 1, 1, 1)
    assert norm(values).flatten().tolist() == pytest.approx([-1.0, 7.0], abs=1e-5)


def test_channel_norm_never_leaves_the_voxel() -> None:
    """Changing one voxel changes the result there and nowhere else; a norm over space is seen to fail this."""
    values = torch.randn(2, 6, 3, 4, 5, dtype=torch.float64)
    touched = values.clone()
    touched[1, 2, 1, 2, 3] += 1

    def changed(norm: nn.Module) -> list[list[int]]:
        return (norm.double()(touched) != norm(values)).any(1).nonzero().tolist()

    assert changed(ChannelLayerNorm(6)) == [[1, 1, 2, 3]]
    assert len(changed(nn.GroupNorm(1, 6))) > 1  # negative control


def test_response_norm_by_hand() -> None:
    """Norms over two voxels: 5 and 15, mean 10, so channels are worth 0.5 and 1.5 of themselves more."""
    norm = GlobalResponseNorm(2)
    with torch.no_grad():
        norm.weight.fill_(1)
        norm.bias.copy_(torch.tensor([0.0, 1.0]))
    values = torch.tensor([[3.0, 4.0], [9.0, 12.0]]).reshape(1, 2, 1, 1, 2)
    assert norm(values).flatten().tolist() == pytest.approx([4.5, 6.0, 23.5, 31.0], rel=1e-5)


def test_a_new_response_norm_does_nothing() -> None:
    """Weight and bias begin at zero."""
    values = torch.randn(2, 8, 2, 3, 4)
    assert torch.equal(GlobalResponseNorm(8)(values), values)


def test_response_norm_keeps_samples_apart_and_scales() -> None:
    """Each sample has norms of its own; without bias the result is linear in the scale of a sample."""
    torch.manual_seed(0)
    norm = GlobalResponseNorm(4).double()
    nn.init.normal_(norm.weight)
    values = torch.randn(3, 4, 2, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(norm(values)[1:2], norm(values[1:2]))
    torch.testing.assert_close(norm(7 * values), 7 * norm(values), atol=1e-4, rtol=1e-5)  # but for eps
    assert not torch.allclose(norm(values)[1:2], norm(values.reshape(1, 4, -1, 3, 5))[:, :, :2])  # negative control


def test_response_norm_of_nothing() -> None:
    """All-zero features give the bias and a finite gradient; a norm written as a root does not."""
    norm = GlobalResponseNorm(2)
    nn.init.ones_(norm.weight)
    values = torch.zeros(1, 2, 1, 2, 2, requires_grad=True)
    found = norm(values)
    found.sum().backward()
    assert not found.any()
    assert values.grad is not None
    assert torch.isfinite(values.grad).all()
    control = torch.zeros(3, requires_grad=True)
    control.square().sum().sqrt().backward()
    assert control.grad is not None
    assert control.grad.isnan().all()


def test_response_norm_sums_in_float32() -> None:
    """In float16 the squares of 300 overflow; the norm does not, and the type is kept."""
    norm = GlobalResponseNorm(2).half()
    nn.init.ones_(norm.weight)
    values = torch.full((1, 2, 1, 2, 2), 300.0, dtype=torch.float16)
    found = norm(values)
    assert found.dtype == torch.float16
    assert found.flatten().tolist() == pytest.approx([600.0] * 8, rel=1e-2)
    assert values.square().sum().isinf()  # negative control


def test_kernels_and_entries() -> None:
    """Depthwise 3 x 7 x 7 throughout; every entry's kernel is its stride, so that cells do not overlap."""
    encoder = build_encoder("convnext-a")
    convolutions = [module for module in encoder.modules() if isinstance(module, nn.Conv3d)]
    assert {c.kernel_size for c in convolutions if c.groups > 1} == {(3, 7, 7)}
    strided = [c for c in convolutions if max(c.stride) > 1]
    assert [c.stride for c in strided] == [c.kernel_size for c in strided] == [(1, 2, 2)] * 2 + [(2, 2, 2)] * 2

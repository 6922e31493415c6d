"""MONAI's own classes load what is exported, strictly, and compute what the encoder computes; all else is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from monai.networks.nets import DynUNet, ResNet
from safetensors import safe_open
from safetensors.torch import load_file

from prostate_mim.encoder import PreMIM, golden_input
from prostate_mim.errors import UsageError, VerificationError
from prostate_mim.formats import monai_state
from prostate_mim.formats.monai_state import (
    MonaiState,
    monai_network,
    stock_features,
    stock_network,
    verify_monai,
    write_monai_state,
)
from prostate_mim.spec import InputSpec


def encoder_of(architecture: str, spec: InputSpec | None = None) -> PreMIM:
    """Random weights, the same every time."""
    torch.manual_seed(0)
    return PreMIM(architecture, spec, name=f"{architecture}.random").eval()


@pytest.fixture(scope="module")
def encoder() -> PreMIM:
    """resenc-s."""
    return encoder_of("resenc-s")


@pytest.fixture(scope="module")
def state(encoder: PreMIM) -> MonaiState:
    """resenc-s as a DynUNet."""
    return monai_network(encoder)


@pytest.mark.parametrize("architecture", ["resenc-s", "resenc-b", "resenc-l"])
def test_every_resenc_is_a_dynunet(architecture: str) -> None:
    """All stages of the stock class agree with the encoder's, and its arguments are plain JSON."""
    given = encoder_of(architecture)
    exported = monai_network(given)
    assert verify_monai(replace(exported, arguments=json.loads(json.dumps(exported.arguments))), given) <= 1e-5


def test_whole_dynunet_runs_through_the_encoder(encoder: PreMIM, state: MonaiState) -> None:
    """Without our helpers: in MONAI's own forward pass the bottleneck gives the encoder's coarsest stage."""
    network = DynUNet(**state.arguments)
    network.load_state_dict(state.tensors, strict=True)
    seen: list[torch.Tensor] = []
    network.bottleneck.register_forward_hook(lambda module, given, result: seen.append(result))
    voxels = golden_input(encoder.encoder.total_stride_zyx)
    with torch.inference_mode():
        result, expected = network.eval()(voxels), encoder(voxels)[-1]
    assert result.shape == (1, 2, voxels.shape[2], voxels.shape[3] // 2, voxels.shape[4] // 2)
    torch.testing.assert_close(seen[0], expected, rtol=1e-5, atol=1e-5)


def test_stages_come_in_the_encoder_s_order(encoder: PreMIM, state: MonaiState) -> None:
    """Channels and strides of what the stock class gives are those that the encoder claims."""
    voxels = golden_input(encoder.encoder.total_stride_zyx)
    with torch.inference_mode():
        stages = stock_features(stock_network(state), voxels)
    for info, stage in zip(encoder.encoder.stage_info, stages, strict=True):
        sizes = tuple(n // s for n, s in zip(voxels.shape[2:], info.stride_zyx, strict=True))
        assert stage.shape == (1, info.channels, *sizes)


def test_pretrained_and_fresh_are_told_apart(encoder: PreMIM, state: MonaiState) -> None:
    """Every key is one or the other; the pretrained ones, each of which MONAI has twice, hold the encoder's values."""
    assert set(state.pretrained) | set(state.fresh) == set(state.tensors)
    assert not set(state.pretrained) & set(state.fresh)
    own = sorted(value.sum().item() for value in encoder.encoder.state_dict().values())
    exported = sorted(state.tensors[key].sum().item() for key in state.pretrained)
    assert exported == sorted([*own, *own])
    assert all(key.startswith(("upsamples", "output_block", "skip_layers")) for key in state.fresh)


def test_nobody_s_generator_is_touched(encoder: PreMIM, state: MonaiState) -> None:
    """The fresh part is drawn from its own seed: the same again, and torch's generator goes on as before."""
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    again = monai_network(encoder)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(again.tensors[key], value) for key, value in state.tensors.items())


def test_masks_are_further_channels() -> None:
    """An encoder of two channels is a DynUNet of two channels."""
    given = encoder_of("resenc-s", InputSpec(channels=("t2w", "gland")))
    exported = monai_network(given, out_channels=3)
    assert (exported.arguments["in_channels"], exported.arguments["out_channels"]) == (2, 3)
    assert verify_monai(exported, given) <= 1e-5


def changed(state: MonaiState, change: Callable[[torch.Tensor], torch.Tensor]) -> MonaiState:
    """A copy with one value of one convolution of the encoder changed, under both of its names."""
    tensors = dict(state.tensors)
    for key in ("downsamples.0.conv1.conv.weight", "skip_layers.next_layer.downsample.conv1.conv.weight"):
        assert key in state.pretrained
        tensors[key] = tensors[key].clone()
        tensors[key].view(-1)[0] = change(tensors[key].view(-1)[0])
    return replace(state, tensors=tensors)


@pytest.mark.parametrize("change", [lambda value: value + 0.5, lambda value: value * float("nan")])
def test_one_changed_weight_is_found(
    encoder: PreMIM, state: MonaiState, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """The control: unchanged it passes."""
    with pytest.raises(VerificationError, match=r"differs from resenc-s\.random by .* in stage 1"):
        verify_monai(changed(state, change), encoder)
    assert verify_monai(changed(state, lambda value: value), encoder) <= 1e-5


@pytest.mark.parametrize(("block", "stride"), [(0, [1, 1, 1]), (3, [1, 2, 2]), (2, [2, 2, 2])])
def test_wrong_stride_is_found(encoder: PreMIM, state: MonaiState, block: int, stride: list[int]) -> None:
    """Weights of the right shapes in a class strided otherwise load strictly, where no shortcut tells, or do not."""
    strides = [stride if number == block else own for number, own in enumerate(state.arguments["strides"])]
    with pytest.raises(VerificationError, match="export"):
        verify_monai(replace(state, arguments={**state.arguments, "strides": strides}), encoder)


def test_missing_key_and_other_class_are_refused(state: MonaiState) -> None:
    """Strict means strict, and there is one class only."""
    without = {key: value for key, value in state.tensors.items() if key != "bottleneck.norm1.weight"}
    with pytest.raises(VerificationError, match=r"does not take these weights .*bottleneck\.norm1\.weight"):
        stock_network(replace(state, tensors=without))
    with pytest.raises(VerificationError, match=r"target is 'os\.system'"):
        stock_network(replace(state, target="os.system"))


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("resnet10", "pools and strides every axis alike"),
        ("medicalnet-resnet10", "dilates them"),
        ("densenet121", "strides every axis alike"),
        ("effnet-lite0", "no stock MONAI class has this network"),
        ("convnext-a", "no stock MONAI class has this network"),
    ],
)
def test_others_are_refused(architecture: str, reason: str) -> None:
    """With the reason, and with what to do instead."""
    with pytest.raises(UsageError, match=f"{architecture}.*{reason}.*MONAI bundle"):
        monai_network(encoder_of(architecture))


def test_stock_resnet_would_compute_something_else() -> None:
    """Why MedicalNet's layout is refused: the stock class takes the weights strictly, and its features are others."""
    given = encoder_of("medicalnet-resnet10")
    stock = ResNet(
        "basic", [1, 1, 1, 1], [64, 128, 256, 512], n_input_channels=1, conv1_t_stride=2, feed_forward=False,
        bias_downsample=False,
    ).eval()  # fmt: skip
    stock.load_state_dict(given.encoder.state_dict(), strict=True)
    seen: list[torch.Tensor] = []
    stock.layer4.register_forward_hook(lambda module, inputs, result: seen.append(result))
    voxels = golden_input(given.encoder.total_stride_zyx)
    with torch.inference_mode():
        stock(voxels)
        assert seen[0].shape[2:] != given(voxels)[-1].shape[2:]


def test_file_loads_without_us(encoder: PreMIM, tmp_path: Path) -> None:
    """Safetensors and MONAI are enough: the arguments are in the file, and writing twice gives the same bytes."""
    path = write_monai_state(encoder, tmp_path / "dynunet.safetensors")
    with safe_open(path, "pt") as opened:
        described = json.loads(opened.metadata()["prostate_mim"])
    assert described["target"] == "monai.networks.nets.DynUNet"
    assert (described["name"], described["revision"]) == (encoder.name, encoder.revision)
    assert InputSpec.from_dict(described["spec"]) == encoder.spec
    assert "research" in described["terms"]
    network = DynUNet(**described["arguments"])
    network.load_state_dict(load_file(path), strict=True)
    block = encoder.encoder.get_submodule("stages.0.0")
    assert torch.equal(network.input_block.conv1.conv.weight, block.get_parameter("conv1.conv.weight"))
    again = write_monai_state(encoder, tmp_path / "again.safetensors")
    assert again.read_bytes() == path.read_bytes()


def test_nothing_is_written_unverified(encoder: PreMIM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed comparison, or a name that is not of safetensors, leaves no file."""
    with pytest.raises(UsageError, match=r"named \*\.safetensors"):
        write_monai_state(encoder, tmp_path / "dynunet.pt")
    monkeypatch.setattr(monai_state, "TOLERANCE", -1.0)
    with pytest.raises(VerificationError):
        write_monai_state(encoder, tmp_path / "dynunet.safetensors")
    assert list(tmp_path.iterdir()) == []

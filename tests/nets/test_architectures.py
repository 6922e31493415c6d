"""Every registered encoder, by law: shapes, samples kept apart, gradients, names, and what it is made of."""

from __future__ import annotations

import copy
import hashlib

import pytest
import torch
from torch import Tensor, nn

from prostate_mim.encoder import PreMIM
from prostate_mim.nets import ARCHITECTURES, Encoder, build_encoder
from prostate_mim.nets.convnext import ChannelLayerNorm, GlobalResponseNorm

# name -> (parameters, beginning of the SHA-256 of its keys, one a line, in order). Published weights are bound to them.
SIZES_AND_KEYS = {
    "resenc-s": (5_375_232, "d0566c6a85a4"),
    "resenc-b": (19_370_176, "4471c93b8cad"),
    "resenc-l": (61_236_160, "f3baacd0dc5d"),
    "resnet10": (14_355_520, "1bdb78f5adef"),
    "resnet18": (32_986_176, "fec1b9beda98"),
    "resnet34": (63_295_808, "45b3b1ffce67"),
    "resnet50": (46_155_072, "b4d8c5f6636b"),
    "medicalnet-resnet10": (14_355_520, "1bdb78f5adef"),
    "medicalnet-resnet18": (32_986_176, "fec1b9beda98"),
    "medicalnet-resnet34": (63_295_808, "45b3b1ffce67"),
    "medicalnet-resnet50": (46_155_072, "b4d8c5f6636b"),
    "densenet121": (11_242_624, "401137096a7c"),
    "effnet-lite0": (3_317_408, "9f3310febc02"),
    "convnext-a": (3_821_320, "ad2148920228"),
    "convnext-t": (29_984_448, "e241ec80ce57"),
}
STRIDES = [(1, 2, 2), (1, 4, 4), (2, 8, 8), (4, 16, 16)]
CUBES = [(2, 2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8)]  # MedicalNet's
# What the masked operators know how to convert; other leaves would be refused there.
LEAVES = {
    nn.Conv3d, nn.BatchNorm3d, nn.GroupNorm, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.MaxPool3d, nn.AvgPool3d,
    ChannelLayerNorm, GlobalResponseNorm,
}  # fmt: skip


@pytest.fixture(scope="module", params=ARCHITECTURES)
def name(request: pytest.FixtureRequest) -> str:
    """Every architecture; pytest runs all tests of one before the next, so that one network is in memory at a time."""
    return str(request.param)


@pytest.fixture(scope="module")
def encoder(name: str) -> Encoder:
    """Float32, evaluation mode, with running statistics of two batches; tests leave it as it is."""
    torch.manual_seed(0)
    encoder = build_encoder(name)
    with torch.no_grad():
        for _ in range(2):
            encoder(torch.randn(2, 1, 4, 32, 32))
    return encoder.eval()


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def digest(encoder: nn.Module) -> str:
    return hashlib.sha256("\n".join(encoder.state_dict()).encode()).hexdigest()[:12]


def test_size_and_keys(name: str, encoder: Encoder) -> None:
    """Parameters as tabled and keys as published; a renamed stage is found."""
    parameters, keys = SIZES_AND_KEYS[name]
    assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters
    assert digest(encoder) == keys
    assert digest(nn.ModuleDict({"renamed": encoder})) != keys  # negative control


def test_the_table_is_complete() -> None:
    assert SIZES_AND_KEYS.keys() == ARCHITECTURES.keys()
    own = {name: keys for name, (_, keys) in SIZES_AND_KEYS.items() if not name.startswith("medicalnet-")}
    assert len(set(own.values())) == len(own)
    for name in SIZES_AND_KEYS.keys() - own:  # other strides for the same weights
        assert SIZES_AND_KEYS[name] == SIZES_AND_KEYS[name.removeprefix("medicalnet-")]
    assert SIZES_AND_KEYS["resenc-b"][0] <= 20e6  # float16 weights of at most 40 MB


@pytest.mark.parametrize("size", [(16, 96, 96), (24, 64, 128)])
def test_shapes_are_as_announced(name: str, encoder: Encoder, size: tuple[int, int, int]) -> None:
    """Four features, all strided in-plane first, 4 x 16 x 16 in all; MedicalNet's geometry is its own."""
    assert [stage.stride_zyx for stage in encoder.stage_info] == (CUBES if name.startswith("medicalnet-") else STRIDES)
    assert encoder.total_stride_zyx == encoder.stage_info[-1].stride_zyx
    with torch.inference_mode():
        features = encoder(noise(1, 1, *size))
    for stage, values in zip(encoder.stage_info, features, strict=True):
        assert values.shape == (1, stage.channels, *(n // s for n, s in zip(size, stage.stride_zyx, strict=True)))
        assert torch.isfinite(values).all()


def test_samples_do_not_mix_in_evaluation(encoder: Encoder) -> None:
    """Float64: permuting the batch permutes the features, and a batch of one is the sample in the batch."""
    batch = noise(2, 1, 4, 32, 32).double()
    precise = copy.deepcopy(encoder).double()
    with torch.inference_mode():
        together, permuted, alone = precise(batch), precise(batch.flip(0)), precise(batch[1:])
    for values, moved, one in zip(together, permuted, alone, strict=True):
        torch.testing.assert_close(moved, values.flip(0), atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(one, values[1:], atol=1e-10, rtol=1e-10)
        assert not torch.allclose(moved, values)  # negative control: the samples do differ


def test_batch_norm_in_training_does_mix_samples() -> None:
    """The negative control of the law above: it would be seen."""
    torch.manual_seed(0)
    encoder = build_encoder("resnet10").train()
    batch = noise(2, 1, 4, 32, 32)
    with torch.no_grad():
        together, alone = encoder(batch), encoder(batch[:1])
    assert not torch.allclose(together[0][:1], alone[0], atol=1e-3)


def unreached(encoder: Encoder, features: list[Tensor]) -> set[str]:
    """Parameters that get no gradient, or one of zeros only, from a random projection of features."""
    encoder.zero_grad()
    sum((values * noise(*values.shape, seed=3)).sum() for values in features).backward()  # type: ignore[union-attr]
    found = {n for n, parameter in encoder.named_parameters() if parameter.grad is None or not parameter.grad.any()}
    encoder.zero_grad()
    return found


def test_gradient_reaches_every_parameter(name: str) -> None:
    """In training mode, from all resolutions; the coarsest one's own parameters are not reached without it."""
    torch.manual_seed(0)
    encoder = build_encoder(name).train()
    batch = noise(2, 1, 4, 32, 32)
    assert unreached(encoder, encoder(batch)) == set()
    assert unreached(encoder, encoder(batch)[:-1])  # negative control


def deviation(encoder: Encoder) -> float:
    with torch.inference_mode():
        return float(encoder(noise(2, 1, 4, 64, 64))[-1].std())


def test_initial_activations_are_sane(name: str) -> None:
    """Coarse features of an untrained net have a deviation near 1 in training mode."""
    torch.manual_seed(0)
    encoder = build_encoder(name).train()
    assert 0.3 < deviation(encoder) < 3
    with torch.no_grad():  # negative control: every weight a tenth
        for parameter in encoder.parameters():
            parameter.mul_(0.1)
    assert not 0.3 < deviation(encoder) < 3


def test_bfloat16_autocast(encoder: Encoder) -> None:
    """A crop passes in bf16, and gives about what float32 gives."""
    crop = noise(1, 1, 4, 64, 64)
    with torch.inference_mode():
        expected = encoder(crop)[-1]
        with torch.autocast("cpu", torch.bfloat16):
            found = encoder(crop)[-1]
    assert found.dtype == torch.bfloat16
    assert 0 < (found.float() - expected).norm() / expected.norm() < 0.15


def test_premim_embeds(name: str) -> None:
    """The product's encoder takes every architecture; its vector has the announced length and is finite."""
    torch.manual_seed(0)
    model = PreMIM(name).eval()
    with torch.inference_mode():
        vector = model.pool(model(noise(2, 1, 4, 64, 64)))
    assert vector.shape == (2, model.embedding_size)
    assert torch.isfinite(vector).all()
    assert not torch.allclose(vector[0], vector[1])


def strange_leaves(encoder: nn.Module) -> set[str]:
    own = (ChannelLayerNorm, GlobalResponseNorm)
    leaves = [m for m in encoder.modules() if isinstance(m, own) or not list(m.children())]
    return {type(module).__name__ for module in leaves if type(module) not in LEAVES}


def test_made_of_known_parts(encoder: Encoder) -> None:
    """Leaves are of types that masked operators exist for; no parameter hangs outside a leaf."""
    assert strange_leaves(encoder) == set()
    assert strange_leaves(nn.Sequential(encoder, nn.Softmax())) == {"Softmax"}  # negative control
    for module in encoder.modules():
        assert type(module) in LEAVES or not list(module.parameters(recurse=False))


# --------------------------------------------------------------------------------------------------- between


def test_between_is_the_identity_unless_given(encoder: Encoder) -> None:
    """Called once a resolution, in order, with the very features that are returned; bit for bit the same network."""
    crop, seen = noise(1, 1, 8, 32, 32), []

    def watch(number: int, features: Tensor) -> Tensor:
        seen.append((number, features.clone()))
        return features

    with torch.inference_mode():
        expected, found = encoder(crop), encoder(crop, watch)
    assert [number for number, _ in seen] == [0, 1, 2, 3]
    for (_, given), one, other in zip(seen, found, expected, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(given, one)


@pytest.mark.parametrize("replaced", [0, 1, 2, 3])
def test_between_replaces_what_later_stages_are_made_of(encoder: Encoder, replaced: int) -> None:
    """Stage k is returned as it was replaced, those before it are untouched, and those after it change."""
    crop = noise(1, 1, 8, 32, 32)

    def replace(number: int, features: Tensor) -> Tensor:
        return noise(*features.shape, seed=9) if number == replaced else features

    with torch.inference_mode():
        plain, found = encoder(crop), encoder(crop, replace)
        again = encoder(noise(1, 1, 8, 32, 32, seed=7), replace)
    for number, (one, other) in enumerate(zip(found, plain, strict=True)):
        assert one.shape == other.shape
        assert torch.equal(one, other) == (number < replaced)
        # What follows is made of the replaced features alone, so the crop has no way round them.
        assert torch.equal(one, again[number]) == (number >= replaced)
    assert torch.equal(found[replaced], noise(*found[replaced].shape, seed=9))

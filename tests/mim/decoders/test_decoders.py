"""Decoders: shapes at the coarsest grid, what they may look at, and that the bundled weights' names stay."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from prostate_mim.errors import NotFoundError, UsageError
from prostate_mim.hub.resolve import BUNDLED
from prostate_mim.mim.decoders import DECODERS, build_decoder
from prostate_mim.mim.decoders.base import HiddenLinear, hidden_rows
from prostate_mim.mim.layout import cells_to_voxels, repeat_cells
from prostate_mim.mim.targets import TARGETS, build_target
from prostate_mim.nets import StageInfo, build_encoder

STAGES = (StageInfo(8, (1, 2, 2)), StageInfo(12, (1, 4, 4)), StageInfo(16, (2, 8, 8)), StageInfo(24, (4, 16, 16)))
GRID = (2, 3, 4)
SIZE = (8, 48, 64)


def inputs(stages=STAGES, seed: int = 0, n: int = 2, *, dense: bool = False):
    """(features, visible, hidden_cells) of all stages, float64, zeros where hidden unless dense, half hidden."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.rand(n, 1, *GRID, generator=generator) < 0.5
    coarsest = stages[-1].stride_zyx
    features, visible = [], []
    for stage in stages:
        finer = tuple(a // b for a, b in zip(coarsest, stage.stride_zyx, strict=True))
        seen = repeat_cells(~hidden, finer)
        values = torch.randn(n, stage.channels, *seen.shape[2:], generator=generator, dtype=torch.float64)
        features.append(values if dense else values * seen)
        visible.append(seen)
    return features, visible, hidden


def built(name: str, target: str = "block", stages=STAGES):
    torch.manual_seed(0)
    return build_decoder(name, stages, build_target(target, feature_channels=5)).double()


def run(decoder, features, visible, hidden) -> torch.Tensor:
    return decoder(features[-decoder.levels :], visible[-decoder.levels :], hidden)


@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_keeps_its_promise(name):
    """(N, F, d, h, w) in the module's type; samples stay apart; every parameter takes part."""
    decoder = built(name)
    features, visible, hidden = inputs(dense=name == "linear")
    with torch.no_grad():
        found = run(decoder, features, visible, hidden)
        flipped = run(decoder, [f.flip(0) for f in features], [v.flip(0) for v in visible], hidden.flip(0))
        alone = run(decoder, [f[:1] for f in features], [v[:1] for v in visible], hidden[:1])
    assert found.shape == (2, 1024, *GRID)
    assert found.dtype == torch.float64
    torch.testing.assert_close(flipped.flip(0), found, atol=1e-10, rtol=0)
    torch.testing.assert_close(alone, found[:1], atol=1e-10, rtol=0)
    assert not torch.allclose(found[0], found[1])  # control
    run(decoder, features, visible, hidden).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in decoder.parameters())


@pytest.mark.parametrize(("name", "levels"), [("light", 1), ("linear", 1), ("topdown", 3), ("unet", 4)])
def test_levels_are_what_is_read(name, levels):
    """The announced stages are enough, and each of them matters."""
    decoder = built(name)
    assert decoder.levels == levels
    features, visible, hidden = inputs()
    with torch.no_grad():
        first = run(decoder, features, visible, hidden)
        for level in range(1, levels + 1):
            changed = list(features)
            changed[-level] = changed[-level] * 2 + (1 if name == "linear" else 0)
            assert not torch.equal(run(decoder, changed, visible, hidden), first)


@pytest.mark.parametrize("name", ["light", "linear"])
def test_visible_cells_are_zero_and_cost_no_gradient(name):
    """Exactly 0 at visible cells and not at hidden ones; nothing hidden gives zeros, not an error."""
    decoder = built(name)
    features, visible, hidden = inputs()
    found = run(decoder, features, visible, hidden).movedim(1, -1)
    assert not found[~hidden[:, 0]].any()
    assert found[hidden[:, 0]].any(1).all()
    nothing = run(decoder, features, visible, torch.zeros_like(hidden))
    assert not nothing.any()
    nothing.sum().backward()


@pytest.mark.parametrize("name", ["light", "unet"])
def test_features_at_hidden_positions_are_replaced_by_the_token(name):
    """Whatever stands there does not reach the prediction, nor gets a gradient; visible features do (control)."""
    decoder = built(name)
    features, visible, hidden = inputs()
    leaves = [
        torch.where(seen, values, 1e3 * torch.randn_like(values)).requires_grad_()
        for values, seen in zip(features, visible, strict=True)
    ]
    first = run(decoder, features, visible, hidden)
    found = run(decoder, leaves, visible, hidden)
    assert torch.equal(found, first)
    found.square().sum().backward()
    for leaf, seen in zip(leaves[-decoder.levels :], visible[-decoder.levels :], strict=True):
        assert not (leaf.grad * ~seen).any()
        assert (leaf.grad * seen).any()


def test_the_token_marks_hidden_cells():
    """Another token is another prediction, in every decoder that has one."""
    features, visible, hidden = inputs()
    for name in ("light", "topdown", "unet"):
        decoder = built(name)
        tokens = list(decoder.tokens) if name == "unet" else [decoder.hidden_token]
        with torch.no_grad():
            first = run(decoder, features, visible, hidden)
            for token in tokens:
                token += 1
                second = run(decoder, features, visible, hidden)
                assert not torch.equal(second, first)
                first = second


def test_the_light_decoder_sees_its_neighbours_only():
    """A visible cell two cells away does not reach a hidden cell; one next to it does."""
    decoder = built("light")
    features = [torch.randn(1, 24, 1, 1, 5, dtype=torch.float64)]
    hidden = torch.tensor([True, False, False, False, False]).reshape(1, 1, 1, 1, 5)
    near, far = features[0].clone(), features[0].clone()
    near[..., 1] += 1
    far[..., 2] += 1
    with torch.no_grad():
        first = decoder(features, [~hidden], hidden)
        assert torch.equal(decoder([far], [~hidden], hidden), first)
        assert not torch.equal(decoder([near], [~hidden], hidden), first)


def test_the_light_block_is_residual():
    """With the block's last layer at 0, a hidden cell is the linear map of the token; at 1 it is not (control)."""
    decoder = built("light")
    features, visible, hidden = inputs()
    rows = decoder.hidden_token.reshape(1, -1).expand(int(hidden.sum()), -1)
    for weight in (0.0, 1.0):
        torch.nn.init.constant_(decoder.narrow.weight, weight)
        torch.nn.init.zeros_(decoder.narrow.bias)
        with torch.no_grad():
            found = run(decoder, features, visible, hidden)
            assert torch.allclose(found, decoder.to_cells(rows, hidden)) == (weight == 0)


def test_hidden_linear_is_a_masked_1x1_convolution():
    """Gather, multiply, scatter equals the convolution of every cell, then 0 at visible ones."""
    head = HiddenLinear(6, 10).double()
    values = torch.randn(3, 6, *GRID, dtype=torch.float64)
    hidden = torch.rand(3, 1, *GRID) < 0.4
    everywhere = torch.nn.functional.conv3d(values, head.linear.weight[..., None, None, None], head.linear.bias)
    found = head(hidden_rows(values, hidden), hidden)
    torch.testing.assert_close(found, everywhere * hidden)
    assert not torch.allclose(found, everywhere * ~hidden)  # control: inverted


def test_linear_is_one_map_of_the_cells_features():
    """By hand: weights all 1, bias 0.5, so each hidden cell holds the sum of its features and a half."""
    decoder = built("linear", "features")
    torch.nn.init.ones_(decoder.to_cells.linear.weight)
    torch.nn.init.constant_(decoder.to_cells.linear.bias, 0.5)
    features, _, hidden = inputs()
    values = torch.randn_like(features[-1])
    wanted = (values.sum(1, keepdim=True) + 0.5) * hidden
    torch.testing.assert_close(decoder([values], [~hidden], hidden), wanted.expand(-1, 5, -1, -1, -1))


def test_linear_cannot_learn_behind_a_masked_encoder():
    """Hidden cells are 0 there, so that only the bias has a gradient; of a dense encoder both have (control)."""
    for dense in (False, True):
        decoder = built("linear")
        run(decoder, *inputs(dense=dense)).sum().backward()
        assert decoder.to_cells.linear.bias.grad.all()
        assert bool(decoder.to_cells.linear.weight.grad.any()) == dense


def test_topdown_is_the_decoder_of_the_bundled_weights():
    """The bundled file loads strictly; and bit for bit the voxels of the published steps, given per cell."""
    stages = build_encoder("resenc-s").stage_info
    bundled = load_file(BUNDLED / "resenc-s.mim-t2w" / "decoder.safetensors")
    build_decoder("topdown", stages, build_target("block")).load_state_dict(bundled, strict=True)
    new = built("topdown")
    torch.nn.init.normal_(new.hidden_token)
    features, visible, hidden = inputs()
    with torch.no_grad():
        coarse = new.blocks[0](new.laterals[0](features[-1]) + new.hidden_token * hidden)
        middle = new.blocks[1](repeat_cells(coarse, new.growth_zyx[0]) + new.laterals[1](features[-2]))
        fine = new.blocks[2](repeat_cells(middle, new.growth_zyx[1]) + new.laterals[2](features[-3]))
        voxels = cells_to_voxels(new.to_voxels(fine), STAGES[-3].stride_zyx)
        assert voxels.shape == (2, 1, *SIZE)
        assert torch.equal(cells_to_voxels(run(new, features, visible, hidden), (4, 16, 16)), voxels)


@pytest.mark.parametrize("name", DECODERS)
def test_another_encoder_fits(name):
    """Three stages that start at full resolution and stride in-plane only, then by 3 x 2 x 1."""
    stages = (StageInfo(4, (1, 1, 1)), StageInfo(6, (1, 2, 2)), StageInfo(8, (3, 4, 2)))
    with torch.no_grad():
        found = run(built(name, stages=stages), *inputs(stages))
    assert found.shape == (2, 24, *GRID)
    assert found.isfinite().all()


def test_half_precision_under_autocast():
    """Autocast gives finite predictions of the announced shape in every decoder."""
    features, visible, hidden = inputs()
    for name in DECODERS:
        decoder = built(name).float()
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            found = run(decoder, [f.float() for f in features], visible, hidden)
        assert found.shape == (2, 1024, *GRID)
        assert found.isfinite().all()


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("target", TARGETS)
def test_decoders_of_voxels_need_voxels(name, target):
    """Every pair is built with the target's channels, or refused naming both."""
    if name in {"topdown", "unet"} and not build_target(target, feature_channels=5).voxelwise:
        with pytest.raises(UsageError, match=f"decoder '{name}' predicts voxels, but target '{target}'"):
            built(name, target)
    else:
        channels = build_target(target, feature_channels=5).channels((4, 16, 16))
        with torch.no_grad():
            assert run(built(name, target), *inputs()).shape == (2, channels, *GRID)


def test_wrong_number_of_outputs_is_refused():
    """Built by hand with 20 outputs, the decoders of voxels name both numbers."""
    for name in ("topdown", "unet"):
        with pytest.raises(UsageError, match=f"decoder '{name}' predicts the 1024 voxels .* not 20 values"):
            DECODERS[name](STAGES, 20)


def test_unknown_decoder_suggests_the_nearest():
    """A misspelt name is refused with the nearest known one."""
    with pytest.raises(NotFoundError, match="decoder 'lite' is unknown; did you mean 'light'"):
        build_decoder("lite", STAGES, build_target("block"))

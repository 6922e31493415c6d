"""The method itself, by law: what the encoder sees, and what the loss counts. In double precision where bits matter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from prostate_mim.errors import NotFoundError
from prostate_mim.mim import BlockGrid, MaskedImageModel, expand_blocks, random_hidden_blocks
from prostate_mim.mim.layout import cells_to_voxels, from_blocks, repeat_cells, to_blocks
from prostate_mim.mim.targets.voxels import VARIANCE_FLOOR, block_moments
from prostate_mim.nets import ARCHITECTURES, build_encoder

SIZE = (8, 64, 64)
GRID = BlockGrid((4, 16, 16), (2, 4, 4))


@pytest.fixture(scope="module")
def model() -> MaskedImageModel:
    """resenc-s with its decoder, float64, evaluation mode off as in training; the token is not zero."""
    torch.manual_seed(0)
    built = MaskedImageModel(build_encoder("resenc-s"), GRID).double()
    nn.init.normal_(built.decoder.hidden_token)
    return built


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two crops, 60 % hidden, the last 16 columns of the first being padding."""
    generator = torch.Generator().manual_seed(1)
    voxels = torch.randn(2, 1, *SIZE, generator=generator, dtype=torch.float64)
    inside = torch.ones(2, 1, *SIZE, dtype=torch.bool)
    inside[0, ..., 52:] = False
    return voxels.masked_fill(~inside, 0.0), random_hidden_blocks(2, GRID.grid_zyx, 0.6, generator), inside


def score_gradient(model, voxels, counted_hidden, inside) -> torch.Tensor:
    """Gradient of the loss with respect to every predicted voxel."""
    generator = torch.Generator().manual_seed(2)
    prediction = torch.randn(voxels.shape, generator=generator, dtype=voxels.dtype).requires_grad_()
    model.score(prediction, voxels, counted_hidden, inside).loss.backward()
    return prediction.grad


def test_visible_voxels_and_padding_are_not_in_the_loss(model, batch):
    """The loss has zero gradient at predictions of visible or padded voxels, and only there."""
    voxels, hidden_blocks, inside = batch
    hidden = expand_blocks(hidden_blocks, GRID.block_zyx)
    counted = hidden & inside
    assert (hidden & ~inside).any()
    gradient = score_gradient(model, voxels, hidden, inside)
    assert not gradient[~counted].any()
    assert (gradient[counted] != 0).all()
    inverted = score_gradient(model, voxels, ~hidden, inside)  # negative control: loss on visible voxels
    assert inverted[~counted].any()
    unpadded = score_gradient(model, voxels, hidden, torch.ones_like(inside))  # negative control: padding counted
    assert unpadded[~counted].any()


def test_predictions_of_padding_do_not_matter(model, batch):
    """Changing what is predicted for visible or padded voxels leaves the loss bit-identical."""
    voxels, hidden_blocks, inside = batch
    hidden = expand_blocks(hidden_blocks, GRID.block_zyx)
    prediction = torch.randn_like(voxels)
    first = model.score(prediction, voxels, hidden, inside)
    assert torch.equal(model.score(prediction + 9 * ~(hidden & inside), voxels, hidden, inside).loss, first.loss)
    assert model.score(prediction + 9 * hidden, voxels, hidden, inside).loss != first.loss  # negative control
    assert first.counted.sum() == (hidden & inside).sum()


def test_blocks_of_padding_alone_have_no_error(model, batch):
    """A hidden block wholly outside the study counts nothing: its error is 0 and the loss stays finite."""
    voxels, _, inside = batch
    output = model.score(voxels, voxels, torch.ones_like(inside), torch.zeros_like(inside))
    assert output.loss == 0
    assert not output.block_error.any()


def test_hidden_voxels_never_reach_the_encoder(model, batch):
    """Whatever hidden voxels hold, features and prediction are bit-identical; one visible voxel changes them."""
    voxels, hidden_blocks, inside = batch
    hidden = expand_blocks(hidden_blocks, GRID.block_zyx)
    seen: list[list[torch.Tensor]] = []
    hook = model.encoder.register_forward_hook(lambda _module, _inputs, features: seen.append(features))
    with torch.no_grad():
        first = model(voxels, hidden_blocks, inside)
        other = model(torch.where(hidden, 1e6 * torch.randn_like(voxels), voxels), hidden_blocks, inside)
        touched = voxels.clone()
        touched[tuple((~hidden & inside).nonzero()[0])] += 1
        control = model(touched, hidden_blocks, inside)
    hook.remove()
    assert all(torch.equal(a, b) for a, b in zip(seen[0], seen[1], strict=True))
    assert torch.equal(first.prediction, other.prediction)
    assert first.loss != other.loss  # the target did change
    assert not torch.equal(seen[0][-1], seen[2][-1])
    assert not torch.equal(first.prediction, control.prediction)


def test_no_gradient_flows_to_hidden_voxels(model, batch):
    """The prediction's gradient with respect to the voxels is zero at hidden ones and not at visible ones."""
    voxels, hidden_blocks, _ = batch
    hidden = expand_blocks(hidden_blocks, GRID.block_zyx)
    leaf = voxels.clone().requires_grad_()
    model.reconstruct(leaf.masked_fill(hidden, 0.0), hidden_blocks).square().sum().backward()
    assert not leaf.grad[hidden].any()
    assert leaf.grad[~hidden].any()
    model.zero_grad()


def test_hiding_nothing_is_the_plain_encoder(model, batch):
    """With no block hidden, the features inside the model are those of the bare encoder with its weights."""
    voxels, hidden_blocks, inside = batch
    plain = build_encoder("resenc-s").double()
    plain.load_state_dict(model.encoder.state_dict(), strict=True)
    seen: list[list[torch.Tensor]] = []
    hook = model.encoder.register_forward_hook(lambda _module, _inputs, features: seen.append(features))
    with torch.no_grad():
        output = model(voxels, torch.zeros_like(hidden_blocks), inside)
        model(voxels, hidden_blocks, inside)
        expected = plain(voxels)
    hook.remove()
    assert all(torch.equal(a, b) for a, b in zip(seen[0], expected, strict=True))
    assert output.loss == 0  # nothing hidden, nothing to score
    assert not torch.equal(seen[1][-1], expected[-1])  # negative control


def test_the_token_marks_hidden_cells(model, batch):
    """The decoder is told what is hidden: the same features with other hidden cells give another prediction."""
    voxels, hidden_blocks, _ = batch
    with torch.no_grad():
        features = model.encoder(voxels)
        cells = expand_blocks(hidden_blocks, (1, 1, 1))
        assert not torch.equal(model.decoder(features, cells), model.decoder(features, ~cells))


def test_loss_equals_a_slow_loop(model, batch):
    """The loss is the mean over counted voxels of (prediction - (v - mean) / sqrt(variance + floor))^2, per block."""
    voxels, hidden_blocks, inside = batch
    prediction = torch.randn_like(voxels)
    hidden = expand_blocks(hidden_blocks, GRID.block_zyx)
    output = model.score(prediction, voxels, hidden, inside)
    total, count = 0.0, 0
    for n in range(2):
        for block, (z, y, x) in enumerate(np.ndindex(*GRID.grid_zyx)):
            own = (n, 0, slice(4 * z, 4 * z + 4), slice(16 * y, 16 * y + 16), slice(16 * x, 16 * x + 16))
            values, found = voxels[own].numpy(), prediction[own].numpy()
            target = (values - values.mean()) / np.sqrt(values.var() + VARIANCE_FLOOR)
            counted = (hidden & inside)[own].numpy()
            error = ((found - target) ** 2)[counted]
            total, count = total + error.sum(), count + counted.sum()
            wanted = error.mean() if counted.any() else 0.0
            assert output.block_error[n, block].item() == pytest.approx(wanted, rel=1e-4)
    assert output.loss.item() == pytest.approx(total / count, rel=1e-5)
    assert output.prediction.dtype == torch.float32


def test_a_perfect_prediction_costs_nothing_and_shows_the_image(model, batch):
    """Predicting the normalised target gives loss 0, and to_voxels gives back the voxels."""
    voxels, hidden_blocks, inside = batch
    blocks = to_blocks(voxels.float(), GRID.block_zyx)
    mean, deviation = block_moments(blocks)
    perfect = from_blocks((blocks - mean) / deviation, GRID.block_zyx, GRID.grid_zyx)
    output = model.score(perfect, voxels, expand_blocks(hidden_blocks, GRID.block_zyx), inside)
    assert output.loss < 1e-12
    torch.testing.assert_close(model.to_voxels(output, voxels), voxels.float(), atol=1e-5, rtol=0)


def test_predicting_zero_costs_about_one(model, batch):
    """Block-normalised targets have variance 1, so the useless prediction 0 costs about 1."""
    voxels, hidden_blocks, _ = batch
    full = torch.randn_like(voxels)
    hidden = expand_blocks(hidden_blocks, GRID.block_zyx)
    loss = model.score(torch.zeros_like(full), full, hidden, torch.ones_like(hidden)).loss
    assert loss.item() == pytest.approx(1.0, abs=0.01)


def test_two_blocks_by_hand():
    """A 2 x 4 plane in 2 x 2 blocks: 0 1 4 5 | 2 3 6 7, means 2.5 and 4.5, variance (2.5^2 + 1.5^2) / 2 = 4.25."""
    plane = torch.arange(8.0).reshape(1, 1, 1, 2, 4)
    blocks = to_blocks(plane, (1, 2, 2))
    assert blocks.tolist() == [[[0, 1, 4, 5], [2, 3, 6, 7]]]
    mean, deviation = block_moments(blocks)
    assert mean.flatten().tolist() == [2.5, 4.5]
    assert deviation.square().flatten().tolist() == pytest.approx([4.25 + VARIANCE_FLOOR] * 2)
    assert torch.equal(from_blocks(blocks, (1, 2, 2), (1, 1, 2)), plane)


def test_a_flat_block_is_not_blown_up():
    """A block of one value is worth 0 everywhere, not noise divided by nothing."""
    blocks = torch.full((1, 1, 8), 3.0)
    mean, deviation = block_moments(blocks)
    assert ((blocks - mean) / deviation).abs().max() == 0
    assert deviation.item() == pytest.approx(VARIANCE_FLOOR**0.5)


def test_cells_become_voxels_in_zyx_order():
    """Two cells with channels 0-3 and 4-7 at stride 1 x 2 x 2 become rows 0 1 4 5 and 2 3 6 7."""
    cells = torch.arange(8.0).reshape(1, 2, 4).permute(0, 2, 1).reshape(1, 4, 1, 1, 2)
    assert cells_to_voxels(cells, (1, 2, 2))[0, 0, 0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]


@pytest.mark.parametrize("block", [(1, 1, 1), (2, 3, 4), (4, 6, 8)])
def test_round_trips(block):
    """Blocks, cells and voxels are the same numbers in another order; unequal sizes betray a swapped axis."""
    voxels = torch.arange(2 * 4 * 6 * 8.0).reshape(2, 1, 4, 6, 8)
    grid = tuple(size // b for size, b in zip((4, 6, 8), block, strict=True))
    blocks = to_blocks(voxels, block)
    assert torch.equal(from_blocks(blocks, block, grid), voxels)
    assert torch.equal(cells_to_voxels(blocks.transpose(1, 2).reshape(2, -1, *grid), block), voxels)
    means = blocks.mean(2).reshape(2, 1, *grid)
    pooled = nn.functional.avg_pool3d(voxels, block)
    torch.testing.assert_close(means, pooled)
    torch.testing.assert_close(repeat_cells(pooled, block), nn.functional.interpolate(pooled, scale_factor=block))


def test_resenc_s_is_what_it_says():
    """resenc-s: stages as announced, total stride 4 x 16 x 16, at most 6 M parameters, in-plane kernels first."""
    encoder = build_encoder("resenc-s")
    strides = [(1, 2, 2), (1, 4, 4), (2, 8, 8), (4, 16, 16)]
    assert [stage.stride_zyx for stage in encoder.stage_info] == strides
    assert encoder.total_stride_zyx == (4, 16, 16)
    assert 5e6 < sum(parameter.numel() for parameter in encoder.parameters()) <= 6e6
    with torch.no_grad():
        features = encoder(torch.randn(2, 1, *SIZE))
    for stage, values in zip(encoder.stage_info, features, strict=True):
        assert values.shape == (2, stage.channels, *(n // s for n, s in zip(SIZE, stage.stride_zyx, strict=True)))
    depths = [{m.kernel_size[0] for m in s.modules() if isinstance(m, nn.Conv3d)} for s in encoder.stages]
    assert depths[0] == depths[1] == {1}
    assert 3 in depths[2]
    assert 3 in depths[3]


def test_every_architecture_keeps_its_samples_apart():
    """No architecture mixes samples: features of one crop do not depend on the other in the batch."""
    for name in ARCHITECTURES:
        encoder = build_encoder(name).double()
        pair = torch.randn(2, 1, *SIZE, dtype=torch.float64)
        with torch.no_grad():
            together, alone = encoder(pair), encoder(pair[:1])
        for both, one in zip(together, alone, strict=True):
            torch.testing.assert_close(both[:1], one, atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", ["resnc-s", "ResEnc_S", "", "../resenc-s"])
def test_unknown_architecture_suggests_the_nearest(name):
    """An unknown name is refused with the nearest known one."""
    with pytest.raises(NotFoundError, match="did you mean 'resenc-s'"):
        build_encoder(name)

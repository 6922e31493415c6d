"""The method itself, by law: what the encoder sees, and what the loss counts. In double precision where bits matter."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prostate_mim.errors import NotFoundError
from prostate_mim.mim import METHODS, BlockGrid, MaskedImageModel, Method, MimBatch, expand_blocks, random_hidden_blocks
from prostate_mim.mim.layout import cells_to_voxels, repeat_cells, to_blocks, voxels_to_cells
from prostate_mim.mim.targets import TARGETS
from prostate_mim.mim.targets.voxels import VARIANCE_FLOOR, block_moments
from prostate_mim.nets import ARCHITECTURES, build_encoder

GRID = BlockGrid((4, 16, 16), (2, 2, 4))
WIDE = BlockGrid((8, 32, 16), (1, 1, 4))  # blocks of 2 x 2 x 1 cells
TINY = BlockGrid((4, 16, 16), (2, 2, 2))
HIDING = [name for name, method in METHODS.items() if method.scores == "hidden"]
RATIO = "0.5"


def make(
    method: str | Method = "fcmae", grid: BlockGrid = GRID, architecture: str = "resenc-s", path: str = "auto"
) -> MaskedImageModel:
    """A float64 model in training mode; nothing in it is zero, as tokens and norms are at first."""
    torch.manual_seed(0)
    named = METHODS[method] if isinstance(method, str) else method
    model = MaskedImageModel(build_encoder(architecture), grid, replace(named, ratio=RATIO), path=path).double()
    for parameter in model.parameters():
        if parameter.squeeze().ndim < 2:
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="module", params=HIDING)
def model(request: pytest.FixtureRequest) -> MaskedImageModel:
    """Every method that asks for hidden blocks, on resenc-s; tests leave it as it is."""
    return make(request.param)


@pytest.fixture(scope="module")
def plain() -> MaskedImageModel:
    """One method, where the method makes no difference: targets are normalised blocks, losses are squares."""
    return make("topdown")


def sample(grid: BlockGrid = GRID, ratio: float = 0.6, seed: int = 1, n: int = 2) -> MimBatch:
    """Two crops, 60 % hidden; the last 12 columns of the first are padding."""
    generator = torch.Generator().manual_seed(seed)
    voxels = torch.randn(n, 1, *grid.size_zyx, generator=generator, dtype=torch.float64)
    inside = torch.ones(voxels.shape, dtype=torch.bool)
    inside[0, ..., -12:] = False
    gland = torch.zeros_like(inside)
    gland[:, :, 1:-1, 8:-8, 4:-8] = True
    hidden = random_hidden_blocks(n, grid.grid_zyx, ratio, generator)
    return MimBatch(voxels.masked_fill(~inside, 0.0), inside, hidden, gland)


@pytest.fixture
def batch() -> MimBatch:
    return sample()


def hidden_of(batch: MimBatch, grid: BlockGrid = GRID) -> Tensor:
    return expand_blocks(batch.hidden_blocks, grid.block_zyx)


def noise_like(model: MaskedImageModel, batch: MimBatch, seed: int = 2) -> Tensor:
    """A prediction that knows nothing: (N, F, d, h, w)."""
    n, _, *size = batch.voxels.shape
    cells = [a // b for a, b in zip(size, model.cell_zyx, strict=True)]
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, model.target.channels(model.cell_zyx), *cells, generator=generator, dtype=torch.float64)


def score_gradient(model: MaskedImageModel, batch: MimBatch) -> Tensor:
    """Gradient of the loss with respect to every predicted value: (N, F, d, h, w)."""
    prediction = noise_like(model, batch).requires_grad_()
    model.score(prediction, batch).loss.backward()
    assert prediction.grad is not None
    return prediction.grad


# ------------------------------------------------------------------------------------------- what the loss counts


def test_visible_voxels_and_padding_are_not_in_the_loss(model: MaskedImageModel, batch: MimBatch) -> None:
    """The loss has zero gradient at predictions of visible or padded voxels, and only there."""
    hidden = hidden_of(batch)
    counted = hidden & batch.inside
    assert (hidden & ~batch.inside).any()
    gradient = cells_to_voxels(score_gradient(model, batch), model.cell_zyx)
    assert not gradient[~counted].any()
    assert (gradient[counted] != 0).all()
    inverted = replace(batch, hidden_blocks=~batch.hidden_blocks)  # negative control: loss on visible voxels
    assert cells_to_voxels(score_gradient(model, inverted), model.cell_zyx)[~counted].any()
    unpadded = replace(batch, inside=torch.ones_like(batch.inside))  # negative control: padding counted
    assert cells_to_voxels(score_gradient(model, unpadded), model.cell_zyx)[~counted].any()


@pytest.mark.parametrize("grid", [GRID, WIDE], ids=["cells", "wide"])
@pytest.mark.parametrize("target", TARGETS)
def test_every_target_counts_hidden_cells_alone(target: str, grid: BlockGrid) -> None:
    """Zero gradient at visible cells and padded ones, none zero where ``counted`` says so; inverted, it is broken."""
    model, given = make(Method(target=target), grid), sample(grid, 0.5)
    output = model.score(noise_like(model, given), given)
    gradient = score_gradient(model, given)
    counted = output.counted.expand_as(gradient)
    assert counted.any()
    assert not gradient[~counted].any()
    assert (gradient[counted] != 0).all()
    hidden = voxels_to_cells(hidden_of(given, grid), model.cell_zyx).any(1, keepdim=True).expand_as(gradient)
    measured = voxels_to_cells(given.inside, model.cell_zyx).any(1, keepdim=True).expand_as(gradient)
    assert not (counted & ~(hidden & measured)).any()
    inverted = replace(given, hidden_blocks=~given.hidden_blocks)
    assert score_gradient(model, inverted)[~hidden].any()  # negative control


def test_predictions_of_padding_do_not_matter(model: MaskedImageModel, batch: MimBatch) -> None:
    """Whatever is predicted for visible or padded voxels, inf and NaN included, leaves the loss bit-identical."""
    hidden, counted = hidden_of(batch), hidden_of(batch) & batch.inside
    prediction = noise_like(model, batch)
    first = model.score(prediction, batch)
    for value in (9.0, math.inf, math.nan):
        wild = torch.where(voxels_to_cells(counted, model.cell_zyx), prediction, value)
        assert torch.equal(model.score(wild, batch).loss, first.loss)
        assert torch.equal(model.score(wild, batch).block_error, first.block_error)
    control = model.score(prediction + 9 * voxels_to_cells(hidden, model.cell_zyx), batch)  # negative control
    assert control.loss != first.loss
    assert first.counted.sum() == counted.sum()


def test_blocks_of_padding_alone_have_no_error(model: MaskedImageModel, batch: MimBatch) -> None:
    """Hidden blocks wholly outside the study count nothing: their error is 0 and the loss stays finite."""
    everything = replace(batch, hidden_blocks=torch.ones_like(batch.hidden_blocks))
    output = model.score(noise_like(model, batch), replace(everything, inside=torch.zeros_like(batch.inside)))
    assert output.loss == 0
    assert not output.block_error.any()
    assert model.score(noise_like(model, batch), everything).block_error.all()  # negative control


@pytest.mark.parametrize("grid", [GRID, WIDE], ids=["cells", "wide"])
def test_loss_equals_a_slow_loop(grid: BlockGrid) -> None:
    """The mean over counted voxels of (prediction - (v - mean) / sqrt(variance + floor))^2; and so for each block."""
    model, given = make("topdown", grid), sample(grid, 0.5)
    cells = noise_like(model, given)
    prediction, hidden = cells_to_voxels(cells, model.cell_zyx), hidden_of(given, grid)
    output = model.score(cells, given)
    total, count = 0.0, 0
    bz, by, bx = grid.block_zyx
    for n in range(2):
        for z, y, x in np.ndindex(*grid.grid_zyx):
            own = (n, 0, slice(bz * z, bz * z + bz), slice(by * y, by * y + by), slice(bx * x, bx * x + bx))
            values, found = given.voxels[own].numpy(), prediction[own].numpy()
            target = (values - values.mean()) / np.sqrt(values.var() + VARIANCE_FLOOR)
            counted = (hidden & given.inside)[own].numpy()
            error = ((found - target) ** 2)[counted]
            total, count = total + error.sum(), count + counted.sum()
            wanted = error.mean() if counted.any() else 0.0
            assert output.block_error[n, z, y, x].item() == pytest.approx(wanted, rel=1e-9)
    assert output.loss.item() == pytest.approx(total / count, rel=1e-9)


def test_block_error_by_hand() -> None:
    """Prediction = target + 2 in one cell of a block of four, + 1 in another: errors 4, 1, 0, 0, of which the mean."""
    model = make("topdown", WIDE)
    given = replace(sample(WIDE), hidden_blocks=torch.tensor([[[[1, 0, 0, 0]]]] * 2).bool())
    cells = model.target.values(model.source(given), WIDE, model.cell_zyx).clone()
    cells[:, :, 0, 0, 0] += 2
    cells[:, :, 1, 1, 0] += 1
    cells[:, :, 0, 1, 3] += 100  # visible
    output = model.score(cells, given)
    assert output.block_error[0].flatten().tolist() == pytest.approx([1.25, 0, 0, 0])
    assert output.loss.item() == pytest.approx(1.25)


@pytest.mark.parametrize("target", ["block", "voxels", "gland"])
@pytest.mark.parametrize("grid", [GRID, WIDE], ids=["cells", "wide"])
def test_a_perfect_prediction_costs_nothing_and_shows_the_image(target: str, grid: BlockGrid) -> None:
    """Predicting the target gives loss 0, and to_voxels gives back the voxels."""
    model, given = make(Method(target=target, decoder="topdown"), grid), sample(grid)
    perfect = model.target.values(model.source(given), grid, model.cell_zyx)
    output = model.score(perfect, given)
    assert output.loss < 1e-12
    assert not output.block_error.any()
    picture = model.to_voxels(output, given)
    torch.testing.assert_close(picture, given.voxels, atol=1e-10, rtol=0)
    worse = model.score(perfect + 0.1, given)  # negative control
    assert worse.loss.item() == pytest.approx(0.01)
    assert not torch.allclose(model.to_voxels(worse, given), given.voxels, atol=1e-3)


@pytest.mark.parametrize("target", ["hog", "gradient", "fourier", "features", "position"])
def test_targets_that_are_no_image_have_no_picture(target: str, batch: MimBatch) -> None:
    """Magnitudes, histograms, amplitudes, features and places do not determine voxels: None, and the loss is finite."""
    model = make(Method(target=target))
    with torch.no_grad():
        output = model(batch)
    assert model.to_voxels(output, batch) is None
    assert output.loss.isfinite()
    assert output.loss > 0


def test_predicting_zero_costs_about_one(plain: MaskedImageModel, batch: MimBatch) -> None:
    """Block-normalised targets have variance 1, so the useless prediction 0 costs about 1."""
    full = replace(batch, voxels=torch.randn_like(batch.voxels), inside=torch.ones_like(batch.inside))
    assert plain.score(torch.zeros_like(noise_like(plain, full)), full).loss.item() == pytest.approx(1.0, abs=0.01)


def test_losses_of_a2mim_add_up(batch: MimBatch) -> None:
    """Its loss is that of l1 alone plus 0.1 of focal_frequency alone; block_error is that of the first, l1."""
    prediction = noise_like(make("a2mim"), batch)
    whole = make("a2mim").score(prediction, batch)
    l1, spectrum = (
        make(replace(METHODS["a2mim"], losses=((name, 1.0),))).score(prediction, batch)
        for name in ("l1", "focal_frequency")
    )
    assert whole.loss.item() == pytest.approx(l1.loss.item() + 0.1 * spectrum.loss.item(), rel=1e-12)
    assert torch.equal(whole.block_error, l1.block_error)
    assert not torch.allclose(whole.block_error, spectrum.block_error)  # negative control
    assert l1.loss > 0
    assert spectrum.loss > 0


# ------------------------------------------------------------------------------- what is changed instead of hidden


def rings(height: int = 32, width: int = 64) -> Tensor:
    """(H, W) bool: the high frequencies of a crop."""
    radius = torch.fft.fftfreq(height)[:, None].square() + torch.fft.fftfreq(width).square()
    return radius > 0.08


def unhidden(batch: MimBatch) -> MimBatch:
    return replace(batch, hidden_blocks=torch.zeros_like(batch.hidden_blocks))


def test_only_dropped_frequencies_are_scored(batch: MimBatch) -> None:
    """Nothing in kept frequencies costs anything, and a perfect prediction of dropped ones is worth 0."""
    model = make(Method(target="voxels"))
    full = replace(unhidden(batch), inside=torch.ones_like(batch.inside))
    given = replace(full, changed=batch.voxels, frequencies=torch.stack([rings(), ~rings()]))
    spectrum = torch.fft.fft2(torch.randn_like(batch.voxels)).requires_grad_()
    output = model.score(voxels_to_cells(torch.fft.ifft2(spectrum).real, model.cell_zyx), given)
    output.loss.backward()
    assert output.counted.all()
    size = spectrum.grad.abs()
    dropped = given.frequencies[:, None, None].expand(size.shape)
    assert size[~dropped].max() < 1e-12 * size[dropped].max()  # what rounding of the transforms leaves
    assert (size[dropped] > 1e-6 * size.max()).float().mean() > 0.99
    low = torch.fft.ifft2(torch.fft.fft2(torch.randn_like(batch.voxels)) * ~dropped).real
    perfect = model.score(voxels_to_cells(batch.voxels + low, model.cell_zyx), given)
    assert perfect.loss < 1e-20
    assert model.score(voxels_to_cells(batch.voxels + low, model.cell_zyx), full).loss == 0  # nothing asked
    asked = replace(full, changed=batch.voxels)  # negative control: every frequency is scored
    assert model.score(voxels_to_cells(batch.voxels + low, model.cell_zyx), asked).loss > 0.01


def test_a_mixed_batch_scores_each_sample_by_its_own_rule(batch: MimBatch) -> None:
    """One sample hides blocks, the other drops frequencies: the loss of each is that of each alone."""
    model = make(Method(target="voxels", decoder="topdown"))
    blocks = batch.hidden_blocks.clone()
    blocks[1] = False
    frequencies = torch.stack([torch.zeros(32, 64, dtype=torch.bool), rings()])
    both = replace(batch, hidden_blocks=blocks, changed=batch.voxels, frequencies=frequencies)
    prediction = noise_like(model, batch)
    output = model.score(prediction, both)
    for place, alone in enumerate((replace(both, changed=None, frequencies=None), both)):
        one = MimBatch(*(None if v is None else v[place : place + 1] for v in vars(alone).values()))
        expected = model.score(prediction[place : place + 1], one)
        torch.testing.assert_close(output.block_error[place], expected.block_error[0], atol=1e-10, rtol=0)
        assert torch.equal(output.counted[place], expected.counted[0])
    assert output.block_error[1].all()
    assert not output.block_error[0][~blocks[0]].any()


@pytest.mark.parametrize("method", ["fcmae", "spark", "topdown", "zerofill", "simmim"])
@pytest.mark.parametrize("kind", ["frequency", "changed"])
def test_every_encoder_learns_from_changed_crops(method: str, kind: str) -> None:
    """Frequencies or corruption instead of blocks: all of the encoder gets a gradient, whatever the decoder."""
    model, given = make(replace(METHODS[method], target="voxels"), TINY), unhidden(sample(TINY))
    frequencies = torch.stack([rings(32, 32)] * 2) if kind == "frequency" else None
    output = model(replace(given, changed=given.voxels + 1, frequencies=frequencies))
    output.loss.backward()
    assert output.loss > 0
    last = model.encoder.stages[-1]
    assert all(p.grad is not None and p.grad.any() for p in last.parameters())


@pytest.mark.parametrize("method", ["genesis", "fcmae"])
def test_restoration_scores_all_measured_voxels(method: str, batch: MimBatch) -> None:
    """Genesis hides nothing: every measured voxel has a gradient, padding none; and so with another method's rule."""
    model = make(replace(METHODS[method], target="voxels", strategy="genesis"))
    given = replace(unhidden(batch), changed=batch.voxels.flip(3))
    gradient = cells_to_voxels(score_gradient(model, given), model.cell_zyx)
    assert (gradient[batch.inside] != 0).all()
    assert not gradient[~batch.inside].any()
    perfect = voxels_to_cells(batch.voxels, model.cell_zyx)
    assert model.score(perfect, given).loss == 0
    assert model.score(voxels_to_cells(given.changed, model.cell_zyx), given).loss > 0.1  # control: unrestored


def test_the_encoder_gets_the_changed_crop(batch: MimBatch) -> None:
    """The prediction is made from ``changed``, the target from ``voxels``."""
    model = make("genesis")
    given = unhidden(batch)
    changed = replace(given, changed=batch.voxels.flip(3))
    with torch.no_grad():
        first, other = model(given), model(changed)
        assert torch.equal(model(replace(given, voxels=changed.changed)).prediction, other.prediction)
    assert not torch.equal(first.prediction, other.prediction)
    assert torch.equal(model.score(first.prediction, changed).loss, first.loss)


# ------------------------------------------------------------------------------------------ what the encoder sees


def test_hidden_voxels_never_reach_the_encoder(model: MaskedImageModel, batch: MimBatch) -> None:
    """Noise, inf or NaN at hidden voxels: the prediction is bit-identical; one visible voxel changes it."""
    hidden = hidden_of(batch)
    noise = 1e6 * torch.randn(batch.voxels.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    others = [
        torch.where(hidden, value, batch.voxels)
        for value in (noise, torch.full_like(noise, math.inf), torch.full_like(noise, math.nan))
    ]
    touched = batch.voxels.clone()
    touched[tuple((~hidden & batch.inside).nonzero()[0])] += 1
    with torch.no_grad():
        first = model.predict(batch.voxels, batch.hidden_blocks)
        assert first.isfinite().all()
        assert all(torch.equal(model.predict(other, batch.hidden_blocks), first) for other in others)
        assert not torch.equal(model.predict(touched, batch.hidden_blocks), first)
        inverted = [model.predict(each, ~batch.hidden_blocks) for each in (batch.voxels, others[0])]  # control
    assert not torch.equal(*inverted)


def test_hidden_voxels_decide_the_loss(model: MaskedImageModel, batch: MimBatch) -> None:
    """They are what is asked for: with others the prediction is the same and the loss is not."""
    other = replace(batch, voxels=torch.where(hidden_of(batch), batch.voxels.flip(0), batch.voxels))
    with torch.no_grad():
        first, second = model(batch), model(other)
    assert torch.equal(first.prediction, second.prediction)
    assert first.loss != second.loss


def test_no_gradient_flows_to_hidden_voxels(model: MaskedImageModel, batch: MimBatch) -> None:
    """The prediction's gradient with respect to the voxels is zero at hidden ones and not at visible ones."""
    hidden = hidden_of(batch)
    leaf = batch.voxels.clone().requires_grad_()
    (found,) = torch.autograd.grad(model.predict(leaf, batch.hidden_blocks).square().sum(), leaf)
    assert not found[hidden].any()
    assert found[~hidden].any()


def test_hiding_nothing_is_the_plain_encoder(model: MaskedImageModel, batch: MimBatch) -> None:
    """With no block hidden, the features inside the model are those of the bare encoder with its weights."""
    bare = build_encoder("resenc-s").double()
    bare.load_state_dict(model.encoder.state_dict(), strict=True)
    given = unhidden(batch)
    with torch.no_grad():
        expected = bare(batch.voxels)
        found = model.encoding(batch.voxels, given.hidden_blocks, 4)
        partly = model.encoding(batch.voxels, batch.hidden_blocks, 4)
        output = model(given)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert output.loss == 0  # nothing hidden, nothing to score
    assert not output.counted.any()
    assert not torch.equal(partly[-1], expected[-1])  # negative control


def test_the_decoder_is_told_what_is_hidden(plain: MaskedImageModel, batch: MimBatch) -> None:
    """The same features with other hidden cells give another prediction."""
    with torch.no_grad():
        features = plain.encoding(batch.voxels, torch.zeros_like(batch.hidden_blocks), plain.decoder.levels)
        visible = [torch.ones_like(stage[:, :1], dtype=torch.bool) for stage in features]
        cells = expand_blocks(batch.hidden_blocks, (1, 1, 1))
        one, other = (plain.decoder(features, visible, each) for each in (cells, ~cells))
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("method", "architecture"),
    [("fcmae", "resenc-s"), ("fcmae", "convnext-a"), ("spark", "resnet10"), ("simmim", "resnet10")],
)
def test_samples_are_kept_apart(method: str, architecture: str) -> None:
    """Alone, or in a batch turned round: the same prediction and block errors. Batch norms only in evaluation."""
    model, given = make(method, TINY, architecture).eval(), sample(TINY, 0.5)
    with torch.no_grad():
        together = model(given)
        turned = model(MimBatch(*(None if v is None else v.flip(0) for v in vars(given).values())))
        alone = model(MimBatch(*(None if v is None else v[1:] for v in vars(given).values())))
    for name in ("prediction", "block_error", "counted"):
        whole = getattr(together, name).double()
        torch.testing.assert_close(getattr(turned, name).double().flip(0), whole, atol=1e-9, rtol=0)
        torch.testing.assert_close(getattr(alone, name).double(), whole[1:], atol=1e-9, rtol=0)
        assert not torch.allclose(whole[0], whole[1])  # negative control: the samples do differ


def test_batch_norm_in_training_does_mix_samples() -> None:
    """The negative control of the law above: it would be seen."""
    model, given = make("fcmae", TINY, "resnet10"), sample(TINY, 0.5)
    with torch.no_grad():
        together = model(given).prediction
        alone = model(MimBatch(*(None if v is None else v[1:] for v in vars(given).values()))).prediction
    assert not torch.allclose(together[1:], alone, atol=1e-6)


# ------------------------------------------------------------------------------------------------ two exact paths


def step(model: MaskedImageModel, batch: MimBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss, and the gradient of every parameter (0 where there is none) and every buffer."""
    loss = model(batch).loss
    loss.backward()
    found = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
    return loss.detach(), {**found, **{name: value.clone() for name, value in model.named_buffers()}}


@pytest.mark.parametrize("architecture", ["resenc-s", "resnet10", "convnext-a"])
@pytest.mark.parametrize("method", ["fcmae", "spark", "topdown"])
def test_rows_and_dense_are_the_same_training(method: str, architecture: str) -> None:
    """Float64: the same loss, gradient of every parameter, and running statistics, to 1e-9 of the largest."""
    given = sample(TINY, 0.5, n=1 if architecture == "convnext-a" else 2)  # its kernels are slow in float64
    model = make(method, TINY, architecture, path="rows")
    before = {name: value.clone() for name, value in model.named_buffers()}
    rows, found = step(model, given)
    model.zero_grad()
    model.load_state_dict(before, strict=False)
    model.encoding.path = "dense"
    dense, expected = step(model, given)
    assert rows.item() == pytest.approx(dense.item(), rel=1e-10)
    assert found.keys() == expected.keys()
    scale = max(float(value.abs().max()) for name, value in expected.items() if not name.endswith("tracked"))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-9 * scale, rtol=1e-9, msg=name)
    reached = [name for name, value in expected.items() if name.startswith("encoding.encoder") and value.any()]
    assert len(reached) > 0.9 * sum(name.startswith("encoding.encoder") for name in expected)


def test_another_encoding_is_another_training() -> None:
    """The negative control of the law above: on zero-filled crops loss and gradients differ."""
    given = sample(TINY, 0.5)
    (exact, found), (filled, expected) = (step(make(method, TINY), given) for method in ("topdown", "zerofill"))
    assert exact.item() != pytest.approx(filled.item(), rel=1e-6)
    assert any(not torch.allclose(found[name], value, rtol=1e-3) for name, value in expected.items())


def test_two_models_may_take_turns(batch: MimBatch) -> None:
    """Forward of one, forward of the other with other blocks, backward of both: the gradients of each alone."""
    first, second = make("fcmae", TINY), make("spark", TINY)
    one, two = sample(TINY, 0.5, seed=1), sample(TINY, 0.75, seed=2)
    expected = [step(copy.deepcopy(model), given)[1] for model, given in ((first, one), (second, two))]
    losses = [first(one).loss, second(two).loss]
    losses[0].backward()
    losses[1].backward()
    for model, wanted in zip((first, second), expected, strict=True):
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-12, rtol=1e-9)


# ------------------------------------------------------------------------------------------------- what it is made of


def test_the_encoder_is_published_as_it_is(model: MaskedImageModel) -> None:
    """Its state has the names of the dense network, and shares its tensors with what is trained."""
    bare = build_encoder("resenc-s").double()
    assert list(model.encoder.state_dict()) == list(bare.state_dict())
    bare.load_state_dict(model.encoder.state_dict(), strict=True)
    names = dict(model.named_parameters())
    assert all(names[f"encoding.encoder.{name}"] is p for name, p in model.encoder.named_parameters())


def test_masks_looked_at() -> None:
    """Only masks that strategy or target can use are read from disk."""
    cases = [
        (Method(), set()), (Method(strategy="gland"), {"gland"}), (Method(target="gland"), {"gland"}),
        (Method(strategy="lesion"), {"lesion"}), (Method(strategy="hard"), set()),
        (Method(strategy="mixture:random=1,lesion=1", target="gland"), {"gland", "lesion"}),
    ]  # fmt: skip
    for method, wanted in cases:
        assert make(method, TINY).masks_looked_at == wanted


def test_half_precision_is_scored_in_single(batch: MimBatch) -> None:
    """A bf16 prediction of float32 crops has a float32 loss."""
    model = make("topdown").float()
    given = replace(batch, voxels=batch.voxels.float())
    output = model.score(noise_like(model, batch).bfloat16(), given)
    assert output.loss.dtype == torch.float32
    frequencies = replace(unhidden(given), changed=given.voxels, frequencies=torch.stack([rings()] * 2))
    assert model.score(noise_like(model, batch).bfloat16(), frequencies).loss.dtype == torch.float32


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_bfloat16(name: str) -> None:
    """Under autocast, hidden blocks and dropped frequencies both have a finite float32 loss."""
    model, given = make(replace(METHODS[name], target="voxels"), TINY).float(), sample(TINY, 0.5)
    hidden = replace(given, voxels=given.voxels.float())
    frequencies = torch.stack([rings(32, 32)] * 2)
    for each in (hidden, replace(unhidden(hidden), changed=hidden.voxels, frequencies=frequencies)):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            loss = model(each).loss
        assert loss.dtype == torch.float32
        assert loss.isfinite()


def test_two_blocks_by_hand() -> None:
    """A 2 x 4 plane in 2 x 2 blocks: 0 1 4 5 | 2 3 6 7, means 2.5 and 4.5, variance (2.5^2 + 1.5^2) / 2 = 4.25."""
    plane = torch.arange(8.0).reshape(1, 1, 1, 2, 4)
    blocks = to_blocks(plane, (1, 2, 2))
    assert blocks.tolist() == [[[0, 1, 4, 5], [2, 3, 6, 7]]]
    mean, deviation = block_moments(blocks)
    assert mean.flatten().tolist() == [2.5, 4.5]
    assert deviation.square().flatten().tolist() == pytest.approx([4.25 + VARIANCE_FLOOR] * 2)


def test_a_flat_block_is_not_blown_up() -> None:
    """A block of one value is worth 0 everywhere, not noise divided by nothing."""
    blocks = torch.full((1, 1, 8), 3.0)
    mean, deviation = block_moments(blocks)
    assert ((blocks - mean) / deviation).abs().max() == 0
    assert deviation.item() == pytest.approx(VARIANCE_FLOOR**0.5)


def test_cells_become_voxels_in_zyx_order() -> None:
    """Two cells with channels 0-3 and 4-7 at stride 1 x 2 x 2 become rows 0 1 4 5 and 2 3 6 7."""
    cells = torch.arange(8.0).reshape(1, 2, 4).permute(0, 2, 1).reshape(1, 4, 1, 1, 2)
    assert cells_to_voxels(cells, (1, 2, 2))[0, 0, 0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]


@pytest.mark.parametrize("block", [(1, 1, 1), (2, 3, 4), (4, 6, 8)])
def test_round_trips(block: tuple[int, int, int]) -> None:
    """Blocks, cells and voxels are the same numbers in another order; unequal sizes betray a swapped axis."""
    voxels = torch.arange(2 * 4 * 6 * 8.0).reshape(2, 1, 4, 6, 8)
    z, y, x = (size // b for size, b in zip((4, 6, 8), block, strict=True))
    blocks = to_blocks(voxels, block)
    cells = blocks.transpose(1, 2).reshape(2, -1, z, y, x)
    assert torch.equal(cells_to_voxels(cells, block), voxels)
    assert torch.equal(voxels_to_cells(voxels, block), cells)
    means = blocks.mean(2).reshape(2, 1, z, y, x)
    pooled = nn.functional.avg_pool3d(voxels, block)
    torch.testing.assert_close(means, pooled)
    torch.testing.assert_close(repeat_cells(pooled, block), nn.functional.interpolate(pooled, scale_factor=block))


def test_resenc_s_is_what_it_says() -> None:
    """resenc-s: stages as announced, total stride 4 x 16 x 16, at most 6 M parameters, in-plane kernels first."""
    encoder = build_encoder("resenc-s")
    strides = [(1, 2, 2), (1, 4, 4), (2, 8, 8), (4, 16, 16)]
    assert [stage.stride_zyx for stage in encoder.stage_info] == strides
    assert encoder.total_stride_zyx == (4, 16, 16)
    assert 5e6 < sum(parameter.numel() for parameter in encoder.parameters()) <= 6e6
    with torch.no_grad():
        features = encoder(torch.randn(2, 1, *GRID.size_zyx))
    for stage, values in zip(encoder.stage_info, features, strict=True):
        assert values.shape == (
            2,
            stage.channels,
            *(n // s for n, s in zip(GRID.size_zyx, stage.stride_zyx, strict=True)),
        )
    depths = [{m.kernel_size[0] for m in s.modules() if isinstance(m, nn.Conv3d)} for s in encoder.stages]
    assert depths[0] == depths[1] == {1}
    assert 3 in depths[2]
    assert 3 in depths[3]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        *((name, "did you mean 'resenc-s'") for name in ("resnc-s", "ResEnc_S", "../resenc-s")),
        ("", "known: resenc-s, "),
    ],
)
def test_unknown_architecture_suggests_the_nearest(name: str, says: str) -> None:
    """An unknown name is refused with the nearest known one, or with all."""
    assert name not in ARCHITECTURES
    with pytest.raises(NotFoundError, match=says):
        build_encoder(name)

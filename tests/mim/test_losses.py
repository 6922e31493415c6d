"""Losses: numbers by hand and by slow loops, and the law that nothing but counted entries has a gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from prostate_mim.errors import NotFoundError, UsageError
from prostate_mim.mim.layout import cells_to_voxels, voxels_to_cells
from prostate_mim.mim.losses import DYNAMIC_RANGE, LOSSES, WINDOW_ZYX, build_loss, ssim_map
from prostate_mim.mim.targets import TARGETS, build_target

CELL = (2, 4, 4)
SIZE = (4, 12, 8)
GRID = (2, 3, 2)
VOXELWISE = [name for name, loss in LOSSES.items() if loss.needs_voxelwise]


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Prediction and target (2, 32, 2, 3, 2) float64; about half the cells counted, and half the voxels of one."""
    generator = torch.Generator().manual_seed(seed)
    prediction, target = torch.randn(2, 2, 32, *GRID, generator=generator, dtype=torch.float64)
    counted = (torch.rand(2, 1, *GRID, generator=generator) < 0.5).repeat(1, 32, 1, 1, 1)
    counted[0, :, 0, 0, 0] = torch.arange(32) < 16
    return prediction, target, counted


def gradient(name: str, prediction, target, counted) -> torch.Tensor:
    leaf = prediction.clone().requires_grad_()
    LOSSES[name](leaf, target, counted, CELL).loss.backward()
    return leaf.grad


@pytest.mark.parametrize("name", LOSSES)
def test_only_counted_entries_have_a_gradient(name):
    """Exactly zero elsewhere and nowhere zero where counted; inverted, the law is broken (control)."""
    prediction, target, counted = batch()
    found = gradient(name, prediction, target, counted)
    assert not found[~counted].any()
    assert (found[counted] != 0).all()
    assert gradient(name, prediction, target, ~counted)[~counted].any()


@pytest.mark.parametrize("name", LOSSES)
def test_uncounted_predictions_do_not_matter_even_if_not_finite(name):
    """Inf and NaN at uncounted entries: loss and gradient stay bit for bit; at a counted one they show (control)."""
    prediction, target, counted = batch()
    wild = torch.where(counted, prediction, torch.tensor(math.nan, dtype=torch.float64))
    wild[~counted & (target > 0)] = math.inf
    first, second = (LOSSES[name](each, target, counted, CELL) for each in (prediction, wild))
    assert torch.equal(first.loss, second.loss)
    assert torch.equal(first.cell_error, second.cell_error)
    assert torch.equal(gradient(name, wild, target, counted), gradient(name, prediction, target, counted))
    prediction[tuple(counted.nonzero()[0])] = math.nan
    assert LOSSES[name](prediction, target, counted, CELL).loss.isnan()


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_counted_costs_nothing(name):
    """0, not NaN, with a gradient of 0; and so does a perfect prediction, which a changed one does not (control)."""
    prediction, target, counted = batch()
    scored = LOSSES[name](prediction, target, torch.zeros_like(counted), CELL)
    assert scored.loss == 0
    assert not scored.cell_error.any()
    assert not gradient(name, prediction, target, torch.zeros_like(counted)).any()
    perfect = gradient(name, target, target, counted)
    assert perfect.isfinite().all()
    assert LOSSES[name](target, target, counted, CELL).loss.abs() < 1e-12
    assert LOSSES[name](target + 0.1, target, counted, CELL).loss > 1e-4


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_is_the_weighted_mean_of_the_cells(name):
    """cell_error (N, d, h, w): averaged with the counted entries as weights it is the loss; it has no gradient."""
    prediction, target, counted = batch()
    scored = LOSSES[name](prediction.requires_grad_(), target, counted, CELL)
    weight = counted.sum(1)
    assert scored.cell_error.shape == (2, *GRID)
    assert not scored.cell_error.requires_grad
    assert ((scored.cell_error != 0) == (weight > 0)).all()
    assert scored.loss.item() == pytest.approx(((scored.cell_error * weight).sum() / weight.sum()).item())
    assert scored.loss.item() != pytest.approx(scored.cell_error.mean().item())  # control: the plain mean


@pytest.mark.parametrize("name", LOSSES)
def test_samples_stay_apart(name):
    """Batch permutation; a sample alone has the cell errors it has in the batch."""
    batched = batch()
    scored = LOSSES[name](*batched, CELL)
    flipped = LOSSES[name](*(each.flip(0) for each in batched), CELL)
    torch.testing.assert_close(flipped.cell_error.flip(0), scored.cell_error)
    torch.testing.assert_close(flipped.loss, scored.loss)
    alone = LOSSES[name](*(each[:1] for each in batched), CELL)
    torch.testing.assert_close(alone.cell_error, scored.cell_error[:1])
    assert not torch.allclose(scored.cell_error[0], scored.cell_error[1])  # control


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_is_scored_in_single(name, dtype):
    """bfloat16 predictions, and autocast, give the float32 loss of the same numbers."""
    prediction, target, counted = batch()
    prediction, target = prediction.to(dtype), target.float()
    wanted = LOSSES[name](prediction.double(), target.double(), counted, CELL).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = LOSSES[name](prediction, target, counted, CELL).loss
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(wanted.item(), rel=1e-4)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "focal_frequency"])
def test_gradients_are_right(name):
    """Against finite differences; not the focal loss, whose detached weight they would see (tested below)."""
    prediction, target, counted = (each[:1, :, :1, :1] for each in batch())
    leaf = prediction.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda values: LOSSES[name](values, target, counted, CELL).loss, leaf)


def test_l1_and_l2_by_hand():
    """Differences 1 and 3 counted, 100 not: means 2 and 5; a count per cell (N, 1, ...) covers all its values."""
    prediction = torch.tensor([1.0, 3.0, 100.0, 0.0]).reshape(1, 2, 1, 1, 2)
    target = torch.zeros_like(prediction)
    counted = torch.tensor([True, True, False, False]).reshape(1, 2, 1, 1, 2)
    assert LOSSES["l1"](prediction, target, counted, (1, 1, 2)).loss == 2
    assert LOSSES["l2"](prediction, target, counted, (1, 1, 2)).loss == 5
    cells = torch.tensor([True, False]).reshape(1, 1, 1, 1, 2)
    scored = LOSSES["l1"](prediction, target, cells, (9, 9, 9))
    assert scored.loss == 50.5
    assert scored.cell_error.flatten().tolist() == [50.5, 0]


# ----------------------------------------------------------------------------------------------------- ssim


def slow_similarity(first: np.ndarray, second: np.ndarray, at: tuple[int, ...]) -> float:
    """Wang et al. 2004, equation 13, with the window's weights renormalised to what lies in the volume."""
    weights, a, b = [], [], []
    half = [length // 2 for length in WINDOW_ZYX]
    for offset in np.ndindex(*WINDOW_ZYX):
        place = tuple(p + o - h for p, o, h in zip(at, offset, half, strict=True))
        if all(0 <= p < n for p, n in zip(place, first.shape, strict=True)):
            far = sum(((o - h) * 14 / 3 / n) ** 2 for o, h, n in zip(offset, half, WINDOW_ZYX, strict=True))
            weights.append(math.exp(-far / 2))
            a.append(first[place] + DYNAMIC_RANGE / 2)
            b.append(second[place] + DYNAMIC_RANGE / 2)
    w, a, b = np.array(weights) / np.sum(weights), np.array(a), np.array(b)
    mean_a, mean_b = w @ a, w @ b
    covariance = w @ ((a - mean_a) * (b - mean_b))
    c1, c2 = (0.01 * DYNAMIC_RANGE) ** 2, (0.03 * DYNAMIC_RANGE) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return luminance * (2 * covariance + c2) / (w @ (a - mean_a) ** 2 + w @ (b - mean_b) ** 2 + c2)


def test_ssim_equals_a_slow_loop():
    """The whole map, borders included; a window in another direction is another map (control)."""
    first, second = torch.randn(2, 1, 1, *SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = ssim_map(first, second)[0, 0].numpy()
    wanted = [slow_similarity(first[0, 0].numpy(), second[0, 0].numpy(), at) for at in np.ndindex(*SIZE)]
    np.testing.assert_allclose(found.ravel(), wanted, atol=1e-10)
    assert not np.allclose(ssim_map(first, second, (7, 7, 3))[0, 0].numpy(), found)


def test_ssim_bounds():
    """1 with itself and at most 1; symmetric."""
    first, second = torch.randn(2, 3, 1, *SIZE, dtype=torch.float64)
    torch.testing.assert_close(ssim_map(first, first), torch.ones_like(first))
    assert ssim_map(first, second).max() < 1
    torch.testing.assert_close(ssim_map(first, second), ssim_map(second, first))


def test_ssim_loss_is_of_the_composed_volume():
    """1 - the mean over counted voxels of the map between the truth and the truth with predictions put in."""
    prediction, target, counted = batch()
    composed = cells_to_voxels(torch.where(counted, prediction, target), CELL)
    similarity = voxels_to_cells(ssim_map(composed, cells_to_voxels(target, CELL)), CELL)
    found = LOSSES["ssim"](prediction, target, counted, CELL).loss
    assert found.item() == pytest.approx(1 - similarity[counted].mean().item())
    plain = voxels_to_cells(ssim_map(cells_to_voxels(prediction, CELL), cells_to_voxels(target, CELL)), CELL)
    assert found.item() != pytest.approx(1 - plain[counted].mean().item())  # control: nothing composed


# ------------------------------------------------------------------------------------------- focal frequency


def test_focal_frequency_equals_a_slow_loop():
    """Per cell: the orthonormal spectrum's squared difference times itself over its maximum; numpy's transform."""
    prediction, target, counted = batch()
    found = LOSSES["focal_frequency"](prediction, target, counted, CELL)
    total = 0.0
    for n, z, y, x in np.ndindex(2, *GRID):
        own = (n, slice(None), z, y, x)
        difference = ((prediction - target) * counted)[own].numpy().reshape(CELL)
        size = np.abs(np.fft.fftn(difference, norm="ortho"))
        error = (size**3).sum() / size.max() if size.any() else 0.0
        total += error
        assert found.cell_error[own[0], z, y, x].item() * max(1, counted[own].sum().item()) == pytest.approx(error)
    assert found.loss.item() == pytest.approx(total / counted.sum().item())


def test_one_frequency_is_weighted_one():
    """A difference that is one frequency has weight 1 throughout, and so costs what l2 costs (Parseval); noise less."""
    prediction, target, counted = batch()
    everything = torch.ones_like(counted)
    constant = target + 3
    assert LOSSES["focal_frequency"](constant, target, everything, CELL).loss.item() == pytest.approx(9)
    focal = LOSSES["focal_frequency"](prediction, target, everything, CELL).loss
    assert focal < LOSSES["l2"](prediction, target, everything, CELL).loss


def test_the_focal_weight_has_no_gradient():
    """One frequency, weight |d| / max = 1 if detached: the gradient is that of l2. Attached, it would not."""
    _, target, counted = batch()
    everything = torch.ones_like(counted)
    torch.testing.assert_close(
        gradient("focal_frequency", target + 3, target, everything), gradient("l2", target + 3, target, everything)
    )
    prediction = batch(seed=5)[0]
    leaf = prediction.clone().requires_grad_()
    spectrum = torch.fft.fftn((leaf - target).movedim(1, -1).reshape(2, *GRID, *CELL), dim=(-3, -2, -1), norm="ortho")
    power = spectrum.abs().square()
    for attached in (False, True):
        weight = power.sqrt() if attached else power.detach().sqrt()
        loss = (weight / weight.amax((-3, -2, -1), keepdim=True) * power).mean()
        (wanted,) = torch.autograd.grad(loss, leaf, retain_graph=True)
        assert torch.allclose(gradient("focal_frequency", prediction, target, everything), wanted) != attached


# ---------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("target", TARGETS)
def test_losses_that_compare_voxels_need_voxels(loss, target):
    """Every pair is built, or refused naming both."""
    built = build_target(target, feature_channels=3)
    if loss in VOXELWISE and not built.voxelwise:
        with pytest.raises(UsageError, match=f"loss '{loss}' compares voxels, but target '{target}'"):
            build_loss(loss, built)
    else:
        assert build_loss(loss, built) is LOSSES[loss]


def test_unknown_loss_suggests_the_nearest():
    """A misspelt name is refused with the nearest known one."""
    with pytest.raises(NotFoundError, match="loss 'sim' is unknown; did you mean 'ssim'"):
        build_loss("sim", build_target("block"))

"""Grad-CAM: by hand, at the right place, for every architecture, and without a trace in the model."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from saliency_parts import SPACING, SPEC, ball, ball_crop, brightness, classifier_of, small_chain

from prostate_mim.classifier import LesionClassifier
from prostate_mim.encoder import PreMIM
from prostate_mim.errors import UsageError
from prostate_mim.nets.encoder import StageInfo
from prostate_mim.nets.pooling import CentrePool
from prostate_mim.saliency import crop_saliency
from prostate_mim.saliency.cells import over_voxels
from prostate_mim.saliency.gradcam import gradcam
from prostate_mim.spec import InputSpec

WIDE = InputSpec(size_zyx=(24, 96, 96))


def with_head(model: LesionClassifier, seed: int = 0) -> LesionClassifier:
    with torch.no_grad():
        model.head.linear.weight.normal_(generator=torch.Generator().manual_seed(seed))
    return model


def crop(seed: int = 5, channels: int = 1) -> torch.Tensor:
    return torch.randn(1, channels, *SPEC.size_zyx, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("each_cell", [False, True])
@pytest.mark.parametrize("stage", [0, 3])
def test_equals_the_definition(stage: int, each_cell: bool) -> None:
    """Selvaraju et al. 2017, equations 1 and 2 (or Draelos and Carin 2020, equation 6), written out with autograd."""
    model, batch = with_head(classifier_of(small_chain(torch.Generator().manual_seed(0)))), crop()
    kept: list[torch.Tensor] = []

    def keep(resolution: int, features: torch.Tensor) -> torch.Tensor:
        if resolution == stage:
            features.retain_grad()
            kept.append(features)
        return features

    features = model.encoder.encoder(batch.clone().requires_grad_(), keep)
    model.head(model.pool(features)).sum().backward()
    gradient = kept[0].grad
    assert gradient is not None
    weights = gradient if each_cell else gradient.mean((2, 3, 4), keepdim=True)
    cells = (weights * kept[0]).sum(1)[0].clamp(min=0).detach().numpy()
    encoder = model.encoder.encoder
    info = encoder.stage_info[stage]
    expected = over_voxels(cells, info.begin_zyx, info.stride_zyx, SPEC.size_zyx)
    assert expected.max() > 0
    found = gradcam(model, batch, stage, each_cell=each_cell)
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-3 * expected.max())
    assert np.array_equal(gradcam(model, batch, stage - 4), gradcam(model, batch, stage))


def errors(stage: int, count: int = 24, *, middles: bool = False) -> np.ndarray:
    """(count, 3) mm along z, y, x from a ball to the hottest place of a network that measures brightness."""
    model, generator = brightness(WIDE), torch.Generator().manual_seed(7)
    if middles:
        encoder = model.encoder.encoder
        encoder.stage_info = tuple(_in_the_middle(info) for info in encoder.stage_info)
    found = []
    for _ in range(count):
        share = torch.rand(3, generator=generator).numpy()
        place = np.array([6, 24, 24]) + share * np.array([12, 48, 48])
        bright = ball(place, WIDE.size_zyx)
        batch = torch.from_numpy(((bright - bright.mean()) / bright.std()).astype(np.float32))[None, None]
        hot = gradcam(model, batch, stage)
        found.append((np.argwhere(hot >= 0.999 * hot.max()).mean(0) - place) * SPACING)
    return np.asarray(found)


def test_the_hottest_place_is_where_the_evidence_lies() -> None:
    """Never more than about half a cell off; and in the mean not off at all."""
    for stage in (2, 3):
        cell = np.asarray(brightness().encoder.encoder.stage_info[stage].stride_zyx) * SPACING
        found = errors(stage)
        assert (np.abs(found).max(0) < 0.6 * cell).all()
        assert (np.abs(found.mean(0)) < 0.15 * cell).all()


def _in_the_middle(info: StageInfo) -> StageInfo:
    z, y, x = ((n - 1) / 2 for n in info.stride_zyx)
    return dataclasses.replace(info, begin_zyx=(z, y, x))


def test_plain_upsampling_would_be_found_out() -> None:
    """The control: cells in the middle of the voxels they replace, as MONAI's default has them, are 3.75 mm off."""
    assert errors(3, middles=True).mean(0)[1:] == pytest.approx([3.75, 3.75], abs=1.0)


def test_only_hirescam_is_fair_to_pooling_at_the_centre() -> None:
    """A ball 16 mm from the centre, where the pooling hardly counts it: Grad-CAM is hot there all the same."""
    model = brightness(WIDE)
    model.pool = CentrePool(model.encoder.encoder.stage_info, WIDE.spacing_mm_zyx)
    near, far = np.array([12, 48, 48]), np.array([12, 48, 80])
    bright = ball(near, WIDE.size_zyx) + 1.3 * ball(far, WIDE.size_zyx)
    batch = torch.from_numpy(((bright - bright.mean()) / bright.std()).astype(np.float32))[None, None]
    for each_cell, hottest in ((False, far), (True, near)):
        found = gradcam(model, batch, each_cell=each_cell)
        place = np.argwhere(found >= 0.999 * found.max()).mean(0)
        assert np.linalg.norm((place - hottest) * SPACING) < 9


def test_the_trained_network_looks_at_the_ball(trained: LesionClassifier) -> None:
    """Six new crops with a ball among dark ones, stage of 6 x 4 x 4 mm: hottest within 7 mm, and 4 mm in the middle."""
    generator = torch.Generator().manual_seed(11)
    away = []
    for _ in range(6):
        given, place = ball_crop(generator, ball=True)
        hot = gradcam(trained, given[None], -2)
        away.append(np.linalg.norm((np.argwhere(hot >= 0.999 * hot.max()).mean(0) - place) * SPACING))
    assert max(away) < 7 and np.median(away) < 4


@pytest.mark.parametrize("architecture", ["resenc-s", "effnet-lite0", "resnet10", "densenet121", "convnext-a"])
def test_every_architecture(architecture: str) -> None:
    """Finite, not negative, something somewhere; another map for another stage."""
    torch.manual_seed(0)
    model = with_head(LesionClassifier(PreMIM(architecture, InputSpec(size_zyx=(8, 32, 32)))))
    batch = crop()[..., 16:48, 16:48]
    maps = [gradcam(model, batch, stage) for stage in (-1, -2)]
    for found in maps:
        assert found.shape == (8, 32, 32) and np.isfinite(found).all() and found.min() >= 0
    assert any(found.max() > 0 for found in maps) and not np.array_equal(*maps)


def test_the_model_is_left_as_it_was() -> None:
    """Gradients of a training under way, modes, frozen weights, no hook; and inside of inference mode too."""
    model, batch = with_head(classifier_of(small_chain(torch.Generator().manual_seed(0)))), crop()
    expected = gradcam(model, batch)
    model.train()
    model.encoder.encoder.stages[0].eval()
    model(batch).sum().backward()
    model.encoder.requires_grad_(False)
    before = {name: (value.clone(), value.grad, value.requires_grad) for name, value in model.named_parameters()}
    gradients = {name: grad.clone() for name, (_, grad, _) in before.items() if grad is not None}
    modes = [module.training for module in model.modules()]
    with torch.inference_mode():
        found = gradcam(model, batch)
    assert np.array_equal(found, expected)
    assert modes == [module.training for module in model.modules()] and len(set(modes)) == 2
    assert gradients
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name][0]) and value.requires_grad == before[name][2]
        assert (value.grad is None) == (name not in gradients)
        assert value.grad is None or torch.equal(value.grad, gradients[name])
    for module in model.modules():
        assert not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def test_an_ensemble_has_the_maps_of_all_members() -> None:
    """Two members at work: neither's own map, but one that both are in; the members alone give theirs as before."""
    parts = [with_head(classifier_of(small_chain(torch.Generator().manual_seed(seed))), seed) for seed in (0, 1)]
    both, batch = LesionClassifier.ensemble(parts), crop()
    maps = [gradcam(part, batch) for part in parts]
    found = gradcam(both, batch)
    share = np.linalg.lstsq(np.stack([one.ravel() for one in maps], 1), found.ravel(), rcond=None)[0]
    assert np.allclose(share[0] * maps[0] + share[1] * maps[1], found, atol=1e-4 * found.max())
    assert (share > 1e-6).all()


def test_mask_channels_are_input_too() -> None:
    """A classifier with a gland channel: a map of the image's size."""
    torch.manual_seed(0)
    spec = SPEC.with_channels("t2w", "gland")
    model = with_head(LesionClassifier(PreMIM("resenc-s", SPEC), spec))
    assert gradcam(model, crop(channels=2)).shape == SPEC.size_zyx


def test_refusals() -> None:
    """A stage or a method that does not exist."""
    model = classifier_of(small_chain(torch.Generator().manual_seed(0)))
    for stage in (4, -5):
        with pytest.raises(UsageError, match=r"stage .* does not exist; 0 \(finest\) to 3"):
            gradcam(model, crop(), stage)
    with pytest.raises(UsageError, match="gradcam, hirescam or occlusion"):
        crop_saliency(model, crop(), method="lime")

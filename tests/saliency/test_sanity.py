"""A map must come from the model and from the image: the checks, on a trained network, and what they must catch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from saliency_parts import ball_crop, brightness
from scipy.ndimage import gaussian_gradient_magnitude
from torch import Tensor

from prostate_mim.classifier import LesionClassifier
from prostate_mim.saliency import cascade, crop_saliency, deletion, depends_on_weights, rank_correlation, ssim
from prostate_mim.saliency.cells import FloatArray

CROPS = 5


def edges(model: LesionClassifier, batch: Tensor) -> FloatArray:
    """A map that no weight has touched."""
    return np.asarray(gaussian_gradient_magnitude(batch[0, 0].numpy(), 1.5), np.float32)


def crops_with_a_ball() -> list[Tensor]:
    generator = torch.Generator().manual_seed(21)
    return [ball_crop(generator, ball=True)[0][None] for _ in range(CROPS)]


@pytest.mark.parametrize("method", ["gradcam", "occlusion"])
def test_shuffled_weights_destroy_the_map(trained: LesionClassifier, method: str) -> None:
    """Two runs of one model are equal; with all weights shuffled, rank and SSIM are far below, on the mean of crops."""
    count = CROPS if method == "gradcam" else 2
    before = [value.clone() for value in trained.parameters()]
    last = []
    for number, batch in enumerate(crops_with_a_ball()[:count]):

        def mapper(model: LesionClassifier, given: Tensor) -> FloatArray:
            settings = {"stage": -2} if method == "gradcam" else {"box_mm_zyx": (12.0, 10.0, 10.0)}
            return crop_saliency(model, given, method=method, **settings)  # type: ignore[arg-type]

        first, again = mapper(trained, batch), mapper(trained, batch)
        assert rank_correlation(first, again) == pytest.approx(1) and ssim(first, again) == pytest.approx(1)
        steps = cascade(trained, batch, mapper, torch.Generator().manual_seed(number))
        assert [step.what for step in steps][::4] == ["head", "all"]
        last.append((steps[-1].rank, steps[-1].ssim))
    assert np.mean(last, 0)[0] < 0.5 and np.mean(last, 0)[1] < 0.5
    assert all(torch.equal(*pair) for pair in zip(before, trained.parameters(), strict=True))


def test_a_map_that_ignores_the_weights_is_found_out(trained: LesionClassifier) -> None:
    """The control: an edge detector passes every glance, and not this check."""
    batch = crops_with_a_ball()[0]
    steps = cascade(trained, batch, edges, torch.Generator().manual_seed(0))
    assert all(step.rank == pytest.approx(1) and step.ssim == pytest.approx(1) for step in steps)
    assert not depends_on_weights(steps)
    good = cascade(trained, batch, lambda m, b: crop_saliency(m, b, stage=-2), torch.Generator().manual_seed(0))
    assert depends_on_weights(good)


def test_covering_the_hottest_voxels_lowers_the_logit(trained: LesionClassifier) -> None:
    """A twentieth of the crop: further than the same shape elsewhere, for every crop. The control: edges do not."""
    for number, batch in enumerate(crops_with_a_ball()):
        hot = crop_saliency(trained, batch, stage=-2)
        fall, elsewhere = deletion(trained, batch, hot, 0.05, torch.Generator().manual_seed(number))
        assert fall > 2 and fall > 3 * elsewhere
    falls = [
        deletion(trained, b, edges(trained, b), 0.05, torch.Generator().manual_seed(0))[0] for b in crops_with_a_ball()
    ]
    assert np.mean(falls) < 2


def test_deletion_by_hand() -> None:
    """Of a flat crop with a bright box only the box matters to a network that measures brightness."""
    batch = torch.zeros(1, 1, 8, 64, 64)
    batch[..., 3:5, 20:30, 20:30] = 5
    hot = batch[0, 0].numpy()
    share = float((hot > 0).mean())
    fall, elsewhere = deletion(brightness(), batch, hot, share, torch.Generator().manual_seed(0))
    assert fall == pytest.approx(float(brightness()(batch)[0].detach()), rel=1e-5)
    assert 0 <= elsewhere < 0.2 * fall


def test_likeness_of_maps() -> None:
    """As scipy's Spearman; 1 for the same, whatever the scale; 0 for a constant; SSIM below for a moved map."""
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    a = rng.random((8, 20, 20)).astype(np.float32).round(1)
    b = (a + rng.random(a.shape)).astype(np.float32)
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a.ravel(), b.ravel()).statistic)
    assert rank_correlation(a, np.zeros_like(a)) == 0
    assert ssim(a, 3 * a) == pytest.approx(1, abs=1e-6)
    assert ssim(a, np.roll(a, 5, 2)) < 0.3 and ssim(a, np.zeros_like(a)) < 0.1

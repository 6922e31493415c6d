"""The two classes: neither mean signal nor size gives them away, margin and texture do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from prostate_mim.phantom.acquisition import Frame
from prostate_mim.phantom.study import GlandImage, image_patient

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Features:
    """One value a lesion, each (n,)."""

    label: Array
    peripheral: Array
    intensity: Array
    volume_mm3: Array
    sharpness: Array
    texture: Array


@pytest.fixture(scope="module")
def features() -> Features:
    """Features of the first 300 lesions of seed 0, with the scanner's noise."""
    return lesion_features(0, 300)


def lesion_features(seed: int, count: int) -> Features:
    """Features of the first ``count`` lesions of a seed."""
    rows: list[tuple[float, ...]] = []
    rng = np.random.default_rng(seed)
    index = 0
    while len(rows) < count:
        frame, _, image = image_patient(seed, index)
        rows.extend(_measure(frame, image, rng))
        index += 1
    return Features(*np.asarray(rows[:count], float).T)


def _measure(frame: Frame, image: GlandImage, rng: np.random.Generator) -> list[tuple[float, ...]]:
    """Label, zone, mean signal relative to the zone, volume, margin gradient, internal deviation of each lesion."""
    signal = image.signal + 0.8 * (1 - image.cover)
    signal = np.hypot(signal + rng.normal(0, frame.scanner.noise, signal.shape), frame.scanner.noise)
    taken = np.zeros(signal.shape, bool)
    for _, mask in image.lesions:
        taken |= mask > 0
    step = frame.spacing_mm_zyx[1]
    rows: list[tuple[float, ...]] = []
    for plan, mask in image.lesions:
        zone = image.zones == (1 if plan.zone == "PZ" else 2)
        mean = signal[zone & ~taken].mean()
        margin = int(np.ceil(5 / step))
        box = tuple(
            slice(max(part.start - margin * (axis > 0), 0), part.stop + margin * (axis > 0))
            for axis, part in enumerate(ndimage.find_objects(mask.astype(np.int32))[0])
        )
        inside = mask[box] > 0
        flat = ndimage.gaussian_filter(signal[box] / mean, (0, 0.6 / step, 0.6 / step))
        slope = np.hypot(*np.gradient(flat, step, axis=(1, 2)))
        depth = _depth(inside) * step
        edge = (np.abs(depth) < 1.0) & ndimage.binary_erosion(zone[box], np.ones((1, 3, 3)), iterations=int(2 / step))
        core = depth > 1.5 if (depth > 1.5).sum() > 10 else inside
        volume = mask.sum() * float(np.prod(frame.spacing_mm_zyx))
        sharpness = slope[edge].mean() if edge.any() else np.nan
        rows.append((plan.label, plan.zone == "PZ", signal[box][inside].mean() / mean, volume, sharpness,
                     flat[core].std()))  # fmt: skip
    return rows


def _depth(inside: npt.NDArray[np.bool_]) -> Array:
    """In-plane signed distance to the edge in voxels, positive inside, (z, y, x)."""
    pairs = [
        ndimage.distance_transform_edt(plane) - ndimage.distance_transform_edt(~plane) if plane.any()
        else np.full(plane.shape, -1e3)
        for plane in inside
    ]  # fmt: skip
    return np.stack(pairs)


def _ranks(values: Array) -> Array:
    return np.asarray(rankdata(np.where(np.isnan(values), np.nanmedian(values), values)))


@pytest.mark.parametrize("shortcut", ["intensity", "volume_mm3", "peripheral"])
def test_shortcuts_do_not_separate_the_classes(features: Features, shortcut: str) -> None:
    """Mean signal, volume and zone alone each stay near chance."""
    assert len(features.label) == 300
    assert 0.35 < roc_auc_score(features.label, getattr(features, shortcut)) < 0.65


def test_margin_and_texture_separate_the_classes(features: Features) -> None:
    """Control: the labels can be learnt, from blurred margins and homogeneous texture."""
    score = -_ranks(features.sharpness) - _ranks(features.texture)
    assert roc_auc_score(features.label, score) > 0.75


def test_each_zone_can_be_learnt(features: Features) -> None:
    """Texture tells the classes apart within the peripheral and within the transition zone."""
    for zone in (0, 1):
        there = features.peripheral == zone
        assert there.sum() > 60
        assert roc_auc_score(features.label[there], -features.texture[there]) > 0.65


def test_labels_are_nearly_balanced(features: Features) -> None:
    """About 45% of the lesions are positive."""
    assert 0.38 < features.label.mean() < 0.52


def test_shuffled_labels_cannot_be_learnt(features: Features) -> None:
    """Negative control: the same score does not predict labels dealt at random."""
    score = -_ranks(features.sharpness) - _ranks(features.texture)
    shuffled = np.random.default_rng(0).permutation(features.label)
    assert 0.4 < roc_auc_score(shuffled, score) < 0.6

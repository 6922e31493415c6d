"""What augmentation does, change by change, and what no change may do."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prostate_mim.engine import augment as module
from prostate_mim.engine.amounts import draw_amounts
from prostate_mim.engine.augment import Augmentation, augment_batch, box_inside, crop_places
from prostate_mim.errors import UsageError

SIZE = (6, 24, 20)
CHANGES = sorted(name for name in Augmentation.__dataclass_fields__ if name.endswith("_chance"))
ALWAYS = replace(Augmentation(), **dict.fromkeys(CHANGES, 1.0))


def only(change: str, **amounts: float) -> Augmentation:
    """One change, in every sample."""
    return replace(Augmentation.none(), **{f"{change}_chance": 1.0}, **amounts)


def crops(count: int = 4, box=None, size=SIZE) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """z-scored noise, boxes and labels; everything measured if ``box`` is None."""
    rng = np.random.default_rng(0)
    boxes = torch.tensor([box or [(0, n) for n in size]] * count)
    inside = box_inside(boxes, size, torch.device("cpu"))
    voxels = torch.from_numpy(rng.standard_normal((count, 1, *size)).astype(np.float32)).masked_fill(~inside, 0)
    labels = torch.from_numpy(rng.integers(0, 4, (count, 1, *size)).astype(np.uint8)).masked_fill(~inside, 0)
    return voxels, boxes, labels


def run(settings: Augmentation, voxels, boxes, labels, first: int = 0, seed: int = 0):
    """Augment as draws ``first`` and following."""
    return augment_batch(voxels, boxes, labels, settings, seed, range(first, first + len(voxels)))


@settings(max_examples=60, deadline=None)
@given(
    ends=st.tuples(*[st.tuples(st.integers(0, n), st.integers(0, n)).filter(lambda e: e[0] != e[1]) for n in SIZE]),
    first=st.integers(0, 10_000),
    change=st.sampled_from([*CHANGES, "all"]),
)
def test_padding_stays_zero_and_something_stays_measured(ends, first, change):
    """For any box and any change: padding is exactly 0 and without labels, all is finite, something is inside."""
    box = [(min(pair), max(pair)) for pair in ends]
    chosen = ALWAYS if change == "all" else only(change.removesuffix("_chance"))
    voxels, inside, labels = run(chosen, *crops(2, box), first=first)
    assert not voxels[~inside].any()
    assert not labels[~inside].any()
    assert torch.isfinite(voxels).all()
    assert inside.flatten(1).any(1).all()


def test_what_was_not_measured_never_becomes_measured_without_turning():
    """Resolution, flip and intensities keep the count of measured voxels; the flip mirrors them."""
    boxes = [(1, 5), (3, 24), (0, 9)]
    before = crops(4, boxes)
    inside = box_inside(before[1], SIZE, torch.device("cpu"))
    still = replace(ALWAYS, affine_chance=0.0, flip_chance=0.0)
    assert torch.equal(run(still, *before)[1], inside)
    assert torch.equal(run(replace(still, flip_chance=1.0), *before)[1], inside.flip(-1))


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_changes_and_can_be_switched_off(change):
    """Alone it varies a crop; switched off among all the others, the others stay what they were."""
    before = crops(8)
    voxels, _, _ = run(only(change.removesuffix("_chance")), *before)
    assert all(not torch.equal(a, b) for a, b in zip(voxels, before[0], strict=True))
    everything, without = (draw_amounts(chosen, 0, range(20)) for chosen in (ALWAYS, replace(ALWAYS, **{change: 0.0})))
    same = [np.array_equal(getattr(everything, name), getattr(without, name)) for name in vars(everything)]
    assert sum(same) == len(same) - {"affine_chance": 2, "contrast_chance": 2}.get(change, 1)


def test_nothing_is_nothing():
    """``Augmentation.none()`` changes no bit."""
    before = crops()
    voxels, inside, labels = run(Augmentation.none(), *before)
    assert torch.equal(voxels, before[0])
    assert inside.all()
    assert torch.equal(labels, before[2])
    assert Augmentation.none().nothing
    assert not Augmentation().nothing


def test_chances_are_shares():
    """Of 4,000 draws each change happens as often as its chance says (3 standard errors), independently."""
    found = draw_amounts(Augmentation(), 0, range(4000))
    happened = {
        "flip": found.flip, "affine": found.angle != 0, "thick": found.thickness > 1, "blur": found.blur > 0,
        "bias": (found.bias != 0).any(1), "gamma": found.gamma != 0, "contrast": found.gain != 1,
        "noise": found.noise > 0,
    }  # fmt: skip
    for name, which in happened.items():
        chance = getattr(Augmentation(), f"{name}_chance")
        assert abs(which.mean() - chance) < 3 * math.sqrt(chance * (1 - chance) / 4000), name
    pairs = np.corrcoef(np.stack([which.astype(float) for which in happened.values()]))
    assert np.abs(pairs - np.eye(len(happened))).max() < 0.06


def test_amounts_stay_within_their_limits():
    """No draw of 2,000 exceeds what the settings allow, and some come within a tenth of it."""
    found = draw_amounts(ALWAYS, 0, range(2000))
    limits = {
        "angle": math.radians(10), "size": math.log(1.1), "blur": 1.0, "gamma": 0.3, "noise": 0.1, "shift": 0.1,
    }  # fmt: skip
    for name, limit in limits.items():
        assert 0.9 * limit < np.abs(getattr(found, name)).max() <= limit, name
    assert 1.9 < found.thickness.max() <= 2
    assert 0.09 < np.abs(found.gain - 1).max() <= 0.1
    field = module._bias_field(found.bias[:200], torch.zeros(1, *SIZE))
    assert math.exp(-0.3) <= float(field.min()) < 1 < float(field.max()) <= math.exp(0.3) + 1e-6


def test_the_only_flip_is_left_right():
    """A flip mirrors x, of voxels and labels; never y or z."""
    voxels, boxes, labels = crops()
    flipped, _, moved = run(only("flip"), voxels, boxes, labels)
    assert torch.equal(flipped, voxels.flip(-1))
    assert torch.equal(moved, labels.flip(-1))
    halves = run(replace(Augmentation.none(), flip_chance=0.5), *crops(64))[0]
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(halves, crops(64)[0], strict=True)]
    assert all(m or torch.equal(a, b) for m, a, b in zip(mirrored, halves, crops(64)[0], strict=True))
    assert 16 < sum(mirrored) < 48


def turned(monkeypatch, angle_degrees: float, factor: float, voxels, boxes, labels):
    """The batch under one rotation and one scale."""
    amounts = draw_amounts(Augmentation.none(), 0, range(len(voxels)))
    fixed = replace(amounts, angle=amounts.angle + math.radians(angle_degrees), size=amounts.size + math.log(factor))
    monkeypatch.setattr(module, "draw_amounts", lambda *_: fixed)
    return augment_batch(voxels, boxes, labels, ALWAYS, 0, range(len(voxels)))


def test_a_quarter_turn_by_hand(monkeypatch):
    """90 degrees about z of a square crop is ``rot90`` of every slice, voxels and labels alike; z stays."""
    voxels, boxes, labels = crops(size=(3, 16, 16))
    found, inside, moved = turned(monkeypatch, 90, 1, voxels, boxes, labels)
    assert inside.all()
    assert torch.allclose(found, voxels.rot90(1, (3, 4)), atol=1e-5)
    assert torch.equal(moved, labels.rot90(1, (3, 4)))


def test_scaling_by_hand(monkeypatch):
    """At twice the size a centred square of 4 voxels' width is 8 wide; at half, what lay beyond is padding."""
    voxels, boxes, _ = crops(1, size=(2, 16, 16))
    square = torch.zeros_like(voxels)
    square[..., 6:10, 6:10] = 1
    found, inside, moved = turned(monkeypatch, 0, 2, square, boxes, square.to(torch.uint8))
    assert inside.all()
    assert moved.sum() == 2 * 64
    assert moved[..., 4:12, 4:12].all()
    assert torch.equal(found[..., 5:11, 5:11], torch.ones(1, 1, 2, 6, 6))
    _, inside, _ = turned(monkeypatch, 0, 0.5, square, boxes, square.to(torch.uint8))
    assert inside.sum() == 2 * 64
    assert inside[..., 4:12, 4:12].all()


def test_masks_stay_on_their_voxels():
    """A bright disc and its mask, turned and scaled together, still cover each other; the unturned mask does not."""
    y, x = np.mgrid[:48, :48]
    disc = torch.from_numpy(((y - 14) ** 2 + (x - 30) ** 2 < 49).astype(np.float32)).expand(6, 1, 4, 48, 48).clone()
    boxes = torch.tensor([[(0, 4), (0, 48), (0, 48)]] * 6)
    settings = only("affine", rotation_degrees=25, scaling=0.2)
    found, _, moved = run(settings, disc, boxes, disc.to(torch.uint8))

    def overlap(a, b):
        return float(2 * (a & b).sum() / (a.sum() + b.sum()))

    pairs = [(overlap(f > 0.5, m > 0), overlap(f > 0.5, d > 0)) for f, m, d in zip(found, moved, disc, strict=True)]
    assert min(right for right, _ in pairs) > 0.95
    assert min(wrong for _, wrong in pairs) < 0.7


def test_interpolation_never_mixes_padding_in():
    """A constant measured part stays constant under blur, thick slices, rotation and scale, up to its very border."""
    boxes = [(1, 5), (0, 24), (4, 20)]
    _, box, labels = crops(6, boxes)
    inside = box_inside(box, SIZE, torch.device("cpu"))
    constant = inside.float() * 3
    shaped = replace(ALWAYS, bias_chance=0, gamma_chance=0, contrast_chance=0, noise_chance=0)
    found, measured, _ = run(shaped, constant, box, labels)
    assert torch.allclose(found, measured * 3.0, atol=1e-4)
    assert not measured.all()


def test_blur_and_thick_slices_by_hand():
    """Weights of one row: a Gaussian; and slices 2 thick, averaged in pairs and interpolated between their middles."""
    everywhere = np.ones(5, bool)
    row = module._blur(0.8, everywhere)[2]
    wanted = np.exp(-0.5 * (np.arange(-2, 3) / 0.8) ** 2)
    np.testing.assert_allclose(row, wanted / wanted.sum(), rtol=1e-12)
    values = np.array([0.0, 2.0, 10.0, 12.0])  # pairs: 1 at place 0.5 and 11 at place 2.5
    np.testing.assert_allclose(module._thick(2.0, np.ones(4, bool)) @ values, [1, 3.5, 8.5, 11])
    np.testing.assert_allclose(module._thick(1.0, np.ones(4, bool)), np.eye(4), atol=1e-12)


def test_intensity_changes_keep_the_z_score():
    """After bias field and gamma, mean is 0 and deviation 1 again over measured voxels."""
    before = crops(6, [(0, 6), (2, 20), (0, 20)])
    voxels, inside, _ = run(replace(Augmentation.none(), bias_chance=1.0, gamma_chance=1.0), *before)
    for values, measured in zip(voxels, inside, strict=True):
        assert abs(float(values[measured].mean())) < 1e-5
        assert abs(float(values[measured].std(unbiased=False)) - 1) < 1e-5


def test_gamma_keeps_the_order():
    """Gamma alone never swaps a darker and a brighter voxel, and does bend the curve."""
    before = crops(4)
    voxels, _, _ = run(only("gamma"), *before)
    for old, new in zip(before[0], voxels, strict=True):
        order = old.flatten().argsort()
        assert (new.flatten()[order].diff() >= 0).all()
        assert float((new - old).abs().max()) > 0.01


def test_noise_has_its_deviation():
    """The difference to the crop is white, of the deviation that was drawn."""
    before = crops(4)
    drawn = draw_amounts(only("noise", noise=0.5), 0, range(4)).noise
    voxels, _, _ = run(only("noise", noise=0.5), *before)
    for difference, deviation in zip(voxels - before[0], drawn, strict=True):
        assert float(difference.std()) == pytest.approx(deviation, rel=0.06)
    assert len({float(d.flatten()[0] / s) for d, s in zip(voxels - before[0], drawn, strict=True)}) == 4


def test_impossible_settings_are_refused():
    """Chances beyond 1, negative amounts and NaN name the field."""
    for wrong in ({"flip_chance": 1.5}, {"noise": -0.1}, {"bias": math.nan}, {"gamma": math.inf}, {"thickness": 0.5}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            Augmentation(**wrong)


# --------------------------------------------------------------------------------------- where augmented voxels lie


def test_places_say_where_every_voxel_went():
    """Crops that hold their own coordinates, flipped, turned and scaled: what is found there is what the map says.

    Coordinates are linear, so bilinear sampling keeps them exactly; x of a mirrored crop has the other sign.
    """
    count, size, studies = 6, (4, 24, 20), (12, 60, 70)
    rng = np.random.default_rng(1)
    start = rng.integers(0, np.subtract(studies, size), (count, 3))
    place = torch.from_numpy(2 * start + np.asarray(size) - np.asarray(studies))
    boxes = torch.tensor([[(0, n) for n in size]] * count)
    chosen = replace(only("affine", rotation_degrees=25.0, scaling=0.3), flip_chance=0.5)
    found = crop_places(place, boxes, size, chosen, 0, range(count))
    flipped = torch.from_numpy(np.asarray(draw_amounts(chosen, 0, range(count)).flip))
    assert 0 < flipped.sum() < count
    middles = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in size]
    within = torch.stack(torch.meshgrid(*middles, indexing="ij"))
    wanted = torch.einsum("nij,jzyx->nizyx", found[:, :, :3], within) + found[:, :, 3, None, None, None]
    for axis in range(3):
        truth = within[axis] + place[:, axis, None, None, None] / 2
        labels = torch.zeros(count, 1, *size, dtype=torch.uint8)
        seen, inside, _ = augment_batch(truth[:, None], boxes, labels, chosen, 0, range(count))
        side = torch.where(flipped, -1.0, 1.0)[:, None, None, None] if axis == 2 else 1.0
        inner = inside[:, 0].clone()  # at the rim, sampling is cut off
        inner[..., :2, :] = inner[..., -2:, :] = inner[..., :2] = inner[..., -2:] = False
        rim = torch.nn.functional.max_pool3d((~inside).float(), (1, 3, 3), 1, (0, 1, 1))[:, 0] > 0
        known = inner & ~rim
        assert known.float().mean() > 0.4
        torch.testing.assert_close(wanted[:, axis][known], (side * seen[:, 0])[known], atol=1e-3, rtol=0)
        still = crop_places(place, boxes, size, Augmentation.none(), 0, range(count))  # control: not the plain map
        plain = within[axis] + still[:, axis, 3, None, None, None]
        assert axis == 0 or not torch.allclose(plain[known], (side * seen[:, 0])[known], atol=1.0)

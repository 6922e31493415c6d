"""Models Genesis' corruption: exact shares, box by box, and nothing else is touched."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategy_cases import grid_of, seeded

from prostate_mim.errors import UsageError
from prostate_mim.mim.strategies import Guide
from prostate_mim.mim.strategies.genesis import MOST_BOXES, Genesis, bezier, draw_boxes, draw_partition, shuffle_within

GRID = grid_of((4, 6, 6), (4, 8, 8))  # 16 x 48 x 48 voxels
PARTS = {
    "shuffled": Genesis(shuffle=1, curve=0, paint=0),
    "curved": Genesis(shuffle=0, curve=1, paint=0),
    "inwards": Genesis(shuffle=0, curve=0, paint=1, outward=0),
    "outwards": Genesis(shuffle=0, curve=0, paint=1, outward=1),
    "both": Genesis(shuffle=1, curve=0, paint=1),
    "all": Genesis(shuffle=1, curve=1, paint=1),
}


def crop(seed: int = 0, size=GRID.size_zyx, dtype=torch.float64) -> torch.Tensor:
    """(1, D, H, W) noise: no two voxels are equal."""
    return torch.randn(1, *size, generator=seeded(100 + seed), dtype=dtype)


def touched(corruption) -> torch.Tensor:
    """(D, H, W): painted or shuffled."""
    return corruption.painted | corruption.shuffled


def moved(values: torch.Tensor, other: torch.Tensor) -> int:
    """Voxels that differ."""
    return int((values != other).sum())


@pytest.mark.parametrize("ratio", [0.05, 0.3, 0.5, 0.75, 0.95])
@pytest.mark.parametrize("name", [name for name in PARTS if name != "curved"])
def test_exact_share_is_touched(name, ratio):
    """Painted or shuffled: exactly ``round(ratio * voxels)``, none both, and no other voxel changes at all."""
    for seed in range(10):
        original = crop(seed)
        found = PARTS[name].corrupt(original, ratio, seeded(seed))
        assert int(touched(found).sum()) == round(ratio * original.numel())
        assert not (found.painted & found.shuffled).any()
        if name != "all":
            assert torch.equal(found.voxels[0][~touched(found)], original[0][~touched(found)])
            # control: what is marked as touched did change, but for a voxel here and there that drew its own place
            changed = found.voxels[0] != original[0]
            assert changed[found.painted].all()
            assert not changed.all()
            if name == "both":
                assert abs(int(found.painted.sum()) - int(found.shuffled.sum())) <= 1
        if found.shuffled.any():
            assert (found.voxels[0] != original[0])[found.shuffled].float().mean() > 0.7


def test_boxes_alone_are_not_exact():
    """The control: what the drawn boxes cover before the cut is never the promised number."""
    covered = [int((draw_boxes(GRID.size_zyx, (1 / 6, 1 / 3), 0.5, seeded(n)) < MOST_BOXES).sum()) for n in range(20)]
    assert round(0.5 * math.prod(GRID.size_zyx)) not in covered


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(1, 9)] * 3), st.floats(0.01, 0.99), st.integers(0, 2**31), st.sampled_from(list(PARTS)))
def test_exact_share_anywhere(size, ratio, seed, name):
    """The same for crops down to a voxel's thickness, or a refusal that names ratio and voxels; the range is kept."""
    original = crop(seed % 7, size)
    wanted = round(ratio * original.numel())
    if not 0 < wanted < original.numel():
        with pytest.raises(UsageError, match=f"mask ratio {ratio} hides {wanted} of {original.numel()} voxels"):
            PARTS[name].corrupt(original, ratio, seeded(seed))
        return
    found = PARTS[name].corrupt(original, ratio, seeded(seed))
    assert int(touched(found).sum()) == (0 if name == "curved" else wanted)
    assert found.voxels.shape == original.shape
    assert found.voxels.min() >= original.min() - 1e-9
    assert found.voxels.max() <= original.max() + 1e-9


def test_no_block_is_hidden():
    """All blocks visible, and the guide's voxels are left as they were."""
    original = crop()
    before = original.clone()
    hiding = Genesis().hide(GRID, 0.5, seeded(0), Guide(voxels=original))
    assert Genesis().hidden_count(GRID, 0.5) == 0
    assert hiding.blocks.shape == GRID.grid_zyx
    assert not hiding.blocks.any()
    assert (hiding.strategy, hiding.instead_of, hiding.frequencies) == ("genesis", "", None)
    assert torch.equal(original, before)
    assert moved(hiding.voxels, original) > 0
    assert torch.equal(hiding.voxels, Genesis().corrupt(original, 0.5, seeded(0)).voxels)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtype_stays(dtype):
    """The result has the dtype of the crop; finite, and untouched voxels are bit for bit as they were."""
    original = crop(dtype=dtype)
    found = PARTS["both"].corrupt(original, 0.4, seeded(1))
    assert found.voxels.dtype == dtype
    assert found.voxels.isfinite().all()
    assert torch.equal(found.voxels[0][~touched(found)], original[0][~touched(found)])


def sorted_by_box(values: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Values box by box, in rising order within each."""
    order = values.flatten().argsort()
    return values.flatten()[order][boxes.flatten()[order].argsort(stable=True)]


def test_shuffling_stays_in_its_box():
    """Every box keeps its values and loses their order; voxels that may not move do not.

    The control: among all voxels of the crop instead of those of a box, values leave their boxes.
    """
    values = crop(size=(9, 30, 41))[0]
    boxes = draw_partition((9, 30, 41), seeded(3))
    free = torch.rand(values.shape, generator=seeded(4)) < 0.8
    after = shuffle_within(values, boxes, free, seeded(5))
    assert torch.equal(sorted_by_box(after, boxes), sorted_by_box(values, boxes))
    assert torch.equal(after[~free], values[~free])
    assert moved(after, values) > 0.7 * int(free.sum())
    everywhere = shuffle_within(values, torch.zeros_like(boxes), free, seeded(5))
    assert not torch.equal(sorted_by_box(everywhere, boxes), sorted_by_box(values, boxes))


def test_every_order_is_equally_likely():
    """Three voxels of one box come out in each of their 6 orders about equally often in 1,200 draws."""
    values, box = torch.tensor([[[0.0, 1.0, 2.0]]]), torch.zeros(1, 1, 3, dtype=torch.int64)
    every = torch.ones(1, 1, 3, dtype=torch.bool)
    found = [tuple(shuffle_within(values, box, every, seeded(n)).flatten().tolist()) for n in range(1200)]
    counts = [found.count(order) for order in set(found)]
    assert len(counts) == 6
    assert 140 < min(counts) <= max(counts) < 260  # 200 expected, deviation 13


SHAPES = [((16, 96, 96), (2, 10, 10)), ((8, 24, 40), (1, 3, 4)), ((64, 64, 64), (2, 7, 7))]


@pytest.mark.parametrize(("size", "longest"), SHAPES)
def test_shuffled_boxes_are_flat(size, longest):
    """Boxes are connected, at most a tenth of the crop wide and two slices deep, and their sizes vary."""
    seen = set()
    for seed in range(20):
        boxes = draw_partition(size, seeded(seed))
        assert boxes.shape == size
        for axis in range(3):
            line = boxes.movedim(axis, 0)[:, 0, 0]
            lengths = line.unique_consecutive(return_counts=True)[1]
            assert int(lengths.max()) <= longest[axis]
            if axis:
                assert int(lengths[:-1].min()) >= 2  # the crop cuts the last one short
                seen |= set(lengths[:-1].tolist())
        assert int(boxes.unique().numel()) == int(boxes.max()) + 1
    assert len(seen) == max(longest[1:]) - 1


def is_box(region: torch.Tensor) -> bool:
    """Is the True part exactly its own bounding box?"""
    places = region.nonzero()
    spans = places.amax(0) - places.amin(0) + 1
    return int(spans.prod()) == len(places)


def test_painted_boxes_have_the_published_sides():
    """The first box lies on top: it is whole, and each side is a sixth to a third (or 3/7 to 4/7) of the crop's."""
    size = (18, 42, 42)
    for sides, low, high in (((1 / 6, 1 / 3), (3, 7, 7), (6, 14, 14)), ((3 / 7, 4 / 7), (7, 18, 18), (10, 24, 24))):
        found = []
        for seed in range(60):
            numbers = draw_boxes(size, sides, 0.3, seeded(seed))
            top = numbers == 0
            assert is_box(top)
            found.append(top.nonzero().amax(0) - top.nonzero().amin(0) + 1)
            assert set(numbers.unique().tolist()) <= {*range(MOST_BOXES + 1)}
        lengths = torch.stack(found)
        assert lengths.amin(0).tolist() == list(low)
        assert lengths.amax(0).tolist() == list(high)


def test_outwards_paints_the_rim_and_inwards_does_not():
    """Out-painting leaves windows of the image, in-painting leaves its rim: corners are painted by one of them."""
    corners = {"inwards": 0, "outwards": 0}
    for name in corners:
        for seed in range(40):
            painted = PARTS[name].corrupt(crop(), 0.5, seeded(seed)).painted
            corners[name] += int(painted[:: GRID.size_zyx[0] - 1, ::47, ::47].sum())
    assert corners["outwards"] > 0.9 * 40 * 8
    assert corners["inwards"] < 0.3 * 40 * 8


def test_paint_is_noise_or_constant():
    """Always constant: out-painting paints one value, in-painting one a box; never constant: no value twice."""
    for outward in (0.0, 1.0):
        flat, noisy = (
            Genesis(shuffle=0, curve=0, paint=1, outward=outward, constant=constant).corrupt(crop(), 0.3, seeded(2))
            for constant in (1.0, 0.0)
        )
        paint = flat.voxels[0][flat.painted]
        assert 1 <= len(paint.unique()) <= (1 if outward else 200)
        assert outward or len(paint.unique()) > 3
        assert len(noisy.voxels[0][noisy.painted].unique()) == int(noisy.painted.sum())


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31), st.booleans(), st.floats(-50, 50), st.floats(0.01, 500))
def test_curves_are_monotone_onto_the_range(seed, falling, low, width):
    """Order is kept (or turned round), both ends are met, and nothing leaves the range."""
    high = low + width
    values = torch.linspace(0, 1, 3000, dtype=torch.float64) * (high - low) + low
    after = bezier(values, low, high, falling, seeded(seed))
    ends = (high, low) if falling else (low, high)
    assert after[[0, -1]].tolist() == pytest.approx(ends, abs=1e-9 * width + 1e-12)
    steps = after.diff() * (-1 if falling else 1)
    assert float(steps.min()) >= -1e-9 * width
    assert float((after.sort().values - values).abs().max()) > 0  # control: it is no straight line


def test_curve_by_hand():
    """The curve of the drawn points, evaluated at 1,000 of its own parameters, is what the table gives."""
    (x1, x2), (y1, y2) = torch.rand(2, 2, generator=seeded(9), dtype=torch.float64).tolist()
    t = torch.linspace(0, 1, 1000, dtype=torch.float64)
    x, y = (3 * (1 - t) ** 2 * t * a + 3 * (1 - t) * t**2 * b + t**3 for a, b in ((x1, x2), (y1, y2)))
    found = bezier(10 + 4 * x, 10.0, 14.0, False, seeded(9))
    assert float((found - (10 + 4 * y)).abs().max()) < 0.01
    assert float((found - (10 + 4 * x)).abs().max()) > 0.1  # control
    constant = torch.full((3,), 2.0)
    assert torch.equal(bezier(constant, 2.0, 2.0, True, seeded(0)), constant)


def test_only_curved_keeps_ranks():
    """Without painting and shuffling, the order of all voxels survives (or turns round in half of the samples)."""
    original = crop()
    order = original.flatten().argsort()
    falling = 0
    for seed in range(30):
        found = PARTS["curved"].corrupt(original, 0.5, seeded(seed))
        assert found.curved
        steps = found.voxels.flatten()[order].diff()
        assert (steps >= -1e-12).all() or (steps <= 1e-12).all()
        falling += bool(steps.sum() < 0)
    assert 5 < falling < 25
    shuffled = PARTS["shuffled"].corrupt(original, 0.5, seeded(0)).voxels.flatten()[order].diff()
    assert (shuffled < 0).any()  # control
    assert (shuffled > 0).any()


def test_published_probabilities():
    """In 600 samples: shuffled 0.5, curved 0.9, painted 0.9, and neither painted nor shuffled 0.05."""
    original = crop(size=(4, 12, 12))
    found = [Genesis().corrupt(original, 0.5, seeded(seed)) for seed in range(600)]
    shares = {
        "shuffled": (sum(bool(one.shuffled.any()) for one in found), 0.5),
        "curved": (sum(one.curved for one in found), 0.9),
        "painted": (sum(bool(one.painted.any()) for one in found), 0.9),
        "untouched": (sum(not touched(one).any() for one in found), 0.05),
    }
    for count, odds in shares.values():
        assert abs(count - 600 * odds) < 4 * math.sqrt(600 * odds * (1 - odds))
    assert Genesis() == Genesis(shuffle=0.5, curve=0.9, paint=0.9, outward=0.8)


def test_seeds_decide_alone():
    """One seed always corrupts the same, others otherwise, and torch's global generator is not touched."""
    original = crop(size=(4, 12, 12))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = [Genesis().corrupt(original, 0.5, seeded(seed)).voxels for seed in range(40)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    again = [Genesis().corrupt(original, 0.5, seeded(seed)).voxels for seed in range(40)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({one.numpy().tobytes() for one in first}) == 40


def test_refusals():
    """Odds outside 0 to 1, a strategy that does nothing, no voxels, voxels that do not fit, useless ratios."""
    with pytest.raises(UsageError, match=r"paint=1\.2; a probability"):
        Genesis(paint=1.2)
    with pytest.raises(UsageError, match="curve=nan"):
        Genesis(curve=math.nan)
    with pytest.raises(UsageError, match="changes nothing"):
        Genesis(shuffle=0, curve=0, paint=0)
    with pytest.raises(UsageError, match="holds no voxels"):
        Genesis().hide(GRID, 0.5, seeded(0), Guide())
    with pytest.raises(UsageError, match="guide voxels has shape"):
        Genesis().hide(GRID, 0.5, seeded(0), Guide(voxels=crop(size=(3, 3, 3))))
    for ratio in (0.0, 1.0, math.nan):
        with pytest.raises(UsageError, match="of 36864 voxels"):
            Genesis().hidden_count(GRID, ratio)

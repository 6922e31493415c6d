"""Strategies that look: gland, lesion, hard, texture, and mixtures; what they do without what they look at."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from strategy_cases import grid_of, guide_of, seeded

from prostate_mim.errors import UsageError
from prostate_mim.mim import expand_blocks, random_hidden_blocks
from prostate_mim.mim.strategies import Guide, build_strategy, hide_batch, parse_ratio
from prostate_mim.mim.strategies.base import draw_weighted
from prostate_mim.mim.strategies.texture import block_entropy

GRID = grid_of((4, 6, 6), (2, 4, 4))


def share_hidden(text, guide, where, seeds=range(300), ratio=0.5):
    """How often the blocks of ``where`` are hidden."""
    strategy = build_strategy(text)
    hidden = torch.stack([strategy.hide(GRID, ratio, seeded(seed), guide).blocks for seed in seeds])
    return float(hidden[:, where].float().mean())


def gland_blocks():
    """(4, 6, 6) bool: the four columns in the middle, and the same at voxel resolution."""
    blocks = torch.zeros(GRID.grid_zyx, dtype=torch.bool)
    blocks[:, 2:4, 2:4] = True
    return blocks, expand_blocks(blocks[None], GRID.block_zyx)[0, 0]


def test_weights_of_drawing():
    """One of two blocks is drawn with its share of the weights: 3 of 4, within 5 deviations of a binomial."""
    generator = seeded(0)
    drawn = [bool(draw_weighted(torch.tensor([3.0, 1.0]), 1, generator)[0]) for _ in range(2000)]
    assert abs(sum(drawn) / 2000 - 0.75) < 5 * (0.75 * 0.25 / 2000) ** 0.5


def test_equal_weights_are_random_blocks():
    """The draw of ``random_hidden_blocks``; other weights give another (the control)."""
    for seed in range(50):
        plain = random_hidden_blocks(1, GRID.grid_zyx, 0.6, seeded(seed))[0]
        assert torch.equal(draw_weighted(torch.full(GRID.grid_zyx, 2.5), 86, seeded(seed)), plain)
    uneven = torch.linspace(1, 9, GRID.count).reshape(GRID.grid_zyx)
    assert not torch.equal(draw_weighted(uneven, 86, seeded(0)), random_hidden_blocks(1, (4, 6, 6), 0.6, seeded(0))[0])


@pytest.mark.parametrize("name", ["gland", "lesion"])
def test_marked_blocks_are_hidden_more_often(name):
    """Marked blocks well above 0.5, more so at a greater weight, not at weight 1 (the control)."""
    blocks, voxels = gland_blocks()
    guide = replace(Guide(), **{name: voxels})
    shares = [share_hidden(f"{name}:weight={weight}", guide, blocks) for weight in (1, 4, 20)]
    assert abs(shares[0] - 0.5) < 0.03
    assert shares[1] > 0.75
    assert shares[2] > 0.95
    assert share_hidden(f"{name}:weight=4", guide, ~blocks) < 0.48


def test_gland_weight_lies_between_at_the_border():
    """Blocks half inside the gland are hidden more often than outside and less often than inside."""
    _, voxels = gland_blocks()
    voxels = voxels.clone()
    voxels[:, 16:18, 8:16] = True  # half of the blocks in row 4, columns 2 and 3
    border = torch.zeros(GRID.grid_zyx, dtype=torch.bool)
    border[:, 4, 2:4] = True
    inside, _ = gland_blocks()
    guide = Guide(gland=voxels)
    shares = [share_hidden("gland:weight=9", guide, where) for where in (~(inside | border), border, inside)]
    assert shares[0] + 0.1 < shares[1] < shares[2] - 0.05


def test_touch_of_a_lesion_counts():
    """One voxel of lesion marks its whole block; one voxel of gland (1 of 32) hardly does (the control)."""
    lesion = torch.zeros(GRID.size_zyx, dtype=torch.bool)
    lesion[3, 5, 9] = True  # block (1, 1, 2)
    where = torch.zeros(GRID.grid_zyx, dtype=torch.bool)
    where[1, 1, 2] = True
    assert share_hidden("lesion:weight=100", Guide(lesion=lesion), where) > 0.97
    assert share_hidden("gland:weight=20", Guide(gland=lesion), where) < 0.75


@pytest.mark.parametrize(("name", "field"), [("gland", "gland"), ("lesion", "lesion"), ("hard", "difficulty")])
def test_missing_guide_falls_back_by_name(name, field):
    """Without it: exactly the random blocks, and the result names random and what it stands for."""
    full = guide_of(GRID)
    strategy = build_strategy(name)
    for guide in (replace(full, **{field: None}), Guide()):
        for seed in range(10):
            hiding = strategy.hide(GRID, 0.6, seeded(seed), guide)
            assert (hiding.strategy, hiding.instead_of) == ("random", name)
            assert torch.equal(hiding.blocks, random_hidden_blocks(1, GRID.grid_zyx, 0.6, seeded(seed))[0])
    hiding = strategy.hide(GRID, 0.6, seeded(0), full)  # negative control
    assert (hiding.strategy, hiding.instead_of) == (name, "")


@pytest.mark.parametrize("name", ["gland", "lesion"])
def test_crop_without_it_falls_back_by_name(name):
    """A mask that marks nothing of this crop is as good as none."""
    guide = replace(guide_of(GRID), **{name: torch.zeros(GRID.size_zyx, dtype=torch.bool)})
    hiding = build_strategy(name).hide(GRID, 0.6, seeded(0), guide)
    assert (hiding.strategy, hiding.instead_of) == ("random", name)


def test_fallbacks_are_named_per_sample():
    """Of three samples the second has no gland mask."""
    guides = [guide_of(GRID), replace(guide_of(GRID), gland=None), guide_of(GRID)]
    batch = hide_batch(build_strategy("gland"), GRID, parse_ratio(0.6), [seeded(i) for i in range(3)], guides)
    assert batch.strategies == ("gland", "random", "gland")
    assert batch.voxels is None


@pytest.mark.parametrize(("progress", "hardest"), [(0.0, 0), (0.25, 9), (0.5, 18), (1.0, 36)])
def test_share_of_the_hardest_grows(progress, hardest):
    """Of 72 hidden blocks the 0.5 * progress * 72 hardest are always hidden, the rest as often as chance has it."""
    difficulty = torch.rand(GRID.grid_zyx, generator=seeded(1))
    top = difficulty >= difficulty.flatten().sort(descending=True).values[max(hardest - 1, 0)]
    assert build_strategy("hard").hardest_count(GRID, 0.5, progress) == hardest
    guide = Guide(difficulty=difficulty, progress=progress)
    if hardest:
        assert share_hidden("hard", guide, top) == 1.0
    rest = (72 - hardest) / (144 - hardest)
    assert abs(share_hidden("hard", guide, ~top) - rest) < 0.02


def test_without_progress_hard_is_random():
    """At the start the draw is that of random blocks, at the end it is another (the control)."""
    full = guide_of(GRID)
    for seed in range(10):
        plain = random_hidden_blocks(1, GRID.grid_zyx, 0.6, seeded(seed))[0]
        start = build_strategy("hard").hide(GRID, 0.6, seeded(seed), replace(full, progress=0.0)).blocks
        end = build_strategy("hard").hide(GRID, 0.6, seeded(seed), replace(full, progress=1.0)).blocks
        assert torch.equal(start, plain)
        assert not torch.equal(end, plain)


def test_all_hidden_may_be_the_hardest():
    """With share 1 at the end of training nothing is left to chance."""
    guide = guide_of(GRID, progress=1.0)
    expected = guide.difficulty.flatten().argsort(descending=True)[:86].sort().values
    for seed in range(5):
        blocks = build_strategy("hard:share=1").hide(GRID, 0.6, seeded(seed), guide).blocks
        assert torch.equal(blocks.flatten().nonzero().flatten(), expected)


def test_equally_hard_blocks_are_taken_at_random():
    """If all losses are 0 (padding), the hardest are not the first in memory: every block is hidden equally often."""
    guide = Guide(difficulty=torch.zeros(GRID.grid_zyx), progress=1.0)
    first = torch.zeros(GRID.grid_zyx, dtype=torch.bool)
    first[0] = True
    assert abs(share_hidden("hard", guide, first) - 0.5) < 0.03


@pytest.mark.parametrize("measure", ["entropy", "variance"])
def test_texture_is_hidden_more_often(measure):
    """Noise beside flat tissue: noise more often, flat blocks less; at weight 1 alike (the control)."""
    noisy = torch.zeros(GRID.grid_zyx, dtype=torch.bool)
    noisy[:, 3:] = True
    voxels = torch.randn(1, *GRID.size_zyx, generator=seeded(0)) * expand_blocks(noisy[None], GRID.block_zyx)[0]
    guide = Guide(voxels=voxels)
    assert share_hidden(f"texture:measure={measure}", guide, noisy) > 0.6
    assert share_hidden(f"texture:measure={measure}", guide, ~noisy) < 0.4
    assert abs(share_hidden(f"texture:measure={measure},weight=1", guide, noisy) - 0.5) < 0.03


def test_flat_image_has_no_texture_to_prefer():
    """All ranks equal: random blocks, exactly."""
    guide = Guide(voxels=torch.ones(1, *GRID.size_zyx))
    blocks = build_strategy("texture").hide(GRID, 0.6, seeded(3), guide).blocks
    assert torch.equal(blocks, random_hidden_blocks(1, GRID.grid_zyx, 0.6, seeded(3))[0])


def test_entropy_by_hand():
    """One grey value 0 bit, two equally often 1 bit, four 2 bit; beyond -4 and 4 lie the outermost bins."""
    blocks = torch.tensor([[0.1] * 4, [0.1, 0.1, 1.1, 1.1], [-3.0, -1.0, 1.0, 3.0], [9.0, 99.0, 4.0, 3.9]])
    assert block_entropy(blocks).tolist() == pytest.approx([0.0, 1.0, 2.0, 0.0])


@pytest.mark.parametrize(
    ("name", "changed", "words"),
    [
        (
            "gland",
            {"gland": torch.ones(2, 2, 2, dtype=torch.bool)},
            r"guide gland has shape \(2, 2, 2\).*\(8, 24, 24\)",
        ),
        ("lesion", {"lesion": torch.ones(8, 24, 1, dtype=torch.bool)}, r"guide lesion has shape \(8, 24, 1\)"),
        ("hard", {"difficulty": torch.ones(144)}, r"guide difficulty has shape \(144,\).*\(4, 6, 6\)"),
        ("hard", {"difficulty": torch.full((4, 6, 6), torch.nan)}, "not finite"),
        ("hard", {"progress": 1.5}, "progress 1.5"),
        ("hard", {"progress": float("nan")}, "progress nan"),
        ("texture", {"voxels": None}, "strategy texture looks at the image"),
        ("texture", {"voxels": torch.full((1, 8, 24, 24), torch.inf)}, "not finite"),
        ("frequency", {"voxels": None}, "strategy frequency looks at the image"),
        ("frequency", {"voxels": torch.ones(8, 24, 24)}, r"guide voxels has shape \(8, 24, 24\)"),
    ],
)
def test_unfit_guides_are_refused(name, changed, words):
    """Wrong shapes and failed losses are never bent into use."""
    with pytest.raises(UsageError, match=words):
        build_strategy(name).hide(GRID, 0.6, seeded(0), replace(guide_of(GRID), **changed))


def test_mixture_draws_by_weight():
    """Of 1,000 samples a quarter is hidden in columns, within 5 deviations; each by its own law."""
    strategy = build_strategy("mixture:random=3,column=1")
    names = []
    for seed in range(1000):
        hiding = strategy.hide(GRID, 0.6, seeded(seed), Guide())
        names.append(hiding.strategy)
        columns = torch.equal(hiding.blocks, hiding.blocks[:1].expand_as(hiding.blocks))
        assert columns == (hiding.strategy == "column")
        assert int(hiding.blocks.sum()) == {"random": 86, "column": 88}[hiding.strategy]
    assert abs(names.count("column") / 1000 - 0.25) < 5 * (0.25 * 0.75 / 1000) ** 0.5
    assert strategy.hidden_count(GRID, 0.6) == 88


def test_mixture_passes_fallbacks_on():
    """The part that was drawn and could not be used is named, not the mixture."""
    strategy = build_strategy("mixture:gland=1,hard=1")
    hidings = [strategy.hide(GRID, 0.6, seeded(seed), Guide()) for seed in range(20)]
    assert {hiding.strategy for hiding in hidings} == {"random"}
    assert {hiding.instead_of for hiding in hidings} == {"gland", "hard"}
    assert strategy.needs == {"gland", "difficulty", "progress"}

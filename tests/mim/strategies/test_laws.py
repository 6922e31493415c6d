"""Laws that hold for every strategy of the table, each with a broken strategy that must be found out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategy_cases import (
    ALL,
    FEW_DRAWS,
    NAMES,
    TEXTS,
    Foreign,
    OneByOne,
    Remembering,
    Stubborn,
    cells_dropped,
    cells_dropped_fast,
    cells_in_all,
    grid_of,
    guide_of,
    seeded,
)

from prostate_mim.errors import UsageError
from prostate_mim.mim.strategies import STRATEGIES, Guide, Ratio, build_strategy, hide_batch, parse_ratio

GRIDS = [(4, 6, 6), (5, 16, 16), (1, 6, 6), (4, 3, 7), (6, 1, 5), (3, 2, 1), (2, 9, 4)]
every_strategy = pytest.mark.parametrize("strategy", ALL, ids=NAMES)


def wrong_count(strategy, grid, ratio, seeds):
    """Seeds whose hidden blocks (or frequency cells) are not exactly as many as promised, or of a wrong shape."""
    guide = guide_of(grid)
    promised = round(ratio * cells_in_all(*grid.size_zyx[1:]))
    wrong = []
    for seed in seeds:
        hiding = strategy.hide(grid, ratio, seeded(seed), guide)
        used = build_strategy(hiding.strategy) if strategy.name == "mixture" else strategy
        good = hiding.blocks.shape == grid.grid_zyx and hiding.blocks.dtype == torch.bool
        good &= int(hiding.blocks.sum()) == used.hidden_count(grid, ratio)
        if hiding.frequencies is not None:
            good &= cells_dropped_fast(hiding.frequencies) == promised
        if not good:
            wrong.append(seed)
    return wrong


def draws(strategy, grid, ratio, seeds, guide):
    """What each seed hides, as bytes: blocks, frequencies, or the corrupted voxels where no block is hidden."""
    hidings = [strategy.hide(grid, ratio, seeded(seed), guide) for seed in seeds]
    changed = [h.voxels if h.frequencies is None else h.frequencies for h in hidings]
    return [(h.blocks if other is None else other).numpy().tobytes() for h, other in zip(hidings, changed, strict=True)]


def test_the_table_is_complete():
    """Every strategy is tested here, and its key is its name."""
    assert set(TEXTS) == set(STRATEGIES)
    assert [strategy.name for strategy in ALL] == list(STRATEGIES)


@every_strategy
def test_exact_count_over_1000_seeds(strategy):
    """Not one of 1,000 seeds hides a block more or less than ``hidden_count``."""
    assert wrong_count(strategy, grid_of((4, 6, 6)), 0.6, range(1000)) == []


def test_inexact_count_is_found():
    """The control: blocks hidden by independent coins."""
    assert len(wrong_count(OneByOne(), grid_of((4, 6, 6)), 0.6, range(100))) > 50


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("grid_zyx", GRIDS, ids=str)
@every_strategy
def test_exact_count_on_odd_grids(strategy, grid_zyx, ratio):
    """Any shape and ratio: the exact count, or a refusal that names ratio, count and units."""
    grid = grid_of(grid_zyx)
    try:
        strategy.hidden_count(grid, ratio)
    except UsageError as refusal:
        assert f"mask ratio {ratio} hides" in str(refusal)
        with pytest.raises(UsageError, match="choose one that hides some, not all"):
            strategy.hide(grid, ratio, seeded(0), guide_of(grid))
        return
    assert wrong_count(strategy, grid, ratio, range(5)) == []


@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.integers(1, 6)] * 3), st.floats(0.02, 0.98), st.integers(0, 2**31))
@every_strategy
def test_exact_count_anywhere(strategy, grid_zyx, ratio, seed):
    """The same for grids, ratios and seeds that nobody chose."""
    grid = grid_of(grid_zyx)
    try:
        strategy.hidden_count(grid, ratio)
    except UsageError:
        return
    assert wrong_count(strategy, grid, ratio, [seed]) == []


@pytest.mark.parametrize(
    ("name", "ratio", "grid_zyx", "count"),
    [
        ("random", 0.6, (4, 6, 6), 86),  # 0.6 of 144 blocks = 86.4
        ("column", 0.6, (4, 6, 6), 88),  # 0.6 of 36 columns = 21.6: 22 columns of 4 blocks
        ("slice", 0.6, (4, 6, 6), 72),  # 0.6 of 4 slabs = 2.4: 2 slabs of 36 blocks
        ("slice", 0.5, (5, 16, 16), 512),  # 2.5 slabs: 2 (halves to even, as for blocks)
        ("column", 0.5, (4, 3, 7), 40),  # 10.5 columns: 10 of 4 blocks
        ("frequency", 0.6, (4, 6, 6), 0),
        ("hard", 0.75, (4, 3, 7), 63),
    ],
)
def test_counts_by_hand(name, ratio, grid_zyx, count):
    """Columns and slices count in their own units."""
    assert build_strategy(name).hidden_count(grid_of(grid_zyx), ratio) == count


@pytest.mark.parametrize(
    ("name", "ratio", "grid_zyx", "words"),
    [
        ("slice", 0.6, (1, 6, 6), "hides 1 of 1 slices of blocks"),
        ("slice", 0.1, (4, 6, 6), "hides 0 of 4 slices of blocks"),
        ("column", 0.99, (4, 3, 3), "hides 9 of 9 columns"),
        ("random", 0.001, (4, 6, 6), "hides 0 of 144 blocks"),
        ("frequency", 0.9999, (4, 6, 6), "of 110 frequency cells"),  # 12 x 18: (216 + 4 own conjugates) / 2
        ("mixture:random=1,slice=1", 0.6, (1, 6, 6), "hides 1 of 1 slices"),
        ("random", float("nan"), (4, 6, 6), "mask ratio nan"),
    ],
)
def test_useless_ratios_are_refused(name, ratio, grid_zyx, words):
    """Hiding none or all is refused with both numbers, before training and when hiding."""
    grid = grid_of(grid_zyx)
    with pytest.raises(UsageError, match=words):
        build_strategy(name).hidden_count(grid, ratio)


@every_strategy
def test_equal_seeds_hide_the_same(strategy):
    """One seed always hides the same, different seeds differ, and torch's global generator is not touched."""
    grid = grid_of((4, 6, 6))
    guide = guide_of(grid)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = draws(strategy, grid, 0.6, range(100), guide)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert draws(strategy, grid, 0.6, range(100), guide) == first
    assert len(set(first)) >= FEW_DRAWS.get(strategy.name, 95)


def test_wrong_randomness_is_found():
    """The controls: one strategy ignores its generator, the other draws from the global one."""
    grid = grid_of((4, 6, 6))
    assert len(set(draws(Stubborn(), grid, 0.6, range(100), Guide()))) == 1
    assert draws(Foreign(), grid, 0.6, range(10), Guide()) != draws(Foreign(), grid, 0.6, range(10), Guide())


def depends_on_mates(strategy, grid, ratio):
    """Does any sample of a batch of 6 come out otherwise alone, or in the batch turned round?"""
    guides = [guide_of(grid, seed) for seed in range(6)]
    whole = hide_batch(strategy, grid, ratio, [seeded(seed) for seed in range(6)], guides)
    turned = hide_batch(strategy, grid, ratio, [seeded(seed) for seed in range(6)][::-1], guides[::-1])
    assert whole.blocks.shape == (6, *grid.grid_zyx)
    assert whole.blocks.dtype == torch.bool
    for index in range(6):
        alone = hide_batch(strategy, grid, ratio, [seeded(index)], [guides[index]])
        for other, place in ((alone, 0), (turned, 5 - index)):
            if not torch.equal(whole.blocks[index], other.blocks[place]):
                return True
            if whole.voxels is not None and not torch.equal(whole.voxels[index], other.voxels[place]):
                return True
            if whole.strategies[index] != other.strategies[place]:
                return True
    return False


@pytest.mark.parametrize("ratio", ["0.6", "0.3..0.8", "0.3|0.5|0.8"])
@every_strategy
def test_sample_does_not_depend_on_its_batch(strategy, ratio):
    """Alone, in a batch, or in a batch turned round: the same blocks, voxels and name."""
    assert not depends_on_mates(strategy, grid_of((4, 3, 7)), parse_ratio(ratio))


def test_dependence_on_the_batch_is_found():
    """The control: a strategy that remembers how many samples came before."""
    assert depends_on_mates(Remembering(), grid_of((4, 3, 7)), parse_ratio(0.6))


@every_strategy
def test_ratio_may_be_a_distribution(strategy):
    """Each sample hides exactly what its own drawn ratio asks for, and the ratios differ."""
    grid, ratio = grid_of((8, 5, 4)), Ratio("uniform", (0.3, 0.8))
    guides = [guide_of(grid, seed) for seed in range(30)]
    batch = hide_batch(strategy, grid, ratio, [seeded(seed) for seed in range(30)], guides)
    shares = [ratio.draw(seeded(seed)) for seed in range(30)]  # what a sample draws first
    assert len(set(shares)) == 30
    for index, (share, name) in enumerate(zip(shares, batch.strategies, strict=True)):
        assert 0.3 <= share <= 0.8
        assert int(batch.blocks[index].sum()) == build_strategy(name).hidden_count(grid, share)
        if name == "frequency":
            cells = cells_in_all(*grid.size_zyx[1:])
            assert cells_dropped(batch.frequencies[index]) == round(share * cells)


@every_strategy
def test_only_declared_guides_are_looked_at(strategy):
    """Taking away everything that ``needs`` does not name changes nothing."""
    grid = grid_of((4, 3, 7))
    full = guide_of(grid)
    bare = Guide(**{name: getattr(full, name) for name in strategy.needs})
    assert draws(strategy, grid, 0.6, range(20), full) == draws(strategy, grid, 0.6, range(20), bare)


@pytest.mark.parametrize(("name", "field"), [("gland", "gland"), ("lesion", "lesion"), ("hard", "difficulty")])
def test_declared_guides_are_looked_at(name, field):
    """The control: taking away what is declared does change the draw."""
    grid = grid_of((4, 3, 7))
    full = guide_of(grid, progress=1.0)
    bare = replace(full, **{field: None})
    strategy = build_strategy(name)
    assert draws(strategy, grid, 0.6, range(20), full) != draws(strategy, grid, 0.6, range(20), bare)


def test_only_labels_break_self_supervision():
    """The lesion strategy uses labels and says so; so does every mixture with it."""
    assert [strategy.name for strategy in ALL if not strategy.self_supervised] == ["lesion"]
    assert [strategy.name for strategy in ALL if "lesion" in strategy.needs] == ["lesion"]
    assert not build_strategy("mixture:random=1,lesion=0.01").self_supervised
    assert build_strategy("mixture:random=1,gland=1").self_supervised  # negative control


def test_generators_are_one_per_sample():
    """Another number of generators, or an empty batch, is refused."""
    grid = grid_of((4, 3, 7))
    for generators, guides in (([seeded(0)], [Guide(), Guide()]), ([], [])):
        with pytest.raises(UsageError, match=f"{len(generators)} generators for {len(guides)} samples"):
            hide_batch(build_strategy("random"), grid, parse_ratio(0.5), generators, guides)

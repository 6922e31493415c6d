"""What a training step hides: each sample by its own seed, and the name of what was really done."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from prostate_mim.errors import UsageError
from prostate_mim.mim import BlockGrid, MaskedImageModel, Method, MimBatch, hide
from prostate_mim.mim.strategies import STRATEGIES, Guide, build_strategy, hide_batch, parse_ratio
from prostate_mim.nets import build_encoder

GRID = BlockGrid((4, 16, 16), (4, 2, 4))
SAMPLES = 4
TEXTS = {name: name for name in STRATEGIES} | {"mixture": "mixture:random=1,column=1,gland=1,frequency=1"}


def make(strategy: str = "random", ratio: str = "0.5", grid: BlockGrid = GRID) -> MaskedImageModel:
    torch.manual_seed(0)
    return MaskedImageModel(build_encoder("resenc-s"), grid, Method(target="voxels", strategy=strategy, ratio=ratio))


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in numbers]


@pytest.fixture(scope="module")
def batch() -> MimBatch:
    """Four crops; the last two have no gland, or none of it in the crop."""
    generator = torch.Generator().manual_seed(0)
    voxels = torch.randn(SAMPLES, 1, *GRID.size_zyx, generator=generator)
    gland = torch.zeros(voxels.shape, dtype=torch.bool)
    gland[:2, :, 4:12, 16:, 16:48] = True
    nothing = torch.zeros(SAMPLES, *GRID.grid_zyx, dtype=torch.bool)
    return MimBatch(voxels, torch.ones_like(gland), nothing, gland)


@pytest.fixture(scope="module")
def lesion() -> Tensor:
    """The first and the last have one."""
    found = torch.zeros(SAMPLES, 1, *GRID.size_zyx, dtype=torch.bool)
    found[0, 0, 5, 20, 20] = found[3, 0, 1, 1, 1] = True
    return found


def part(batch: MimBatch, chosen: list[int]) -> MimBatch:
    return MimBatch(*(None if value is None else value[chosen] for value in vars(batch).values()))


@pytest.mark.parametrize("strategy", TEXTS)
def test_a_seed_hides_the_same_in_any_batch(strategy: str, batch: MimBatch, lesion: Tensor) -> None:
    """Alone, in pairs, or turned round: the same blocks, changed voxels, frequencies and names for each sample."""
    model = make(TEXTS[strategy])
    whole, names = hide(model, batch, seeds(5, 6, 7, 8), lesion=lesion, progress=1.0)
    for chosen in ([2], [3, 0], [3, 2, 1, 0]):
        generators = seeds(*(5 + place for place in chosen))
        found, used = hide(model, part(batch, chosen), generators, lesion=lesion[chosen], progress=1.0)
        assert used == tuple(names[place] for place in chosen)
        assert torch.equal(found.hidden_blocks, whole.hidden_blocks[chosen])
        if found.changed is not None:
            assert torch.equal(found.changed, whole.changed[chosen])
        if found.frequencies is not None:
            assert torch.equal(found.frequencies, whole.frequencies[chosen])
    other, _ = hide(model, batch, seeds(15, 16, 17, 18), lesion=lesion, progress=1.0)
    same = torch.equal(other.hidden_blocks, whole.hidden_blocks)
    assert not same or not torch.equal(other.changed, whole.changed)  # negative control: other seeds differ


@pytest.mark.parametrize("strategy", TEXTS)
def test_the_truth_is_left_alone(strategy: str, batch: MimBatch, lesion: Tensor) -> None:
    """Voxels, padding and gland go on as they came; only blocks, changed voxels and frequencies are decided."""
    before = batch.voxels.clone()
    found, _ = hide(make(TEXTS[strategy]), batch, seeds(0, 1, 2, 3), lesion=lesion, progress=0.5)
    assert found.voxels is batch.voxels
    assert torch.equal(batch.voxels, before)
    assert found.inside is batch.inside
    assert found.gland is batch.gland
    assert not batch.hidden_blocks.any()
    assert found.hidden_blocks.shape == batch.hidden_blocks.shape
    assert found.hidden_blocks.dtype == torch.bool
    hidden = found.hidden_blocks.flatten(1).any(1)
    changed = torch.zeros(SAMPLES, dtype=torch.bool)
    if found.changed is not None:
        changed = (found.changed != batch.voxels).flatten(1).any(1)
    assert (hidden ^ changed).all()  # exactly one of the two happens to every sample


def test_names_are_of_what_was_really_used(batch: MimBatch, lesion: Tensor) -> None:
    """Without a gland or a lesion in the crop, and without a teacher, the name is random."""
    cases = {
        "gland": ("gland", "gland", "random", "random"),
        "lesion": ("lesion", "random", "random", "lesion"),
        "column": ("column",) * 4,
    }
    for strategy, names in cases.items():
        assert hide(make(strategy), batch, seeds(0, 1, 2, 3), lesion=lesion)[1] == names
    assert hide(make("lesion"), batch, seeds(0, 1, 2, 3))[1] == ("random",) * 4
    assert hide(make("gland"), replace(batch, gland=None), seeds(0, 1, 2, 3))[1] == ("random",) * 4
    hard = make("hard")
    assert hide(hard, batch, seeds(0, 1, 2, 3))[1] == ("hard",) * 4
    hard.teacher = None
    assert hide(hard, batch, seeds(0, 1, 2, 3))[1] == ("random",) * 4


def test_a_mixture_names_its_parts(batch: MimBatch, lesion: Tensor) -> None:
    """Over 40 samples every part is drawn, and none is called mixture."""
    model, seen = make("mixture:random=1,column=1,genesis=1"), set()
    for start in range(0, 40, SAMPLES):
        found, names = hide(model, batch, seeds(*range(start, start + SAMPLES)))
        seen |= set(names)
        for place, name in enumerate(names):
            blocks = found.hidden_blocks[place]
            assert blocks.any() == (name != "genesis")
            if name == "column":
                assert torch.equal(blocks.any(0), blocks.all(0))
    assert seen == {"random", "column", "genesis"}


def counts(model: MaskedImageModel, batch: MimBatch, first: int = 0) -> list[int]:
    """Hidden blocks of each sample of one batch."""
    found, _ = hide(model, batch, seeds(*range(first, first + SAMPLES)), progress=0.7)
    return found.hidden_blocks.flatten(1).sum(1).tolist()


@pytest.mark.parametrize("strategy", ["random", "gland", "hard", "column", "slice"])
def test_exact_count(strategy: str, batch: MimBatch) -> None:
    """Half of 32 blocks in every sample."""
    assert counts(make(strategy), batch) == [16] * SAMPLES


def test_a_distribution_of_ratios(batch: MimBatch) -> None:
    """Every sample has its own number of hidden blocks, within the range, by its own seed."""
    model = make(ratio="0.25..0.75")
    found = [count for first in range(0, 40, SAMPLES) for count in counts(model, batch, first)]
    assert min(found) >= 8
    assert max(found) <= 24
    assert len(set(found)) > 8
    assert set(counts(make(ratio="0.25|0.75"), batch)) <= {8, 24}


def test_hide_asks_the_strategy(batch: MimBatch) -> None:
    """The blocks are those of the strategy itself with the same generators and guides."""
    model = make("gland:weight=16")
    found, _ = hide(model, batch, seeds(0, 1, 2, 3))
    guides = [Guide(gland=batch.gland[place, 0]) for place in range(SAMPLES)]
    expected = hide_batch(build_strategy("gland:weight=16"), GRID, parse_ratio("0.5"), seeds(0, 1, 2, 3), guides)
    assert torch.equal(found.hidden_blocks, expected.blocks)
    unguided = hide_batch(build_strategy("random"), GRID, parse_ratio("0.5"), seeds(0, 1, 2, 3), guides)
    assert not torch.equal(found.hidden_blocks[:2], unguided.blocks[:2])  # negative control


def test_global_randomness_is_not_touched(batch: MimBatch) -> None:
    """Torch's own generator neither decides nor moves."""
    for strategy in ("random", "hard", "genesis"):
        model = make(strategy)
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first, _ = hide(model, batch, seeds(0, 1, 2, 3), progress=0.5)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        second, _ = hide(model, batch, seeds(0, 1, 2, 3), progress=0.5)
        assert torch.equal(first.hidden_blocks, second.hidden_blocks)


def test_one_generator_a_sample(batch: MimBatch) -> None:
    """Three generators for four samples are refused."""
    with pytest.raises(UsageError, match="3 generators for 4 samples"):
        hide(make(), batch, seeds(0, 1, 2))


def test_columns_by_block_size() -> None:
    """Blocks as deep as the crop: whatever the strategy, columns are hidden."""
    grid = BlockGrid((16, 16, 16), (1, 2, 4))
    voxels = torch.randn(2, 1, *grid.size_zyx)
    nothing = torch.zeros(2, *grid.grid_zyx, dtype=torch.bool)
    found, _ = hide(make(grid=grid), MimBatch(voxels, torch.ones_like(voxels).bool(), nothing), seeds(0, 1))
    assert found.hidden_blocks.shape == (2, 1, 2, 4)
    assert found.hidden_blocks.flatten(1).sum(1).tolist() == [4, 4]

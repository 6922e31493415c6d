"""Names, settings and ratios as text."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategy_cases import ALL, NAMES, TEXTS, grid_of, seeded

from prostate_mim.errors import NotFoundError, UsageError
from prostate_mim.mim.strategies import STRATEGIES, Ratio, build_strategy, check_ratio, parse_ratio
from prostate_mim.mim.strategies.frequency import FrequencyBands
from prostate_mim.mim.strategies.gland import GlandWeighted
from prostate_mim.mim.strategies.mixture import Mixture
from prostate_mim.mim.strategies.texture import Texture

inside = st.floats(0.001, 0.999)


def test_settings_are_read():
    """Numbers, whole numbers and words go where they belong."""
    assert build_strategy("gland:weight=8") == GlandWeighted(weight=8.0)
    assert build_strategy(" texture : measure = variance , weight = 2 ".replace(" :", ":")) == Texture("variance", 2.0)
    assert build_strategy("frequency:bands=4") == FrequencyBands(4)
    mixture = build_strategy("mixture:random=0.5,column=1.5")
    assert isinstance(mixture, Mixture)
    assert [(part.name, weight) for part, weight in mixture.parts] == [("random", 0.5), ("column", 1.5)]


@pytest.mark.parametrize("strategy", ALL, ids=NAMES)
def test_equal_settings_make_equal_strategies(strategy):
    """A strategy is a value: it holds no state that one sample could leave to the next."""
    assert build_strategy(TEXTS[strategy.name]) == strategy
    with pytest.raises(AttributeError):
        strategy.name = "other"


@pytest.mark.parametrize(
    ("text", "near"), [("randon", "random"), ("blockwize", "blockwise"), ("mixture:colum=1", "column"), ("", "")]
)
def test_unknown_names_suggest_a_known_one(text, near):
    """The nearest name, and all of them."""
    with pytest.raises(NotFoundError, match=f"did you mean '{near}") as caught:
        build_strategy(text)
    assert all(name in str(caught.value) for name in STRATEGIES)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("random:weight=2", "random has no setting 'weight'; it has: none"),
        ("gland:heavy=2", "gland has no setting 'heavy'; it has: weight"),
        ("gland:weight", "'weight' for key=value"),
        ("gland:weight=", "key=value"),
        ("gland:weight=much", "weight=much, no number"),
        ("gland:weight=2,weight=3", "gives weight twice"),
        ("gland:weight=0.5", "weight 0.5; use a finite number of at least 1"),
        ("lesion:weight=inf", "weight inf"),
        ("hard:share=1.5", "share 1.5"),
        ("hard:share=nan", "share nan"),
        ("texture:measure=colour", "'colour'; use 'entropy' or 'variance'"),
        ("frequency:bands=1", "1 bands"),
        ("frequency:bands=2.5", "bands=2.5, no number"),
        ("mixture", "mixture has no parts; write for example mixture:random=0.5,column=0.5"),
        ("mixture:random=0", "random the weight 0.0"),
        ("mixture:random=nan", "random the weight nan"),
        ("mixture:mixture=1", "holds a mixture"),
    ],
)
def test_senseless_settings_are_refused(text, words):
    """One line that says what would do."""
    with pytest.raises(UsageError, match=words):
        build_strategy(text)


@pytest.mark.parametrize(
    ("text", "ratio"),
    [
        ("0.75", Ratio("fixed", (0.75,))),
        (0.75, Ratio("fixed", (0.75,))),
        ("0.5..0.9", Ratio("uniform", (0.5, 0.9))),
        (".5...9", Ratio("uniform", (0.5, 0.9))),
        ("0.6|0.75|0.9", Ratio("choice", (0.6, 0.75, 0.9))),
    ],
)
def test_ratios_are_read(text, ratio):
    """A number, a range, a choice; and one that has been read already."""
    assert parse_ratio(text) == ratio
    assert parse_ratio(ratio) is ratio


@given(
    st.one_of(
        st.builds(Ratio, st.just("fixed"), st.tuples(inside)),
        st.builds(Ratio, st.just("choice"), st.lists(inside, min_size=2, max_size=5).map(tuple)),
        st.builds(
            Ratio, st.just("uniform"), st.tuples(inside, inside).filter(lambda p: p[0] != p[1]).map(sorted).map(tuple)
        ),
    )
)
def test_ratios_survive_as_text(ratio):
    """``parse_ratio(str(ratio))`` is the ratio, to the last digit."""
    assert parse_ratio(str(ratio)) == ratio


@pytest.mark.parametrize(
    "text",
    ["0", "1", "-0.5", "1.5", "nan", "inf", 0.0, 1.0, "0.5..1", "0..0.5", "0.9..0.5", "0.5..0.5", "0.5|1", "0.5..nan",
     "", "most", "0.5..", "|", "0.5|", "0.5..0.6..0.7", "0.5..0.6|0.7"],
)  # fmt: skip
def test_senseless_ratios_are_refused(text):
    """Outside (0, 1), no number, or a range without extent."""
    with pytest.raises(UsageError, match="mask ratio"):
        parse_ratio(text)


@pytest.mark.parametrize(("kind", "values"), [("fixed", (0.5, 0.6)), ("choice", (0.5,)), ("uniform", (0.5,))])
def test_wrong_number_of_values_is_refused(kind, values):
    """Also where a ratio is made by hand."""
    with pytest.raises(UsageError, match="mask ratio"):
        Ratio(kind, values)


def test_draws_follow_the_distribution():
    """A fixed ratio takes nothing from the generator; a range fills itself; choices come equally often."""
    generator = seeded(0)
    before = generator.get_state()
    assert parse_ratio(0.6).draw(generator) == 0.6
    assert torch.equal(generator.get_state(), before)
    drawn = torch.tensor([parse_ratio("0.5..0.9").draw(generator) for _ in range(4000)])
    assert not torch.equal(generator.get_state(), before)  # negative control
    assert 0.5 <= drawn.min() < 0.51
    assert 0.89 < drawn.max() <= 0.9
    assert abs(drawn.mean() - 0.7) < 5 * 0.4 / (12 * 4000) ** 0.5
    chosen = [parse_ratio("0.6|0.75|0.9").draw(generator) for _ in range(3000)]
    assert set(chosen) == {0.6, 0.75, 0.9}
    assert all(abs(chosen.count(value) - 1000) < 5 * (3000 * 2 / 9) ** 0.5 for value in (0.6, 0.75, 0.9))


def test_distribution_is_checked_before_training():
    """0.05 hides 0 of 4 slabs: found at once, not when a sample first draws it."""
    grid = grid_of((4, 6, 6))
    check_ratio(build_strategy("slice"), grid, parse_ratio("0.3..0.8"))
    for text in ("0.05..0.8", "0.5|0.95", "0.05"):
        with pytest.raises(UsageError, match="of 4 slices of blocks"):
            check_ratio(build_strategy("slice"), grid, parse_ratio(text))

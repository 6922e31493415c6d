"""Corrections against textbook numbers and scipy; permutation over seeds against Mann-Whitney and picai_eval."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control, mannwhitneyu, ttest_1samp

from prostate_mim.errors import UsageError
from prostate_mim.metrics import benjamini_hochberg, holm, mean_over_runs, permutation_over_seeds

# Benjamini and Hochberg 1995, section 4.1: 15 endpoints of a trial of thrombolysis.
TRIAL = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528,
         0.7590, 1.0000]  # fmt: skip


def test_published_corrections():
    """At 5 % Benjamini and Hochberg find four endpoints and stepwise control of any error three, as they report."""
    assert sum(p <= 0.05 for p in benjamini_hochberg(TRIAL)) == 4
    assert sum(p <= 0.05 for p in holm(TRIAL)) == 3
    assert sum(p <= 0.05 for p in TRIAL) == 9  # the control: uncorrected


def test_the_mean_over_runs_is_students():
    """As scipy's; one run has no interval, and a run without a value leaves no mean."""
    runs = [0.52, 0.47, 0.55, 0.49]
    found = mean_over_runs(runs)
    expected = ttest_1samp(runs, 0).confidence_interval(0.95)
    assert (found.value, found.low, found.high) == pytest.approx((0.5075, expected.low, expected.high))
    assert mean_over_runs([0.3]).to_dict() == {"value": 0.3, "low": None, "high": None}
    assert mean_over_runs([0.3, None]).value is None
    assert mean_over_runs([]).value is None


def test_holm_by_hand():
    """0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 * 1 lifted to the one before; in the order given."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert holm([]) == benjamini_hochberg([]) == []


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_laws_of_correction(p_values, shuffler):
    """Raw <= BH <= Holm <= Bonferroni; BH is scipy's; order in, order out; Holm is what its step-down test finds."""
    strict, mild = holm(p_values), benjamini_hochberg(p_values)
    count = len(p_values)
    for raw, one, other in zip(p_values, mild, strict, strict=True):
        assert raw <= one + 1e-12
        assert one <= other + 1e-12
        assert other <= min(1, raw * count) + 1e-12
    np.testing.assert_allclose(mild, false_discovery_control(p_values), atol=1e-12)
    order = list(range(count))
    shuffler.shuffle(order)
    assert holm([p_values[i] for i in order]) == [strict[i] for i in order]
    level = 0.05
    rejected = 0
    for rank, raw in enumerate(sorted(p_values)):
        if raw * (count - rank) > level:
            break
        rejected += 1
    assert sum(p <= level for p in strict) == rejected


@pytest.mark.parametrize("wrong", [[0.1, float("nan")], [-0.1], [1.1], [[0.1]]])
def test_no_p_value(wrong):
    """NaN and numbers outside 0 to 1 are refused, not sorted to an end."""
    for correct in (holm, benjamini_hochberg):
        with pytest.raises(UsageError, match="p-value"):
            correct(wrong)


def test_permutation_by_hand():
    """Five runs that all win: 1 of 252 ways one-sided, 2 of 252 two-sided; equal runs give 1."""
    first, second = [0.71, 0.72, 0.73, 0.74, 0.75], [0.61, 0.62, 0.63, 0.64, 0.65]
    assert permutation_over_seeds(first, second) == pytest.approx(2 / 252)
    assert permutation_over_seeds(first, second, alternative="greater") == pytest.approx(1 / 252)
    assert permutation_over_seeds(second, first, alternative="greater") == 1
    assert permutation_over_seeds([0.7, 0.7], [0.7, 0.7]) == 1
    assert permutation_over_seeds([0.7], [0.6]) == 1  # one run each can show nothing


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.5, 1), min_size=4, max_size=11, unique=True), st.integers(1, 3))
def test_permutation_equals_mann_whitney(values, count):
    """Without ties the exact test is that of Mann and Whitney; turned round, the same."""
    first, second = values[:count], values[count:]
    found = permutation_over_seeds(first, second)
    assert found == pytest.approx(mannwhitneyu(first, second, method="exact").pvalue)
    assert permutation_over_seeds(second, first) == pytest.approx(found)


def test_many_runs_are_sampled():
    """11 against 11 runs are too many to count; random parts come near the exact p-value, and repeat by seed."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.6, 1, 11).tolist(), rng.normal(0, 1, 11).tolist()
    found = permutation_over_seeds(first, second)
    assert found == pytest.approx(mannwhitneyu(first, second, method="exact").pvalue, abs=0.02)
    assert found == permutation_over_seeds(first, second)
    assert found != permutation_over_seeds(first, second, seed=1)
    assert permutation_over_seeds(range(11), range(100, 111)) == pytest.approx(1 / 10_001)  # never 0


def test_wrong_runs_are_refused():
    """No runs, NaN, an unknown alternative."""
    for first, second in (([], [0.1]), ([0.1], []), ([float("nan")], [0.1])):
        with pytest.raises(UsageError, match="at least one run"):
            permutation_over_seeds(first, second)
    with pytest.raises(UsageError, match="choose two-sided or greater"):
        permutation_over_seeds([0.1], [0.2], alternative="less")


def test_permutation_equals_picai_eval():
    """PI-CAI's own test, which asks whether the second is better, gives the same exact p-value, ties included."""
    reason = "picai_eval is not installed; pip install picai_eval"
    challenge = pytest.importorskip("picai_eval.statistical_helper", reason=reason)
    for first, second in (([0.7, 0.72, 0.69, 0.75], [0.71, 0.66, 0.68]), ([0.7, 0.7, 0.8], [0.7, 0.6, 0.8])):
        expected = challenge.perform_permutation_test(scores_baseline=second, scores_alternative=first)
        assert permutation_over_seeds(first, second, alternative="greater") == pytest.approx(expected)

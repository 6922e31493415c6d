"""Brier, ECE, calibration slope and intercept, reliability bins and the decision curve, by hand and by others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from prostate_mim.errors import UsageError
from prostate_mim.metrics import METRICS, Scored, decision_curve, evaluate, reliability_bins
from prostate_mim.metrics.calibration import logits
from prostate_mim.metrics.logistic import fit_line
from prostate_mim.metrics.table import BATCHED
from prostate_mim.metrics.weighted import Ranked, Weighted


def grouped(groups: list[tuple[float, int, int]]) -> tuple[list[int], list[float]]:
    """(probability, rows, positives) of each group -> labels and probabilities."""
    labels = [label for _, rows, positives in groups for label in [1] * positives + [0] * (rows - positives)]
    return labels, [p for p, rows, _ in groups for _ in range(rows)]


def test_brier_and_ece_by_hand():
    """10 rows at 0.8 with 6 positives, 10 at 0.3 with 3: ECE (10 * 0.2 + 10 * 0) / 20."""
    labels, probabilities = grouped([(0.8, 10, 6), (0.3, 10, 3)])
    assert METRICS["ece"](labels, probabilities) == pytest.approx(0.1)
    squares = 6 * 0.2**2 + 4 * 0.8**2 + 3 * 0.7**2 + 7 * 0.3**2
    assert METRICS["brier"](labels, probabilities) == pytest.approx(squares / 20)
    assert METRICS["brier"](labels, probabilities) == pytest.approx(brier_score_loss(labels, probabilities))


def test_bins_are_closed_above():
    """((b - 1) / 10, b / 10] as Guo et al. 2017 define them: 0.7 is in the seventh, though 0.7 * 10 > 7 in floats."""
    found = reliability_bins([0, 1, 1, 0, 1], [0.0, 0.1, 0.7, 0.7000001, 1.0])
    assert found.counts.tolist() == [2, 0, 0, 0, 0, 0, 1, 1, 0, 1]
    assert found.predicted[0] == pytest.approx(0.05)
    assert found.observed[0] == 0.5
    assert np.isnan(found.observed[1])
    with pytest.raises(UsageError, match="0 bins"):
        reliability_bins([0, 1], [0.1, 0.2], bins=0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), min_size=1, max_size=50))
def test_ece_is_the_mean_gap_of_the_bins(pairs):
    """ECE is the weighted gap of the reliability diagram, from 0 to 1."""
    labels, probabilities = zip(*pairs, strict=True)
    bins = reliability_bins(labels, probabilities)
    filled = bins.counts > 0
    gap = (bins.counts * np.abs(bins.observed - bins.predicted))[filled].sum() / len(labels)
    assert METRICS["ece"](labels, probabilities) == pytest.approx(gap, abs=1e-12)
    assert -1e-12 <= gap <= 1 + 1e-12
    assert bins.counts.sum() == len(labels)


def test_calibration_line_by_hand():
    """Said 0.2 and 0.8, seen 0.3 and 0.7: the slope is logit(0.7) / logit(0.8), the intercept 0 by symmetry."""
    labels, probabilities = grouped([(0.2, 10, 3), (0.8, 10, 7)])
    expected = np.log(0.7 / 0.3) / np.log(0.8 / 0.2)
    assert METRICS["calibration_slope"](labels, probabilities) == pytest.approx(expected, abs=1e-9)
    assert METRICS["calibration_intercept"](labels, probabilities) == pytest.approx(0, abs=1e-9)


def test_intercept_by_hand():
    """Said 0.5, seen 0.2: the intercept is logit(0.2); the slope has nothing to go by."""
    labels, probabilities = grouped([(0.5, 10, 2)])
    assert METRICS["calibration_intercept"](labels, probabilities) == pytest.approx(np.log(0.25), abs=1e-9)
    assert METRICS["calibration_slope"](labels, probabilities) is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), min_size=2, max_size=40))
def test_intercept_solves_its_equation(pairs):
    """Shifted by the intercept, the mean of the probabilities is the share of positives, from any probabilities."""
    labels, probabilities = (np.array(part) for part in zip(*pairs, strict=True))
    found = METRICS["calibration_intercept"](labels, probabilities)
    if len(set(labels.tolist())) < 2:
        assert found is None
        return
    shifted = 1 / (1 + np.exp(-found - logits(probabilities)))
    assert shifted.mean() == pytest.approx(labels.mean(), abs=1e-6)


def test_perfect_calibration():
    """Where each group has the share it says: ECE 0, slope 1, intercept 0. Sharper logits: slope 1/2 (the control)."""
    labels, probabilities = grouped([(0.1, 20, 2), (0.4, 20, 8), (0.9, 20, 18)])
    assert METRICS["ece"](labels, probabilities) == pytest.approx(0)
    assert METRICS["calibration_slope"](labels, probabilities) == pytest.approx(1)
    assert METRICS["calibration_intercept"](labels, probabilities) == pytest.approx(0, abs=1e-9)
    sharper = 1 / (1 + np.exp(-2 * logits(np.array(probabilities))))
    assert METRICS["calibration_slope"](labels, sharper) == pytest.approx(0.5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.2, 4), st.floats(-2, 2))
def test_slope_equals_sklearn(seed, stretch, shift):
    """Logistic regression without penalty on the logit gives the same slope."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=80)
    labels = (rng.random(80) < 1 / (1 + np.exp(-truth))).astype(int)
    assume(0 < labels.sum() < 80)
    probabilities = 1 / (1 + np.exp(-(stretch * truth + shift)))
    x = logits(probabilities)[:, None]
    fitted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(x, labels)
    slope = METRICS["calibration_slope"](labels, probabilities)
    assert slope == pytest.approx(fitted.coef_[0, 0], rel=1e-4)
    line = fit_line(x[:, 0], labels, np.ones((1, 80)))
    assert (line[0][0], line[1][0]) == (pytest.approx(fitted.intercept_[0], abs=1e-3), slope)


@pytest.mark.parametrize(
    ("labels", "probabilities"),
    [([0, 0, 1, 1], [0.1, 0.2, 0.7, 0.8]), ([0, 0, 1, 1], [0.1, 0.5, 0.5, 0.8]), ([1, 1, 0], [0.1, 0.2, 0.3]),
     ([1, 1], [0.2, 0.4])],
)  # fmt: skip
def test_separated_classes_have_no_slope(labels, probabilities):
    """Where steeper is always better (also with a tie between, or upside down), or one class is missing: None."""
    assert METRICS["calibration_slope"](labels, probabilities) is None


def test_batched_fit_is_that_of_each_draw():
    """Many weightings at once give the fit of each; a draw that cannot be fitted does not disturb the others."""
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=40), rng.integers(0, 2, 40)
    weights = rng.integers(0, 4, (30, 40)).astype(float)
    weights[7] *= labels  # one class only
    together = np.stack(fit_line(x, labels, weights))
    alone = np.concatenate([np.stack(fit_line(x, labels, row[None])) for row in weights], axis=1)
    np.testing.assert_allclose(together, alone, atol=1e-9)
    assert np.flatnonzero(np.isnan(together[1])).tolist() == [7]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20), st.integers(0, 3)), min_size=3, max_size=30),
    st.sampled_from(sorted(METRICS)),
)
def test_a_weight_is_a_repetition(rows, name):
    """The law the bootstrap stands on: a row of weight k counts as k rows, for every metric."""
    labels, twentieths, weights = (np.array(part) for part in zip(*rows, strict=True))
    assume(weights.sum() > 0)
    probabilities = twentieths / 20
    repeated = np.repeat(np.arange(len(rows)), weights)
    found = BATCHED[name](Weighted(Ranked(labels, probabilities), weights[None].astype(float)))[0]
    plain = METRICS[name](labels[repeated], probabilities[repeated])
    assert found == pytest.approx(np.nan if plain is None else plain, rel=1e-6, abs=1e-7, nan_ok=True)


def test_decision_curve_by_hand():
    """5 rows, 2 positive: at 0.25 three are called, 2 of them true: 2/5 - 1/5 * (1/3); treating all, 2/5 - 3/5 / 3."""
    found = decision_curve([1, 1, 0, 0, 0], [0.9, 0.3, 0.6, 0.1, 0.2], [0.0, 0.25, 0.5])
    np.testing.assert_allclose(found.net_benefit, [0.4, 2 / 5 - 1 / 15, 1 / 5 - 1 / 5], atol=1e-12)
    np.testing.assert_allclose(found.treat_all, [0.4, 2 / 5 - 1 / 5, 2 / 5 - 3 / 5], atol=1e-12)
    with pytest.raises(UsageError, match="threshold"):
        decision_curve([1, 0], [0.9, 0.1], [0.5, 1.0])


def test_scores_are_no_probabilities():
    """Rank metrics take a PSA density, calibration refuses it."""
    scored = Scored([0, 1, 0, 1], [0.1, 3.0, 0.2, 0.9], ("a", "b", "c", "d"))
    assert evaluate(scored, metrics=("auroc",), samples=20).overall["auroc"].value == 1
    for name in ("brier", "ece", "calibration_slope", "calibration_intercept"):
        with pytest.raises(UsageError, match="1 of 4 values lie outside 0 to 1"):
            METRICS[name](scored.labels, scored.probabilities)

"""AUROC, average precision and operating points against hand-made cases, scikit-learn and published numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from prostate_mim.errors import TrainingError, UsageError
from prostate_mim.metrics import METRICS, auroc, auroc_standard_error, roc_curve

POINTS = (
    *(f"sensitivity_at_specificity_{share}" for share in (80, 90, 95)),
    *(f"specificity_at_sensitivity_{share}" for share in (80, 90, 95)),
)
RANKING = ("auroc", "average_precision", *POINTS)
PAIRS = st.lists(st.tuples(st.integers(0, 1), st.integers(-5, 5)), min_size=2, max_size=60)


def test_auroc_by_hand():
    """Of the pairs (0.35, 0.8) against (0.1, 0.4) three of four are in order; a tie counts half."""
    assert auroc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) == 0.75
    assert auroc([0, 1], [0.5, 0.5]) == 0.5
    assert auroc([0, 1, 1], [0.2, 0.2, 0.9]) == 0.75
    assert auroc([1, 0], [0.1, 0.9]) == 0.0
    assert auroc([1, 1], [0.1, 0.9]) is None
    assert auroc([0, 0], [0.1, 0.9]) is None
    assert auroc([], []) is None


def test_published_auroc():
    """109 CT images in five grades (Hanley and McNeil 1982): 0.8932, DeLong's error 0.0307, as Stata prints them."""
    normal, abnormal = [33, 6, 6, 11, 2], [3, 2, 2, 11, 33]
    scores = np.concatenate([np.repeat(np.arange(5), normal), np.repeat(np.arange(5), abnormal)])
    labels = np.repeat([0, 1], [58, 51])
    assert auroc(labels, scores) == pytest.approx(0.8932, abs=5e-5)
    assert auroc_standard_error(labels, scores) == pytest.approx(0.0307, abs=5e-5)


@settings(max_examples=150, deadline=None)
@given(PAIRS)
def test_rank_metrics_equal_sklearn(pairs):
    """On any data, full of ties: area, average precision, and operating points read off scikit-learn's curve."""
    labels, scores = zip(*pairs, strict=True)
    assume(len(set(labels)) == 2)
    assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    found = METRICS["average_precision"](labels, scores)
    assert found == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    false, true, _ = sklearn_roc_curve(labels, scores, drop_intermediate=False)
    for share in (0.80, 0.90, 0.95):
        best = max(t for f, t in zip(false, true, strict=True) if 1 - f >= share - 1e-9)
        assert METRICS[f"sensitivity_at_specificity_{share * 100:.0f}"](labels, scores) == pytest.approx(best)
        best = max(1 - f for f, t in zip(false, true, strict=True) if t >= share - 1e-9)
        assert METRICS[f"specificity_at_sensitivity_{share * 100:.0f}"](labels, scores) == pytest.approx(best)
    ours = roc_curve(labels, scores)
    np.testing.assert_allclose(ours, (false, true), atol=1e-12)
    assert np.trapezoid(ours[1], ours[0]) == pytest.approx(auroc(labels, scores), abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(PAIRS, st.floats(0.1, 10), st.floats(-3, 3))
def test_rank_metrics_follow_order_alone(pairs, stretch, shift):
    """A strictly rising transform leaves them; swapping the classes and the order leaves the area."""
    labels, scores = (np.array(part) for part in zip(*pairs, strict=True))
    assume(len(set(labels.tolist())) == 2)
    moved = np.exp(stretch * scores / 5) + shift
    for name in RANKING:
        assert METRICS[name](labels, moved) == pytest.approx(METRICS[name](labels, scores), abs=1e-12), name
    assert auroc(1 - labels, -scores) == pytest.approx(auroc(labels, scores), abs=1e-12)
    assert auroc(labels, -scores) == pytest.approx(1 - auroc(labels, scores), abs=1e-12)  # the control: it can move


def test_operating_points_by_hand():
    """Ten negatives 0 to 9: at 80 % specificity the threshold is above 7, at 90 % above 8, at 95 % above all ten."""
    labels = [0] * 10 + [1] * 4
    scores = [*range(10), 6.5, 7.5, 8.5, 9.5]
    found = {share: METRICS[f"sensitivity_at_specificity_{share}"](labels, scores) for share in (80, 90, 95)}
    assert found == {80: 0.75, 90: 0.5, 95: 0.25}
    # all four positives are called from 6.5 on, which leaves 0 to 6 below
    assert METRICS["specificity_at_sensitivity_80"](labels, scores) == pytest.approx(0.7)
    assert METRICS["sensitivity_at_specificity_80"]([1, 1], [0.1, 0.2]) is None


def test_average_precision_by_hand():
    """Positives at ranks 1, 3 and 4 of 5: (1/1 + 2/3 + 3/4) / 3."""
    assert METRICS["average_precision"]([1, 0, 1, 1, 0], [5, 4, 3, 2, 1]) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert METRICS["average_precision"]([0, 0], [0.1, 0.2]) is None


def test_nan_has_no_auroc():
    """NaN is no score: it is refused, never ranked. Neither is a third label, or a score too few."""
    with pytest.raises(TrainingError, match="1 of 3 scores are NaN"):
        auroc([0, 1, 1], [0.1, float("nan"), 0.3])
    with pytest.raises(UsageError, match="neither 0 nor 1"):
        auroc([0, 1, 2], [0.1, 0.2, 0.3])
    with pytest.raises(UsageError, match="one score for each label"):
        auroc([0, 1, 1], [0.1, 0.2])

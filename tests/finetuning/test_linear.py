"""The linear probe: scikit-learn's solution, a penalty chosen among whole patients, ordinal targets, a temperature."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from prostate_mim.errors import TrainingError, UsageError
from prostate_mim.finetuning import fit_linear_probe
from prostate_mim.finetuning.linear import at_limit, fit_temperature, log_loss


def lesions(seed: int, rows: int = 60, width: int = 20, signal: float = 1.0):
    """Features, labels and patients of two lesions each; the first feature says something about the label."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(rows) % 3 == 0).astype(int)
    features = rng.normal(size=(rows, width)) * rng.uniform(0.1, 9, width) + rng.normal(size=width)
    features[:, 0] += signal * features[:, 0].std() * labels
    return features, labels, [f"p{n // 2}" for n in range(rows)]


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 999),
    width=st.sampled_from([3, 20, 150]),
    penalty=st.sampled_from([1e-3, 0.1, 1.0]),
    balanced=st.booleans(),
)
def test_it_is_scikit_learns(seed: int, width: int, penalty: float, balanced: bool) -> None:
    """More features than rows or fewer, any C, weighted or not: the same logits."""
    features, labels, patients = lesions(seed, width=width)
    probe = fit_linear_probe(features, labels, patients, penalties=(penalty,), class_weight=balanced)
    theirs = LogisticRegression(C=penalty, tol=1e-10, max_iter=20000, class_weight="balanced" if balanced else None)
    standard = (features - features.mean(0)) / features.std(0)
    expected = theirs.fit(standard, labels).decision_function(standard)
    assert np.allclose(probe.logits(features), expected, atol=2e-3)
    assert np.allclose(probe.probabilities(features), 1 / (1 + np.exp(-probe.logits(features))))


def test_units_of_features_change_nothing() -> None:
    """Standardised: metres or millimetres, shifted or not; a constant feature has no weight."""
    features, labels, patients = lesions(1)
    moved = features * np.linspace(0.001, 1000, features.shape[1]) + 7
    one, two = (fit_linear_probe(found, labels, patients, penalties=(0.1,)) for found in (features, moved))
    assert np.allclose(one.logits(features), two.logits(moved), atol=1e-3)
    flat = np.concatenate([features, np.full((len(features), 1), 3.3)], 1)
    probe = fit_linear_probe(flat, labels, patients, penalties=(0.1,))
    assert probe.weight[-1] == 0
    strange = flat.copy()
    strange[:, -1] = 1e9  # what is new in a feature that was constant counts for nothing
    assert np.array_equal(probe.logits(flat), probe.logits(strange))


def test_penalty_is_that_of_the_lowest_inner_loss() -> None:
    """By hand: the grid one by one; what each predicts for patients it did not see; the lowest log loss wins."""
    features, labels, patients = lesions(5, signal=2.0)
    grid = (1e-4, 1e-2, 1.0, 100.0)
    probe = fit_linear_probe(features, labels, patients, penalties=grid, inner_folds=3, seed=4)
    losses = {}
    for penalty in grid:
        alone = fit_linear_probe(features, labels, patients, penalties=(penalty,), inner_folds=3, seed=4)
        assert alone.penalty == penalty
        losses[penalty] = log_loss(alone.inner, labels)
    assert probe.penalty == min(losses, key=losses.__getitem__)
    assert len(set(losses.values())) == len(grid)
    assert fit_linear_probe(features, labels, patients, penalties=grid[::-1], seed=4).penalty == probe.penalty


def test_noise_is_smoothed_and_signal_is_not() -> None:
    """Without signal a strong penalty is chosen, with a strong one a weak one."""
    noise, signal = lesions(2, signal=0, width=200), lesions(2, signal=8.0, width=5)
    assert fit_linear_probe(*noise).penalty <= 0.01
    assert fit_linear_probe(*signal).penalty >= 0.1


def test_inner_predictions_do_not_know_their_patient() -> None:
    """Each patient has its own feature: it tells the label of lesions seen, and nothing of a patient not seen.

    The control: with patients that are lesions (so that one patient is on both sides), it is learnt by heart.
    """
    rng = np.random.default_rng(0)
    patients = [f"p{n // 4}" for n in range(160)]
    labels = np.repeat(rng.permutation(np.arange(40) % 2), 4)
    features = np.repeat(np.eye(40), 4, 0)
    honest = fit_linear_probe(features, labels, patients, penalties=(10.0,))
    leaky = fit_linear_probe(features, labels, [str(n) for n in range(160)], penalties=(10.0,))
    assert log_loss(honest.inner, labels) > 0.65
    assert log_loss(leaky.inner, labels) < 0.3


def test_temperature_repairs_logits_that_were_multiplied() -> None:
    """Labels drawn from known logits: those times 4 have temperature 4; a probe's is that of its inner logits."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 20000)
    labels = (rng.random(20000) < 1 / (1 + np.exp(-logits))).astype(int)
    assert fit_temperature(4 * logits, labels) == pytest.approx(4, rel=0.03)
    assert fit_temperature(logits, labels) == pytest.approx(1, rel=0.03)
    assert fit_temperature(-logits, labels) == pytest.approx(20, rel=0.01)  # the edge
    assert at_limit(fit_temperature(-logits, labels))
    assert at_limit(fit_temperature(logits / 1000, labels))
    assert not any(at_limit(fit_temperature(scale * logits, labels)) for scale in (0.1, 1, 4, 15))
    assert fit_temperature(np.full(3, np.nan), np.array([0, 1, 1])) == 1
    features, labels, patients = lesions(3, width=100)
    plain = fit_linear_probe(features, labels, patients, penalties=(10.0,))
    calm = fit_linear_probe(features, labels, patients, penalties=(10.0,), calibrate=True)
    assert calm.temperature == fit_temperature(plain.inner, labels) > 1.5
    assert np.allclose(calm.logits(features) * calm.temperature, plain.logits(features))


def test_ordinal_probe_orders_grades() -> None:
    """One direction, a bias a grade in falling order; grades beyond the data are never reached; >= 2 is reported."""
    rng = np.random.default_rng(1)
    depth = rng.normal(size=300)
    grades = np.digitize(depth, [-0.5, 0.3, 0.9, 1.5])  # 0 to 4; nobody has 5
    features = np.stack([depth + 0.3 * rng.normal(size=300), *rng.normal(size=(4, 300))], 1)
    probe = fit_linear_probe(features, grades, [str(n) for n in range(300)], ordinal=True, penalties=(1.0,))
    assert len(probe.cumulative) == 4
    assert (np.diff(probe.cumulative) < 0).all()
    assert probe.bias == probe.cumulative[1]
    assert abs(probe.weight[0]) > 5 * np.abs(probe.weight[1:]).max()
    assert ((probe.logits(features) > 0) == (grades >= 2)).mean() > 0.85


def test_few_patients_and_one_class() -> None:
    """One patient of a class: nothing is chosen, the middle penalty is taken. One class: an error."""
    features, labels, patients = lesions(1, rows=6)
    lone = np.array([1, 1, 0, 0, 0, 0])
    probe = fit_linear_probe(features, lone, patients, calibrate=True)
    assert (probe.penalty, probe.temperature) == (0.1, 1)
    assert np.isnan(probe.inner).all()
    with pytest.raises(UsageError, match="one label"):
        fit_linear_probe(features, np.zeros(6, int), patients)
    with pytest.raises(UsageError, match="penalties"):
        fit_linear_probe(features, labels, patients, penalties=())
    with pytest.raises(UsageError, match="do not go together"):
        fit_linear_probe(features, labels, patients[:-1])
    with pytest.raises(TrainingError, match="1 of 6 rows"):
        fit_linear_probe(np.where(np.arange(6)[:, None] == 2, np.nan, features), labels, patients)

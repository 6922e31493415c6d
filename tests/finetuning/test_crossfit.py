"""Out-of-fold predictions: nothing of a fold reaches its own model, noise stays noise, leaks are seen as such."""

from __future__ import annotations

import numpy as np
import pytest

from prostate_mim.errors import UsageError
from prostate_mim.finetuning import FinetuneConfig, cross_fit
from prostate_mim.finetuning.subsets import inner_folds
from prostate_mim.metrics import auroc, auroc_interval

CONFIG = FinetuneConfig(penalties=(1e-3, 1e-1), calibrate=True)


def table(seed: int, patients: int = 80, signal: float = 1.5, width: int = 30):
    """Two lesions a patient, five folds of whole patients."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(patients), 2)
    labels = rng.permutation(np.repeat(np.arange(patients) % 3 == 0, 1)).astype(int)[owner]
    features = rng.normal(size=(2 * patients, width))
    features[:, 0] += signal * labels
    return features, labels, [f"p{n}" for n in owner], owner % 5


def test_no_row_of_a_fold_decides_its_own_probabilities() -> None:
    """Other labels in fold 2 change what is said of the others, and not one bit of what is said of fold 2.

    The same for features, but for the row's own: they are what it is predicted from.
    """
    features, labels, patients, folds = table(0)
    own = folds == 2
    before = cross_fit(features, labels, patients, folds, config=CONFIG)
    after = cross_fit(features, np.where(own, 1 - labels, labels), patients, folds, config=CONFIG)
    assert np.array_equal(before[own], after[own])
    assert not np.isclose(before[~own], after[~own]).any()
    moved = features.copy()
    moved[np.flatnonzero(own)[1:]] += 100
    after = cross_fit(moved, labels, patients, folds, config=CONFIG)
    assert before[own][0] == after[own][0]
    assert not np.isclose(before[~own], after[~own]).any()


def permuted(labels: np.ndarray, seed: int) -> np.ndarray:
    """Labels of patients, given to other patients."""
    return labels[::2][np.random.default_rng(seed).permutation(len(labels) // 2)].repeat(2)


def test_signal_noise_and_a_planted_leak() -> None:
    """A signal is found; with labels of other patients intervals cover 0.5; with a feature that is the label none does.

    Folds are balanced: a model of noise ranks folds by the share of positives it was trained on, and that share is
    the higher the fewer the fold has itself.
    """
    features, labels, patients, folds = table(1, signal=2.0)
    assert auroc(labels, cross_fit(features, labels, patients, folds, config=CONFIG)) > 0.8
    covered = leaked = 0
    values = []
    for seed in range(5):
        other = permuted(labels, seed)
        balanced = inner_folds(other, patients, 5, seed)
        for added in (0, 1):
            shown = np.concatenate([features, added * other[:, None]], 1)
            probabilities = cross_fit(shown, other, patients, balanced, config=CONFIG)
            found = auroc_interval(other.tolist(), probabilities.tolist(), patients, samples=200)
            covered += not added and found.low < 0.5 < found.high
            leaked += added and found.low > 0.9
            values += [] if added else [found.value]
    assert covered >= 4
    assert 0.4 < np.mean(values) < 0.6
    assert leaked == 5


def test_shares_of_labels() -> None:
    """Fewer labels tell less; the same seed tells the same; shares differ by seed."""
    features, labels, patients, folds = table(2, signal=2.0, patients=150)
    found = {
        (share, seed): cross_fit(features, labels, patients, folds, fraction=share, seed=seed, config=CONFIG)
        for share in (0.05, 1.0) for seed in (0, 1)
    }  # fmt: skip
    again = cross_fit(features, labels, patients, folds, fraction=0.05, seed=1, config=CONFIG)
    assert np.array_equal(found[0.05, 1], again)
    assert not np.array_equal(found[0.05, 0], found[0.05, 1])
    mean = {share: np.mean([auroc(labels, found[share, seed]) for seed in (0, 1)]) for share in (0.05, 1.0)}
    assert mean[0.05] < mean[1.0]


def test_a_patient_in_two_folds_is_refused() -> None:
    """The leak that makes every figure too good."""
    features, labels, patients, folds = table(3)
    divided = folds.copy()
    divided[0] = (divided[0] + 1) % 5
    with pytest.raises(UsageError, match="a patient is in two folds"):
        cross_fit(features, labels, patients, divided)
    with pytest.raises(UsageError, match="there must be two"):
        cross_fit(features, labels, patients, np.zeros(len(labels), int))

"""Out-of-fold predictions: nothing of a fold reaches its own model, noise stays noise, leaks are seen as such."""

from __future__ import annotations

import numpy as np
import pytest

from prostate_mim.errors import UsageError
from prostate_mim.finetuning import FinetuneConfig, cross_fit, fit_linear_probe
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
    """Other labels in fold 2, as many positive, change what is said of the others, and not one bit of that of fold 2.

    Another share of positives there moves all logits of fold 2 alike, as it moves the prevalence that every fold is
    brought to: no order is changed. The same for features, but for the row's own: they are what it is predicted from.
    """
    features, labels, patients, folds = table(0)
    own = folds == 2
    before = cross_fit(features, labels, patients, folds, config=CONFIG)
    swapped = labels.copy()
    swapped[own] = np.roll(labels[own], 2)  # a patient's two rows have one label
    assert (swapped != labels).any()
    after = cross_fit(features, swapped, patients, folds, config=CONFIG)
    assert np.array_equal(before[own], after[own])
    assert not np.isclose(before[~own], after[~own]).any()
    after = cross_fit(features, np.where(own, 1 - labels, labels), patients, folds, config=CONFIG)
    shifts = np.log(after / (1 - after)) - np.log(before / (1 - before))
    assert np.ptp(shifts[own]) < 1e-9 < 0.01 < shifts[own].mean()
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
    """A signal is found; with labels of other patients intervals cover 0.5; with the label as a feature none does."""
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


def test_folds_with_other_shares_of_positives_are_ranked_alike() -> None:
    """Noise in folds of 10 to 50 % positives: alike within each fold, so that chance stays chance.

    Probes as they were fitted rank the rows of a fold with many positives below all others: far below 0.5.
    """
    rng = np.random.default_rng(0)
    folds = np.repeat(np.arange(5), 40)
    labels = np.concatenate([rng.permutation(np.arange(40) < 4 * (1 + fold)) for fold in range(5)]).astype(int)
    patients, config = [f"p{n}" for n in range(200)], FinetuneConfig(penalties=(1e-3, 1e-1))
    found, without = [], []
    for seed in range(5):
        features = np.random.default_rng(seed).normal(size=(200, 30))
        found.append(auroc(labels, cross_fit(features, labels, patients, folds, config=config)))
        probabilities = np.zeros(200)
        for fold in range(5):
            own = folds == fold
            probe = fit_linear_probe(
                features[~own], labels[~own], [patients[n] for n in np.flatnonzero(~own)], penalties=config.penalties
            )
            assert probe.prevalence == pytest.approx(labels[~own].mean())
            probabilities[own] = probe.probabilities(features[own])
        without.append(auroc(labels, probabilities))
    assert 0.44 < np.mean(found) < 0.56
    assert np.mean(without) < 0.42


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

"""What can be read off frozen features by something simple: cross-validated, with patients never split."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from prostate_mim.health.config import HealthConfig
from prostate_mim.metrics import auroc

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int_]
# (training features, training labels, test features), features standardised on the training part -> a score per row
Fit = Callable[[Floats, Ints, Floats], npt.NDArray[np.float64]]


def linear_auroc(
    features: npt.ArrayLike, labels: npt.ArrayLike, groups: npt.ArrayLike, config: HealthConfig
) -> float | None:
    """AUROC of a logistic regression, out of fold, folds pooled.

    Args:
        features: (N, C).
        labels: (N,) 0 or 1.
        groups: (N,) patients, or studies; one group is never in two folds.
        config: folds and regularisation.

    Returns:
        None where a class has fewer than two groups.
    """

    def fit(train: Floats, truth: Ints, test: Floats) -> Floats:
        scores: Floats = _logistic(train, truth, config).predict_proba(test)[:, 1]
        return scores

    scores = out_of_fold(features, labels, groups, config.folds, fit)
    return None if scores is None else auroc(labels, scores)


def neighbour_auroc(
    features: npt.ArrayLike, labels: npt.ArrayLike, groups: npt.ArrayLike, config: HealthConfig
) -> float | None:
    """As ``linear_auroc``, scored by the share of positives among the k nearest training rows by cosine distance."""

    def fit(train: Floats, truth: Ints, test: Floats) -> Floats:
        nearest = np.argsort(-(_unit(test) @ _unit(train).T), axis=1, kind="stable")[:, : config.neighbours]
        shares: Floats = truth[nearest].mean(1)
        return shares

    scores = out_of_fold(features, labels, groups, config.folds, fit)
    return None if scores is None else auroc(labels, scores)


def centre_accuracy(
    features: npt.ArrayLike, centres: npt.ArrayLike, groups: npt.ArrayLike, config: HealthConfig
) -> tuple[float, float] | None:
    """How well a linear probe tells the scanner centre, which an encoder of anatomy should not know.

    Args:
        features: (N, C).
        centres: (N,) number of the centre; below 0 where it is not known.
        groups: (N,) patients.
        config: folds, regularisation, and how many groups a centre needs.

    Returns:
        Balanced accuracy (mean recall over centres) out of fold, and its chance level; None with fewer than two
        centres of enough studies.
    """
    rows, places, owners = np.asarray(features, np.float64), np.asarray(centres), np.asarray(groups)
    known = np.unique(places[places >= 0])
    counts = np.array([len(np.unique(owners[places == name])) for name in known])
    large = known[counts >= config.centre_studies] if len(known) else known
    kept = np.isin(places, large)
    if len(large) < 2:
        return None

    def fit(train: Floats, truth: Ints, test: Floats) -> Floats:
        guesses: Floats = _logistic(train, truth, config).predict(test).astype(np.float64)
        return guesses

    guessed = out_of_fold(rows[kept], places[kept], owners[kept], config.folds, fit)
    if guessed is None:
        return None
    recalls = [(guessed[places[kept] == name] == name).mean() for name in large]
    return float(np.mean(recalls)), 1 / len(large)


def out_of_fold(
    features: npt.ArrayLike, labels: npt.ArrayLike, groups: npt.ArrayLike, folds: int, fit: Fit
) -> Floats | None:
    """A score for every row from a fit that saw no row of its group.

    Args:
        features: (N, C); standardised by the moments of each training part.
        labels: (N,) whole numbers, the classes that folds are stratified by.
        groups: (N,).
        folds: at most this many; fewer where a class has fewer groups.
        fit: see ``Fit``.

    Returns:
        (N,) scores; None where a class has fewer than two groups, or there is one class.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    rows, truth, owners = np.asarray(features, np.float64), np.asarray(labels), np.asarray(groups)
    groups_of = [len(np.unique(owners[truth == label])) for label in np.unique(truth)]
    if len(groups_of) < 2 or min(groups_of) < 2:
        return None
    scores = np.full(len(rows), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scikit-learn: small classes, and fits stopped before the last digit
        for train, test in StratifiedGroupKFold(min(folds, *groups_of)).split(rows, truth, owners):
            if len(np.unique(truth[train])) < 2:
                return None  # groups of both classes may all fall into one fold
            mean, deviation = rows[train].mean(0), rows[train].std(0)
            scale = np.where(deviation > 0, deviation, 1)
            scores[test] = fit((rows[train] - mean) / scale, truth[train], (rows[test] - mean) / scale)
    return scores


def _logistic(train: Floats, truth: Ints, config: HealthConfig) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=config.regularisation, max_iter=200, tol=1e-3).fit(train, truth)


def _unit(rows: Floats) -> Floats:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(length > 0, length, 1))

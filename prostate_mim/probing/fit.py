"""A logistic regression on standardised features, its C chosen on inner folds of patients."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from prostate_mim.engine.seeding import numpy_generator
from prostate_mim.metrics import auroc

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int_]
_ITERATIONS = 200
_TOLERANCE = 1e-3
_THRESHOLDS = np.linspace(0.05, 0.95, 19)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted probe.

    Attributes:
        mean, scale: (C,) standardisation, of the fitted rows.
        model: scikit-learn's.
        penalty: the C it has.
    """

    mean: Floats
    scale: Floats
    model: Any
    penalty: float

    def probabilities(self, features: Floats) -> Floats:
        """(N, C) -> (N, classes)."""
        found: Floats = self.model.predict_proba((features - self.mean) / self.scale)
        return found


def fit(features: Floats, labels: Ints, penalty: float) -> Fitted:
    """Fit to (N, C) features and (N,) labels; a feature that never varies counts for nothing."""
    from sklearn.linear_model import LogisticRegression

    mean, deviation = features.mean(0), features.std(0)
    scale = np.where(deviation > 1e-9, deviation, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # stopped before the last digit, which decides nothing here
        model = LogisticRegression(C=penalty, max_iter=_ITERATIONS, tol=_TOLERANCE)
        return Fitted(mean, scale, model.fit((features - mean) / scale, labels), penalty)


def choose_penalty(
    features: Floats, labels: Ints, owners: Ints, penalties: Sequence[float], inner_folds: int, seed: int
) -> float:
    """The C with the best inner score: mean AUROC of voxels per patient, or accuracy with more than two classes.

    Args:
        features: (N, C), of the fitted patients only.
        labels: (N,).
        owners: (N,) patients; nobody is in two inner folds.
        penalties: to choose from; ties go to the smallest.
        inner_folds: at most; fewer with fewer patients.
        seed: of the inner folds.
    """
    if len(penalties) == 1:
        return penalties[0]
    names = numpy_generator(seed, "probe", "inner").permutation(np.unique(owners))
    parts = [names[k::inner_folds] for k in range(min(inner_folds, len(names)))]
    best, chosen = -np.inf, min(penalties)
    score_of = _auroc if np.isin(labels, (0, 1)).all() else _accuracy  # by all labels: a part may hold two of several
    for penalty in sorted(penalties):
        scores = []
        for part in parts:
            test = np.isin(owners, part)
            if len(np.unique(labels[~test])) < 2 or not test.any():
                continue
            scores.append(score_of(fit(features[~test], labels[~test], penalty), features[test], labels[test]))
        score = float(np.mean(scores)) if scores else -np.inf
        if score > best:
            best, chosen = score, penalty
    return chosen


def best_threshold(probabilities: Floats, labels: Ints) -> float:
    """The probability above which voxels are called positive: of the best Dice on the fitted patients."""
    return float(_THRESHOLDS[int(np.argmax([dice(probabilities > at, labels) for at in _THRESHOLDS]))])


def dice(called: npt.NDArray[np.bool_], labels: Ints) -> float:
    """2 |A and B| / (|A| + |B|); NaN where both are empty."""
    both = int(called.sum()) + int(labels.sum())
    return 2 * int((called & (labels == 1)).sum()) / both if both else float("nan")


def _auroc(fitted: Fitted, features: Floats, labels: Ints) -> float:
    value = auroc(labels, fitted.probabilities(features)[:, 1])
    return 0.5 if value is None else value


def _accuracy(fitted: Fitted, features: Floats, labels: Ints) -> float:
    guessed = fitted.model.classes_[fitted.probabilities(features).argmax(1)]
    return float((guessed == labels).mean())

"""The linear probe: L2-penalised logistic regression on frozen features, its penalty chosen within the training rows.

Few lesions and many features: the weights lie in the span of the rows, so that rows are first rotated onto at most N
axes. That changes neither the penalty nor the solution, and makes every fit on inner folds as small as the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from prostate_mim.classifier import SIGNIFICANT
from prostate_mim.errors import TrainingError, UsageError
from prostate_mim.finetuning.subsets import inner_folds as folds_of_patients

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[Any]

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
_NEVER = 30.0  # logit of what was always, or never, so among the training rows
HOTTEST = 20.0


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe.

    Attributes:
        mean, scale: (F,) of the training features.
        weight: (F,) on standardised features.
        bias: of the logit that is reported: label 1, or ISUP >= 2.
        penalty: C that was chosen: the inverse strength of the penalty, as in scikit-learn.
        temperature: what logits are divided by (Guo et al. 2017); 1 where it was not fitted.
        cumulative: (K,) biases of ISUP >= 1 to ISUP >= K; the one bias where the target is the label.
        inner: (N,) logits of the training rows by probes that had not seen their patients, at the chosen penalty and
            before the temperature; NaN where there were no inner folds.
        prevalence: share of positives that the bias is of: that of the training rows, classes weighted as they were.
    """

    mean: Array
    scale: Array
    weight: Array
    bias: float
    penalty: float
    temperature: float = 1.0
    cumulative: Array = field(default_factory=lambda: np.zeros(0))
    inner: Array = field(default_factory=lambda: np.zeros(0))
    prevalence: float = 0.5

    def at_prevalence(self, prevalence: float) -> LinearProbe:
        """The same for patients of whom another share is positive (Saerens et al. 2002, for equal classes within).

        Probes of several folds are brought to one prevalence before their predictions are put together. Otherwise a
        fold with many positives is judged by a probe that was fitted to few, and its rows rank too low.

        Args:
            prevalence: above 0, below 1.
        """
        moved = _logit(prevalence) - _logit(self.prevalence)
        return replace(self, bias=self.bias + moved, cumulative=self.cumulative + moved, prevalence=prevalence)

    def logits(self, features: Array) -> Array:
        """(N, F) -> (N,) logits of label 1, or of ISUP >= 2."""
        standard = (np.asarray(features, np.float64) - self.mean) / self.scale
        logits: Array = (standard @ self.weight + self.bias) / self.temperature
        return logits

    def probabilities(self, features: Array) -> Array:
        """(N, F) -> (N,)."""
        return _sigmoid(self.logits(features))


def fit_linear_probe(
    features: Array,
    labels: Ints,
    patients: Sequence[str],
    *,
    penalties: Sequence[float] = PENALTIES,
    inner_folds: int = 3,
    seed: int = 0,
    calibrate: bool = False,
    class_weight: bool = False,
    ordinal: bool = False,
) -> LinearProbe:
    """Fit a probe; C is the one with the lowest log loss on inner folds of the training patients.

    Features are standardised by all rows given here, which look at no label. Of equal penalties the stronger wins.
    With one penalty, or a class of a single patient, nothing is chosen: the (geometrically) middle penalty is taken.

    Args:
        features: (N, F) float64, of the training rows only.
        labels: (N,) 0 or 1; ISUP grades 0 to 5 if ``ordinal``.
        patients: (N,) whose row it is; no patient is on both sides of an inner fold.
        penalties: values of C to choose among.
        inner_folds: how many folds to choose on.
        seed: of the inner folds.
        calibrate: fit a temperature to the inner folds' predictions.
        class_weight: both classes count the same in all.
        ordinal: one weight for all cumulative logits (Cao et al. 2020, CORAL); what is reported is ISUP >= 2.

    Raises:
        UsageError: no row, sizes that differ, penalties that are not positive, or one class only.
        TrainingError: a feature is not finite.
    """
    values, grades = np.asarray(features, np.float64), np.asarray(labels).astype(np.int64)
    _check(values, grades, patients, penalties)
    mean, deviation = values.mean(0), values.std(0)
    varies = deviation > 1e-9 * (1 + np.abs(mean))
    scale = np.where(varies, deviation, 1.0)
    turned, back = _rotated(np.where(varies, (values - mean) / scale, 0.0))  # no weight at all for a constant
    reported = SIGNIFICANT - 1 if ordinal else 0
    targets = grades[:, None] > np.arange(max(int(grades.max()), SIGNIFICANT) if ordinal else 1)
    truth = targets[:, reported].astype(np.int64)
    if truth.min() == truth.max():
        raise UsageError(f"all {len(truth)} training rows have one label; a classifier needs both")
    weights = _balanced(truth) if class_weight else np.ones(len(truth))
    grid = sorted(float(c) for c in penalties)
    folds = folds_of_patients(truth, patients, inner_folds, seed)
    chosen, inner = _choose(turned, targets, weights, folds, grid, reported)
    weight, biases = _path(turned, targets, weights, grid[: chosen + 1])[-1]
    temperature = fit_temperature(inner, truth) if calibrate else 1.0
    return LinearProbe(
        mean, scale, back @ weight, float(biases[reported]), grid[chosen], temperature, biases, inner,
        float(weights @ truth / weights.sum()),
    )  # fmt: skip


def fit_temperature(logits: Array, labels: Ints) -> float:
    """The number in [1/20, 20] that logits are best divided by: lowest log loss (Guo et al. 2017).

    Args:
        logits: (N,) of rows that the model was not trained on; those that are NaN are left out.
        labels: (N,) 0 or 1.

    Returns:
        1 where nothing is left, or one class only.
    """
    from scipy.optimize import minimize_scalar

    known = np.isfinite(logits)
    found, truth = np.asarray(logits, np.float64)[known], np.asarray(labels, np.float64)[known]
    if truth.size == 0 or truth.min() == truth.max():
        return 1.0
    edge = float(np.log(HOTTEST))

    def loss(log_temperature: float) -> float:
        return log_loss(found / np.exp(log_temperature), truth)

    fitted = minimize_scalar(loss, bounds=(-edge, edge), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(fitted.x))


def at_limit(temperature: float) -> bool:
    """Whether ``fit_temperature`` would have gone on: the number says nothing of how the logits should be scaled."""
    return bool(abs(np.log(temperature)) > np.log(HOTTEST) - 1e-3)  # the search ends just inside of its bounds


def log_loss(logits: Array, labels: Array) -> float:
    """Mean negative log likelihood of (N,) labels 0 or 1 under (N,) logits."""
    return float(np.mean(np.logaddexp(0, logits) - labels * logits))


def _check(features: Array, labels: Ints, patients: Sequence[str], penalties: Sequence[float]) -> None:
    if features.ndim != 2 or not len(features) == len(labels) == len(patients) > 0:
        raise UsageError(
            f"features {features.shape}, {len(labels)} labels and {len(patients)} patients do not go together; give "
            "(N, F) features and N of each"
        )
    if not penalties or not all(c > 0 for c in penalties):
        raise UsageError(f"penalties are {tuple(penalties)}; give at least one, all above 0, for example 0.01 0.1 1")
    bad = int((~np.isfinite(features)).any(1).sum())
    if bad:
        raise TrainingError(f"{bad} of {len(features)} rows have features that are not finite; look at the encoder")


def _rotated(standard: Array) -> tuple[Array, Array]:
    """(N, F) -> rows on R <= min(N, F) orthogonal axes (N, R), and the way back (F, R)."""
    count, width = standard.shape
    if width <= count:
        return standard, np.eye(width)
    values, vectors = np.linalg.eigh(standard @ standard.T)
    kept = values > 1e-12 * max(values[-1], 1e-300)
    lengths = np.sqrt(values[kept])
    return vectors[:, kept] * lengths, standard.T @ (vectors[:, kept] / lengths)


def _balanced(truth: Ints) -> Array:
    counts = np.bincount(truth, minlength=2)
    weights: Array = (len(truth) / (2 * counts))[truth]
    return weights


def _choose(
    rows: Array, targets: Ints, weights: Array, folds: Ints, grid: list[float], reported: int
) -> tuple[int, Array]:
    """Which penalty of ``grid``, and (N,) inner logits of every row at it."""
    middle, unknown = len(grid) // 2, np.full(len(rows), np.nan)
    if folds.max() == 0:
        return middle, unknown
    logits = np.full((len(grid), len(rows)), np.nan)
    for fold in range(int(folds.max()) + 1):
        own, other = folds == fold, folds != fold
        for number, (weight, biases) in enumerate(_path(rows[other], targets[other], weights[other], grid)):
            logits[number, own] = rows[own] @ weight + biases[reported]
    truth = targets[:, reported].astype(np.float64)
    losses = [np.mean(weights * (np.logaddexp(0, found) - truth * found)) for found in logits]
    chosen = int(np.argmin(losses)) if len(grid) > 1 else 0
    return chosen, logits[chosen]


def _path(rows: Array, targets: Ints, weights: Array, grid: list[float]) -> list[tuple[Array, Array]]:
    """(weight (R,), biases (K,)) for every penalty, the strongest first, each begun where the one before ended."""
    from scipy.optimize import minimize

    truth = targets.astype(np.float64)
    share = (weights[:, None] * truth).sum(0) / weights.sum()
    fitted = (share > 0) & (share < 1)  # a grade that nobody, or everybody, reaches has no finite bias
    biases = np.where(share > 0, _NEVER, -_NEVER)
    begin = np.concatenate([np.zeros(rows.shape[1]), _logit(share[fitted])])
    found = []
    for penalty in grid:
        arguments = (rows, truth[:, fitted], weights, penalty)
        options = {"maxiter": 2000, "maxfun": 4000, "gtol": 1e-7, "ftol": 1e-13}
        begin = minimize(_objective, begin, arguments, method="L-BFGS-B", jac=True, options=options).x
        all_biases = biases.copy()
        all_biases[fitted] = begin[rows.shape[1] :]
        found.append((begin[: rows.shape[1]], all_biases))
    return found


def _objective(place: Array, rows: Array, truth: Array, weights: Array, penalty: float) -> tuple[float, Array]:
    """scikit-learn's objective over C * N, and its gradient: (R + K,)."""
    weight, biases = place[: rows.shape[1]], place[rows.shape[1] :]
    logits = (rows @ weight)[:, None] + biases
    strength = 1 / (penalty * len(rows))
    loss = (weights[:, None] * (np.logaddexp(0, logits) - truth * logits)).sum() / len(rows)
    slope = weights[:, None] * (_sigmoid(logits) - truth) / len(rows)
    gradient = np.concatenate([rows.T @ slope.sum(1) + strength * weight, slope.sum(0)])
    return float(loss + 0.5 * strength * weight @ weight), gradient


def _logit(share: Any) -> Any:
    from scipy.special import logit

    return logit(share)


def _sigmoid(logits: Array) -> Array:
    from scipy.special import expit

    made: Array = expit(logits)
    return made

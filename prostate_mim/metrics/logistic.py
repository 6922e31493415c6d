"""Logistic regression on one covariate for many weightings of the same rows at once: Newton's method, batched."""

from __future__ import annotations

import numpy as np

from prostate_mim.metrics.scored import FloatArray, IntArray

_STEPS = 40
_LARGEST_STEP = 4.0
"""In units of the standardised covariate: far from the optimum the curvature vanishes and a full step overshoots."""
_SETTLED = 1e-6
"""Newton's error squares with each step, so that the step after one of this size would be below rounding."""
_STEEPEST = 30.0
"""A slope on the standardised covariate beyond this separates the classes: none is best, steeper is always better."""


def fit_line(covariate: FloatArray, labels: IntArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Maximum likelihood of logit P(y = 1) = a + b x.

    Args:
        covariate: (N,) x, finite.
        labels: (N,) y, 0 or 1.
        weights: (S, N) >= 0, one fit for each row.

    Returns:
        (S,) a and (S,) b; NaN where there is no finite optimum.
    """
    centre, spread = float(covariate.mean()), float(covariate.std())
    undefined = np.full(len(weights), np.nan)
    if spread <= 1e-12 * (1 + abs(centre)):
        return undefined, undefined.copy()
    x = (covariate - centre) / spread
    start = np.zeros(2)
    if len(weights) > 1:  # draws resemble the whole, whose optimum saves them most of the steps
        whole = _climb(x, labels, np.ones((1, len(x))), start)[0]
        start = np.where(np.isnan(whole), 0.0, whole)
    fits = _climb(x, labels, weights, start)
    missed = np.flatnonzero(np.isnan(fits[:, 0]))
    if start.any() and len(missed):
        fits[missed] = _climb(x, labels, weights[missed], np.zeros(2))
    slope = fits[:, 1] / spread
    return fits[:, 0] - slope * centre, slope


def _climb(x: FloatArray, labels: IntArray, weights: FloatArray, start: FloatArray) -> FloatArray:
    """(S, 2) optima of (a, b), NaN where none is reached."""
    fits = np.tile(start, (len(weights), 1))
    active = np.arange(len(weights))
    done = np.zeros(len(weights), bool)
    for _ in range(_STEPS):
        step = _newton(x, labels, weights[active], fits[active])
        fits[active] += step
        settled = np.abs(step).max(1) < _SETTLED
        done[active[settled]] = True
        # NaN compares as False, so draws without curvature leave here too, unfinished
        active = active[~settled & (np.abs(fits[active]).max(1) < _STEEPEST)]
        if not len(active):
            break
    fits[~done] = np.nan
    return fits


def _newton(x: FloatArray, labels: IntArray, weights: FloatArray, fits: FloatArray) -> FloatArray:
    """(S, 2) steps of (a, b), shortened to ``_LARGEST_STEP``; NaN where the curvature is singular."""
    from scipy.special import expit

    expected = expit(fits[:, :1] + fits[:, 1:] * x)
    residual = weights * (labels - expected)
    curvature = weights * expected * (1 - expected)
    first, second = residual.sum(1), residual @ x
    aa, ab, bb = curvature.sum(1), curvature @ x, curvature @ (x * x)
    determinant = aa * bb - ab**2
    with np.errstate(divide="ignore", invalid="ignore"):
        step = np.stack([bb * first - ab * second, aa * second - ab * first], 1) / determinant[:, None]
        step[determinant <= 1e-14 * aa * bb] = np.nan
        length = np.abs(step).max(1, keepdims=True)
        return np.asarray(step * np.minimum(1, _LARGEST_STEP / np.maximum(length, 1e-300)))


def fit_intercept(offset: FloatArray, labels: IntArray, weights: FloatArray) -> FloatArray:
    """Maximum likelihood of a in logit P(y = 1) = a + offset.

    The expected count rises with a from 0 to the total, so that the root always lies between two bounds, which every
    step narrows; Newton's step is taken where it stays within them, halving where it does not. It cannot diverge.

    Args:
        offset: (N,) finite.
        labels: (N,) 0 or 1.
        weights: (S, N) >= 0.

    Returns:
        (S,) a; NaN where a draw has one class only.
    """
    from scipy.special import expit, logit

    wanted, total = weights @ labels.astype(np.float64), weights.sum(1)
    found = np.full(len(weights), np.nan)
    active = np.flatnonzero((wanted > 0) & (wanted < total))
    share = logit(wanted[active] / total[active])
    low, high = share - offset.max() - 1e-9, share - offset.min() + 1e-9
    a = (low + high) / 2
    for _ in range(60):
        if not len(active):
            break
        own = weights[active]
        expected = expit(a[:, None] + offset)
        excess = (own * expected).sum(1) - wanted[active]
        low, high = np.where(excess > 0, low, a), np.where(excess > 0, a, high)
        with np.errstate(divide="ignore", invalid="ignore"):
            newton = a - excess / (own * expected * (1 - expected)).sum(1)
        moved = np.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
        settled = np.abs(moved - a) < _SETTLED
        found[active[settled]] = moved[settled]
        active, low, high, a = active[~settled], low[~settled], high[~settled], moved[~settled]
    return found

"""Several comparisons at once, and several runs of one: Holm, Benjamini-Hochberg, permutation, mean over runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from prostate_mim.errors import UsageError
from prostate_mim.metrics.scored import Estimate, FloatArray

_EXACT = 200_000
"""Up to so many ways to part the runs, all are counted: 10 against 10 seeds have 184,756."""
ALTERNATIVES = ("two-sided", "greater")


def _checked(p_values: Sequence[float] | FloatArray) -> FloatArray:
    found = np.asarray(p_values, np.float64)
    if found.ndim != 1 or not ((found >= 0) & (found <= 1)).all():
        raise UsageError("a p-value is missing or lies outside 0 to 1; leave out comparisons that have none")
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for all being looked at: the chance of any false finding stays below the level (Holm 1979).

    Args:
        p_values: K of them, in any order.

    Returns:
        K corrected ones in the same order.

    Raises:
        UsageError: one is NaN or outside 0 to 1.
    """
    found = _checked(p_values)
    order = np.argsort(found, kind="stable")
    stepped = np.maximum.accumulate(found[order] * np.arange(len(found), 0, -1))
    return _restored(stepped, order)


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """P-values corrected so that the expected share of false ones among the findings stays below the level (1995).

    Arguments, result and errors as ``holm``; weaker, for screening many strategies.
    """
    found = _checked(p_values)
    order = np.argsort(found, kind="stable")
    scaled = found[order] * len(found) / np.arange(1, len(found) + 1)
    return _restored(np.minimum.accumulate(scaled[::-1])[::-1], order)


def mean_over_runs(values: Sequence[float | None]) -> Estimate:
    """The mean of independent runs with its 95 % interval by Student's t: what another set of runs would give.

    Args:
        values: one a run; a None makes the mean undefined.

    Returns:
        Without an interval where there is one run only, or none.
    """
    from scipy.stats import t

    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return Estimate(None)
    mean = float(np.mean(known))
    if len(known) == 1:
        return Estimate(mean)
    half = float(t.ppf(0.975, len(known) - 1) * np.std(known, ddof=1) / math.sqrt(len(known)))
    return Estimate(mean, mean - half, mean + half)


def _restored(ascending: FloatArray, order: npt.NDArray[np.int64]) -> list[float]:
    corrected = np.empty_like(ascending)
    corrected[order] = np.minimum(1, ascending)
    return [float(value) for value in corrected]


def permutation_over_seeds(
    first: Sequence[float],
    second: Sequence[float],
    *,
    alternative: str = "two-sided",
    samples: int = 10_000,
    seed: int = 0,
) -> float:
    """P-value for two configurations, each trained several times: are the runs of one better?

    The statistic is the share of pairs (a run of the first, a run of the second) in which the first is better, ties
    half, as in the PI-CAI challenge; runs are dealt to the two anew. It speaks of the noise of training on these
    patients, not of other patients: five runs that all win by 0.001 give 2 / 252. Read it beside the interval over
    patients, never instead.

    Args:
        first, second: one value for each run, such as AUROC by seed.
        alternative: ``two-sided``, or ``greater`` for the first being better.
        samples: random parts where there are over 200,000 ways to part the runs; fewer are all counted.
        seed: of the random parts.

    Raises:
        UsageError: no runs on a side, a value that is not finite, or another ``alternative``.
    """
    from scipy.stats import rankdata

    runs = np.concatenate([np.asarray(first, np.float64), np.asarray(second, np.float64)])
    count = len(first)
    if not 0 < count < len(runs) or not np.isfinite(runs).all():
        raise UsageError("each configuration needs at least one run with a finite value")
    if alternative not in ALTERNATIVES:
        raise UsageError(f"alternative {alternative!r} is unknown; choose {' or '.join(ALTERNATIVES)}")
    # sums of midranks are whole multiples of a half, so that equal statistics compare as equal
    ranks = rankdata(runs)
    middle = count * (len(runs) + 1) / 2
    exact = math.comb(len(runs), count) <= _EXACT
    sums = _all_sums(ranks, count) if exact else _random_sums(ranks, count, samples, seed)
    found = ranks[:count].sum() - middle
    more = np.abs(sums - middle) >= abs(found) if alternative == "two-sided" else sums - middle >= found
    if exact:
        return float(more.mean())
    return (int(more.sum()) + 1) / (len(sums) + 1)


def _all_sums(ranks: FloatArray, count: int) -> FloatArray:
    chosen = np.array(list(combinations(range(len(ranks)), count)), np.int64)
    return np.asarray(ranks[chosen].sum(1))


def _random_sums(ranks: FloatArray, count: int, samples: int, seed: int) -> FloatArray:
    rng = np.random.default_rng(seed)
    return np.array([rng.permutation(ranks)[:count].sum() for _ in range(samples)])

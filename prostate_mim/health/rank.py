"""How many dimensions a set of embeddings really uses."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# Embeddings are computed in float32: differences below this share of the largest value are its rounding.
_ROUNDING = 1e-6


def effective_rank(embeddings: npt.ArrayLike) -> float:
    """RankMe (Garrido et al. 2023, equation 1): exp of the entropy of the singular values, normalised to sum to 1.

    The paper adds 1e-7 to every share against log 0; here 0 log 0 is 0, which is its limit. Nothing is centred, as in
    the paper, so that embeddings that are all the same have rank 1 and not that of their rounding errors.

    Args:
        embeddings: (N, C).

    Returns:
        From 1 (all parallel) to min(N, C) (orthogonal and equally long); 1 where all are 0.
    """
    values = np.linalg.svd(np.asarray(embeddings, np.float64), compute_uv=False)
    if not values.sum() > 0:
        return 1.0
    shares = values / values.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def mean_variance(embeddings: npt.ArrayLike) -> float:
    """Variance over the N embeddings, averaged over the C dimensions of (N, C); biased."""
    return float(np.asarray(embeddings, np.float64).var(0).mean())


def centred_rank(embeddings: npt.ArrayLike) -> float:
    """``effective_rank`` of what is left of (N, C) embeddings without their mean.

    Features of a network with rectifiers share a large mean, which holds RankMe's figure near 1 in healthy networks
    too; without it the figure counts the directions in which studies differ. 1 where the differences are rounding.
    """
    values = np.asarray(embeddings, np.float64)
    rest = values - values.mean(0)
    if np.abs(rest).max() <= _ROUNDING * np.abs(values).max():
        return 1.0
    return effective_rank(rest)

"""NT-Xent, and two numbers that say what it does to the hypersphere.

Views stand in pairs: 2n and 2n + 1 are of one study. For a view i with partner p(i) and unit vectors z (Chen et al.
2020, equation 1):

    loss(i) = -log( exp(z_i z_p(i) / t) / sum over k of exp(z_i z_k / t) )

where k runs over the partner and all views of other owners. Other views of the same owner (a patient that was drawn
twice) are neither partner nor counter-example, so they are left out.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_UNIFORMITY_SHARPNESS = 2.0  # t of Wang and Isola 2020, equation 8


def view_losses(
    views: Tensor, owners: Tensor, temperature: float, anchors: slice = slice(None)
) -> tuple[Tensor, Tensor]:
    """The loss of every view, in at least single precision.

    Args:
        views: (2N, P) projections in pairs: 2n and 2n + 1.
        owners: (2N,) int64.
        temperature: t.
        anchors: the views that are asked about (those of this process); all are their counter-examples.

    Returns:
        losses (anchors,) and which of them count, (anchors,) bool: a view without a counter-example has loss 0.
    """
    similar, negative, partner = _compared(views, owners, anchors)
    logits = similar / temperature
    kept = negative.scatter(1, partner[:, None], True)
    positive = logits.gather(1, partner[:, None])[:, 0]
    losses = logits.masked_fill(~kept, -torch.inf).logsumexp(1) - positive
    return losses, negative.any(1)


def views_matched(views: Tensor, owners: Tensor, anchors: slice = slice(None)) -> tuple[Tensor, Tensor]:
    """How often a view's partner is nearer than every view of another owner, and how often it would be by chance.

    Args:
        views, owners, anchors: as for ``view_losses``.

    Returns:
        () share and () chance, over the views that have a counter-example; 1 where none has. A tie is no match.
    """
    similar, negative, partner = _compared(views, owners, anchors)
    positive = similar.gather(1, partner[:, None])[:, 0]
    nearest = similar.masked_fill(~negative, -torch.inf).amax(1)
    counted = negative.any(1)
    if not bool(counted.any()):
        return similar.new_ones(()), similar.new_ones(())
    chance = 1 / (1 + negative.sum(1))
    return (positive > nearest)[counted].float().mean(), chance[counted].mean()


def alignment(views: Tensor) -> Tensor:
    """Mean squared distance of the two views of a pair on the unit sphere (Wang and Isola 2020, equation 7).

    Args:
        views: (2N, P) in pairs.

    Returns:
        () from 0 (the same) to 4 (opposite).
    """
    pairs = _unit(views).view(-1, 2, views.shape[1])
    return (pairs[:, 0] - pairs[:, 1]).square().sum(1).mean()


def uniformity(views: Tensor, owners: Tensor) -> Tensor:
    """How evenly views of different owners fill the unit sphere (Wang and Isola 2020, equation 8).

    Args:
        views: (2N, P).
        owners: (2N,) int64.

    Returns:
        () logarithm of the mean of exp(-2 squared distance): 0 where all fall together, lower is more even, -4 for two
        opposite points; 0 where there is one owner.
    """
    similar = _unit(views) @ _unit(views).T
    apart = owners[:, None] != owners[None, :]
    if not bool(apart.any()):
        return similar.new_zeros(())
    squared = (2 - 2 * similar[apart]).clamp(min=0)
    return (-_UNIFORMITY_SHARPNESS * squared).logsumexp(0) - torch.log(apart.sum().to(similar.dtype))


def _compared(views: Tensor, owners: Tensor, anchors: slice) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines (A, 2N), who is a counter-example (A, 2N) bool, and the partner's place (A,)."""
    unit = _unit(views)
    place = torch.arange(len(views), device=views.device)[anchors]
    with torch.autocast(views.device.type, enabled=False):  # cosines near 1 differ in the digits bfloat16 has not
        similar = unit[anchors] @ unit.T
    return similar, owners[anchors, None] != owners[None, :], place ^ 1


def _unit(views: Tensor) -> Tensor:
    return functional.normalize(views.to(torch.promote_types(views.dtype, torch.float32)), dim=1)

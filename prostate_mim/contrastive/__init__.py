"""Contrastive pretraining, to compare masked image modelling with (SimCLR; Chen et al. 2020).

    pair 2n, 2n + 1        two crops of one study whose centres lie within a few mm, each augmented by itself
    ContrastiveModel       encoder -> pooled embedding -> projection (2N, P)
    view_losses            NT-Xent: each view is to find its partner among all views of other patients in the batch

What is published is the encoder alone, a release like any other.
"""

from __future__ import annotations

from prostate_mim.contrastive.config import ContrastiveConfig, strong_augmentation
from prostate_mim.contrastive.fixed_views import FixedViews
from prostate_mim.contrastive.loss import alignment, uniformity, view_losses, views_matched
from prostate_mim.contrastive.model import ContrastiveModel
from prostate_mim.contrastive.pairs import PairDataset
from prostate_mim.contrastive.task import ContrastiveTask

__all__ = [
    "ContrastiveConfig",
    "ContrastiveModel",
    "ContrastiveTask",
    "FixedViews",
    "PairDataset",
    "alignment",
    "strong_augmentation",
    "uniformity",
    "view_losses",
    "views_matched",
]

"""What is made small: cross-entropy or focal loss, of the label or of cumulative grades, and of the zone beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prostate_mim.classifier import SIGNIFICANT, LesionClassifier
from prostate_mim.engine.batch import Batch
from prostate_mim.engine.step import StepLoss
from prostate_mim.finetuning.config import FinetuneConfig
from prostate_mim.finetuning.lesions import UNKNOWN, Lesions

Outputs = tuple[Tensor, Tensor | None]


class Trained(nn.Module):
    """A classifier with what only its training needs.

    Args:
        classifier: is held, not copied.
        zones: how many zones a second, linear head tells apart; none if 0. It is not released.
    """

    def __init__(self, classifier: LesionClassifier, zones: int) -> None:
        super().__init__()
        self.classifier = classifier
        self.zone = nn.Linear(classifier.pool.channels, zones) if zones else None
        if self.zone is not None:
            nn.init.zeros_(self.zone.weight)
            nn.init.zeros_(self.zone.bias)

    def forward(self, voxels: Tensor) -> Outputs:
        """(N, C, D, H, W) -> (N, K) cumulative logits; (N, zones) logits or None."""
        vector, head = self.classifier.features(voxels), self.classifier.head
        standard = (vector - head.mean) / head.scale
        return head.cumulative(vector), None if self.zone is None else self.zone(standard)


@dataclass(frozen=True, eq=False)
class Objective:
    """The loss of a batch.

    Attributes:
        targets: (largest row number + 1,) label or grade by manifest row number.
        zones: likewise the zone, ``UNKNOWN`` where the row has none.
        class_weights: (2,) of csPCa no and yes.
        threshold: from which target on a row is csPCa.
        gamma: of the focal loss (Lin et al. 2017, eq. 4); None for cross-entropy.
        zone_weight: what the zone's cross-entropy counts.
    """

    targets: Tensor
    zones: Tensor
    class_weights: Tensor
    threshold: int
    gamma: float | None
    zone_weight: float

    @classmethod
    def of(cls, lesions: Lesions, rows: Sequence[int], config: FinetuneConfig) -> Objective:
        """Class weights are those of ``rows``, the ones to train on; targets are known of every row."""
        positives = int(lesions.labels[rows].sum())
        counts = torch.tensor([len(rows) - positives, positives], dtype=torch.float32)
        weights = len(rows) / (2 * counts) if config.class_weight else torch.ones(2)
        numbers = [region.row for region in lesions.regions]
        return cls(
            _by_number(numbers, lesions.targets.tolist()), _by_number(numbers, lesions.zones.tolist()), weights,
            SIGNIFICANT if config.target == "isup" else 1, config.focal_gamma if config.loss == "focal" else None,
            config.zone_auxiliary,
        )  # fmt: skip

    def __call__(self, model: nn.Module, batch: Batch, step: int) -> StepLoss:
        """As the loop wants it."""
        return self.of_outputs(model(batch["voxels"]), batch["row"])

    def of_outputs(self, outputs: Outputs, rows: Tensor) -> StepLoss:
        """The weighted mean over rows; its weight is theirs, so that micro-batches add up to the batch.

        Args:
            outputs: of ``Trained``.
            rows: (N,) manifest row numbers.
        """
        logits, zone_logits = outputs[0].float(), outputs[1]
        targets = self.targets[rows.cpu()].to(logits.device)
        goals = targets[:, None] > torch.arange(logits.shape[1], device=logits.device)
        right = torch.where(goals, logits, -logits)  # the logit of what is true
        losses = nn.functional.softplus(-right)
        if self.gamma is not None:
            # (1 - p) ** gamma by its logarithm: a power of a number that rounds to 0 has no gradient.
            losses = torch.exp(-self.gamma * nn.functional.softplus(right)) * losses
        weights = self.class_weights.to(logits.device)[(targets >= self.threshold).long()]
        summed = (losses.sum(1) * weights).sum()
        if zone_logits is not None:
            zones = self.zones[rows.cpu()].to(logits.device)
            wrong = nn.functional.cross_entropy(zone_logits.float(), zones, ignore_index=UNKNOWN, reduction="sum")
            summed = summed + self.zone_weight * wrong
        return StepLoss(summed / weights.sum(), weights.sum())


def _by_number(numbers: Sequence[int], values: Sequence[int]) -> Tensor:
    table = torch.full((max(numbers) + 1,), UNKNOWN, dtype=torch.int64)
    table[torch.tensor(numbers)] = torch.tensor(values)
    return table

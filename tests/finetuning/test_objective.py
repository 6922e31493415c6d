"""The loss: by hand, the same however a batch is divided, and each of its parts when its part is switched on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from prostate_mim.finetuning import FinetuneConfig
from prostate_mim.finetuning.lesions import UNKNOWN, Lesions
from prostate_mim.finetuning.objective import Objective

ROWS = torch.tensor([11, 12, 13, 14])


class Row:
    """Stands for a region: only its number is asked for."""

    def __init__(self, row: int) -> None:
        self.row = row


def objective(targets: list[int], zones: list[int] | None = None, **config: object) -> Objective:
    made = FinetuneConfig(mode="full", **config)
    grades = np.array(targets)
    labels = (grades >= 2).astype(int) if made.target == "isup" else grades
    lesions = Lesions(
        tuple(Row(int(n)) for n in ROWS), labels, grades, tuple("abcd"), np.arange(4),
        np.array(zones or [UNKNOWN] * 4), ("PZ", "TZ"), ("",) * 4,
    )  # fmt: skip
    return Objective.of(lesions, [0, 1, 2, 3], made)


LOGITS = torch.tensor([[0.0], [math.log(3)], [-1.0], [2.0]])  # probabilities 1/2 and 3/4 first


def test_cross_entropy_by_hand() -> None:
    """-log of the probability of what is true."""
    found = objective([1, 0, 0, 1]).of_outputs((LOGITS[:2], None), ROWS[:2])
    assert float(found.loss) == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert float(found.weight) == 2


def test_focal_loss_by_hand() -> None:
    """(1 - p)^gamma on it (Lin et al. 2017, eq. 4): 0.5^2 log 2 and 0.75^2 log 4; gamma 0 is cross-entropy."""
    found = objective([1, 0, 0, 1], loss="focal").of_outputs((LOGITS[:2], None), ROWS[:2])
    assert float(found.loss) == pytest.approx((0.25 * math.log(2) + 0.5625 * math.log(4)) / 2)
    flat, plain = objective([1, 0, 0, 1], loss="focal", focal_gamma=0.0), objective([1, 0, 0, 1])
    assert torch.allclose(flat.of_outputs((LOGITS, None), ROWS).loss, plain.of_outputs((LOGITS, None), ROWS).loss)


def test_focal_loss_has_finite_gradients_where_all_is_right() -> None:
    """At logits of 60 the factor is 0 to the power of gamma."""
    logits = torch.tensor([[60.0], [-60.0], [0.0], [0.0]], requires_grad=True)
    objective([1, 0, 0, 1], loss="focal", focal_gamma=0.5).of_outputs((logits, None), ROWS).loss.backward()
    assert torch.isfinite(logits.grad).all()


def test_class_weights_make_classes_equal() -> None:
    """Three of one and one of the other: 2/3 and 2; with logits of 0, either class counts log 2 in all."""
    weighted = objective([0, 0, 0, 1], class_weight=True)
    assert weighted.class_weights.tolist() == pytest.approx([2 / 3, 2])
    right = torch.tensor([[-40.0], [-40.0], [-40.0], [0.0]])
    assert float(weighted.of_outputs((right, None), ROWS).loss) == pytest.approx(math.log(2) / 2)
    assert float(objective([0, 0, 0, 1]).of_outputs((right, None), ROWS).loss) == pytest.approx(math.log(2) / 4)


@pytest.mark.parametrize("parts", [[4], [1, 3], [2, 2], [1, 1, 1, 1]])
def test_a_divided_batch_has_the_same_loss(parts: list[int]) -> None:
    """The loop's mean by weights over micro-batches is the loss of the batch, with everything switched on."""
    made = objective(
        [0, 3, 0, 1], [0, UNKNOWN, 1, 1], target="isup", class_weight=True, loss="focal", zone_auxiliary=0.5
    )
    logits = LOGITS + torch.linspace(1, -1, 5)
    zones = torch.tensor([[0.3, -0.2], [1.0, 0.0], [0.0, 2.0], [-1.0, 1.0]])
    whole = float(made.of_outputs((logits, zones), ROWS).loss)
    found = [
        made.of_outputs((a, b), c)
        for a, b, c in zip(logits.split(parts), zones.split(parts), ROWS.split(parts), strict=True)
    ]
    total = sum(float(one.loss * one.weight) for one in found) / sum(float(one.weight) for one in found)
    assert total == pytest.approx(whole, rel=1e-5)


def test_ordinal_targets_are_cumulative() -> None:
    """ISUP 3 is >= 1, >= 2 and >= 3, and neither >= 4 nor >= 5: sure logits of just that have no loss."""
    made = objective([3, 0, 5, 2], target="isup")
    sure = 40.0 * torch.tensor(
        [[1, 1, 1, -1, -1], [-1, -1, -1, -1, -1], [1, 1, 1, 1, 1], [1, 1, -1, -1, -1]], dtype=torch.float32
    )
    assert float(made.of_outputs((sure, None), ROWS).loss) < 1e-6
    assert float(made.of_outputs((-sure, None), ROWS).loss) == pytest.approx(5 * 40)


def test_zones_count_where_they_are_known() -> None:
    """Logits of 0 for two zones: log 2 for each row with a zone; none without the auxiliary target."""
    with_zones = objective([1, 0, 0, 1], [0, UNKNOWN, 1, UNKNOWN], zone_auxiliary=2.0)
    flat = torch.zeros(4, 2, requires_grad=True)
    plain = with_zones.of_outputs((LOGITS, None), ROWS).loss
    found = with_zones.of_outputs((LOGITS, flat), ROWS).loss
    assert float(found - plain) == pytest.approx(2 * 2 * math.log(2) / 4)
    found.backward()
    assert (flat.grad.abs().sum(1) > 0).tolist() == [True, False, True, False]

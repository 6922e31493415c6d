"""Ranks and probes: laws, and cases one can check by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prostate_mim.errors import UsageError
from prostate_mim.health import HealthConfig
from prostate_mim.health.probes import centre_accuracy, linear_auroc, neighbour_auroc, out_of_fold
from prostate_mim.health.rank import centred_rank, effective_rank, mean_variance

CONFIG = HealthConfig(neighbours=3)


@given(st.integers(1, 12), st.floats(0.1, 100))
def test_orthogonal_vectors_have_full_rank(count: int, length: float) -> None:
    """N orthogonal vectors of one length have effective rank n, whatever the length."""
    basis, _ = np.linalg.qr(np.random.default_rng(count).normal(size=(16, 16)))
    assert effective_rank(length * basis[:count]) == pytest.approx(count)


@given(st.integers(1, 12), st.integers(2, 20))
def test_identical_vectors_have_rank_one(dimensions: int, count: int) -> None:
    """Parallel embeddings have rank 1 with and without their mean, and no variance."""
    same = np.tile(np.random.default_rng(dimensions).normal(size=dimensions), (count, 1))
    assert effective_rank(same) == pytest.approx(1)
    assert centred_rank(same) == pytest.approx(1)
    assert mean_variance(same) == pytest.approx(0, abs=1e-20)


def test_rank_by_hand() -> None:
    """Singular values 3 and 1: shares 3/4 and 1/4, exp of entropy = (4/3)^(3/4) * 4^(1/4) = 1.7548."""
    assert effective_rank(np.diag([3.0, 1.0])) == pytest.approx((4 / 3) ** 0.75 * 4**0.25)


def test_rank_of_nothing_is_one() -> None:
    """All zeros: no direction is used, and nothing is divided by 0."""
    assert effective_rank(np.zeros((4, 3))) == 1


def test_a_common_mean_hides_the_rank() -> None:
    """Why both are logged: a large shared mean brings RankMe near 1 and leaves the centred rank alone."""
    spread = np.linalg.qr(np.random.default_rng(0).normal(size=(32, 8)))[0]
    assert effective_rank(spread + 100) < 1.1
    assert centred_rank(spread + 100) == pytest.approx(centred_rank(spread), rel=1e-6)
    assert centred_rank(spread) > 6


def test_variance_by_hand() -> None:
    """Dimensions 0, 2 and 5, 5: variances 1 and 0, mean 0.5."""
    assert mean_variance([[0, 5], [2, 5]]) == 0.5


def toy(rng: np.random.Generator, gap: float, count: int = 80) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two rows a patient; classes lie ``gap`` deviations apart along one of 5 dimensions."""
    groups = np.arange(count) // 2
    labels = groups % 2
    features = rng.normal(size=(count, 5))
    features[:, 0] += gap * labels
    return features, labels, groups


@pytest.mark.parametrize("probe", [linear_auroc, neighbour_auroc])
def test_separable_classes_are_separated(probe, rng: np.random.Generator) -> None:
    """Ten deviations apart: AUROC 1."""
    assert probe(*toy(rng, 10), CONFIG) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("probe", [linear_auroc, neighbour_auroc])
def test_permuted_labels_are_near_chance(probe) -> None:
    """The control: with labels shuffled over patients the mean of 20 AUROCs is chance."""
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        features, labels, groups = toy(rng, 10)
        shuffled = rng.permutation(labels[::2])[groups]
        found.append(probe(features, shuffled, groups, CONFIG))
    assert np.mean(found) == pytest.approx(0.5, abs=0.08)


def test_patients_are_never_split(rng: np.random.Generator) -> None:
    """Features that only name the patient give nothing away grouped, and everything where rows are their own group."""
    groups = np.repeat(np.arange(20), 6)
    labels = rng.permutation(np.arange(20) % 2)[groups]
    features = rng.normal(size=(20, 40))[groups] + 0.01 * rng.normal(size=(120, 40))
    grouped = neighbour_auroc(features, labels, groups, CONFIG)
    split = neighbour_auroc(features, labels, np.arange(120), CONFIG)
    assert grouped is not None and split is not None
    assert grouped < 0.8
    assert split > 0.99


def test_every_row_is_scored_by_a_fit_that_did_not_see_its_group(rng: np.random.Generator) -> None:
    """The law of ``out_of_fold`` itself, by a fit that reports whom it saw."""
    groups = np.repeat(np.arange(12), 3)
    labels = groups % 3
    features = groups[:, None].astype(float)
    seen: list[tuple[set[float], set[float]]] = []

    def fit(train: np.ndarray, truth: np.ndarray, test: np.ndarray) -> np.ndarray:
        seen.append((set(train[:, 0].round(6)), set(test[:, 0].round(6))))
        return test[:, 0]

    scores = out_of_fold(features, labels, groups, 4, fit)
    assert scores is not None and np.isfinite(scores).all()
    assert len(seen) == 4
    assert all(not train & test for train, test in seen)


@pytest.mark.parametrize(
    ("labels", "groups"), [([1, 1, 1, 1], [0, 1, 2, 3]), ([0, 0, 0, 1], [0, 1, 2, 3]), ([0, 0, 1, 1], [0, 1, 2, 2])]
)
def test_too_few_groups_have_no_auroc(labels: list[int], groups: list[int]) -> None:
    """One class, or a class of one patient: no figure instead of a made-up one."""
    assert linear_auroc(np.eye(4), labels, groups, CONFIG) is None


def test_centres_are_told_where_features_hold_them(rng: np.random.Generator) -> None:
    """Scanner written into the features: accuracy 1. Not written in: chance, which is 1/3 for three centres."""
    centres, groups = np.arange(60) % 3, np.arange(60)
    told = centre_accuracy(np.eye(3)[centres] * 5 + rng.normal(size=(60, 3)) * 0.1, centres, groups, CONFIG)
    assert told == (pytest.approx(1), pytest.approx(1 / 3))
    plain = [centre_accuracy(rng.normal(size=(60, 3)), centres, groups, CONFIG) for _ in range(8)]
    assert np.mean([one[0] for one in plain if one]) == pytest.approx(1 / 3, abs=0.1)


def test_one_large_centre_is_not_enough(rng: np.random.Generator) -> None:
    """Ten studies of one centre, three of another, five of none: nothing to predict."""
    centres = np.array([0] * 10 + [1] * 3 + [-1] * 5)
    assert centre_accuracy(rng.normal(size=(18, 2)), centres, np.arange(18), CONFIG) is None


def test_accuracy_is_balanced(rng: np.random.Generator) -> None:
    """90 studies of one centre and 10 of another, nothing in the features: about 0.5, not 0.9."""
    centres = (np.arange(100) < 10).astype(int)
    found = centre_accuracy(rng.normal(size=(100, 2)), centres, np.arange(100), CONFIG)
    assert found is not None
    assert found[0] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    "wrong", [{"studies": 0}, {"folds": 1}, {"regularisation": 0.0}, {"least_rank_share": 2.0}, {"least_rank": -1.0}]
)
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    """Named by their key in a configuration file."""
    with pytest.raises(UsageError, match=f"health.{next(iter(wrong))}"):
        HealthConfig(**wrong)  # type: ignore[arg-type]

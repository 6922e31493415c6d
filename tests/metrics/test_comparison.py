"""Paired comparisons: published DeLong numbers, definitions, and laws of pairing and of patients."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from prostate_mim.errors import UsageError
from prostate_mim.metrics import METRICS, Scored, auroc, auroc_standard_error, compare, delong, interval

# DeLong, DeLong and Clarke-Pearson 1988: albumin, total protein, K-G score, benefit from surgery, 49 patients.
OVARIAN = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1
3.8 5.7 5 1  3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0
2.3 4.4 6 1  4.2 7.6 4 0  4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1
3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1  4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0
3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1  2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1
3.3 5.7 6 1  3.7 6.9 5 1  3.6 6.6 5 1
"""


def ovarian() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Labels, albumin, total protein and K-G score, which falls with benefit."""
    rows = np.array(OVARIAN.split(), float).reshape(-1, 4)
    return rows[:, 3].astype(int), rows[:, 0], rows[:, 1], -rows[:, 2]


def test_published_delong():
    """Areas, standard errors, differences and p-values as SAS/STAT prints them for these data (PROC LOGISTIC)."""
    labels, albumin, protein, score = ovarian()
    for values, area, error in ((albumin, 0.7366, 0.0927), (score, 0.7258, 0.1028), (protein, 0.6478, 0.1000)):
        assert auroc(labels, values) == pytest.approx(area, abs=5e-5)
        assert auroc_standard_error(labels, values) == pytest.approx(error, abs=5e-5)
    for values, difference, error, p in ((albumin, 0.0108, 0.0953, 0.9102), (protein, -0.0780, 0.1046, 0.4561)):
        found = delong(labels, values, score)
        assert found.difference == pytest.approx(difference, abs=5e-5)
        assert found.standard_error == pytest.approx(error, abs=5e-5)
        assert found.p == pytest.approx(p, abs=5e-5)


def by_definition(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """DeLong's components from every pair of a positive and a negative."""
    pairs = scores[labels == 1][:, None] - scores[labels == 0][None, :]
    won = (pairs > 0) + 0.5 * (pairs == 0)
    return won.mean(1), won.mean(0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 12), st.integers(2, 12))
def test_delong_equals_its_definition(seed, positives, negatives):
    """The fast form is the covariance of the components of all pairs, ties and all."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat([1, 0], [positives, negatives]))
    first, second = rng.integers(0, 6, (2, len(labels))).astype(float)
    over, under = zip(by_definition(labels, first), by_definition(labels, second), strict=True)
    covariance = np.cov(over) / positives + np.cov(under) / negatives
    found = delong(labels, first, second)
    assert found.difference == pytest.approx(auroc(labels, first) - auroc(labels, second), abs=1e-12)
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert found.standard_error**2 == pytest.approx(variance, abs=1e-12)
    apart = delong(labels, first, second, patients=tuple(range(len(labels))))
    assert apart.standard_error == pytest.approx(found.standard_error, abs=1e-9)  # one row per patient: the same
    turned = delong(labels, second, first)
    assert turned.difference == pytest.approx(-found.difference)
    assert turned.p == (None if found.p is None else pytest.approx(found.p))


def lesions(seed: int, patients: int = 60, effect: float = 0.0) -> tuple[np.ndarray, ...]:
    """1 to 4 lesions per patient of mixed labels, and two scores that share the patient's own level."""
    rng = np.random.default_rng(seed)
    owners = np.repeat(np.arange(patients), rng.integers(1, 5, patients))
    labels = rng.integers(0, 2, len(owners))
    scores = []
    for gain in (effect, 0.0):
        level = rng.normal(size=patients)[owners]
        scores.append(2 * level + rng.normal(size=len(owners)) + (1 + gain) * labels)
    return labels, *scores, owners


def test_clustered_delong_equals_its_definition():
    """Obuchowski 1997, equation by equation: sums over patients with lesions of one label, of the other, and of all."""
    labels, first, second, owners = lesions(9, patients=15)
    m, n = int(labels.sum()), int((1 - labels).sum())
    sums = []
    for scores in (first, second):
        over, under = by_definition(labels, scores)
        area = over.mean()
        sums.append(
            [
                (over[owners[labels == 1] == name].sum() - (labels[owners == name] == 1).sum() * area,
                 under[owners[labels == 0] == name].sum() - (labels[owners == name] == 0).sum() * area)
                for name in range(15)
            ]
        )  # fmt: skip
    deviations = np.array(sums[0]) - np.array(sums[1])
    a, b = (len(set(owners[labels == label].tolist())) for label in (1, 0))
    variance = a / (a - 1) * (deviations[:, 0] ** 2).sum() / m**2 + b / (b - 1) * (deviations[:, 1] ** 2).sum() / n**2
    variance += 2 * 15 / 14 * deviations.prod(1).sum() / (m * n)
    assert delong(labels, first, second, owners).standard_error == pytest.approx(np.sqrt(variance), rel=1e-9)


def test_clustered_delong_counts_patients():
    """Over 300 cohorts the clustered error is the spread of the area; taking rows as independent misses it."""
    areas, clustered, plain = [], [], []
    for seed in range(300):
        labels, scores, _, owners = lesions(seed)
        labels = owners % 2  # one label per patient
        areas.append(auroc(labels, scores + labels))
        clustered.append(auroc_standard_error(labels, scores + labels, owners))
        plain.append(auroc_standard_error(labels, scores + labels))
    spread = np.std(areas, ddof=1)
    assert np.mean(clustered) == pytest.approx(spread, rel=0.12)
    assert np.mean(plain) < 0.8 * spread  # the control


def test_clustered_delong_with_both_labels_in_a_patient():
    """A positive and a negative in every patient: the patient's own level cancels, as only the clustered form knows."""
    areas, clustered, plain = [], [], []
    labels, owners = np.tile([0, 1], 60), np.repeat(np.arange(60), 2)
    for seed in range(300):
        rng = np.random.default_rng(seed)
        scores = 2 * rng.normal(size=60)[owners] + rng.normal(size=120) + labels
        areas.append(auroc(labels, scores))
        clustered.append(auroc_standard_error(labels, scores, owners))
        plain.append(auroc_standard_error(labels, scores))
    spread = np.std(areas, ddof=1)
    assert np.mean(clustered) == pytest.approx(spread, rel=0.12)
    assert np.mean(plain) > 1.3 * spread  # the control


def test_duplicated_rows_leave_the_clustered_error():
    """Every lesion twice changes no digit; without patients the error shrinks by about the root of 2."""
    labels, first, second, owners = lesions(1)
    once = delong(labels, first, second, owners)
    twice = [np.tile(values, 2) for values in (labels, first, second)]
    assert delong(*twice, np.tile(owners, 2)).standard_error == pytest.approx(once.standard_error, rel=1e-9)
    narrow = delong(labels, first, second).standard_error / np.sqrt(2)
    assert delong(*twice).standard_error == pytest.approx(narrow, rel=0.02)


def test_delong_at_its_limits():
    """Equal scores differ by 0 with p 1; perfect against reversed has no error to go by; 1 positive is too few."""
    labels = [0, 0, 1, 1]
    assert delong(labels, [1, 3, 2, 4], [1, 3, 2, 4]).p == 1
    perfect = delong(labels, [1, 2, 3, 4], [4, 3, 2, 1])
    assert (perfect.difference, perfect.standard_error, perfect.p) == (1, 0, None)
    with pytest.raises(UsageError, match="2 patients of each label"):
        delong([0, 0, 1], [1, 2, 3], [1, 3, 2])
    with pytest.raises(UsageError, match="2 patients of each label"):
        delong(labels, [1, 3, 2, 4], [1, 2, 3, 4], ("a", "b", "c", "c"))
    with pytest.raises(UsageError, match="one score for each label"):
        delong(labels, [1, 3, 2, 4], [1, 2, 3])


def pair(seed: int, effect: float = 0.0) -> tuple[Scored, Scored]:
    """Two models on the same lesions, the first better by an effect."""
    labels, first, second, owners = lesions(seed, effect=effect)
    squeezed = [1 / (1 + np.exp(-scores)) for scores in (first, second)]
    return Scored(labels, squeezed[0], tuple(owners)), Scored(labels, squeezed[1], tuple(owners))


def test_comparison_is_paired():
    """The difference is that of the values; two near-equal models differ with a far narrower interval than alone."""
    first, _ = pair(2)
    rng = np.random.default_rng(0)
    nearly = Scored(
        first.labels, np.clip(first.probabilities + 0.01 * rng.normal(size=len(first)), 0, 1), first.patients
    )
    found = compare(first, nearly, samples=300)
    alone = [interval(part, "auroc", samples=300) for part in (first, nearly)]
    assert found.difference.value == pytest.approx(alone[0].value - alone[1].value)
    width = found.difference.high - found.difference.low
    assert width < 0.25 * (alone[0].high - alone[0].low)
    unpaired = compare(first, pair(2)[1], samples=300).difference
    assert unpaired.high - unpaired.low > 4 * width  # the control: models that agree on nothing


def test_comparison_turns_round():
    """Second against first is the same with the sign turned; a model against itself is 0 with p 1."""
    first, second = pair(3, effect=1.0)
    found, turned = compare(first, second, samples=200), compare(second, first, samples=200)
    assert turned.difference.value == pytest.approx(-found.difference.value)
    assert turned.difference.low == pytest.approx(-found.difference.high)
    assert (turned.p_delong, turned.p_bootstrap) == (pytest.approx(found.p_delong), found.p_bootstrap)
    assert turned.detectable == pytest.approx(found.detectable)
    same = compare(first, first, samples=100)
    assert (same.difference.low, same.difference.high, same.p_delong, same.p_bootstrap) == (0, 0, 1, 1)
    assert same.detectable == 0


def test_comparison_finds_what_is_there():
    """Of 40 pairs without a difference at most 6 have p < 0.05 by either test; of 40 with one, most do."""
    quiet, loud = ([compare(*pair(seed, effect), samples=200) for seed in range(40)] for effect in (0.0, 2.5))
    for name in ("p_delong", "p_bootstrap"):
        assert sum(getattr(found, name) < 0.05 for found in quiet) <= 6
        assert sum(getattr(found, name) < 0.05 for found in loud) >= 25
    assert sum(found.difference.low <= 0 <= found.difference.high for found in quiet) >= 34


def test_bootstrap_p_is_two_sided():
    """For the mean of 200 numbers it is the p-value of the z-test; it is never 0."""
    rng = np.random.default_rng(1)
    second, gaps = rng.normal(0.5, 0.1, 200), rng.normal(size=200)
    gaps = (gaps - gaps.mean()) / gaps.std() + 1.5 / np.sqrt(200)  # z is 1.5
    parts = [Scored(np.zeros(200), values, tuple(range(200))) for values in (second + gaps, second)]
    found = compare(*parts, metric=lambda _, values: float(values.mean()), samples=2000)
    assert found.p_bootstrap == pytest.approx(2 * norm.sf(1.5), rel=0.2)
    assert compare(*pair(5, effect=20.0), samples=99).p_bootstrap == pytest.approx(2 / 100)


def test_detectable_difference():
    """2.80 standard errors, which the bootstrap and DeLong agree on; a quarter of the patients can find twice of it."""
    found = compare(*pair(4), samples=1000)
    first, second = pair(4)
    error = delong(first.labels, first.probabilities, second.probabilities, first.patients).standard_error
    assert found.detectable == pytest.approx(2.8016 * error, rel=0.12)
    few = [
        compare(*(part.where(part.owners < 15) for part in pair(seed)), samples=200).detectable for seed in range(10)
    ]
    many = [compare(*pair(seed), samples=200).detectable for seed in range(10)]
    assert np.mean(few) / np.mean(many) == pytest.approx(2, rel=0.2)


def test_comparison_reads_and_writes():
    """Every comparison prints its detectable difference; to_dict is one flat row; other metrics have no DeLong."""
    found = compare(*pair(5), samples=50)
    assert f"detectable {found.detectable:.3f}" in str(found)
    row = found.to_dict()
    assert (row["difference"], row["metric"], row["patients"]) == (found.difference.value, "auroc", 60)
    first, second = pair(5)
    by_patient = delong(first.labels, first.probabilities, second.probabilities, first.patients)
    assert found.p_delong == pytest.approx(by_patient.p)
    assert found.p_delong != pytest.approx(delong(first.labels, first.probabilities, second.probabilities).p)
    brier = compare(*pair(5), metric="brier", samples=50)
    assert brier.p_delong is None
    assert brier.p_bootstrap is not None
    by_function = compare(*pair(5), metric=METRICS["brier"], samples=50)
    assert by_function.difference.low == pytest.approx(brier.difference.low)
    assert by_function.metric == "brier"


def test_duplicated_studies_change_no_comparison():
    """Every row twice leaves the interval, both tests and the detectable difference; as new patients they narrow."""
    first, second = pair(7)

    def double(part, patients):
        return Scored(np.tile(part.labels, 2), np.tile(part.probabilities, 2), patients)

    once = compare(first, second, samples=200)
    twice = compare(*(double(part, part.patients * 2) for part in (first, second)), samples=200)
    for name in ("p_delong", "p_bootstrap", "detectable"):
        assert getattr(twice, name) == pytest.approx(getattr(once, name), abs=1e-9)
    assert (twice.difference.low, twice.difference.high) == pytest.approx((once.difference.low, once.difference.high))
    others = first.patients + tuple(100 + name for name in first.patients)
    apart = compare(*(double(part, others) for part in (first, second)), samples=200)
    assert apart.detectable < 0.85 * once.detectable


def test_only_the_same_rows_are_compared():
    """Another order of labels or of patients, or rows left out, is refused; other names of the patients are not."""
    first, second = pair(6)
    with pytest.raises(UsageError, match="same rows in the same order"):
        compare(first, second.where(np.arange(len(second)) > 0))
    turned = Scored(1 - second.labels, second.probabilities, second.patients)
    with pytest.raises(UsageError, match="same rows in the same order"):
        compare(first, turned)
    with pytest.raises(UsageError, match="same rows in the same order"):
        compare(first, Scored(second.labels, second.probabilities, second.patients[::-1]))
    renamed = Scored(second.labels, second.probabilities, tuple(f"x{name}" for name in second.patients))
    assert compare(first, renamed, samples=20) == compare(first, second, samples=20)


def test_undefined_comparison():
    """With one class there is no difference, and no p-value either."""
    part = Scored([1, 1], [0.1, 0.2], ("a", "b"))
    found = compare(part, part, samples=20)
    assert (str(found), found.p_delong, found.p_bootstrap, found.detectable) == ("undefined", None, None, None)

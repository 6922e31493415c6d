"""Intervals count patients, not lesions; evaluate goes by zone and centre; lesions aggregate to patients."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prostate_mim.errors import TrainingError, UsageError
from prostate_mim.metrics import METRICS, Estimate, Scored, auroc, auroc_interval, evaluate, interval, roc_band
from prostate_mim.metrics.bootstrap import draw_weights


def cohort(seed: int, effect: float = 0.8) -> tuple[list[int], list[float], list[str]]:
    """40 patients with 2 lesions of one label each, and scores that know it a little and agree within a patient."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(40), 2)
    labels = np.repeat(rng.permutation(np.arange(40) % 2), 2)
    scores = rng.normal(size=80) + np.repeat(rng.normal(size=40), 2) + effect * labels
    return labels.tolist(), scores.tolist(), [f"p{p}" for p in owner]


def scored(seed: int, effect: float = 0.8, **more) -> Scored:
    """The cohort with probabilities."""
    labels, scores, patients = cohort(seed, effect)
    return Scored(labels, 1 / (1 + np.exp(-np.array(scores))), patients, **more)


def test_permuted_labels_cover_one_half():
    """With labels that mean nothing, a 95 % interval covers 0.5 in at least 35 of 40 cohorts; real ones do not."""
    covered = informative = 0
    for seed in range(40):
        labels, scores, patients = cohort(seed, effect=1.5)
        found = auroc_interval(labels, scores, patients, samples=200)
        informative += found.low > 0.5
        shuffled = np.repeat(np.random.default_rng(seed + 500).permutation(labels[::2]), 2).tolist()
        found = auroc_interval(shuffled, scores, patients, samples=200)
        covered += found.low <= 0.5 <= found.high
    assert covered >= 35
    assert informative >= 30  # negative control: the test can tell


def test_duplicated_lesions_do_not_narrow_the_interval():
    """Every lesion twice is no new patient: the width stays within 5 %; resampling lesions would narrow it."""
    labels, scores, patients = cohort(1)

    def width(*arguments):
        found = auroc_interval(*arguments, samples=1000)
        return found.high - found.low

    once = width(labels, scores, patients)
    assert width(labels * 2, scores * 2, patients * 2) == pytest.approx(once, rel=0.05)
    lesions = [str(n) for n in range(160)]
    assert width(labels * 2, scores * 2, lesions) < 0.85 * width(labels, scores, lesions[:80])
    assert width(labels, scores, lesions[:80]) < 0.95 * once


@pytest.mark.parametrize("name", sorted(METRICS))
def test_duplicated_rows_change_no_interval(name):
    """The same law to the last digit for every metric: repeated rows of a patient leave value and interval."""
    once = scored(3)
    twice = Scored(np.tile(once.labels, 2), np.tile(once.probabilities, 2), once.patients * 2)
    apart = Scored(twice.labels, twice.probabilities, tuple(range(160)))
    found = [interval(part, name, samples=200) for part in (once, twice, apart)]
    for part in ("value", "low", "high"):
        assert getattr(found[1], part) == pytest.approx(getattr(found[0], part), abs=1e-6)
    assert found[2].high - found[2].low < found[0].high - found[0].low  # the control: as new patients, they narrow it


def test_the_fast_way_is_the_slow_way():
    """Interval and draws of the matrix form are those of a loop over patients that repeats their rows."""
    labels, scores, patients = cohort(2)
    names = sorted(set(patients))
    members = {name: [row for row, owner in enumerate(patients) if owner == name] for name in names}
    rng = np.random.default_rng(5)
    drawn = []
    for _ in range(300):
        rows = np.concatenate([members[names[i]] for i in rng.integers(0, len(names), len(names))])
        drawn.append(auroc(np.array(labels)[rows], np.array(scores)[rows]))
    found = auroc_interval(labels, scores, patients, samples=300, seed=5)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(drawn, (2.5, 97.5))), abs=1e-12)


def test_draws_do_not_depend_on_how_many_are_held_at_once(monkeypatch):
    """Draws are the same in parts of one and all together; each has as many patients as there are."""
    owners = np.repeat(np.arange(7), [1, 2, 3, 1, 1, 4, 2])
    together = np.concatenate(list(draw_weights(owners, 20, seed=1)))
    monkeypatch.setattr("prostate_mim.metrics.bootstrap._ELEMENTS", 1)
    np.testing.assert_array_equal(together, np.concatenate(list(draw_weights(owners, 20, seed=1))))
    first = np.unique(owners, return_index=True)[1]
    assert (together[:, first].sum(1) == 7).all()


def test_a_function_is_a_metric_too():
    """Any function of labels and probabilities can be given; that of the table gives the same interval."""
    part = scored(4)
    assert interval(part, METRICS["auroc"], samples=100) == interval(part, "auroc", samples=100)
    with pytest.raises(UsageError, match="metric 'auc' is unknown; choose one of auroc, "):
        interval(part, "auc")
    with pytest.raises(UsageError, match="0 bootstrap samples"):
        interval(part, "auroc", samples=0)


def test_interval_covers_the_truth():
    """AUROC of two normal groups 1 apart is 0.760; of 60 intervals of 80 independent patients at least 52 hold it."""
    covered = covered_elsewhere = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        labels = np.arange(80) % 2
        part = Scored(labels, rng.normal(size=80) + labels, tuple(range(80)))
        found = interval(part, "auroc", samples=300)
        covered += found.low <= 0.7602 <= found.high
        covered_elsewhere += found.low <= 0.9 <= found.high
    assert covered >= 52
    assert covered_elsewhere <= 20  # the control


def test_interval_counts_and_repeats():
    """The interval holds the value, says on how many it rests, and one seed repeats it."""
    labels, scores, patients = cohort(2)
    found = auroc_interval(labels, scores, patients, samples=300)
    assert (found.lesions, found.positives, found.patients) == (80, 40, 40)
    assert found.low <= found.value <= found.high
    assert found == auroc_interval(labels, scores, patients, samples=300)
    assert found != auroc_interval(labels, scores, patients, samples=300, seed=1)
    assert str(found) == f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def test_one_class_has_no_auroc():
    """Without a positive there is no value and no interval, and the text says why."""
    found = auroc_interval([0, 0, 0], [0.1, 0.2, 0.3], ["a", "b", "c"], samples=50)
    assert (found.value, found.low, found.high) == (None, None, None)
    assert str(found) == "undefined (0 of 3 lesions positive)"
    part = Scored([0, 0, 0], [0.1, 0.2, 0.3], ("a", "b", "c"))
    assert str(interval(part, "auroc", samples=50)) == "undefined"
    with pytest.raises(UsageError, match="both labels"):
        roc_band(part)


def test_few_patients_without_errors_have_no_interval_as_text():
    """Three patients in the right order have width 0 in numbers, and a reservation in words; 20 of each kind do not."""
    for each, shown in ((2, "1.000 (too few patients for an interval)"), (20, "1.000 [1.000, 1.000]")):
        labels = [0] * each + [1] * each
        found = auroc_interval(labels, labels, [f"p{n}" for n in range(2 * each)], samples=50)
        assert (found.value, found.low, found.high) == (1, 1, 1)
        assert str(found) == shown
    wide = auroc_interval([0, 1, 0, 1, 1], [0.1, 0.4, 0.3, 0.2, 0.5], list("abcde"), samples=50)
    assert str(wide) == f"{wide.value:.3f} [{wide.low:.3f}, {wide.high:.3f}]"
    alone = auroc_interval([0, 1, 1], [0.1, 0.2, 0.05], list("aaa"), samples=50)
    assert (alone.low, str(alone)) == (None, "0.500 (too few patients for an interval)")


def test_one_patient_has_no_interval():
    """Every draw of one patient is that patient: a value, but no interval of width 0."""
    found = interval(Scored([0, 1, 1], [0.1, 0.2, 0.05], ("a", "a", "a")), "auroc", samples=50)
    assert found == Estimate(0.5)
    assert str(found) == "0.500"


def test_evaluate_by_zone_and_centre():
    """Each part has the estimates of its own rows; unknown zones count overall only; the whole is JSON."""
    zones = tuple(["PZ", "PZ", "TZ", ""] * 20)
    found = evaluate(scored(5, zones=zones, centres=("A",) * 80), metrics=("auroc", "ece"), samples=100, seed=3)
    assert list(found.by_zone) == ["PZ", "TZ"]
    assert found.by_centre == {"A": found.overall}
    peripheral = scored(5).where([zone == "PZ" for zone in zones])
    assert found.by_zone["PZ"]["auroc"] == interval(peripheral, "auroc", samples=100, seed=3)
    positives = int(peripheral.labels.sum())
    assert found.counts["zone=PZ"].to_dict() == {"rows": 40, "positives": positives, "patients": 20}
    assert found.counts["all"].rows == 80
    assert json.loads(json.dumps(found.to_dict()))["by_zone"]["TZ"]["ece"]["value"] == found.by_zone["TZ"]["ece"].value
    assert set(evaluate(scored(5), samples=20).overall) == set(METRICS)


def test_names_of_patients_do_not_matter():
    """Renaming patients, even to names of other types, changes no digit."""
    part = scored(6)
    renamed = Scored(part.labels, part.probabilities, tuple((7, hash(name)) for name in part.patients))
    assert evaluate(renamed, samples=50) == evaluate(part, samples=50)


def test_lesions_to_patients_by_hand():
    """Two lesions of 0.5 and 0.2: max 0.5, noisy-or 1 - 0.5 * 0.8; positive if any lesion is."""
    part = Scored(
        [0, 1, 0], [0.5, 0.2, 0.3], ("b", "b", "a"), zones=("PZ", "TZ", "PZ"), centres=("X", "X", "")
    )  # fmt: skip
    highest, either = part.per_patient(), part.per_patient("noisy-or")
    assert highest.labels.tolist() == either.labels.tolist() == [1, 0]
    assert highest.probabilities.tolist() == [0.5, 0.3]
    np.testing.assert_allclose(either.probabilities, [0.6, 0.3])
    assert (highest.patients, highest.zones, highest.centres) == (("b", "a"), ("", "PZ"), ("X", ""))
    with pytest.raises(UsageError, match="aggregation 'mean' is unknown; choose max or noisy-or"):
        part.per_patient("mean")
    with pytest.raises(UsageError, match="outside 0 to 1"):
        Scored([0], [2.0], ("a",)).per_patient("noisy-or")


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1), st.integers(0, 6)), min_size=1, max_size=30))
def test_aggregation_laws(rows):
    """noisy-or lies from max to 1; one row per patient; one lesion alone is kept; twice is as once."""
    labels, probabilities, owners = zip(*rows, strict=True)
    part = Scored(labels, probabilities, owners)
    highest, either = part.per_patient("max"), part.per_patient("noisy-or")
    assert highest.patients == tuple(dict.fromkeys(owners))
    assert (either.probabilities >= highest.probabilities - 1e-12).all()
    assert (either.probabilities <= 1).all()
    for name, label, high, noisy in zip(
        highest.patients, highest.labels, highest.probabilities, either.probabilities, strict=True
    ):
        own = [row for row in rows if row[2] == name]
        assert label == max(row[0] for row in own)
        if len(own) == 1:
            assert high == own[0][1]
            assert noisy == pytest.approx(own[0][1])
    np.testing.assert_array_equal(highest.per_patient("max").probabilities, highest.probabilities)


def test_wrong_rows_are_refused():
    """No rows, a patient too few, NaN, and a choice of rows of another length."""
    with pytest.raises(UsageError, match="no predictions"):
        Scored([], [], ())
    with pytest.raises(UsageError, match="patients has 1 entries for 2"):
        Scored([0, 1], [0.1, 0.2], ("a",))
    with pytest.raises(UsageError, match="zones has 3 entries for 2"):
        Scored([0, 1], [0.1, 0.2], ("a", "b"), zones=("PZ",) * 3)
    with pytest.raises(TrainingError, match="NaN"):
        Scored([0, 1], [0.1, np.nan], ("a", "b"))
    with pytest.raises(UsageError, match="choice of rows"):
        Scored([0, 1], [0.1, 0.2], ("a", "b")).where([True])


def test_roc_band():
    """The band holds the curve, rises, ends at (1, 1), and its sensitivity at 10 % is the operating point's."""
    part = scored(7, effect=1.5)
    band = roc_band(part, samples=300)
    assert band.false_positive_rate.shape == band.low.shape == (101,)
    assert (band.low <= band.sensitivity + 1e-9).all()
    assert (band.sensitivity <= band.high + 1e-9).all()
    assert (np.diff(band.sensitivity) >= -1e-12).all()
    assert band.sensitivity[-1] == band.low[-1] == 1
    expected = METRICS["sensitivity_at_specificity_90"](part.labels, part.probabilities)
    assert band.sensitivity[10] == pytest.approx(expected)
    # 101 points see little of steps, so the area agrees to about one of them
    assert np.trapezoid(band.sensitivity, band.false_positive_rate) == pytest.approx(
        auroc(part.labels, part.probabilities), abs=0.02
    )

"""The outlier score, the report, and the stored statistics."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from wrong_inputs import WRONG

from prostate_mim.encoder import PreMIM
from prostate_mim.errors import IntegrityError, VolumeError
from prostate_mim.hub import read_release, resolve
from prostate_mim.manifest import read_manifest
from prostate_mim.modality import Guard, check_modality, check_volume, refuse_flagged
from prostate_mim.modality.reference import BUNDLED, Reference, bundled_reference, features_of, fit
from prostate_mim.studies import open_all
from prostate_mim.volume import Volume
from prostate_mim.volume.geometry import Geometry

ROOT = Path(__file__).resolve().parents[2]


def test_good_volume_has_a_score_under_the_limit(good: Volume, bundled: PreMIM) -> None:
    """The control: nothing is found, and the score is about 1."""
    report = check_modality(good, encoder=bundled)
    assert report.ok
    assert report.flags == ()
    assert report.outlier_score is not None
    assert report.outlier_limit == pytest.approx(bundled_reference().limit)
    assert 0.5 < report.outlier_score < report.outlier_limit


@pytest.mark.parametrize("kind", ["coronal", "head", "CT, 1024 added", "inverted, clipped", "noise only"])
def test_wrong_volume_is_an_outlier(good: Volume, bundled: PreMIM, kind: str) -> None:
    """By the score alone, with score and limit in the message."""
    report = check_modality(WRONG[kind](good, np.random.default_rng(5)), encoder=bundled)
    finding = report.findings[-1]
    assert finding.check == "outlier score"
    assert report.outlier_score is not None
    assert report.outlier_limit is not None
    assert report.outlier_score > report.outlier_limit
    assert f"{report.outlier_score:.2f}" in finding.message
    assert f"{report.outlier_limit:.2f}" in finding.message


def test_another_encoder_gives_no_score_and_says_why(good: Volume, small_encoder: Path) -> None:
    """Statistics of one encoder mean nothing for another; the cheap checks are made all the same."""
    report = check_modality(good, encoder=PreMIM.from_pretrained(small_encoder))
    assert report.outlier_score is report.outlier_limit is None
    assert bundled_reference().revision in report.note
    assert report.findings == check_volume(good)


def test_constant_middle_gives_no_score(bundled: PreMIM) -> None:
    """What the encoder refuses is no error of the guard."""
    voxels = np.zeros((20, 320, 320), np.int16)
    voxels[:, :20] = 9
    report = check_modality(Volume(voxels, Geometry((3.0, 0.6, 0.6)), "x"), encoder=bundled)
    assert report.outlier_score is None
    assert "constant" in report.note
    assert not report.ok


def test_strict_names_the_first_number_and_how_many_more(good: Volume) -> None:
    """A VolumeError of one line; the unchanged volume is not refused."""
    refuse_flagged(check_modality(good), "x")
    report = check_modality(WRONG["spacing x 2"](good, np.random.default_rng(0)))
    with pytest.raises(VolumeError, match=r"^study.mha: .* is \d.*allowed .* \(and \d+ other findings?\).*--strict"):
        refuse_flagged(report, "study.mha")


def test_guard_measures_a_shared_volume_once(good: Volume) -> None:
    """Rows that share voxels get the very same report; another volume, or the same as a crop, another one."""
    guard = Guard()
    first = guard(good)
    assert guard(Volume(good.voxels, good.geometry, "row 2")) is first
    assert guard(good, is_crop=True) is not first
    assert guard(Volume(good.voxels.copy(), good.geometry, "x")) is not first


def test_report_is_plain_values(good: Volume, bundled: PreMIM) -> None:
    """It can be written as JSON."""
    report = check_modality(WRONG["head"](good, np.random.default_rng(0)), encoder=bundled)
    values = json.loads(json.dumps(report.to_dict()))
    assert [finding["message"] for finding in values["findings"]] == list(report.flags)


# ------------------------------------------------------------------------------------------------- statistics


def test_stored_statistics_are_of_the_bundled_encoder() -> None:
    """Encoder, revision and input contract are those in the package; the file is small and says what it is of."""
    reference = bundled_reference()
    release = read_release(resolve(reference.encoder))
    assert (reference.revision, reference.spec) == (release.revision, release.spec.fingerprint)
    assert "34 PROMISE12" in reference.made_of
    assert BUNDLED.stat().st_size < 60_000
    assert len(reference.centres) == 2  # means over 44 volumes each: no vector of a single patient


def test_score_by_hand() -> None:
    """Two features, one direction: sqrt((2^2 / 4 + 1^2 / 0.5) / 2) from the nearer of two centres."""
    reference = Reference(
        mean=np.zeros(2), scale=np.array([1.0, 2.0]), centres=np.array([[0.0, 0.0], [50.0, 0.0]]),
        directions=np.array([[1.0, 0.0]]), variances=np.array([4.0]), rest=0.5, limit=3.0,
        encoder="a", revision="b", spec="c", made_of="d",
    )  # fmt: skip
    assert reference.score([2.0, 2.0]) == pytest.approx(np.sqrt((1 + 2) / 2))
    assert reference.score([52.0, 2.0]) == pytest.approx(np.sqrt((1 + 2) / 2))
    assert reference.score([25.0, 0.0]) > 3


def test_fit_gives_good_volumes_a_score_of_about_one() -> None:
    """Law: of the volumes it was fitted to, the mean squared score is about 1, whatever their scale and groups."""
    rng = np.random.default_rng(0)
    groups = np.repeat((0, 1), 40)
    vectors = rng.normal(size=(80, 30)) * rng.uniform(0.1, 50, 30) + 300 * groups[:, None]
    mean, scale, centres, kept, variances, rest = fit(vectors, groups, 5)
    reference = Reference(mean, scale, centres, kept, variances, float(rest[0]), 9.0, "a", "b", "c", "d")
    scores = np.array([reference.score(vector) for vector in vectors])
    assert 0.9 < np.mean(scores**2) < 1.1
    assert reference.score(vectors[0] + 40 * vectors.std(0)) > scores.max()


def test_file_survives_a_round_trip(tmp_path: Path, good: Volume, bundled: PreMIM) -> None:
    """The same bytes again, and the same score."""
    reference = bundled_reference()
    (tmp_path / "r.safetensors").write_bytes(reference.to_bytes())
    again = Reference.read(tmp_path / "r.safetensors")
    assert reference.to_bytes() == BUNDLED.read_bytes()
    features = features_of(good, bundled)
    assert again.score(features) == reference.score(features)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: dataclasses.replace(r, variances=np.zeros_like(r.variances)),
        lambda r: dataclasses.replace(r, mean=r.mean * np.nan),
        lambda r: dataclasses.replace(r, mean=r.mean[:-1]),
        lambda r: dataclasses.replace(r, directions=r.directions[0]),
    ],
)
def test_impossible_statistics_are_refused(tmp_path: Path, change: object) -> None:
    """Zero variances, NaN, and shapes that do not fit."""
    path = tmp_path / "r.safetensors"
    path.write_bytes(change(bundled_reference()).to_bytes())  # type: ignore[operator]
    with pytest.raises(IntegrityError, match="impossible arrays"):
        Reference.read(path)


def test_damaged_file_is_refused(tmp_path: Path) -> None:
    """Cut short, and of another kind."""
    path = tmp_path / "r.safetensors"
    path.write_bytes(BUNDLED.read_bytes()[:-100])
    with pytest.raises(IntegrityError, match="cannot be read"):
        Reference.read(path)
    from safetensors.numpy import save

    path.write_bytes(save({"mean": np.zeros(3)}))
    with pytest.raises(IntegrityError, match="not of format"):
        Reference.read(path)


def test_script_makes_the_same_statistics_twice(cohort: Path, bundled: PreMIM) -> None:
    """The script that made the stored file, on eight phantoms: the same bytes again, and a limit above all scores."""
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "hub_cards" / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    studies = list(open_all(read_manifest(cohort.parent / "studies.csv")))[:8]
    named = [(study.row.patient_id, study.volume) for study in studies]
    first, second = (script.make_reference(bundled, named[:4], named[4:], 2) for _ in range(2))
    assert first.to_bytes() == second.to_bytes()
    assert (first.encoder, first.revision) == (bundled.name, bundled.revision)
    assert all(first.score(features_of(volume, bundled)) < first.limit for _, volume in named)
    noise = WRONG["noise only"](named[0][1], np.random.default_rng(0))
    assert first.score(features_of(noise, bundled)) > first.limit

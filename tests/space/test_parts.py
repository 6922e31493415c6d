"""What stands behind the page: intervals, the list of studies, uploads, the demonstration."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from space_interval import Heads, bootstrap_heads, read_heads
from space_model import SEED as TRAINED_ON
from space_model import Judge, open_demonstration
from space_page import Pages, results, viewer_page
from space_studies import ELSEWHERE, PHANTOMS, SEED, make_phantom, place_of, read_upload

from prostate_mim.classifier import LesionClassifier
from prostate_mim.errors import IntegrityError, ProstateMimError, UsageError
from prostate_mim.manifest import read_manifest
from prostate_mim.phantom import make_study
from prostate_mim.studies import open_all
from prostate_mim.volume import Volume, write_volume


def features_of(model: LesionClassifier, volume: Volume, place: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    with torch.inference_mode():
        return model.features(model.prepare(volume, place)).double().numpy()


def test_the_interval_is_around_the_probability(classifier: LesionClassifier, heads: Heads) -> None:
    """Of studies never seen it holds the model's own probability; no two of the 200 heads are the same."""
    assert len(np.unique(heads.bias)) == 200
    for index in range(4):
        study = make_study(SEED, index)
        place = study.lesions[0].position_mm_lps
        interval = heads.interval(features_of(classifier, study.volume, place))
        assert 0 < interval.low < classifier.predict(study.volume, place).probability < interval.high < 1


def test_a_head_is_that_of_its_resample(classifier: LesionClassifier, heads: Heads, cohort: Path) -> None:
    """The first one, beside scikit-learn's regression on the patients that the seed draws first."""
    from sklearn.linear_model import LogisticRegression

    studies = list(open_all(read_manifest(cohort, labels=True)))
    features = np.concatenate([features_of(classifier, one.volume, one.centre_mm_lps) for one in studies])
    labels = np.asarray([one.row.label for one in studies])
    owners = [one.row.patient_id for one in studies]
    names = list(dict.fromkeys(owners))
    assert heads.patients == len(names)
    drawn = [names[n] for n in np.random.default_rng(0).integers(len(names), size=len(names))]
    rows = [row for name in drawn for row, owner in enumerate(owners) if owner == name]
    mean, scale = features[rows].mean(0), features[rows].std(0)

    def by_sklearn(penalty: float) -> npt.NDArray[np.float64]:
        fitted = LogisticRegression(C=penalty, max_iter=5000, tol=1e-8).fit(
            (features[rows] - mean) / scale, labels[rows]
        )
        return np.asarray(fitted.decision_function((features - mean) / scale))

    own = (features @ heads.weight + heads.bias)[:, 0]
    differences = [np.abs(by_sklearn(c) - own).max() for c in classifier.details["finetuning"]["penalties"]]
    assert sorted(differences)[0] < 0.01 < sorted(differences)[1]  # at one penalty, and at no other


def test_percentiles_by_hand() -> None:
    """Heads whose probabilities are 0, 0.01, ..., 1: from 0.025 to 0.975."""
    wanted = np.linspace(0, 1, 101).clip(1e-9, 1 - 1e-9)
    interval = Heads(np.zeros((1, 101)), np.log(wanted / (1 - wanted)), 7, "r").interval(np.ones((1, 1)))
    assert (interval.low, interval.high) == pytest.approx((0.025, 0.975))
    assert "7 training patients" in interval.name


def test_another_manifest_or_kind_of_model_has_no_heads(classifier: LesionClassifier, cohort: Path) -> None:
    """Half of the rows give another head; a model that was trained otherwise is not resampled. Controls: above."""
    rows = cohort.read_text().splitlines()
    few = cohort.with_name("few.csv")
    few.write_text("\n".join(rows[: 1 + len(rows) // 2]) + "\n")
    with pytest.raises(UsageError, match="a head fitted to its rows is not the model's"):
        bootstrap_heads(classifier, few)
    few.unlink()
    for change in ({"mode": "full"}, {"fraction": 0.5}):
        other = copy.deepcopy(classifier)
        other.details = {"finetuning": {**classifier.details["finetuning"], **change}}
        with pytest.raises(UsageError, match="--manifest is for classifiers made by"):
            bootstrap_heads(other, cohort)


def test_heads_are_kept_and_not_mixed_up(classifier: LesionClassifier, heads: Heads, tmp_path: Path) -> None:
    """Written and read again they give the same; of another classifier, or damaged, they are refused in one line."""
    file = tmp_path / "heads.npz"
    heads.save(file)
    features = np.random.default_rng(0).normal(size=(1, len(heads.weight)))
    assert read_heads(file, classifier).interval(features) == heads.interval(features)
    replace(heads, revision="another").save(file)
    with pytest.raises(IntegrityError, match="is of classifier another"):
        read_heads(file, classifier)
    file.write_bytes(b"PK\x03\x04 and nothing else")
    with pytest.raises(IntegrityError, match="cannot be read"):
        read_heads(file, classifier)


def test_of_an_ensemble_the_members_and_of_others_nothing(classifier: LesionClassifier) -> None:
    """Lowest and highest of two members; their probabilities' mean is the model's. A single model has no interval."""
    other = copy.deepcopy(classifier)
    with torch.no_grad():
        other.head.linear.bias += 1
    study = make_study(SEED, 0)
    place = study.lesions[0].position_mm_lps
    judged = Judge(LesionClassifier.ensemble([other, classifier]))(study.volume, place)
    wanted = sorted(model.predict(study.volume, place).probability for model in (classifier, other))
    assert judged.interval is not None and "2 members" in judged.interval.name
    assert [judged.interval.low, judged.interval.high] == pytest.approx(wanted, abs=1e-6)
    assert judged.made.prediction.probability == pytest.approx(sum(wanted) / 2, abs=1e-6)
    assert "no confidence interval" in judged.interval.words
    alone = Judge(classifier)(study.volume, place)
    assert alone.interval is None and "No interval" in results(alone, [])


def test_a_model_that_wants_masks_is_refused(classifier: LesionClassifier) -> None:
    """The page has no field for them."""
    spec = replace(classifier.spec, channels=("t2w", "gland"))
    with pytest.raises(UsageError, match=r"looks at masks \(gland\)"):
        Judge(LesionClassifier(classifier.encoder, spec))


def test_the_list_says_what_is_there() -> None:
    """Label, zone and place of every entry are those of the generator; none is of the demonstration's cohort."""
    assert SEED != TRAINED_ON
    for name, (index, number) in PHANTOMS.items():
        study, shown = make_study(SEED, index), make_phantom(name)
        assert shown.volume.contains(shown.position_mm_lps)
        if number == ELSEWHERE:
            assert "no lesion" in name
            voxels = np.argwhere(np.any([lesion.mask.voxels for lesion in study.lesions], 0))
            places = study.volume.geometry.index_to_position(voxels)
            assert np.linalg.norm(places - np.asarray(shown.position_mm_lps), axis=1).min() > 5
            inside = np.rint(study.gland.geometry.position_to_index(np.asarray(shown.position_mm_lps))).astype(int)
            assert study.gland.voxels[tuple(inside)] == 1
            continue
        lesion = next(one for one in study.lesions if one.lesion_id == number)
        assert shown.position_mm_lps == pytest.approx(lesion.position_mm_lps, abs=0.051)
        assert ("cancer-like" in name, "benign" in name) == (lesion.label == 1, lesion.label == 0)
        assert {"PZ": "peripheral", "TZ": "transition"}[lesion.zone] in name
    with pytest.raises(UsageError, match="is not in the list"):
        make_phantom("8: nothing")


def given(folder: Path, name: str, content: bytes | Volume) -> Path:
    """A file as Gradio keeps an upload: alone in a folder."""
    (folder / "hash").mkdir()
    file = folder / "hash" / name
    if isinstance(content, Volume):
        write_volume(content, file)
    else:
        file.write_bytes(content)
    return file


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".NII.GZ"])
def test_an_upload_is_read_and_removed(suffix: str, tmp_path: Path) -> None:
    """Voxels and places are the file's; nothing of it stays, its name neither."""
    study = make_study(5, 0)
    file = given(tmp_path, f"PAT0815{suffix.lower()}", study.volume)
    file = file.rename(file.with_name(f"PAT0815{suffix}"))
    shown = read_upload(file)
    assert np.array_equal(shown.volume.voxels, study.volume.voxels)
    assert shown.position_mm_lps == pytest.approx([float(v) for v in study.volume.centre_mm_lps], abs=0.051)
    assert "PAT0815" not in f"{shown.volume.source}{shown.title}{shown.words}"
    assert list(tmp_path.iterdir()) == []


_OTHER_FILE = (
    b"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nDimSize = 32 32 16\n"
    b"ElementSpacing = 1 1 3\nOffset = 0 0 0\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nElementType = MET_UCHAR\n"
    b"ElementDataFile = secret.raw\n"
)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("PAT0815.txt", b"hello", "its name must end in .nii.gz, .nii, .mha, .nrrd"),
        ("PAT0815.mhd", b"hello", "its name must end in"),
        ("PAT0815.nii", b"", "upload: "),
        ("PAT0815.nrrd", b"\x00" * 999, "upload: "),
        ("PAT0815.mha", _OTHER_FILE, "second file"),
    ],
)
def test_a_bad_upload_is_one_line_and_removed(name: str, content: bytes, line: str, tmp_path: Path) -> None:
    """No path, no name, nothing left; and no other file of this machine is read because a header names it."""
    file = given(tmp_path, name, content)
    secret = tmp_path / "hash" / "secret.raw"
    secret.write_bytes(np.arange(32 * 32 * 16, dtype=np.uint8).tobytes())
    with pytest.raises(ProstateMimError) as caught:
        read_upload(file)
    said = str(caught.value)
    assert said.startswith("upload: ") and line in said and len(said.splitlines()) == 1
    assert "PAT0815" not in said and str(tmp_path) not in said
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["secret.raw"]


def test_a_place_needs_three_numbers() -> None:
    """As the fields give them."""
    assert place_of((1, -2.5, 0.0)) == (1.0, -2.5, 0.0)
    for wrong in ((None, 1.0, 1.0), (1.0, float("nan"), 1.0), (1.0, 1.0, float("inf"))):
        with pytest.raises(UsageError, match="fill in all three"):
            place_of(wrong)


def test_viewer_pages_go() -> None:
    """One that is dropped, and the oldest where there are too many."""
    pages = Pages()
    names = [pages.add(str(number)) for number in range(20)]
    assert len(set(names)) == 20 and len(pages) == 16
    assert (pages.get(names[0]), pages.get(names[-1])) == (None, "19")
    pages.drop(names[-1])
    assert pages.get(names[-1]) is None
    pages.drop("never there")


def test_what_is_written_into_the_page_is_escaped(classifier: LesionClassifier) -> None:
    """A model's name is whatever its maker wrote; the viewer's policy names every style that it holds."""
    import base64
    import hashlib

    shown = make_phantom(next(iter(PHANTOMS)))
    judged = Judge(classifier)(shown.volume, shown.position_mm_lps)
    named = replace(judged.made, prediction=replace(judged.made.prediction, model="<script>alert(1)</script>"))
    found = results(replace(judged, made=named), [("AUROC", "<b>")])
    assert "<script" not in found and "&lt;script&gt;" in found and "&lt;b&gt;" in found
    page = viewer_page(shown, shown.position_mm_lps, judged.made)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    styles = re.findall(r"<style>(.*?)</style>", page.partition("</head>")[0], re.DOTALL)
    assert len(styles) == 2 and policy.startswith("default-src 'none'")
    for style in styles:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'" in policy


def test_the_demonstration_is_made_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a few phantoms: a judge with an interval; kept, without the phantoms; damaged, one line says what to do."""
    first = open_demonstration(tmp_path / "cache", studies=10)
    assert first.demonstration and "10 phantoms" in capsys.readouterr().err
    study = make_study(SEED, 0)
    judged = first(study.volume, study.lesions[0].position_mm_lps)
    assert judged.interval is not None
    assert judged.interval.low < judged.made.prediction.probability < judged.interval.high
    assert first.model.name == "demonstration.synthetic-lesions"
    kept = {path.name for path in (tmp_path / "cache").iterdir()}
    assert len(kept) == 2 and not any((tmp_path / "cache").rglob("*.nii.gz"))  # it, and the lock; no phantoms
    again = open_demonstration(tmp_path / "cache", studies=10)
    assert again.model.revision == first.model.revision and capsys.readouterr().err == ""
    (heads,) = (tmp_path / "cache").rglob("heads.npz")
    heads.write_bytes(b"")
    with pytest.raises(IntegrityError, match=r"remove .*demonstration-.*, and it is made again") as caught:
        open_demonstration(tmp_path / "cache", studies=10)
    assert len(str(caught.value).splitlines()) == 1

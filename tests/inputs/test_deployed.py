"""A model that looks at masks, and one for single slices: torch, ONNX Runtime and the archive give the same."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from made_volumes import GEOMETRY, WIDE, all_masks, image, write_rows, write_study

from prostate_mim.classifier import LesionClassifier
from prostate_mim.deploy.container import read_container, seal
from prostate_mim.deploy.contract import Sample
from prostate_mim.deploy.export import export_onnx
from prostate_mim.deploy.session import OnnxClassifier
from prostate_mim.deploy.verify import verify_onnx
from prostate_mim.encoder import PreMIM
from prostate_mim.errors import IntegrityError, UsageError, VolumeError
from prostate_mim.loading import verify_model
from prostate_mim.nets.stem import stem_convolutions
from prostate_mim.prediction import embed_manifest, embed_study, predict_manifest
from prostate_mim.spec import InputSpec
from prostate_mim.studies import MASKS, open_all

SPEC = dataclasses.replace(WIDE.with_size((8, 32, 32)), single_slice="repeat")
ARCHITECTURE = "resenc-s"
ROOT = Path(__file__).resolve().parents[2]
PLACE = (3.0, 11.0, 27.0)
ONE_SLICE = dataclasses.replace(GEOMETRY, origin_mm_lps=(-3.0, 5.0, 29.0))  # the third slice of the studies


def classifier(spec: InputSpec) -> LesionClassifier:
    """A classifier to which every channel matters."""
    torch.manual_seed(3)
    model = LesionClassifier(PreMIM(ARCHITECTURE, dataclasses.replace(spec, channels=("t2w",)), name="made"), spec)
    with torch.no_grad():
        for convolution in stem_convolutions(model.encoder.encoder):
            convolution.weight.normal_(std=0.5)
        model.head.linear.weight.normal_(std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> LesionClassifier:
    return classifier(SPEC)


@pytest.fixture(scope="module")
def exported(model: LesionClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(model, tmp_path_factory.mktemp("onnx") / "wide.onnx")


def test_torch_and_onnx_agree_with_masks(model, exported):
    """Equal inputs, equal probabilities to 1e-5, of a study and of a single slice; each mask matters."""
    deployed = OnnxClassifier(exported, device="cpu")
    assert deployed.spec == SPEC
    for volume in (image(), image((1, 24, 24), geometry=ONE_SLICE)):
        given = {"volume": volume, "position_mm_lps": PLACE if volume.shape_zyx[0] > 1 else None}
        batch = deployed.prepare(masks=all_masks(), **given)
        assert np.array_equal(batch, model.prepare(masks=all_masks(), **given).numpy())
        assert batch.shape == (1, 5, 8, 32, 32)
        found = deployed.predict(masks=all_masks(), **given).probability
        assert found == pytest.approx(model.predict(masks=all_masks(), **given).probability, abs=1e-5)
        for name in MASKS:  # the control: an input that is not looked at would change nothing
            other = {**all_masks(), name: all_masks()["lesion" if name != "lesion" else "gland"]}
            assert deployed.predict(masks=other, **given).probability != found


def test_the_command_line_and_the_kit_take_masks(model, release, exported, tmp_path):
    """``--mask NAME=FILE``: the same probability; a missing, unnamed or repeated mask is one line and its exit code."""
    paths = {name: str(tmp_path / cell) for name, cell in write_study(tmp_path).items()}
    masks = [f"--mask={name}={paths[f'{name}_mask']}" for name in ("gland", "lesion", "zone")]
    place = ["--position", " ".join(map(str, PLACE))]
    commands = {
        "predict": [sys.executable, "-m", "prostate_mim", "predict", paths["t2w"], "--model", release, "--json"],
        "kit": [sys.executable, ROOT / "export/run_study.py", "--model", exported, paths["t2w"], "--device", "cpu"],
    }
    expected = model.predict(image(), PLACE, masks=all_masks()).probability
    wrong = {"predict": (9, masks[:2]), "kit": (2, [*masks, masks[0]])}
    for name, command in commands.items():
        ran = subprocess.run([*map(str, command), *place, *masks], capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        assert json.loads(ran.stdout)["probability"] == pytest.approx(expected, abs=1e-4), name
        code, given = wrong[name]
        ran = subprocess.run([*map(str, command), *place, *given], capture_output=True, text=True)
        assert ran.returncode == code, ran.stderr
        assert len(ran.stderr.strip().splitlines()) == 1
        assert ran.stdout == ""


def test_onnx_refuses_a_missing_mask_by_name(model, exported):
    """In ONNX Runtime as in torch, and a batch with too few channels."""
    deployed = OnnxClassifier(exported, device="cpu")
    few = {name: mask for name, mask in all_masks().items() if name != "pz"}
    for one in (deployed, model):
        with pytest.raises(VolumeError, match="pz mask is missing"):
            one.predict(image(), PLACE, masks=few)
        with pytest.raises(VolumeError, match="gland mask is missing"):
            one.predict(image(), PLACE)
    with pytest.raises(UsageError, match=r"expected float32 \(N, 5, D, H, W\)"):
        deployed.run(np.zeros((1, 1, 8, 32, 32), np.float32))


def test_an_encoder_with_masks(model, tmp_path):
    """The release of a PreMIM alone: its stem comes back as wide, its embedding the same."""
    encoder = PreMIM(ARCHITECTURE, SPEC, name="wide").eval()
    encoder.encoder.load_state_dict(model.encoder.encoder.state_dict())
    wanted = encoder.embed(image(), PLACE, all_masks())
    loaded = PreMIM.from_pretrained(encoder.save_pretrained(tmp_path / "release"))
    assert loaded.encoder.in_channels == 5
    assert np.array_equal(loaded.embed(image(), PLACE, all_masks()), wanted)
    assert verify_model(tmp_path / "release")["golden_difference"] == pytest.approx(0, abs=1e-5)
    with pytest.raises(VolumeError, match="gland mask is missing"):
        loaded.embed(image(), PLACE)


def test_a_golden_sample_of_other_channels_is_refused(exported, tmp_path):
    """The contract and the sample must agree on the channels."""
    import onnx

    container = read_container(exported)
    assert container.golden.voxels.shape[1] == 5
    assert set(np.unique(container.golden.voxels[:, 1:])) == {0, 1}
    narrow = Sample(container.golden.voxels[:, :1], container.golden.outputs)
    path = tmp_path / "narrow.onnx"
    path.write_bytes(seal(onnx.load_model_from_string(container.data), container.header, narrow))
    with pytest.raises(IntegrityError, match="golden input has 1 channels, expected 5"):
        verify_onnx(path)
    path.write_bytes(seal(onnx.load_model_from_string(container.data), container.header, container.golden))
    assert verify_onnx(path)["golden_difference"] < 1e-4  # the control


@pytest.fixture(scope="module")
def release(model: LesionClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model.save_pretrained(tmp_path_factory.mktemp("model") / "release")


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """Two studies; the second has no zones."""
    rows = [write_study(tmp_path, "a"), write_study(tmp_path, "b", seed=1, zone_mask="")]
    return write_rows(tmp_path / "m.csv", *rows)


def test_a_manifest_feeds_the_channels(release, listed, tmp_path):
    """Masks of the rows go into the model; a row without one is refused by number and mask; study level moves crops."""
    loaded = LesionClassifier.from_pretrained(release)
    with pytest.raises(VolumeError, match=r"row 2 .*pz mask is missing"):
        predict_manifest(loaded, listed)
    one = write_rows(tmp_path / "one.csv", write_study(tmp_path, "a"))
    (made,) = predict_manifest(loaded, one)
    from prostate_mim.manifest import read_manifest

    (study,) = open_all(read_manifest(one))
    wanted = loaded.predict(study.volume, study.centre_mm_lps, study.masks).probability
    assert made.prediction.probability == wanted
    (whole,) = predict_manifest(loaded, one, level="study")
    assert whole.prediction.probability != wanted
    loaded.details = {**loaded.details, "finetuning": {"level": "study"}}  # as fine-tuning writes it
    (same,) = predict_manifest(loaded, one)
    assert same.prediction.probability == whole.prediction.probability
    vectors = embed_manifest(loaded.encoder, one).embedding
    assert np.array_equal(vectors[0], embed_study(loaded.encoder, study))


def test_the_archive_feeds_the_channels(model, release, listed, tmp_path):
    """A worker's own function gives what one process gives, and a row without a mask fails alone, by name.

    A model of whole studies makes a job of whole studies.
    """
    pytest.importorskip("pyarrow")
    from prostate_mim.archive.job import make_job
    from prostate_mim.archive.worker import _same_manifest, load_compute
    from prostate_mim.manifest import read_manifest

    options = {"workers": 1, "shard_rows": 2, "attempts": 1, "journal": "j"}
    job, manifest = make_job("predict", str(release), listed, tmp_path / "out", **options)
    compute = load_compute(job)
    first, second = open_all(read_manifest(manifest.path))
    wanted = LesionClassifier.from_pretrained(release).predict(first.volume, first.centre_mm_lps, first.masks)
    assert compute(first)["probability"] == wanted.probability
    with pytest.raises(VolumeError, match="pz mask is missing"):
        compute(second)
    assert {row.level for row in manifest.rows} == {job.level} == {"lesion"}
    before, model.details = model.details, {"finetuning": {"level": "study"}}
    folder = model.save_pretrained(tmp_path / "of-studies")
    model.details = before
    job, manifest = make_job("predict", str(folder), listed, tmp_path / "out", **options)
    assert {row.level for row in manifest.rows} == {job.level} == {"study"}
    assert {row.level for row in _same_manifest(job).rows} == {"study"}

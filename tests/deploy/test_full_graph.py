"""A file that holds the whole pipeline: a study and positions in, and what ``preprocess`` and torch give comes out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from prostate_mim.classifier import LesionClassifier
from prostate_mim.deploy.container import read_container
from prostate_mim.deploy.export import export_onnx
from prostate_mim.deploy.pipeline import StudyGraph
from prostate_mim.deploy.session import OnnxClassifier
from prostate_mim.deploy.verify import verify_onnx
from prostate_mim.encoder import PreMIM
from prostate_mim.errors import BackendError, UsageError, VerificationError, VolumeError
from prostate_mim.preprocess import preprocess
from prostate_mim.spec import InputSpec
from prostate_mim.volume import Geometry, Volume

SPEC = InputSpec(size_zyx=(8, 64, 64))
GRIDS = {
    "as the spec": {},
    "oblique and finer": {"shape": (20, 90, 100), "spacing": (1.5, 0.3, 0.3), "degrees": 12.0},
    "tiny and coarse": {"shape": (4, 20, 24), "spacing": (4.0, 0.9, 0.9), "degrees": -20.0},
    "isotropic": {"shape": (30, 64, 64), "spacing": (1.0, 1.0, 1.0), "degrees": 33.0},
    "two thick slices": {"shape": (2, 90, 90), "spacing": (8.0, 0.7, 0.7)},
    "one slice": {"shape": (1, 90, 90), "spacing": (3.0, 0.5, 0.5)},
    "much finer": {"shape": (16, 300, 280), "spacing": (0.4, 0.05, 0.08), "degrees": 5.0},
}


@pytest.fixture(scope="module")
def full_file(classifier: LesionClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(classifier, tmp_path_factory.mktemp("onnx") / "full.onnx", full_graph=True)


def crops(volume: Volume, positions: np.ndarray, spec: InputSpec = SPEC) -> tuple[np.ndarray, np.ndarray]:
    graph = StudyGraph(torch.nn.Identity(), spec)
    voxels = torch.from_numpy(volume.voxels.astype(np.float32))
    found, good = graph.crops(voxels, torch.from_numpy(volume.geometry.affine), torch.from_numpy(positions))
    return found.numpy(), good.numpy()


@pytest.mark.parametrize("grid", GRIDS)
def test_crops_are_those_of_preprocess(grid: str, make_volume: Callable[..., Volume]) -> None:
    volume = make_volume(**{"dtype": "float32", **GRIDS[grid]})
    middle = np.asarray(volume.centre_mm_lps)
    extent = np.asarray(volume.geometry.spacing_mm_zyx)[::-1] * np.asarray(volume.shape_zyx)[::-1]
    axes = np.asarray(volume.geometry.direction)
    positions = middle + (np.random.default_rng(0).uniform(-0.49, 0.49, (9, 3)) * extent) @ axes.T
    found, good = crops(volume, positions)
    assert good.all()
    for crop, position in zip(found[:, 0], positions, strict=True):
        np.testing.assert_allclose(crop, preprocess(volume, SPEC, position), rtol=0, atol=2e-6)


def test_other_contracts(make_volume: Callable[..., Volume]) -> None:
    """Odd sizes, other percentiles, another spacing; the control is a contract that differs a little."""
    spec = InputSpec(size_zyx=(5, 33, 31), spacing_mm_zyx=(2.5, 0.8, 0.6), clip_percentiles=(2.0, 97.0))
    volume = make_volume(dtype="float32", degrees=7.0)
    place = np.asarray([volume.centre_mm_lps])
    found = crops(volume, place, spec)[0][0, 0]
    np.testing.assert_allclose(found, preprocess(volume, spec, place[0]), rtol=0, atol=2e-6)
    other = InputSpec(size_zyx=(5, 33, 31), spacing_mm_zyx=(2.5, 0.8, 0.6), clip_percentiles=(2.1, 97.0))
    assert np.abs(found - preprocess(volume, other, place[0])).max() > 1e-4


def test_what_is_refused_is_nan(make_volume: Callable[..., Volume]) -> None:
    volume = make_volume(dtype="float32")
    outside = np.asarray(volume.centre_mm_lps) + np.array([500.0, 0.0, 0.0])
    assert crops(volume, np.stack([volume.centre_mm_lps, outside]))[1].tolist() == [True, False]
    flat = Volume(np.full((12, 80, 72), 7, np.float32), Geometry((3.0, 0.5, 0.5)))
    assert not crops(flat, np.asarray([flat.centre_mm_lps]))[1].any()


@pytest.mark.parametrize("grid", [name for name in GRIDS if name != "much finer"])
def test_predictions_are_torchs(
    grid: str, full_file: Path, classifier: LesionClassifier, make_volume: Callable[..., Volume]
) -> None:
    volume = make_volume(**GRIDS[grid])
    x, y, z = (float(v) for v in volume.centre_mm_lps)
    positions = [None, *((x + dx, y + dx / 2, z) for dx in np.linspace(-3, 3, 10))]
    model = OnnxClassifier(full_file, "cpu")
    assert model.full_graph
    for made, position in zip(model.predict_many(volume, positions), positions, strict=True):
        expected = classifier.predict(volume, position)
        assert made.probability == pytest.approx(expected.probability, abs=1e-5)
        assert (made.revision, made.spec) == (expected.revision, expected.spec)


def test_refusals_are_the_librarys(full_file: Path, make_volume: Callable[..., Volume]) -> None:
    model, volume = OnnxClassifier(full_file, "cpu"), make_volume()
    with pytest.raises(VolumeError, match="outside the volume"):
        model.predict_many(volume, [None, (500.0, 0.0, 0.0)])
    with pytest.raises(VolumeError, match="constant"):
        model.predict(Volume(np.full((12, 80, 72), 7, np.int16), volume.geometry))
    with pytest.raises(UsageError, match="takes whole studies"):
        model.run(np.zeros((1, 1, 8, 64, 64), np.float32))


def test_the_file_says_what_it_takes(full_file: Path) -> None:
    container = read_container(full_file)
    assert container.header.full_graph and container.golden.voxels.shape == (10, 40, 44)
    graph = onnx.load(full_file).graph
    assert [item.name for item in graph.input] == ["voxels", "affine", "position_mm_lps"]
    shapes = [[d.dim_value or d.dim_param for d in item.type.tensor_type.shape.dim] for item in graph.input]
    assert shapes == [["slices", "rows", "columns"], [4, 4], ["batch", 3]]
    found = verify_onnx(full_file)
    assert {one["device"]: one["difference"] is None for one in found["replays"]}["openvino"]


def test_openvino_takes_crops(full_file: Path) -> None:
    with pytest.raises(BackendError, match="OpenVINO takes crops"):
        OnnxClassifier(full_file, "openvino")


def test_a_place_that_is_missing_is_refused(full_file: Path) -> None:
    """The golden sample's schema is closed for this form too."""
    from prostate_mim.deploy.contract import Sample
    from prostate_mim.errors import IntegrityError

    container = read_container(full_file)
    values = json.loads(container.golden.to_json())
    for change in ({"place": {}}, {"place": {**values["place"], "more": values["input"]}}):
        with pytest.raises(IntegrityError, match="missing or unknown fields"):
            Sample.from_json(json.dumps(values | change), container.header)


def test_a_pipeline_with_a_mistake_never_appears(
    classifier: LesionClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: the Gaussian ends at one sigma in place of four."""
    from prostate_mim.deploy import pipeline

    monkeypatch.setattr(pipeline, "_TRUNCATE", 1.0)
    with pytest.raises(VerificationError, match="differs from torch"):
        export_onnx(classifier, tmp_path / "a.onnx", full_graph=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [{"static_zyx": (8, 64, 64)}, {"sample": torch.zeros(1, 1, 8, 64, 64)}])
def test_contradictions(wrong: dict[str, object], classifier: LesionClassifier, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="takes studies"):
        export_onnx(classifier, tmp_path / "a.onnx", full_graph=True, **wrong)


@pytest.mark.parametrize("spec", [InputSpec(channels=("t2w", "gland")), InputSpec(single_slice="repeat")])
def test_contracts_that_no_graph_prepares(spec: InputSpec, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="prepared outside of a graph"):
        export_onnx(PreMIM("resenc-s", spec), tmp_path / "a.onnx", full_graph=True)

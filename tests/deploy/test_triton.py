"""The model repository for Triton: its configuration is read by Triton's own schema, its file is a verified export."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from google.protobuf import text_format

from prostate_mim.classifier import LesionClassifier
from prostate_mim.deploy import export
from prostate_mim.deploy.session import OnnxClassifier
from prostate_mim.deploy.triton import write_triton
from prostate_mim.errors import UsageError, VerificationError


@pytest.fixture
def schema() -> ModuleType:
    return pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="needs tritonclient[grpc]")


@pytest.fixture
def repository(
    classifier: LesionClassifier, classifier_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.setattr(export, "trace", lambda *_: onnx.load(classifier_file))
    return write_triton(classifier, tmp_path / "models")


def test_classifier(repository: Path, schema: ModuleType) -> None:
    config = text_format.Parse((repository / "config.pbtxt").read_text(), schema.ModelConfig())
    assert repository.name == config.name == "resenc-s_test_classifier"
    assert sorted(path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file()) == [
        "1/model.onnx", "config.pbtxt",
    ]  # fmt: skip
    assert (config.backend, config.max_batch_size) == ("onnxruntime", 8)
    (taken,) = config.input
    assert (taken.name, taken.data_type, list(taken.dims)) == ("voxels", schema.TYPE_FP32, [1, -1, -1, -1])
    assert [(given.name, list(given.dims), given.HasField("reshape")) for given in config.output] == [
        ("logit", [1], True), ("probability", [1], True),
    ]  # fmt: skip
    (cuda,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert cuda.name == "cuda"
    assert dict(cuda.parameters) == {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}
    assert list(config.model_warmup[0].inputs["voxels"].dims) == [1, 8, 64, 64]
    assert config.HasField("dynamic_batching")


def test_its_file_is_an_export(repository: Path, classifier: LesionClassifier) -> None:
    model = OnnxClassifier(repository / "1" / "model.onnx", "cpu")
    assert (model.name, model.revision) == (classifier.name, classifier.revision)
    assert model.run(np.zeros((2, 1, 8, 64, 64), np.float32))["logit"].shape == (2,)


def test_encoder_of_one_size(classifier: LesionClassifier, tmp_path: Path, schema: ModuleType) -> None:
    place = write_triton(classifier.encoder, tmp_path, static_zyx=(4, 32, 32))
    config = text_format.Parse((place / "config.pbtxt").read_text(), schema.ModelConfig())
    assert list(config.input[0].dims) == [1, 4, 32, 32]
    assert {given.name: list(given.dims) for given in config.output} == {"embedding": [576], "features": [192, 1, 2, 2]}
    (cuda,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert dict(cuda.parameters)["cudnn_conv_algo_search"] == "EXHAUSTIVE"


def test_a_typo_is_not_of_the_schema(repository: Path, schema: ModuleType) -> None:
    """Negative control: the parser refuses what Triton does not know."""
    text = (repository / "config.pbtxt").read_text().replace("max_batch_size", "max_batch")
    with pytest.raises(text_format.ParseError):
        text_format.Parse(text, schema.ModelConfig())


def test_nothing_is_replaced(repository: Path, classifier: LesionClassifier) -> None:
    with pytest.raises(UsageError, match="exists already"):
        write_triton(classifier, repository.parent)


def test_a_failed_export_leaves_nothing(
    classifier: LesionClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "TOLERANCE", {"float32": 0.0})
    with pytest.raises(VerificationError):
        write_triton(classifier, tmp_path, static_zyx=(4, 32, 32))
    assert not list(tmp_path.iterdir())

"""One exported file of each kind for the whole run, and a tiny sealed file for tests that damage it many times."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tiny_model import sealed_tiny

from prostate_mim.classifier import LesionClassifier
from prostate_mim.deploy import container
from prostate_mim.deploy.export import export_onnx
from prostate_mim.encoder import PreMIM
from prostate_mim.spec import InputSpec
from prostate_mim.volume import Geometry, Volume

SPEC = InputSpec(size_zyx=(8, 64, 64))


@pytest.fixture(scope="session")
def classifier() -> LesionClassifier:
    """A classifier whose head is random: with the zero head of a fresh one, every test would pass on 0 == 0."""
    torch.manual_seed(7)
    model = LesionClassifier(PreMIM("resenc-s", SPEC, name="resenc-s.test"))
    with torch.no_grad():
        model.head.linear.weight.normal_(std=0.05)
        model.head.mean.normal_(std=0.1)
        model.head.scale.uniform_(0.5, 2.0)
    return model.eval()


@pytest.fixture(scope="session")
def export_progress() -> list[tuple[int, int, str]]:
    """What the export of ``classifier_file`` has told of its progress."""
    return []


@pytest.fixture(scope="session")
def classifier_file(
    classifier: LesionClassifier, export_progress: list[tuple[int, int, str]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "classifier.onnx"
    return export_onnx(classifier, path, progress=lambda *step: export_progress.append(step))


@pytest.fixture(scope="session")
def encoder_file(classifier: LesionClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(classifier.encoder, tmp_path_factory.mktemp("onnx") / "encoder.onnx")


@pytest.fixture(scope="session")
def make_volume() -> Callable[..., Volume]:
    """A synthetic axial volume: smooth structure plus noise, optionally oblique."""

    def build(
        shape: tuple[int, int, int] = (12, 80, 72),
        spacing: tuple[float, float, float] = (3.0, 0.5, 0.5),
        dtype: str = "int16",
        degrees: float = 0.0,
    ) -> Volume:
        rng = np.random.default_rng(3)
        z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
        voxels = 400 * np.exp(-3 * (z**2 + y**2 + x**2)) + 100 * np.sin(9 * x) + rng.normal(0, 20, shape) + 300
        a = np.deg2rad(degrees)
        about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
        return Volume(voxels.astype(dtype), Geometry(spacing, (-20.0, -15.0, 30.0), about_x))

    return build


@pytest.fixture
def tiny() -> onnx.ModelProto:
    """A sealed model to edit; ``reseal`` makes it a file again."""
    return onnx.load_model_from_string(sealed_tiny(SPEC))


@pytest.fixture
def reseal(tmp_path: Path) -> Callable[[onnx.ModelProto], Path]:
    """Write a model with a right digest, as somebody who edits it on purpose would."""

    def write(model: onnx.ModelProto) -> Path:
        for entry in model.metadata_props:
            if entry.key == container._DIGEST_KEY:
                entry.value = container._BLANK
        blank = model.SerializeToString(deterministic=True)
        path = tmp_path / "edited.onnx"
        path.write_bytes(blank.replace(container._BLANK.encode(), hashlib.sha256(blank).hexdigest().encode()))
        return path

    return write

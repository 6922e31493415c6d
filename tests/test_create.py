"""timm's verbs in 3D: create_model, and what from_pretrained adapts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from prostate_mim import LesionClassifier, PreMIM, create_model
from prostate_mim.create import FeatureExtractor, PooledEncoder
from prostate_mim.errors import IntegrityError, UsageError
from prostate_mim.loading import verify_model

NAME = "resenc-s.mim-t2w"


@pytest.fixture(scope="module")
def batch() -> torch.Tensor:
    """(2, 1, 16, 96, 96)."""
    return torch.randn(2, 1, 16, 96, 96, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def test_stages_in_the_order_asked(batch: torch.Tensor) -> None:
    """The chosen stages of the encoder itself, and their mm: stride times voxel, 4 x 0.5 = 2 and 16 x 0.5 = 8."""
    whole = PreMIM.from_pretrained(NAME)(batch)
    model = create_model(NAME, features_only=True, out_indices=(-1, 1))
    assert isinstance(model, FeatureExtractor)
    coarse, fine = model(batch)
    assert torch.equal(coarse, whole[3]) and torch.equal(fine, whole[1])
    assert [info.spacing_mm_zyx for info in model.feature_info] == [(12.0, 8.0, 8.0), (3.0, 2.0, 2.0)]
    assert [info.channels for info in model.feature_info] == [coarse.shape[1], fine.shape[1]]
    every = create_model(NAME, features_only=True)
    assert isinstance(every, FeatureExtractor) and len(every.feature_info) == 4


@torch.inference_mode()
def test_no_classes_is_one_vector(batch: torch.Tensor) -> None:
    """As ``embed`` pools them."""
    model = create_model(NAME, num_classes=0)
    assert isinstance(model, PooledEncoder)
    found = model(batch)
    assert found.shape == (2, model.num_features)
    assert torch.equal(found, model.encoder.pool(model.encoder(batch)))


def test_one_class_is_a_classifier() -> None:
    """With the pretrained encoder and a head that is still to be trained."""
    model = create_model(NAME, num_classes=1)
    assert isinstance(model, LesionClassifier) and model.encoder.name == NAME


def test_an_architecture_without_weights() -> None:
    """pretrained=False takes the architecture's name, and says that nothing was loaded."""
    model = create_model("resnet10", pretrained=False, in_chans=2)
    assert isinstance(model, PooledEncoder)
    assert model.load_report.loaded == 0 and model.encoder.encoder.in_channels == 2


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"num_classes": 3}, "num_classes is 3"),
        ({"features_only": True, "num_classes": 1}, "has no head"),
        ({"out_indices": (1,)}, "add it"),
        ({"features_only": True, "out_indices": (4,)}, "has stages 0 to 3"),
        ({"features_only": True, "out_indices": (3, -1)}, "each once"),
        ({"features_only": True, "out_indices": ()}, "one or more"),
        ({"in_chans": 0}, "cannot be narrowed"),
        ({"in_chans": 65}, "at most 64"),
        ({"num_classes": 1, "in_chans": 2}, "spec"),
    ],
)
def test_what_does_not_go_together(asked: dict[str, Any], says: str) -> None:
    """Each contradiction is a usage error that says what to do."""
    with pytest.raises(UsageError, match=says):
        create_model(NAME, **asked)


# ---------------------------------------------------------------------------------------------------------- adapting


@torch.inference_mode()
def test_more_channels_change_nothing_at_first(batch: torch.Tensor, tmp_path: Path) -> None:
    """New channels begin at 0, are listed in the report, and survive saving and verification."""
    plain, wide = PreMIM.from_pretrained(NAME), PreMIM.from_pretrained(NAME, in_chans=3)
    others = torch.randn(2, 2, 16, 96, 96)
    for one, other in zip(plain(batch), wide(torch.cat([batch, others], 1)), strict=True):
        torch.testing.assert_close(one, other)
    lines = [line for line in wide.load_report.adapted if "new channels at 0" in line]
    assert len(lines) == 2 and "(32, 1, 1, 3, 3) -> (32, 3, 1, 3, 3)" in lines[0]
    saved = wide.save_pretrained(tmp_path / "wide")
    assert PreMIM.from_pretrained(saved).encoder.in_channels == 3
    assert verify_model(saved)["golden_difference"] == 0
    with pytest.raises(UsageError, match="whole preprocessing"):
        wide.export_onnx(tmp_path / "wide.onnx")


@pytest.mark.parametrize("value", ["3", 0, 65, 2.0, True, None])
def test_a_damaged_number_of_channels(tmp_path: Path, value: Any) -> None:
    """config.json of a release may not say anything."""
    model = PreMIM("resnet10", details={})
    model.details["in_chans"] = value
    with pytest.raises(IntegrityError, match="in_chans"):
        PreMIM("resnet10", details=model.details)


def test_another_spacing_is_refused_unless_asked() -> None:
    """The pretrained one passes; another is refused, or taken into spec and report, and pooling follows in mm."""
    assert PreMIM.from_pretrained(NAME, spacing_mm_zyx=(3, 0.5, 0.5)).spec == PreMIM.from_pretrained(NAME).spec
    with pytest.raises(UsageError, match=r"pretrained at 3 x 0.5 x 0.5 mm \(z, y, x\), not 3 x 0.625 x 0.625 mm"):
        PreMIM.from_pretrained(NAME, spacing_mm_zyx=(3.0, 0.625, 0.625))
    model = PreMIM.from_pretrained(NAME, spacing_mm_zyx=(3.0, 0.625, 0.625), allow_other_spacing=True)
    assert model.spec.spacing_mm_zyx == model.pool.spacing_mm_zyx == (3.0, 0.625, 0.625)
    assert model.load_report.adapted[-1] == "spacing: pretrained at 3 x 0.5 x 0.5 mm, used at 3 x 0.625 x 0.625 mm"
    assert model.feature_info[-1].spacing_mm_zyx == (12.0, 10.0, 10.0)


def test_the_report_says_what_was_verified() -> None:
    """Where it is from, every file with its SHA-256, and every tensor that is not byte for byte the file's."""
    report = PreMIM.from_pretrained(NAME).load_report
    assert report.source == "bundled" and len(report.files["model.safetensors"]) == 64
    assert report.loaded == len(report.adapted) > 50 and all("float16 -> float32" in line for line in report.adapted)

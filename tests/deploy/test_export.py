"""export_onnx: what the file says, that it computes what torch computes, and that a wrong one never appears."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from prostate_mim._version import __version__
from prostate_mim.classifier import LesionClassifier
from prostate_mim.deploy import export
from prostate_mim.deploy.container import read_container
from prostate_mim.deploy.export import export_onnx
from prostate_mim.deploy.graph import graph_of
from prostate_mim.deploy.ort import OnnxRuntime
from prostate_mim.deploy.runtime import open_runtime
from prostate_mim.deploy.samples import smooth
from prostate_mim.deploy.trace import _told, steps_of
from prostate_mim.encoder import golden_input
from prostate_mim.errors import BackendError, ResourceError, UsageError, VerificationError

SHAPES = [(1, 1, 8, 64, 64), (3, 1, 16, 96, 32), (3, 1, 4, 48, 80)]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, classifier_file: Path) -> None:
    """Skip the seconds of tracing: the graph of the file that was exported already."""
    monkeypatch.setattr(export, "trace", lambda *_: onnx.load(classifier_file))


def test_header_repeats_model(classifier: LesionClassifier, classifier_file: Path) -> None:
    header = read_container(classifier_file).header
    assert header.spec == classifier.spec
    assert header.spec.fingerprint == classifier.spec.fingerprint
    assert (header.kind, header.name, header.revision) == ("classifier", "resenc-s.test.classifier", "unreleased")
    assert header.stride_zyx == (4, 16, 16)
    assert header.library_version == __version__


@pytest.mark.usefixtures("classifier_file")
def test_progress_is_told(export_progress: list[tuple[int, int, str]]) -> None:
    """Every step once, in order and counted, from tracing to the end."""
    phantoms = [f"comparing with torch, phantom {number} of 12" for number in range(1, 13)]
    assert [what for _, _, what in export_progress] == [
        "tracing model 1 of 1", "translating into ONNX, the longest step", "writing and checking the file",
        "comparing with torch, golden sample", "comparing with torch, another size", *phantoms, "exported",
    ]  # fmt: skip
    assert [done for done, _, _ in export_progress] == list(range(18))
    assert {total for _, total, _ in export_progress} == {17}


def test_members_of_an_ensemble_are_told_apart(classifier: LesionClassifier) -> None:
    """Each when it is reached, once; afterwards nothing hangs on the network, and its numbers are the same."""
    graph = graph_of(LesionClassifier.ensemble([classifier, classifier, classifier]), "classifier")
    said: list[str] = []
    with torch.inference_mode():
        batch = torch.from_numpy(smooth((1, 1, 4, 16, 16)))
        before = graph(batch)
        with _told(graph, said.append):
            inside = [graph(batch), graph(batch)]
        assert said == [
            *(f"tracing model {number} of 3" for number in (1, 2, 3)),
            "translating into ONNX, the longest step",
        ]
        assert steps_of(graph) == len(said)
        after = graph(batch)
        assert len(said) == 4
    assert all(torch.equal(logit, before[0]) for logit, _ in (*inside, after))


@pytest.mark.usefixtures("quick")
def test_silent_by_default(classifier: LesionClassifier, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A program that exports hears nothing, unless it asks."""
    export_onnx(classifier, tmp_path / "a.onnx")
    assert capfd.readouterr() == ("", "")


def test_encoder_header(encoder_file: Path) -> None:
    assert read_container(encoder_file).header.kind == "encoder"


def test_axes_are_named_and_opset_fixed(classifier_file: Path) -> None:
    model = onnx.load(classifier_file)
    dims = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["batch", 1, "depth", "height", "width"]
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 20)]
    assert sorted(path.name for path in classifier_file.parent.iterdir()) == ["classifier.onnx"]  # no second file


@pytest.mark.parametrize("name", ["classifier_file", "encoder_file"])
def test_no_path_of_this_machine_inside(name: str, request: pytest.FixtureRequest) -> None:
    data = request.getfixturevalue(name).read_bytes()
    for text in (b"site-packages", b"stack_trace", b'.py"', str(Path(export.__file__).parents[2]).encode()):
        assert text not in data


@pytest.mark.parametrize("shape", SHAPES)
def test_classifier_equals_torch(shape: tuple[int, ...], classifier: LesionClassifier, classifier_file: Path) -> None:
    batch = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    with torch.inference_mode():
        logit = classifier(batch)
    found = open_runtime(read_container(classifier_file), "cpu", "file").run(batch.numpy())
    assert np.ptp(logit.numpy()) > 1e-3 or shape[0] == 1  # the head is not constant: equality means something
    np.testing.assert_allclose(found["logit"], logit.numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["probability"], torch.sigmoid(logit).numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_encoder_equals_torch(shape: tuple[int, ...], classifier: LesionClassifier, encoder_file: Path) -> None:
    batch = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    with torch.inference_mode():
        stages = classifier.encoder(batch)
        embedding = classifier.encoder.pool(stages)
    found = open_runtime(read_container(encoder_file), "cpu", "file").run(batch.numpy())
    np.testing.assert_allclose(found["embedding"], embedding.numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["features"], stages[-1].numpy(), rtol=1e-5, atol=2e-5)


def test_golden_is_what_torch_gives(classifier: LesionClassifier, classifier_file: Path) -> None:
    golden = read_container(classifier_file).golden
    assert golden.voxels.shape == (1, 1, 8, 64, 64)
    with torch.inference_mode():
        logit = classifier(torch.from_numpy(golden.voxels)).numpy()
    np.testing.assert_allclose(golden.outputs["logit"], logit, rtol=0, atol=1e-6)
    assert golden.difference({"logit": logit, "probability": 1 / (1 + np.exp(-logit))}) < 1e-6
    assert golden.difference({"logit": logit + 1e-2, "probability": 1 / (1 + np.exp(-logit))}) > 5e-3
    assert golden.difference({"logit": logit * np.nan, "probability": logit}) == np.inf
    assert golden.difference({"logit": logit}) == np.inf


@pytest.mark.usefixtures("quick")
def test_given_sample_becomes_golden(classifier: LesionClassifier, tmp_path: Path) -> None:
    sample = golden_input((4, 16, 16))
    path = export_onnx(classifier, tmp_path / "a.onnx", sample=sample)
    np.testing.assert_array_equal(read_container(path).golden.voxels, sample.numpy())


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("sample", [torch.zeros(1, 1, 8, 60, 64), torch.full((1, 1, 4, 16, 16), 0.1), torch.zeros(3)])
def test_bad_sample_refused(sample: torch.Tensor, classifier: LesionClassifier, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="golden sample"):
        export_onnx(classifier, tmp_path / "a.onnx", sample=sample)


@pytest.mark.usefixtures("quick")
def test_given_model_is_untouched(classifier: LesionClassifier, tmp_path: Path) -> None:
    classifier.train()
    try:
        before = {key: value.clone() for key, value in classifier.state_dict().items()}
        export_onnx(classifier, tmp_path / "a.onnx")
        assert classifier.training
        assert all(torch.equal(before[key], value) for key, value in classifier.state_dict().items())
    finally:
        classifier.eval()


@pytest.mark.usefixtures("quick")
def test_impossible_tolerance_leaves_no_file(classifier: LesionClassifier, tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="differs from torch"):
        export_onnx(classifier, tmp_path / "a.onnx", tolerance=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("output", ["logit", "probability"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_deviating_runtime_leaves_no_file(
    output: str, batch_size: int, classifier: LesionClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = OnnxRuntime.run

    def wrong(self: OnnxRuntime, voxels: np.ndarray) -> dict[str, np.ndarray]:
        outputs = honest(self, voxels)
        return outputs | {output: outputs[output] + np.float32(1e-2 * (len(voxels) == batch_size))}

    monkeypatch.setattr(OnnxRuntime, "run", wrong)
    with pytest.raises(VerificationError):
        export_onnx(classifier, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick")
def test_other_weights_leave_no_file(classifier: LesionClassifier, tmp_path: Path) -> None:
    """The graph is that of ``classifier``; a model with another head must not pass as it."""
    other = LesionClassifier(classifier.encoder)
    with pytest.raises(VerificationError):
        export_onnx(other, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick")
def test_existing_file_survives_a_failure(classifier: LesionClassifier, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"yesterday's")
    with pytest.raises(VerificationError):
        export_onnx(classifier, tmp_path / "a.onnx", tolerance=0)
    assert (tmp_path / "a.onnx").read_bytes() == b"yesterday's"


@pytest.mark.usefixtures("quick")
def test_full_disk(classifier: LesionClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ResourceError, match="no space left"):
        export_onnx(classifier, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["missing/a.onnx", "a.pt", "folder.onnx"])
def test_bad_path(name: str, classifier: LesionClassifier, tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(UsageError) as caught:
        export_onnx(classifier, tmp_path / name)
    assert "\n" not in str(caught.value)


def test_other_modules_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Linear cannot be exported"):
        export_onnx(torch.nn.Linear(2, 2), tmp_path / "a.onnx")


def test_untraceable_model_is_one_line(
    classifier: LesionClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(torch.onnx, "export", fails)
    with pytest.raises(BackendError, match="first line second line"):
        export_onnx(classifier, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []

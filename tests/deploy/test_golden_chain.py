"""The golden chain: a file on disk gives the same numbers through torch and through its exported file.

And six plausible mistakes of a deployment, each planted on its side: a chain that does not notice them is no test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK
import torch

from prostate_mim.classifier import LesionClassifier
from prostate_mim.deploy import export, session
from prostate_mim.deploy.export import export_onnx
from prostate_mim.deploy.graph import ClassifierGraph
from prostate_mim.deploy.session import OnnxClassifier
from prostate_mim.encoder import PreMIM
from prostate_mim.errors import VerificationError
from prostate_mim.preprocess import normalise, resample
from prostate_mim.spec import InputSpec
from prostate_mim.volume import Volume, read_volume, write_volume

# Anisotropic, oblique, of every type, off the middle, thinner and smaller than the crop; in three formats.
KINDS: tuple[tuple[str, dict[str, object], tuple[float, float, float]], ...] = (
    ("a.nii.gz", {}, (0.0, 0.0, 0.0)),
    ("b.nii.gz", {"spacing": (3.6, 0.62, 0.62)}, (3.0, -2.0, 1.0)),
    ("c.nii", {"degrees": 12.0, "spacing": (3.3, 0.4, 0.4), "dtype": "float32"}, (1.0, 2.0, 0.0)),
    ("d.mha", {"degrees": -20.0, "dtype": "float64"}, (-4.0, 3.0, 3.0)),
    ("e.mha", {"shape": (4, 20, 24), "spacing": (4.0, 0.9, 0.9)}, (0.0, 0.0, 0.0)),
    ("f.nrrd", {"shape": (16, 128, 120), "spacing": (1.5, 0.3, 0.3), "dtype": "uint16"}, (2.0, 5.0, -3.0)),
    ("g.nrrd", {"spacing": (3.0, 0.5, 0.5), "dtype": "int32"}, (12.0, -9.0, 9.0)),
    ("h.nii.gz", {"spacing": (3.0, 0.41, 0.55)}, (0.3, 0.2, 0.1)),
    ("i.nii.gz", {"shape": (2, 90, 90), "spacing": (5.0, 0.7, 0.7)}, (0.0, 4.0, 0.0)),
    ("j.mha", {"shape": (30, 64, 64), "spacing": (1.0, 1.0, 1.0), "degrees": 5.0}, (-6.0, 0.0, 5.0)),
    ("k.nii", {"shape": (12, 200, 180), "spacing": (3.0, 0.25, 0.25), "dtype": "uint8"}, (5.0, 5.0, 2.0)),
    ("l.nrrd", {"degrees": 33.0, "spacing": (2.2, 0.78, 0.78)}, (-10.0, 8.0, -4.0)),
)
Prepare = Callable[..., npt.NDArray[np.float32]]


@pytest.fixture(scope="module")
def files(make_volume: Callable[..., Volume], tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, tuple]]:
    """Twelve files, and a lesion's position in each."""
    folder, found = tmp_path_factory.mktemp("chain"), []
    for name, how, offset in KINDS:
        write_volume(make_volume(**how), folder / name.replace(".nrrd", ".mha"))
        if name.endswith(".nrrd"):
            SimpleITK.WriteImage(SimpleITK.ReadImage(str(folder / name.replace(".nrrd", ".mha"))), str(folder / name))
        middle = read_volume(folder / name).centre_mm_lps
        found.append((folder / name, tuple(float(a + b) for a, b in zip(middle, offset, strict=True))))
    return found


def logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))


def largest_difference(model: LesionClassifier, path: Path, files: list[tuple[Path, tuple]]) -> tuple[float, float]:
    """Of probability and of logit, over all files, each read anew on either side."""
    deployed = OnnxClassifier(path, "cpu")
    pairs = [
        (
            model.predict(read_volume(file), position).probability,
            deployed.predict(read_volume(file), position).probability,
        )
        for file, position in files
    ]
    return max(abs(a - b) for a, b in pairs), max(abs(logit(a) - logit(b)) for a, b in pairs)


def test_same_file_same_numbers(
    classifier: LesionClassifier, classifier_file: Path, files: list[tuple[Path, tuple]]
) -> None:
    probability, logits = largest_difference(classifier, classifier_file, files)
    assert probability <= 1e-5
    assert logits <= 1e-4


def test_files_differ(classifier: LesionClassifier, files: list[tuple[Path, tuple]]) -> None:
    """Negative control: a model that says the same of everything would pass."""
    found = [classifier.predict(read_volume(file), position).probability for file, position in files]
    assert min(abs(a - b) for n, a in enumerate(found) for b in found[:n]) > 1e-5


def test_prepared_arrays_are_equal_to_the_last_bit(
    classifier: LesionClassifier, classifier_file: Path, files: list[tuple[Path, tuple]]
) -> None:
    deployed = OnnxClassifier(classifier_file, "cpu")
    for file, position in files:
        volume = read_volume(file)
        np.testing.assert_array_equal(deployed.prepare(volume, position), classifier.prepare(volume, position).numpy())


def test_batches_of_one_and_three(
    classifier: LesionClassifier, classifier_file: Path, files: list[tuple[Path, tuple]]
) -> None:
    deployed = OnnxClassifier(classifier_file, "cpu")
    crops = np.concatenate([deployed.prepare(read_volume(file), position) for file, position in files])
    with torch.inference_mode():
        expected = classifier(torch.from_numpy(crops)).numpy()
    for count in (1, 3):
        found = np.concatenate([deployed.run(crops[k : k + count])["logit"] for k in range(0, 12, count)])
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


# Mistakes, each on the deployed side


def _shifted(volume: Volume, spec: InputSpec, centre: object, masks: object = None) -> npt.NDArray[np.float32]:
    """align_corners: the grid spans the crop from corner to corner, so its step is size / (size - 1) too wide."""
    wider = tuple(mm * n / (n - 1) for mm, n in zip(spec.spacing_mm_zyx, spec.size_zyx, strict=True))
    return _prepared(volume, replace(spec, spacing_mm_zyx=wider), centre)


def _swapped(volume: Volume, spec: InputSpec, centre: object, masks: object = None) -> npt.NDArray[np.float32]:
    """(x, y, z) order: rows taken for columns."""
    return np.ascontiguousarray(_prepared(volume, spec, centre).swapaxes(-1, -2))


def _padded_first(volume: Volume, spec: InputSpec, centre: object, masks: object = None) -> npt.NDArray[np.float32]:
    """z-score after padding: zeros around the study move mean and deviation."""
    crop = resample(volume, spec, centre)
    return normalise(crop.voxels, np.ones_like(crop.inside), spec)[None]


def _nearest(volume: Volume, spec: InputSpec, centre: object, masks: object = None) -> npt.NDArray[np.float32]:
    """Another interpolation: the nearest voxel."""
    crop = resample(volume, spec, centre)
    index = volume.geometry.position_to_index(crop.geometry.index_to_position(np.argwhere(crop.inside)))
    whole = np.clip(np.rint(index).astype(int), 0, np.asarray(volume.shape_zyx) - 1)
    voxels = np.zeros_like(crop.voxels)
    voxels[crop.inside] = volume.voxels[tuple(whole.T)]
    return normalise(voxels, crop.inside, spec)[None]


def _unclipped(volume: Volume, spec: InputSpec, centre: object, masks: object = None) -> npt.NDArray[np.float32]:
    """Forgotten clip."""
    crop = resample(volume, spec, centre)
    return normalise(crop.voxels, crop.inside, replace(spec, clip_percentiles=(0.0, 100.0)))[None]


def _prepared(volume: Volume, spec: InputSpec, centre: object) -> npt.NDArray[np.float32]:
    crop = resample(volume, spec, centre)
    return normalise(crop.voxels, crop.inside, spec)[None]


def test_the_copy_that_mistakes_are_made_in_is_right(
    classifier: LesionClassifier,
    classifier_file: Path,
    files: list[tuple[Path, tuple]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Negative control of the mistakes: without one, the test's own copy of the pipeline passes."""
    monkeypatch.setattr(
        session, "prepare_input", lambda volume, spec, centre, masks=None: _prepared(volume, spec, centre)
    )
    assert largest_difference(classifier, classifier_file, files)[0] <= 1e-5


@pytest.mark.parametrize("mistake", [_shifted, _swapped, _padded_first, _nearest, _unclipped])
def test_mistake_is_noticed(
    mistake: Prepare,
    classifier: LesionClassifier,
    classifier_file: Path,
    files: list[tuple[Path, tuple]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session, "prepare_input", mistake)
    probability, logits = largest_difference(classifier, classifier_file, files)
    assert probability > 1e-5
    assert logits > 1e-4


def test_training_mode_is_noticed_before_a_file_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sixth: norms that go by the batch. Of a network that has such norms; group norms are the same in both."""
    torch.manual_seed(3)
    model = LesionClassifier(PreMIM("resnet10", InputSpec(size_zyx=(4, 32, 32))))
    torch.nn.init.normal_(model.head.linear.weight, std=0.1)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(2, 1, 4, 32, 32) * 2 + 1)
    model.eval()
    export_onnx(model, tmp_path / "good.onnx")  # the control
    honest = export.for_engines

    def in_training_mode(graph: ClassifierGraph) -> torch.nn.Module:
        changed = honest(graph)
        for module in changed.modules():
            if isinstance(module, torch.nn.BatchNorm3d):
                module.track_running_stats, module.running_mean, module.running_var = False, None, None
        return changed

    monkeypatch.setattr(export, "for_engines", in_training_mode)
    with pytest.raises(VerificationError, match="differs from torch"):
        export_onnx(model, tmp_path / "bad.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["good.onnx"]

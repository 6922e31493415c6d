"""MONAI's own functions run and verify the bundle, and its embeddings are those of the encoder."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import monai.bundle
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from prostate_mim.encoder import PreMIM
from prostate_mim.errors import NotFoundError, UsageError, VerificationError, VolumeError
from prostate_mim.formats import monai_bundle
from prostate_mim.formats.monai_bundle import BundleEncoder, PrepareStudy, find_studies, load_network, write_bundle
from prostate_mim.formats.monai_bundle_text import TERMS, metadata, readme
from prostate_mim.phantom import make_study
from prostate_mim.spec import InputSpec
from prostate_mim.volume import read_volume, write_volume

SMALL = InputSpec(size_zyx=(8, 32, 32))
FILES = ["LICENSE", "configs/inference.json", "configs/metadata.json", "docs/README.md", "models/model.safetensors"]


@pytest.fixture(autouse=True)
def own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """MONAI puts a bundle's folder on the import path and leaves it there."""
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture(scope="module")
def encoder() -> PreMIM:
    """resenc-s with random weights and a small crop."""
    torch.manual_seed(0)
    return PreMIM("resenc-s", SMALL, name="resenc-s.random").eval()


@pytest.fixture(scope="module")
def bundle(encoder: PreMIM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its bundle."""
    return write_bundle(encoder, tmp_path_factory.mktemp("bundles") / "small")


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two phantoms of two formats, and a file that is no volume."""
    folder = tmp_path_factory.mktemp("studies")
    for index, name in enumerate(("a.b.nii.gz", "c.mha")):
        write_volume(make_study(3, index).volume, folder / name)
    (folder / "notes.txt").write_text("not a volume")
    return folder


def run(bundle: Path, **override: Any) -> None:
    """``monai.bundle.run`` on the CPU, as the bundle's README says."""
    monai.bundle.run(config_file=str(bundle / "configs/inference.json"), bundle_root=str(bundle), **override)


def compared(encoder: PreMIM, volume: Path, embedding: Path) -> float:
    """The largest difference between a written embedding and the encoder's."""
    found = np.load(embedding, allow_pickle=False)
    assert (found.dtype, found.shape) == (np.float32, (encoder.embedding_size,))
    return float(np.abs(found - encoder.embed(read_volume(volume))).max())


def test_run_gives_the_encoder_s_embeddings(encoder: PreMIM, bundle: Path, studies: Path, tmp_path: Path) -> None:
    """Of every volume in a folder."""
    run(bundle, dataset_dir=str(studies), output_dir=str(tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.b.npy", "c.npy"]
    assert compared(encoder, studies / "a.b.nii.gz", tmp_path / "out/a.b.npy") <= 1e-5
    assert compared(encoder, studies / "c.mha", tmp_path / "out/c.npy") <= 1e-5
    assert compared(encoder, studies / "a.b.nii.gz", tmp_path / "out/c.npy") > 1e-3  # the control


def test_run_takes_a_list_and_writes_into_the_bundle(
    encoder: PreMIM, bundle: Path, studies: Path, tmp_path: Path
) -> None:
    """By default the output lies in ``eval`` of the bundle, as MONAI's own bundles do it."""
    moved = shutil.copytree(bundle, tmp_path / "moved")
    run(moved, dataset_dir=[str(studies / "c.mha")])
    assert [path.name for path in (moved / "eval").iterdir()] == ["c.npy"]
    assert compared(encoder, studies / "c.mha", moved / "eval/c.npy") <= 1e-5


def test_what_cannot_be_read_stops_the_run(bundle: Path, tmp_path: Path) -> None:
    """A damaged volume, an empty folder, a bundle that is elsewhere: our reason is at the root of MONAI's error."""
    (tmp_path / "bad.nii.gz").write_bytes(b"no gzip")
    for override, expected in (
        ({"dataset_dir": str(tmp_path)}, VolumeError),
        ({"dataset_dir": str(tmp_path / "nowhere")}, NotFoundError),
        ({"dataset_dir": str(tmp_path), "network#bundle_root": str(tmp_path)}, NotFoundError),
    ):
        with pytest.raises(Exception) as caught:  # of what type MONAI's is, MONAI decides
            run(bundle, output_dir=str(tmp_path / "out"), **override)
        error: BaseException | None = caught.value
        while error is not None and not isinstance(error, expected):
            error = error.__cause__
        assert isinstance(error, expected)
    assert not list((tmp_path / "out").glob("*.npy"))


def test_network_gives_what_metadata_says(bundle: Path) -> None:
    """``verify_net_in_out`` passes, and not with another number of channels."""
    given = {
        "net_id": "network_def",
        "meta_file": str(bundle / "configs/metadata.json"),
        "config_file": str(bundle / "configs/inference.json"),
        "device": "cpu",
    }
    monai.bundle.verify_net_in_out(**given)
    with pytest.raises(ValueError, match="output channel number"):
        monai.bundle.verify_net_in_out(**given, **{"_meta_#network_data_format#outputs#pred#num_channels": 7})


_TENSOR = {"type": str, "format": str, "num_channels": int, "spatial_shape": list, "dtype": str, "value_range": list}
_BUNDLE = {
    "schema": str, "version": str, "monai_version": str, "pytorch_version": str, "numpy_version": str,
    "required_packages_version": dict, "task": str, "description": str, "authors": str, "copyright": str,
}  # fmt: skip
_JSON_TYPES = {str: "string", int: "integer", list: "array", dict: "object"}


def closed(fields: dict[str, type], **others: object) -> dict[str, object]:
    """A JSON schema of an object that has all of these."""
    properties = {name: {"type": _JSON_TYPES[kind]} for name, kind in fields.items()} | others
    return {"type": "object", "properties": properties, "required": list(properties)}


def test_metadata_is_verified(bundle: Path, tmp_path: Path) -> None:
    """``verify_metadata`` passes, and not without a version.

    MONAI would fetch the schema from the network, which tests have not. The one here is written by hand from the
    fields and types that MONAI's schema of 25 July 2024 requires; it is not that file.
    """
    tensors = {"type": "object", "additionalProperties": closed(_TENSOR)}
    both = {"type": "object", "properties": {"inputs": tensors, "outputs": tensors}, "required": ["inputs", "outputs"]}
    schema, meta = tmp_path / "schema.json", bundle / "configs/metadata.json"
    schema.write_text(json.dumps(closed(_BUNDLE, network_data_format=both)))
    monai.bundle.verify_metadata(meta_file=str(meta), filepath=str(schema))
    without = {key: value for key, value in json.loads(meta.read_text()).items() if key != "monai_version"}
    (tmp_path / "without.json").write_text(json.dumps(without))
    with pytest.raises(ValueError, match="'monai_version' is a required property"):
        monai.bundle.verify_metadata(meta_file=str(tmp_path / "without.json"), filepath=str(schema))


def test_workflow_has_every_property(bundle: Path, studies: Path, tmp_path: Path) -> None:
    """MONAI asks an inference workflow for its parts by name; none is missing, and one taken away is found."""
    config = json.loads((bundle / "configs/inference.json").read_text())
    whole, less = tmp_path / "whole.json", tmp_path / "less.json"
    whole.write_text(json.dumps(config))
    less.write_text(json.dumps({key: value for key, value in config.items() if key != "evaluator"} | {"run": []}))

    def missing(file: Path) -> list[str]:
        workflow = monai.bundle.create_workflow(
            config_file=str(file), meta_file=str(bundle / "configs/metadata.json"), workflow_type="inference",
            bundle_root=str(bundle), dataset_dir=str(studies),
        )  # fmt: skip
        return list(workflow.check_properties())

    assert missing(whole) == []
    with pytest.raises(KeyError, match="evaluator"):
        missing(less)


def test_bundle_is_these_files_and_says_its_limits(bundle: Path, encoder: PreMIM) -> None:
    """Weights are safetensors, no pickle; the texts name the encoder, research, and the terms' place."""
    assert sorted(path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()) == FILES
    own = load_file(bundle / "models/model.safetensors")
    assert all(torch.equal(own[key], value) for key, value in encoder.state_dict().items())
    for name in ("LICENSE", "docs/README.md"):
        text = (bundle / name).read_text()
        assert "resenc-s.random" in text and "research only" in text and "model card" in text
        assert "{" not in text


def test_only_published_weights_are_said_to_be_for_the_prostate(encoder: PreMIM) -> None:
    """Of other weights nobody has recorded the organ, and the name alone does not make weights the published ones."""
    published = PreMIM.from_pretrained("resenc-s.mim-t2w")
    for model, known in ((published, True), (encoder, False)):
        said = readme(model, TERMS) + json.dumps(metadata(model))
        assert ("axial T2w prostate MRI (`resenc-s`" in said) is known
        assert ("Embedding of axial T2w prostate MRI" in said) is known
        assert ("T2w" in said.replace("mim-t2w", "")) is known
        assert ("Which images it is for is not recorded" in said) is not known
    with torch.no_grad():
        next(published.encoder.parameters()).view(-1)[0] += 1
    assert "prostate MRI" not in readme(published, TERMS)


def test_batch_norm_and_training_mode(tmp_path: Path) -> None:
    """Any architecture goes into a bundle; the encoder given stays in training."""
    torch.manual_seed(0)
    training = PreMIM("densenet121", SMALL).train()
    folder = write_bundle(training, tmp_path / "bundle")
    network = load_network(BundleEncoder("densenet121", 1, SMALL.spacing_mm_zyx), str(folder))
    assert training.training and not network.training
    voxels = torch.randn(1, 1, *SMALL.size_zyx)
    with torch.inference_mode():
        expected = training.eval()
        torch.testing.assert_close(network(voxels), expected.pool(expected(voxels)), rtol=1e-5, atol=1e-5)
        assert [stage.shape[1] for stage in network.stages(voxels)] == [64, 256, 512, 1024]


def test_one_changed_weight_is_found(encoder: PreMIM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison before the folder appears: nothing is left, not even beside it."""
    right = monai_bundle._weights

    def wrong(model: PreMIM) -> dict[str, torch.Tensor]:
        tensors = {key: value.clone() for key, value in right(model).items()}
        tensors["encoder.stages.0.0.conv1.conv.weight"].view(-1)[0] += 0.5
        return tensors

    monkeypatch.setattr(monai_bundle, "_weights", wrong)
    with pytest.raises(VerificationError, match=r"bundle: .* differs from resenc-s\.random"):
        write_bundle(encoder, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_refusals(encoder: PreMIM, studies: Path, tmp_path: Path) -> None:
    """Masks, a folder in use, two volumes of one name, a spec of another program."""
    with pytest.raises(UsageError, match=r"takes 2 channels \(t2w, gland.*T2w volumes alone"):
        write_bundle(PreMIM("resenc-s", InputSpec(channels=("t2w", "gland"))), tmp_path / "bundle")
    with pytest.raises(UsageError, match="not empty"):
        write_bundle(encoder, studies)
    with pytest.raises(UsageError, match=r"both be c\.npy"):
        find_studies([studies / "c.mha", "elsewhere/c.nii"])
    assert find_studies(studies / "c.mha") == find_studies([studies / "c.mha"]), "one file is a list of one"
    with pytest.raises(NotFoundError, match="dataset_dir=FOLDER"):
        find_studies(tmp_path)
    with pytest.raises(Exception, match="InputSpec"):
        PrepareStudy({"size_zyx": [8, 32, 32]})

"""``export --bundle`` and ``--monai``: real files from the bundled encoder; contradictions are one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from prostate_mim.classifier import LesionClassifier
from prostate_mim.deploy.container import read_container
from prostate_mim.encoder import PreMIM
from prostate_mim.hub.registry import read_registry, terms_of


def test_a_bundle_appears(run: Any, tmp_path: Path) -> None:
    """With configs, weights and a page; a second one does not overwrite it."""
    done = run("export", "--bundle", str(tmp_path / "bundle"), "--json")
    assert done.code == 0, done.err
    for name in ("configs/metadata.json", "configs/inference.json", "models/model.safetensors", "docs/README.md"):
        assert (tmp_path / "bundle" / name).is_file()
    again = run("export", "--bundle", str(tmp_path / "bundle"))
    assert again.code == 2 and "not empty" in again.err


def test_a_state_dict_names_its_class(run: Any, tmp_path: Path) -> None:
    """In the file's metadata."""
    path = tmp_path / "dynunet.safetensors"
    done = run("export", "--monai", str(path))
    assert done.code == 0, done.err
    with safe_open(path, "pt") as file:
        assert "monai.networks.nets.DynUNet" in "".join(file.metadata().values())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "one format is exported at a time"),
        (("--onnx", "--bundle", "b"), "one format is exported at a time"),
        (("--bundle", "b", "--monai", "m.safetensors"), "one format is exported at a time"),
        (("--bundle", "b", "--out", "c"), "leave --out away"),
    ],
)
def test_contradictions(run: Any, words: tuple[str, ...], says: str) -> None:
    """Each is a usage error."""
    done = run("export", *words)
    assert done.code == 2 and says in done.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--bundle", "b", "--fp16"), "--fp16 and --static are of --onnx and --triton"),
        (("--onnx", "--static", "16,96"), "expected three numbers"),
        (("--onnx", "--static", "16.5,96,96"), "expected three whole numbers"),
        (("--onnx", "--static", "16,90,96"), "no multiple of the stride"),
        (("--onnx", "--encoder", "--classifier"), "exclude each other"),
        (("--onnx", "--classifier"), "make a classifier of it with 'prostate-mim finetune'"),
    ],
)
def test_forms_that_do_not_exist(run: Any, words: tuple[str, ...], says: str, tmp_path: Path) -> None:
    """Each is one line, and nothing is written."""
    done = run("export", *words, *(("--out", str(tmp_path / "a.onnx")) if "--onnx" in words else ()))
    assert done.code == 2 and says in done.err
    assert not list(tmp_path.iterdir())


def test_a_file_in_half_precision_for_one_size(run: Any, small_encoder: Path, tmp_path: Path) -> None:
    """And what ``verify`` says of it, for people and as JSON."""
    path = tmp_path / "a.onnx"
    done = run("export", str(small_encoder), "--onnx", "--out", str(path), "--fp16", "--static", "8,32,32")
    assert done.code == 0, done.err
    assert "exported" in done.err and "exported" not in done.out  # what the bar says at its end
    said = run("verify", str(path))
    assert (
        said.code == 0 and "precision: float16" in said.out and "cpu        CPUExecutionProvider, differs" in said.out
    )
    found = json.loads(run("verify", str(path), "--json").out)
    assert [one["device"] for one in found["replays"]] == ["cpu", "cuda", "tensorrt", "openvino"]
    assert len(found["weights_sha256"]) == 64 and found["license"] == "unstated"


def test_the_encoder_of_a_classifier(run: Any, small_encoder: Path, tmp_path: Path) -> None:
    """Exported alone; whole, it is a classifier."""
    folder = LesionClassifier(PreMIM.from_pretrained(small_encoder)).save_pretrained(tmp_path / "classifier")
    for words, kind in (((), "classifier"), (("--encoder",), "encoder")):
        path = tmp_path / f"{kind}.onnx"
        done = run("export", str(folder), "--onnx", "--out", str(path), *words)
        assert done.code == 0, done.err
        assert read_container(path).header.kind == kind
    done = run("export", str(folder), "--bundle", str(tmp_path / "b"))
    assert done.code == 2 and "add --encoder" in done.err


def test_published_terms_are_in_the_file(tmp_path: Path) -> None:
    """Of the bundled weights, and of a classifier named after them; not of other weights with their name."""
    encoder = PreMIM.from_pretrained("resenc-s.mim-t2w")
    entry = read_registry()["resenc-s.mim-t2w"]
    assert encoder.weights_sha256() == entry.files["model.safetensors"].sha256
    license, data = terms_of(encoder.name, encoder.weights_sha256(), "encoder")
    assert license == entry.license and data == {one.name: one.license for one in entry.data}
    assert terms_of("resenc-s.mim-t2w.classifier", "0" * 64, "classifier")[1]["of fine-tuning"] == "unstated"
    with torch.no_grad():
        next(encoder.parameters()).add_(1)
    assert encoder.weights_sha256() != entry.files["model.safetensors"].sha256
    assert terms_of(encoder.name, encoder.weights_sha256(), "encoder") == ("unstated", {})


def test_bench(run: Any, small_encoder: Path, tmp_path: Path) -> None:
    """A table for people, a file, and a mistake in one line."""
    words = ("bench", str(small_encoder), "--rounds", "1", "--no-memory", "--out", str(tmp_path / "b.json"))
    done = run(*words)
    assert done.code == 0, done.err
    assert "torch eager" in done.out and "fastest that is offered" in done.out
    assert json.loads((tmp_path / "b.json").read_text())["model"] == "resenc-s.random.classifier"
    wrong = run("bench", str(small_encoder), "--size", "8,30,32")
    assert wrong.code == 2 and "not a multiple of the encoder's stride" in wrong.err

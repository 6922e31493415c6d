"""OnnxClassifier and OnnxEncoder: same numbers as torch, the device they say, and no damaged file gets through."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from prostate_mim.classifier import LesionClassifier
from prostate_mim.deploy import session
from prostate_mim.deploy.available import CPU
from prostate_mim.deploy.container import read_container
from prostate_mim.deploy.contract import Header
from prostate_mim.deploy.export import export_onnx
from prostate_mim.deploy.prediction import NO_POSITION
from prostate_mim.deploy.session import OnnxClassifier, OnnxEncoder
from prostate_mim.errors import (
    IntegrityError,
    NotFoundError,
    ProstateMimError,
    UsageError,
    VerificationError,
    VolumeError,
)
from prostate_mim.phantom import make_study
from prostate_mim.volume import Volume, read_volume, write_volume

Reseal = Callable[[onnx.ModelProto], Path]
VOLUMES = {
    "plain": {},
    "oblique": {"degrees": 12.0, "spacing": (3.3, 0.4, 0.4), "dtype": "float32"},
    "tiny": {"shape": (4, 20, 24), "spacing": (4.0, 0.9, 0.9)},
    "fine": {"shape": (16, 128, 120), "spacing": (1.5, 0.3, 0.3), "dtype": "uint16"},
}


# The same numbers from the same file on disk


@pytest.mark.parametrize("kind", VOLUMES)
@pytest.mark.parametrize("centred", [True, False])
def test_predict_equals_torch(
    kind: str,
    centred: bool,
    classifier: LesionClassifier,
    classifier_file: Path,
    make_volume: Callable[..., Volume],
    tmp_path: Path,
) -> None:
    write_volume(make_volume(**VOLUMES[kind]), tmp_path / "study.nii.gz")
    volume = read_volume(tmp_path / "study.nii.gz")
    x, y, z = (float(v) for v in volume.centre_mm_lps)
    position = None if centred else (x + 3.0, y - 2.0, z + 1.0)
    model = OnnxClassifier(classifier_file, device="cpu")
    found, expected = model.predict(volume, position), classifier.predict(volume, position)
    assert found.probability == pytest.approx(expected.probability, abs=1e-5)
    assert (found.model, found.revision, found.spec) == (expected.model, expected.revision, expected.spec)
    assert found.device == CPU
    np.testing.assert_array_equal(model.prepare(volume, position), classifier.prepare(volume, position).numpy())


def test_prediction_carries_flags(classifier_file: Path, make_volume: Callable[..., Volume]) -> None:
    """What the checks without torch find; nothing for a good phantom, and for one slice only what a crop is asked."""
    model, good = OnnxClassifier(classifier_file, device="cpu"), make_study(77, 0).volume
    x, y, z = (float(v) for v in good.centre_mm_lps)
    assert model.predict(good, (x, y, z)).flags == ()
    flags = model.predict(make_volume()).flags
    assert any(flag.startswith("field of view along x is 36 mm, allowed 85 to 270 mm") for flag in flags)
    assert model.predict(make_volume(shape=(1, 80, 72))).flags == ()
    assert len(model.predict(make_volume(shape=(1, 80, 72), spacing=(3.0, 2.0, 2.0))).flags) == 1


def test_a_missing_position_is_a_flag(
    classifier: LesionClassifier, classifier_file: Path, make_volume: Callable[..., Volume], tmp_path: Path
) -> None:
    """Said by torch and by the file alike, for each lesion by itself; not of one slice, nor of a whole study."""
    model, volume = OnnxClassifier(classifier_file, "cpu"), make_volume()
    x, y, z = (float(v) for v in volume.centre_mm_lps)
    middle, placed = model.predict_many(volume, [None, (x, y, z)])
    assert middle.probability == pytest.approx(placed.probability, abs=1e-6)
    assert middle.flags == (*placed.flags, NO_POSITION)
    assert middle.position_mm_lps == pytest.approx((x, y, z), abs=1e-3)
    assert placed.position_mm_lps == (x, y, z)
    torchs, one = classifier.predict(volume), make_volume(shape=(1, 80, 72))
    assert (torchs.flags, torchs.position_mm_lps) == ((NO_POSITION,), middle.position_mm_lps)
    assert classifier.predict(volume, (x, y, z)).flags == classifier.predict(one).flags == ()
    whole = LesionClassifier(classifier.encoder, pooling="mean")
    assert whole.predict(volume).flags == ()
    assert OnnxClassifier(export_onnx(whole, tmp_path / "whole.onnx"), "cpu").predict(volume).flags == placed.flags


def test_predictions_differ_between_positions(classifier_file: Path, make_volume: Callable[..., Volume]) -> None:
    """Negative control of the test above: a model that ignores its input would pass it."""
    model, volume = OnnxClassifier(classifier_file, "cpu"), make_volume()
    x, y, z = (float(v) for v in volume.centre_mm_lps)
    here, there = model.predict(volume), model.predict(volume, (x + 12, y - 9, z))
    assert abs(here.probability - there.probability) > 1e-4


def test_embed_equals_torch(
    classifier: LesionClassifier, encoder_file: Path, make_volume: Callable[..., Volume]
) -> None:
    volume = make_volume()
    found = OnnxEncoder(encoder_file, device="cpu").embed(volume)
    expected = classifier.encoder.embed(volume)
    assert found.shape == expected.shape == (classifier.encoder.embedding_size,)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_position_outside_refused(classifier_file: Path, make_volume: Callable[..., Volume]) -> None:
    with pytest.raises(VolumeError, match="outside the volume"):
        OnnxClassifier(classifier_file, "cpu").predict(make_volume(), (500.0, 0.0, 0.0))


@pytest.mark.parametrize("shape", [(1, 1, 8, 62, 64), (0, 1, 8, 64, 64), (1, 2, 8, 64, 64), (8, 64, 64)])
def test_bad_batch_refused(shape: tuple[int, ...], classifier_file: Path) -> None:
    with pytest.raises(UsageError, match="voxels"):
        OnnxClassifier(classifier_file, "cpu").run(np.zeros(shape, np.float32))


# Files that must not open


def test_header_of_a_model_of_whole_studies(classifier_file: Path) -> None:
    """Said where it is so, and only ever as true; files that do not say it are of lesions."""
    header = read_container(classifier_file).header
    whole = dataclasses.replace(header, whole_study=True)
    assert (header.whole_study, "whole_study" in header.to_json()) == (False, False)
    assert Header.from_json(whole.to_json()) == whole != Header.from_json(header.to_json()) == header
    for wrong in ("false", "1", "null", '"yes"'):
        with pytest.raises(IntegrityError, match="missing or unknown fields"):
            Header.from_json(whole.to_json().replace('"whole_study": true', f'"whole_study": {wrong}'))


def test_untouched_tiny_file_opens(tiny: onnx.ModelProto, reseal: Reseal) -> None:
    """Negative control of every refusal below."""
    model = OnnxClassifier(reseal(tiny), device="cpu")
    assert model.replay_difference < 1e-6
    assert model.run(np.full((2, 1, 3, 5, 7), 0.5, np.float32))["logit"] == pytest.approx([1.5, 1.5])


def _entry(model: onnx.ModelProto, key: str) -> onnx.StringStringEntryProto:
    return next(entry for entry in model.metadata_props if entry.key == key)


def _edit_header(model: onnx.ModelProto, **changes: object) -> None:
    entry = _entry(model, "prostate_mim")
    entry.value = json.dumps(json.loads(entry.value) | changes)


def _spec_of(model: onnx.ModelProto, **changes: object) -> dict[str, object]:
    return json.loads(_entry(model, "prostate_mim").value)["spec"] | changes


def _if_branch(tensor: onnx.TensorProto) -> onnx.NodeProto:
    out = helper.make_tensor_value_info("hidden", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["outside"], ["hidden"])], "branch", [], [out], [tensor])
    return helper.make_node("If", ["yes"], ["unused"], then_branch=graph, else_branch=graph)


def _outside(location: str) -> onnx.TensorProto:
    tensor = TensorProto(name="outside", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


EDITS: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "edited spec": (lambda m: _edit_header(m, spec=_spec_of(m, spacing_mm_zyx=[3.0, 0.6, 0.5])), "contract was edited"),
    "impossible spec": (lambda m: _edit_header(m, spec=_spec_of(m, size_zyx=[float("nan")] * 3)), "impossible numbers"),
    "spec of another version": (lambda m: _edit_header(m, spec=_spec_of(m, version=2)), "version"),
    "newer format": (lambda m: _edit_header(m, format=3), "newer than this version reads"),
    "older format": (lambda m: _edit_header(m, format=1), "missing or unknown fields"),
    "no format": (lambda m: _edit_header(m, format=None), "missing or unknown fields"),
    "unknown field": (lambda m: _edit_header(m, more=1), "missing or unknown fields"),
    "unknown kind": (lambda m: _edit_header(m, kind="segmenter"), "none of"),
    "unknown precision": (lambda m: _edit_header(m, precision="int8"), "none of"),
    "fixed size off the stride": (
        lambda m: _edit_header(m, stride_zyx=[2, 2, 2], size_zyx=[3, 2, 2]),
        "no multiple of the stride",
    ),
    "data licences are a list": (lambda m: _edit_header(m, data_licenses=["CC"]), "not a table of names"),
    "bad stride": (lambda m: _edit_header(m, stride_zyx=[0, 1, 1]), "positive whole numbers"),
    "other kind": (lambda m: _edit_header(m, kind="encoder"), "inputs and outputs"),
    "header is no JSON": (lambda m: setattr(_entry(m, "prostate_mim"), "value", "{"), "not valid JSON"),
    "golden is no JSON": (lambda m: setattr(_entry(m, "golden"), "value", "[]"), "not a JSON object"),
    "golden is short": (lambda m: setattr(_entry(m, "golden"), "value", _short_golden(m)), "damaged array"),
    "no metadata": (lambda m: m.ClearField("metadata_props"), "from another program"),
    "more metadata": (lambda m: m.metadata_props.add(key="note", value="hi"), "not the three expected"),
    "huge metadata": (lambda m: m.metadata_props.add(key="note", value="a" * (17 << 20)), "larger than"),
    "external, parent folder": (lambda m: m.graph.initializer.append(_outside("../x")), "external data"),
    "external, absolute": (lambda m: m.graph.initializer.append(_outside("/etc/passwd")), "external data"),
    "external, in a branch": (lambda m: m.graph.node.append(_if_branch(_outside("x"))), "external data"),
    "external, in a constant": (
        lambda m: m.graph.node.append(helper.make_node("Constant", [], ["c"], value=_outside("x"))),
        "external data",
    ),
    "foreign operator": (
        lambda m: m.graph.node.append(helper.make_node("Evil", ["voxels"], ["e"], domain="com.evil")),
        "outside the ONNX standard",
    ),
    "foreign domain": (lambda m: m.opset_import.add(domain="com.evil", version=1), "outside the ONNX standard"),
    "function": (lambda m: m.functions.add(name="f"), "outside the ONNX standard"),
}


def _short_golden(model: onnx.ModelProto) -> str:
    golden = json.loads(_entry(model, "golden").value)
    golden["input"]["data"] = golden["input"]["data"][4:]
    return json.dumps(golden)


@pytest.mark.parametrize("edit", EDITS)
def test_edited_file_refused(edit: str, tiny: onnx.ModelProto, reseal: Reseal) -> None:
    """Edited on purpose: the digest is right again, so that each check is met on its own."""
    change, message = EDITS[edit]
    change(tiny)
    with pytest.raises(IntegrityError, match=message) as caught:
        OnnxClassifier(reseal(tiny), device="cpu")
    assert "\n" not in str(caught.value)


def test_edited_weight_caught_by_replay(tiny: onnx.ModelProto, reseal: Reseal) -> None:
    tiny.graph.initializer[1].raw_data = np.array([3.01], "<f4").tobytes()
    with pytest.raises(VerificationError, match="golden sample"):
        OnnxClassifier(reseal(tiny), device="cpu")


def test_flipped_weight_bit_caught_by_digest(classifier_file: Path, tmp_path: Path) -> None:
    """The lowest bit of one weight of a real file: far too small for the replay to see."""
    data = bytearray(classifier_file.read_bytes())
    weight = max(onnx.load(classifier_file).graph.initializer, key=lambda item: len(item.raw_data)).raw_data
    data[data.index(weight[:64])] ^= 1
    (tmp_path / "a.onnx").write_bytes(data)
    with pytest.raises(IntegrityError, match="SHA-256"):
        OnnxClassifier(tmp_path / "a.onnx", device="cpu")


def test_truncations_and_mutations_refused(tiny: onnx.ModelProto, reseal: Reseal) -> None:
    path = reseal(tiny)
    good = path.read_bytes()
    rng = np.random.default_rng(5)
    damaged = [good[: int(n)] for n in rng.integers(0, len(good), 50)]
    for place, bit in zip(rng.integers(0, len(good), 1000), rng.integers(0, 8, 1000), strict=True):
        copy = bytearray(good)
        copy[place] ^= 1 << int(bit)
        damaged.append(bytes(copy))
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(IntegrityError) as caught:
            read_container(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(good)
    read_container(path)


def test_missing_file_suggests(classifier_file: Path) -> None:
    with pytest.raises(NotFoundError, match=r"did you mean classifier\.onnx"):
        OnnxClassifier(classifier_file.with_name("clasifier.onnx"))


@pytest.mark.parametrize("data", [b"", b"not an onnx", b"\x00" * 100, b"PK\x03\x04" + b"a" * 50])
def test_other_files_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(data)
    with pytest.raises(IntegrityError):
        OnnxClassifier(tmp_path / "a.onnx")


def test_wrong_kind_says_which_class(classifier_file: Path, encoder_file: Path) -> None:
    with pytest.raises(UsageError, match="open it with OnnxClassifier"):
        OnnxEncoder(classifier_file)
    with pytest.raises(UsageError, match="open it with OnnxEncoder"):
        OnnxClassifier(encoder_file)


def test_runtime_failures_are_ours(tiny: onnx.ModelProto, reseal: Reseal) -> None:
    tiny.graph.node[1].op_type = "NoSuchOperator"
    with pytest.raises(ProstateMimError, match="cannot open the model"):
        OnnxClassifier(reseal(tiny), device="cpu")


def test_no_torch_after_predict(
    classifier_file: Path, encoder_file: Path, make_volume: Callable[..., Volume], tmp_path: Path
) -> None:
    write_volume(make_volume(), tmp_path / "a.nii.gz")
    code = f"""
import sys
from prostate_mim import OnnxClassifier, OnnxEncoder, read_volume
volume = read_volume({str(tmp_path / "a.nii.gz")!r})
assert 0 < OnnxClassifier({str(classifier_file)!r}).predict(volume).probability < 1
assert OnnxEncoder({str(encoder_file)!r}).embed(volume).ndim == 1
assert not {{"torch", "monai", "onnxscript"}} & set(sys.modules), "torch was imported"
"""
    root = Path(session.__file__).parents[2]
    ran = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")

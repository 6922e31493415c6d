"""Hostile files: refused in one line, before any engine has seen a byte of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from prostate_mim.deploy import container
from prostate_mim.deploy.session import OnnxClassifier
from prostate_mim.errors import IntegrityError, ProstateMimError

Reseal = Callable[[onnx.ModelProto], Path]
FACTOR = np.array([3], "<f4").tobytes()


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Every session of ONNX Runtime that is asked for, from now on."""
    made: list[object] = []

    class Counted(onnxruntime.InferenceSession):  # the real one
        def __init__(self, *arguments: Any, **options: Any) -> None:
            made.append(arguments[0])
            super().__init__(*arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Counted)
    yield made


def refused(path: Path, message: str, sessions: list[object], error: type[Exception] = IntegrityError) -> None:
    before = len(sessions)
    with pytest.raises(error, match=message) as caught:
        OnnxClassifier(path, device="cpu")
    assert "\n" not in str(caught.value)
    assert len(sessions) == before


def test_a_good_file_makes_a_session(tiny: onnx.ModelProto, reseal: Reseal, sessions: list[object]) -> None:
    """The control of all that follows: sessions are counted."""
    OnnxClassifier(reseal(tiny), device="cpu")
    assert len(sessions) == 1


def test_a_session_is_needed_to_find_a_wrong_weight(
    tiny: onnx.ModelProto, reseal: Reseal, sessions: list[object]
) -> None:
    """The other control: what only computing can find is counted, too."""
    tiny.graph.initializer[1].raw_data = np.array([3.01], "<f4").tobytes()
    with pytest.raises(ProstateMimError, match="golden sample"):
        OnnxClassifier(reseal(tiny), device="cpu")
    assert len(sessions) == 1


# External data, whatever it points to


def _outside(model: onnx.ModelProto, location: str) -> onnx.ModelProto:
    """The factor of the tiny model comes from a file."""
    tensor = model.graph.initializer[1]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="length", value=str(len(FACTOR)))
    return model


def _plain(folder: Path) -> str:
    (folder / "weights.bin").write_bytes(FACTOR)
    return "weights.bin"


def _parent(folder: Path) -> str:
    (folder.parent / f"{folder.name}.bin").write_bytes(FACTOR)
    return f"../{folder.name}.bin"


def _absolute(folder: Path) -> str:
    (folder / "weights.bin").write_bytes(FACTOR)
    return str(folder / "weights.bin")


def _symbolic_link(folder: Path) -> str:
    (folder.parent / f"{folder.name}.bin").write_bytes(FACTOR)
    (folder / "weights.bin").symlink_to(folder.parent / f"{folder.name}.bin")
    return "weights.bin"


def _hard_link(folder: Path) -> str:
    (folder.parent / f"{folder.name}.bin").write_bytes(FACTOR)
    os.link(folder.parent / f"{folder.name}.bin", folder / "weights.bin")
    return "weights.bin"


POINTS_TO = {
    "a file beside it": _plain,
    "a parent folder": _parent,
    "an absolute path": _absolute,
    "a symbolic link": _symbolic_link,
    "a hard link": _hard_link,
    "nothing": lambda _: "missing.bin",
    "an empty name": lambda _: "",
    "memory of ONNX Runtime": lambda _: "*/_ORT_MEM_ADDR_/*",
}


@pytest.mark.parametrize("what", POINTS_TO)
def test_external_data_is_refused(what: str, tiny: onnx.ModelProto, reseal: Reseal, sessions: list[object]) -> None:
    """The right bytes lie where the file says, and the digest is right."""
    path = reseal(tiny)  # its folder
    path = reseal(_outside(tiny, POINTS_TO[what](path.parent)))
    refused(path, r"tensor 'factor' points at another file \(external data\)", sessions)


@pytest.mark.parametrize("what", ["a file beside it", "a hard link"])
def test_onnx_runtime_would_follow(what: str, tiny: onnx.ModelProto, reseal: Reseal) -> None:
    """The control: opened by its path, ONNX Runtime computes with the bytes of the other file."""
    path = reseal(tiny)
    path = reseal(_outside(tiny, POINTS_TO[what](path.parent)))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logit,) = session.run(["logit"], {"voxels": np.ones((1, 1, 2, 2, 2), np.float32)})
    assert logit == pytest.approx([3.0])


def _sparse(tensor: TensorProto) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=tensor, dims=[4])


def _loop(tensor: TensorProto) -> onnx.NodeProto:
    inner = helper.make_node("Constant", [], ["c"], value=tensor)
    body = helper.make_graph([inner], "inner", [], [])
    return helper.make_node("Loop", ["n", "yes"], ["o"], body=helper.make_graph([_if(body)], "outer", [], []))


def _if(body: onnx.GraphProto) -> onnx.NodeProto:
    return helper.make_node("If", ["yes"], ["o"], then_branch=body, else_branch=onnx.GraphProto(name="e"))


def _of_attribute(name: str, value: Any) -> Callable[[onnx.ModelProto], object]:
    def add(model: onnx.ModelProto) -> object:
        attribute = onnx.AttributeProto(name="a", type=onnx.AttributeProto.INT)  # the type lies
        field = getattr(attribute, name)
        field.extend([value]) if hasattr(field, "extend") else field.CopyFrom(value)
        return model.graph.node.append(onnx.NodeProto(op_type="Constant", output=["x"], attribute=[attribute]))

    return add


AWAY = TensorProto(name="away", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
KEYS_ONLY = TensorProto(name="away", data_type=1, dims=[1], float_data=[1])
KEYS_ONLY.external_data.add(key="location", value="x")
GRAPH = onnx.GraphProto(name="g", initializer=[AWAY])
PLACES: dict[str, Callable[[onnx.ModelProto], object]] = {
    "a location without keys": lambda m: m.graph.initializer.append(AWAY),
    "keys without a location": lambda m: m.graph.initializer.append(KEYS_ONLY),
    "values of a sparse tensor": lambda m: m.graph.sparse_initializer.append(_sparse(AWAY)),
    "indices of a sparse tensor": lambda m: m.graph.sparse_initializer.append(onnx.SparseTensorProto(indices=AWAY)),
    "a graph three deep": lambda m: m.graph.node.append(_loop(AWAY)),
    "attribute t": _of_attribute("t", AWAY),
    "attribute tensors": _of_attribute("tensors", AWAY),
    "attribute sparse_tensor": _of_attribute("sparse_tensor", _sparse(AWAY)),
    "attribute sparse_tensors": _of_attribute("sparse_tensors", _sparse(AWAY)),
    "attribute g": _of_attribute("g", GRAPH),
    "attribute graphs": _of_attribute("graphs", GRAPH),
}


@pytest.mark.parametrize("place", PLACES)
def test_external_data_anywhere(place: str, tiny: onnx.ModelProto, reseal: Reseal, sessions: list[object]) -> None:
    """Wherever a model can hold a tensor, whatever the type of an attribute claims."""
    PLACES[place](tiny)
    refused(reseal(tiny), "external data", sessions)


# Operators, devices, sizes, damage


def _in_branch(model: onnx.ModelProto) -> object:
    node = onnx.NodeProto(op_type="Evil", output=["o"], domain="com.evil")
    return model.graph.node.append(_if(onnx.GraphProto(name="b", node=[node])))


FOREIGN: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "operator": (
        lambda m: m.graph.node.add(op_type="Evil", output=["o"], domain="com.evil"),
        "operators outside the ONNX standard",
    ),
    "operator of ONNX Runtime that opens files": (
        lambda m: m.graph.node.add(op_type="EPContext", output=["o"], domain="com.microsoft"),
        "operators outside the ONNX standard",
    ),
    "operator in a branch": (_in_branch, "operators outside the ONNX standard"),
    "domain": (lambda m: m.opset_import.add(domain="com.evil", version=1), "operators outside the ONNX standard"),
    "machine learning operators": (
        lambda m: m.opset_import.add(domain="ai.onnx.ml", version=3),
        "operators outside the ONNX standard",
    ),
    "function": (lambda m: m.functions.add(name="f", domain="ai.onnx"), "operators outside the ONNX standard"),
    "training": (lambda m: m.training_info.add(), "operators outside the ONNX standard"),
    "devices of the model": (lambda m: m.configuration.add(name="c", num_devices=2), "which devices are to compute"),
    "devices of a node": (
        lambda m: m.graph.node[0].device_configurations.add(configuration_id="c"),
        "which devices are to compute",
    ),
    "50 MB of metadata": (lambda m: m.metadata_props.add(key="note", value="a" * 50_000_000), "metadata is larger"),
    "50 MB of metadata in the header": (
        lambda m: setattr(m.metadata_props[0], "value", "a" * 50_000_000),
        "metadata is larger",
    ),
    "50 MB of metadata at a node": (
        lambda m: m.graph.node[0].metadata_props.add(key="note", value="µ" * 25_000_000),
        "metadata is larger",
    ),
    "a configuration of ONNX Runtime": (lambda m: m.metadata_props.add(key="ort_config", value="{}"), "not the three"),
    "a second header": (lambda m: m.metadata_props.add().CopyFrom(m.metadata_props[0]), "not the three"),
    "another input": (lambda m: m.graph.input.add(name="more"), "inputs and outputs"),
    "another output": (lambda m: m.graph.output.add(name="more"), "inputs and outputs"),
    "no graph": (lambda m: m.ClearField("graph"), "inputs and outputs"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_foreign_parts_are_refused(what: str, tiny: onnx.ModelProto, reseal: Reseal, sessions: list[object]) -> None:
    change, message = FOREIGN[what]
    change(tiny)
    refused(reseal(tiny), message, sessions)


def test_damage_is_refused(tiny: onnx.ModelProto, reseal: Reseal, sessions: list[object]) -> None:
    """50 truncations, 200 changed bytes, bytes at the end, and a file twice: by digest or by structure."""
    path = reseal(tiny)
    good = path.read_bytes()
    rng = np.random.default_rng(11)
    damaged = [good[: int(n)] for n in rng.choice(len(good), 50, replace=False)]
    for place in rng.choice(len(good), 200, replace=False):
        copy = bytearray(good)
        copy[place] = (copy[place] + int(rng.integers(1, 256))) % 256
        damaged.append(bytes(copy))
    damaged += [good + good, good + b"\0", good + b"\x0a\x00", b"\0" + good]
    for data in damaged:
        path.write_bytes(data)
        refused(path, "", sessions)
    path.write_bytes(good)
    OnnxClassifier(path, device="cpu")  # the control
    assert len(sessions) == 1


def test_a_right_digest_of_a_damaged_file(tiny: onnx.ModelProto, reseal: Reseal, sessions: list[object]) -> None:
    """Whoever damages on purpose makes the digest right: truncated files are refused for what they are."""
    path = reseal(tiny)
    for item in tiny.metadata_props:
        if item.key == container._DIGEST_KEY:
            item.value = container._BLANK
    blank = tiny.SerializeToString(deterministic=True)
    for size in np.random.default_rng(12).choice(len(blank), 50, replace=False):
        data = blank[: int(size)]
        path.write_bytes(data.replace(container._BLANK.encode(), hashlib.sha256(data).hexdigest().encode()))
        refused(path, "", sessions)

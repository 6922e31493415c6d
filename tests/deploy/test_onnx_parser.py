"""The reader of ONNX's wire format: the view the package onnx has, or a refusal; nothing hides from it."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

from prostate_mim.deploy import container, onnx_parser
from prostate_mim.deploy.contract import GOLDEN_KEY, HEADER_KEY, INPUT, OUTPUTS, Header
from prostate_mim.deploy.onnx_parser import Message, parse
from prostate_mim.deploy.trace import every_graph
from prostate_mim.errors import IntegrityError

Reseal = Callable[[onnx.ModelProto], Path]
MUTATIONS = 500


# The schema


def described(descriptor: Any, found: dict[str, dict[int, tuple[str, str, bool]]] | None = None) -> dict[str, Any]:
    """A message of the package onnx and all that it holds, as ``onnx_parser.SCHEMA`` writes them."""
    found = {} if found is None else found
    if descriptor.name not in found:
        found[descriptor.name] = {}
        for field in descriptor.fields:
            names = {field.TYPE_STRING: "text", field.TYPE_BYTES: "bytes", field.TYPE_FLOAT: "float"}
            names |= {field.TYPE_DOUBLE: "double", field.TYPE_MESSAGE: getattr(field.message_type, "name", "")}
            many = field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
            found[descriptor.name][field.number] = (field.name, names.get(field.type, "int"), many)
            if field.message_type:
                described(field.message_type, found)
    return found


def one_of(descriptor: Any) -> set[str]:
    return {field.name for group in descriptor.oneofs for field in group.fields}


@pytest.mark.skipif(onnx.IR_VERSION < 14, reason=f"onnx {onnx.__version__} is older than the schema")
def test_schema_is_that_of_onnx() -> None:
    """Every message, field, number and type; of a newer onnx than the schema, the new fields would be listed here."""
    schema = onnx_parser.SCHEMA
    ours = {name: {number: tuple(field) for number, field in fields.items()} for name, fields in schema.items()}
    assert ours == described(onnx.ModelProto.DESCRIPTOR)
    dimension = onnx.TensorShapeProto.DESCRIPTOR.nested_types_by_name["Dimension"]
    for descriptor in (onnx.TypeProto.DESCRIPTOR, dimension, onnx.SimpleShardedDimProto.DESCRIPTOR):
        assert onnx_parser._ONE_OF[descriptor.name] == one_of(descriptor)
    assert sum(len(message.oneofs) for message in onnx.ModelProto.DESCRIPTOR.file.message_types_by_name.values()) == 2


# Our view beside that of the package onnx


def packed_integers(view: memoryview) -> list[int]:
    numbers, value, shift = [], 0, 0
    for byte in view:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(value)
            value = shift = 0
    assert shift == 0
    return numbers


def numbers(field: Any, values: list[Any]) -> list[Any]:
    """Ours of a number, as the package onnx has them: signed, of 32 bits where it says so."""
    code = {field.TYPE_FLOAT: "<f4", field.TYPE_DOUBLE: "<f8"}.get(field.type)
    if code:
        return [number for view in values for number in np.frombuffer(view, code).tolist()]
    flat = [n for value in values for n in ([value] if isinstance(value, int) else packed_integers(value))]
    kind = {field.TYPE_UINT64: np.uint64, field.TYPE_INT64: np.int64}.get(field.type, np.int32)
    return [int(n) for n in np.array(flat, np.uint64).astype(kind)]


def differences(ours: Message, theirs: Any, where: str = "") -> Iterator[str]:
    """Where two views of one file differ."""
    fields = theirs.DESCRIPTOR.fields_by_name
    present = {field.name: value for field, value in theirs.ListFields()}
    for name, values in ours.fields.items():
        field, place = fields[name], f"{where}/{name}"
        found = present.pop(name, [])
        found = list(found) if type(found).__name__.startswith("Repeated") else [found] if found != [] else []
        if field.message_type:
            if len(found) != len(values):
                yield f"{place}: {len(values)}, {len(found)}"
            for number, pair in enumerate(zip(values, found, strict=False)):
                yield from differences(*pair, f"{place}[{number}]")
        elif field.type in (field.TYPE_STRING, field.TYPE_BYTES):
            if [bytes(v) if isinstance(v, memoryview) else v for v in values] != found:
                yield f"{place}: {values}, {found}"
        else:
            wanted = numbers(field, values)
            if field.enum_type:  # a value that is none of its names is dropped by protobuf
                wanted = [number for number in wanted if number in field.enum_type.values_by_number]
            if not (len(wanted) == len(found) and all(map(same_number, wanted, found))):
                yield f"{place}: {wanted[:5]}, {found[:5]}"
    yield from (f"{where}/{name}: only theirs" for name in present)


def same_number(ours: float, theirs: float) -> bool:
    return ours == theirs or (math.isnan(ours) and math.isnan(theirs))


def theirs(data: bytes) -> Any:
    """The package onnx's view, or None where it refuses."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        return None
    return model


def ours(data: bytes) -> Message | None:
    try:
        return parse(data)
    except IntegrityError as error:
        assert "\n" not in str(error)
        return None


@pytest.mark.parametrize("name", ["classifier_file", "encoder_file"])
def test_exports_look_the_same(name: str, request: pytest.FixtureRequest) -> None:
    """Every field of every message of a real file; the control is a single bit elsewhere."""
    data = request.getfixturevalue(name).read_bytes()
    model = theirs(data)
    assert list(differences(parse(data), model)) == []
    number = next(number for number, node in enumerate(model.graph.node) if node.attribute)
    model.graph.node[number].attribute[0].name += "x"
    (place,) = differences(parse(data), model)
    assert place.startswith(f"/graph[0]/node[{number}]/attribute[0]/name: ")


def rich() -> onnx.ModelProto:
    """A model with something of everything in it, and nothing that runs."""
    tensor = TensorProto(name="t", data_type=1, dims=[2, 1], float_data=[1.5, -2], int32_data=[-1, 300])
    tensor.int64_data.extend([-5, 2**40])
    tensor.double_data.extend([0.25])
    tensor.uint64_data.extend([2**63])
    tensor.string_data.extend([b"\xff\x00", b""])
    tensor.segment.end = 3
    tensor.external_data.add(key="location", value="elsewhere")
    tensor.data_location = TensorProto.EXTERNAL
    sparse = onnx.SparseTensorProto(values=tensor, indices=tensor, dims=[4])
    inner = onnx.GraphProto(name="inner", initializer=[tensor], sparse_initializer=[sparse])
    node = onnx.NodeProto(op_type="If", input=["a", ""], output=["b"], domain="com.evil", overload="o")
    node.attribute.add(name="x", type=1, f=-0.5, i=-7, s=b"\xfe", t=tensor, g=inner, sparse_tensor=sparse)
    node.attribute.add(name="y", floats=[1, 2], ints=[-1, 5], strings=[b"s"], tensors=[tensor], graphs=[inner, inner])
    node.attribute.add(ref_attr_name="r", type_protos=[onnx.TypeProto(), onnx.TypeProto(denotation="d")])
    device = node.device_configurations.add(configuration_id="c", pipeline_stage=2)
    device.sharding_spec.add(tensor_name="t", device=[0, 1]).sharded_dim.add(axis=1).simple_sharding.add(dim_value=4)
    value = helper.make_tensor_value_info("v", TensorProto.FLOAT, [1, "n", None])
    value.type.denotation = "IMAGE"
    graph = onnx.GraphProto(name="g", node=[node], input=[value], output=[value], doc_string="µ")
    graph.quantization_annotation.add(tensor_name="t").quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")
    model = onnx.ModelProto(ir_version=14, graph=graph, producer_name="p", model_version=-1)
    model.opset_import.add(domain="com.evil", version=1)
    model.metadata_props.add(key="k", value="v")
    model.training_info.add(algorithm=inner).update_binding.add(key="a")
    model.functions.add(name="f", node=[node], attribute_proto=node.attribute[:1], opset_import=model.opset_import)
    model.configuration.add(name="c", num_devices=2, device=["CPU"])
    return model


def test_every_part_looks_the_same() -> None:
    """Numbers of all kinds, packed or not, and messages in all places."""
    data = rich().SerializeToString(deterministic=True)
    assert list(differences(parse(data), rich())) == []
    assert len({part.kind for part in parse(data).walk()}) > 20


def test_mutations_look_the_same_or_are_refused() -> None:
    """Bits flipped, bytes lost, doubled, moved: what onnx refuses is refused, what is read is read as onnx reads it."""
    good = rich().SerializeToString(deterministic=True)
    rng = np.random.default_rng(4)
    verdicts = {(False, False): 0, (False, True): 0, (True, True): 0}
    for number in range(MUTATIONS):
        a, b = sorted(int(n) for n in rng.integers(0, len(good), 2))
        flipped = bytearray(good)
        flipped[a] ^= 1 << int(rng.integers(8))
        cut, doubled, moved = good[:a] + good[a + 1 :], good[:b] + good[a:], good[:a] + good[b:] + good[a:b]
        data = (bytes(flipped), cut, doubled, moved, good[:a])[number % 5]
        mine, other = ours(data), theirs(data)
        verdicts[mine is not None, other is not None] += 1  # (True, False) is no key
        if mine is not None:
            assert list(differences(mine, other)) == []
    assert min(verdicts.values()) > 5, verdicts  # each kind of verdict was met


# What parsers are lenient about: each hides something from one of them


def varint(value: int, size: int = 0) -> bytes:
    """A number; in more bytes than it needs if ``size`` says so."""
    parts = []
    while value >= 0x80 or len(parts) + 1 < size:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def entry(number: int, content: bytes | int, wire_type: int | None = None) -> bytes:
    """One field: a number, or bytes with their length."""
    if isinstance(content, int):
        return varint(number << 3 | (wire_type or 0)) + varint(content)
    kind = 2 if wire_type is None else wire_type
    return varint(number << 3 | kind) + (varint(len(content)) if kind == 2 else b"") + content


OUTSIDE = entry(8, b"w") + entry(13, entry(1, b"location") + entry(2, b"/etc/passwd"))  # of a TensorProto
HERE, ELSEWHERE = entry(14, 0), entry(14, 1)
EVIL = entry(1, entry(4, b"Evil") + entry(7, b"com.evil"))  # a node of a graph


def in_graph(content: bytes) -> bytes:
    return entry(7, content)


def in_tensor(content: bytes) -> bytes:
    return in_graph(entry(5, content))


def nested(depth: int) -> bytes:
    """Graphs within nodes within graphs."""
    graph = b""
    for _ in range(depth):
        graph = entry(1, entry(5, entry(6, graph)))
    return in_graph(graph)


HIDDEN = {
    "a second graph, merged into the first": in_graph(EVIL) + in_graph(entry(2, b"name")),
    "a graph in two parts": in_graph(entry(2, b"a")) + in_graph(entry(5, OUTSIDE)),
    "a tensor of an attribute in two parts": in_graph(entry(1, entry(5, entry(5, OUTSIDE) + entry(5, entry(8, b"w"))))),
    "the last of two domains wins": in_graph(entry(1, entry(7, b"com.evil") + entry(7, b""))),
    "the last of two locations wins": in_tensor(ELSEWHERE + HERE),
    "an unknown field": in_graph(b"") + entry(30, EVIL),
    "an unknown field of a tensor": in_tensor(entry(15, b"x")),
    "a group": in_graph(b"") + varint(30 << 3 | 3) + entry(1, 1) + varint(30 << 3 | 4),
    "a group of a known number": varint(9 << 3 | 3) + varint(9 << 3 | 4),
    "a graph with a number's wire type": entry(7, 1),
    "a location with the wire type of bytes": in_tensor(entry(14, b"\x01")),
    "a location with a fixed wire type": in_tensor(entry(14, struct.pack("<I", 1), 5)),
    "a long tag": varint(7 << 3 | 2, 3) + varint(0),
    "a long length": varint(7 << 3 | 2) + varint(0, 4),
    "a long zero": in_tensor(varint(14 << 3) + varint(0, 2)),
    "a type that is two types": in_graph(entry(11, entry(2, entry(1, b"") + entry(4, b"")))),
    "a domain that is not UTF-8": in_graph(entry(1, entry(7, b"\xff"))),
    "a name in a surrogate's bytes": in_graph(entry(2, b"\xed\xa0\x80")),
}
BROKEN = {
    "nothing": b"",
    "a zero tag": in_graph(b"") + b"\0",
    "an end without a group": in_graph(b"") + varint(9 << 3 | 4),
    "a group without an end": varint(9 << 3 | 3),
    "wire type 6": varint(1 << 3 | 6) + b"\1",
    "a number of 11 bytes": varint(1 << 3) + b"\x80" * 10 + b"\x01",
    "a number over 64 bits": varint(1 << 3) + b"\xff" * 9 + b"\x7f",
    "a length beyond the end": varint(7 << 3 | 2) + varint(5) + b"\x12",
    "a length beyond its message": in_graph(varint(2 << 3 | 2) + varint(200)) + bytes(300),
    "packed floats with a part of one": in_tensor(entry(4, b"\0" * 5)),
    "packed doubles with a part of one": in_tensor(entry(10, b"\0" * 12)),
    "packed integers with a part of one": in_tensor(entry(7, b"\x01\x80")),
    "packed integers with one too long": in_tensor(entry(7, b"\x80" * 10 + b"\x01")),
    "too deep": nested(40),
}


@pytest.mark.parametrize("what", HIDDEN)
def test_what_parsers_are_lenient_about_is_refused(what: str) -> None:
    """The package onnx reads each of these, and skips, merges or overwrites something; we refuse, in one line."""
    assert theirs(HIDDEN[what]) is not None
    with pytest.raises(IntegrityError, match=r"^not an ONNX file, or damaged or truncated \([^\n]+\); copy or export"):
        parse(HIDDEN[what])


@pytest.mark.parametrize("what", BROKEN)
def test_broken_messages_are_refused(what: str) -> None:
    with pytest.raises(IntegrityError, match=r"^not an ONNX file"):
        parse(BROKEN[what])


def test_the_same_parts_once_are_read() -> None:
    """The control of both: each in its one shape."""
    for data in (in_graph(EVIL), in_tensor(OUTSIDE + ELSEWHERE), in_tensor(HERE), nested(12), in_tensor(entry(4, b""))):
        assert list(differences(parse(data), theirs(data))) == []
    numbers_twice = in_tensor(
        entry(1, 3) + entry(1, b"\x04\x05")
    )  # single and packed, which every parser puts together
    assert list(differences(parse(numbers_twice), theirs(numbers_twice))) == []


def test_too_many_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit, not minutes of work."""
    monkeypatch.setattr(onnx_parser, "MAX_FIELDS", 1000)
    assert len(parse(entry(25, b"") * 1000).all("functions")) == 1000
    with pytest.raises(IntegrityError, match="more than 1000 fields"):
        parse(entry(25, b"") * 1001)


@pytest.mark.parametrize("name", [b"ORTM", b"TFL3"])
def test_a_file_that_is_also_of_another_format(name: bytes, tiny: onnx.ModelProto, reseal: Reseal) -> None:
    """The name of a producer lies where FlatBuffers have theirs: ONNX Runtime would look at nothing else.

    The control shows it: ONNX Runtime takes the valid ONNX file for one in its own format.
    """
    import onnxruntime

    tiny.producer_name = f"{name.decode()} and more"
    path = reseal(tiny)
    assert path.read_bytes()[4:8] == name
    with pytest.raises(IntegrityError, match="not an ONNX file but"):
        container.read_container(path)
    if name == b"ORTM":
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        with pytest.raises(Exception, match="ORT model"):
            onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    tiny.producer_name = f"an {tiny.producer_name}"
    container.read_container(reseal(tiny))


# The container's verdict beside that of the same checks made with the package onnx


def verdict_by_onnx(data: bytes) -> bool:
    """Whether a file passes: the checks as they were written for ``onnx.ModelProto``, without the digest."""
    model = theirs(data)
    if model is None:
        return False
    entries = list(model.metadata_props)
    texts = {item.key: item.value for item in entries}
    if len(entries) != 3 or set(texts) != {HEADER_KEY, GOLDEN_KEY, "prostate_mim_sha256"}:
        return False
    if model.functions or model.training_info or any(item.domain not in ("", "ai.onnx") for item in model.opset_import):
        return False
    for graph in every_graph(model.graph):
        if any(node.domain not in ("", "ai.onnx") for node in graph.node):
            return False
        if any(tensor.data_location or tensor.external_data for tensor in tensors_by_onnx(graph)):
            return False
    try:
        kind = Header.from_json(texts[HEADER_KEY]).kind
    except IntegrityError:
        return False
    ends = [[item.name for item in values] for values in (model.graph.input, model.graph.output)]
    return ends == [[INPUT], list(OUTPUTS[kind])]


def tensors_by_onnx(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    sparse = list(graph.sparse_initializer)
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            sparse += [attribute.sparse_tensor, *attribute.sparse_tensors]
    for tensor in sparse:
        yield from (tensor.values, tensor.indices)


def accepted(path: Path) -> bool:
    try:
        container.read_container(path)
    except IntegrityError as error:
        assert "\n" not in str(error)
        return False
    return True


def test_random_edits_have_the_same_verdict(tiny: onnx.ModelProto, reseal: Reseal) -> None:
    """Something is put somewhere, at any depth, and the digest is made right: the same verdict, or a stricter one."""
    rng = np.random.default_rng(8)
    good = tiny.SerializeToString(deterministic=True)
    verdicts = {(False, False): 0, (False, True): 0, (True, True): 0}
    for _ in range(150):
        model = onnx.ModelProto.FromString(good)
        for _ in range(int(rng.integers(1, 4))):
            random_edit(model, rng)
        path = reseal(model)
        verdicts[accepted(path), verdict_by_onnx(path.read_bytes())] += 1  # (True, False) is no key
    assert verdicts[False, False] > 40
    assert verdicts[True, True] > 20
    assert verdicts[False, True] > 0  # choices of devices


def random_edit(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """One change in a random graph of the model: half of them harmless."""
    graph = model.graph
    for _ in range(int(rng.integers(0, 4))):  # deeper, by an If
        node = graph.node.add(op_type="If", output=["unused"])
        attribute = node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH)
        graph = attribute.graphs.add() if rng.random() < 0.5 else attribute.g
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], float_data=[1])
    if rng.random() < 0.4:
        tensor.external_data.add(key="location", value="/etc/passwd")
    if rng.random() < 0.2:
        tensor.data_location = TensorProto.EXTERNAL
    sparse = onnx.SparseTensorProto(values=tensor, indices=tensor)
    domain = str(rng.choice(["", "ai.onnx", "ai.onnx", "com.evil"]))
    node = graph.node.add(op_type="Constant", output=["c"], domain=domain)
    places: list[Callable[[], object]] = [
        lambda: graph.initializer.append(tensor),
        lambda: graph.sparse_initializer.append(sparse),
        lambda: node.attribute.add(name="value", t=tensor),
        lambda: node.attribute.add(name="values", tensors=[tensor]),
        lambda: node.attribute.add(name="sparse_value", sparse_tensor=sparse),
        lambda: node.attribute.add(name="sparse_values", sparse_tensors=[sparse]),
        lambda: graph.value_info.add(name="v"),
        lambda: graph.quantization_annotation.add(tensor_name="w"),
        lambda: node.metadata_props.add(key="namespace", value="x"),
        lambda: node.device_configurations.add(configuration_id="gpu"),
        lambda: model.functions.add(name="f") if rng.random() < 0.3 else None,
        lambda: model.training_info.add() if rng.random() < 0.3 else None,
        lambda: model.opset_import.add(domain=domain, version=1),
    ]
    places[int(rng.integers(len(places)))]()


def test_random_bytes_have_the_same_verdict(tiny: onnx.ModelProto, tmp_path: Path) -> None:
    """A byte is changed before the file is sealed, so that the digest is right: the same verdict, or a stricter one."""
    for item in tiny.metadata_props:
        if item.key == container._DIGEST_KEY:
            item.value = container._BLANK
    blank, path = tiny.SerializeToString(deterministic=True), tmp_path / "edited.onnx"
    rng = np.random.default_rng(9)
    places = [n for n in range(len(blank)) if blank[n : n + 1] not in (b"A", b"0")]  # less of the golden sample
    verdicts = {(False, False): 0, (False, True): 0, (True, True): 0}
    for place in rng.choice(places, 300, replace=False):
        copy = bytearray(blank)
        copy[place] ^= 1 << int(rng.integers(8))
        mutated = bytes(copy)
        digest = hashlib.sha256(mutated).hexdigest()
        path.write_bytes(mutated.replace(container._BLANK.encode(), digest.encode()))
        verdicts[accepted(path), verdict_by_onnx(path.read_bytes())] += 1
    assert verdicts[False, False] > 50
    assert verdicts[True, True] > 5


def test_no_second_copy_of_the_weights(tiny: onnx.ModelProto, reseal: Reseal) -> None:
    """Reading needs the file's bytes once: what is parsed and hashed are views of them."""
    import tracemalloc

    tiny.graph.initializer.add(name="large", data_type=1, dims=[2**21], raw_data=bytes(2**23))
    path = reseal(tiny)
    tracemalloc.start()
    try:
        container.read_container(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size < peak < 1.2 * path.stat().st_size

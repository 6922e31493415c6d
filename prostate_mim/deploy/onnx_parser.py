"""ONNX files without the package ``onnx``: a strict reader of their wire format that shows every part of the model.

Protobuf's own parsers are lenient: what they do not know they skip, and a field that comes twice is merged, or the last
one wins. Two of them may then see two models in one file, and what is checked is not what runs. Here every byte belongs
to a field of ``_SCHEMA``, in its one shape, or the file is refused. The bytes of weights are never copied.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from prostate_mim.errors import IntegrityError

MAX_FIELDS = 2**19
"""Exported networks have some thousand; far more would cost minutes and gigabytes."""

MAX_DEPTH = 60
"""Of messages within messages; protobuf itself stops at 100."""

# message: number, name and type of each field; * may come often. From onnx-ml.proto of IR version 14 (onnx 1.23), with
# protobuf's integers and enumerations as ``int``; a test compares it with the installed package. Numbers never change.
_SCHEMA = """
ModelProto: 1 ir_version int, 2 producer_name text, 3 producer_version text, 4 domain text, 5 model_version int,
  6 doc_string text, 7 graph GraphProto, 8 opset_import OperatorSetIdProto*, 14 metadata_props StringStringEntryProto*,
  20 training_info TrainingInfoProto*, 25 functions FunctionProto*, 26 configuration DeviceConfigurationProto*
GraphProto: 1 node NodeProto*, 2 name text, 5 initializer TensorProto*, 10 doc_string text, 11 input ValueInfoProto*,
  12 output ValueInfoProto*, 13 value_info ValueInfoProto*, 14 quantization_annotation TensorAnnotation*,
  15 sparse_initializer SparseTensorProto*, 16 metadata_props StringStringEntryProto*
NodeProto: 1 input text*, 2 output text*, 3 name text, 4 op_type text, 5 attribute AttributeProto*, 6 doc_string text,
  7 domain text, 8 overload text, 9 metadata_props StringStringEntryProto*,
  10 device_configurations NodeDeviceConfigurationProto*
AttributeProto: 1 name text, 2 f float, 3 i int, 4 s bytes, 5 t TensorProto, 6 g GraphProto, 7 floats float*,
  8 ints int*, 9 strings bytes*, 10 tensors TensorProto*, 11 graphs GraphProto*, 13 doc_string text, 14 tp TypeProto,
  15 type_protos TypeProto*, 20 type int, 21 ref_attr_name text, 22 sparse_tensor SparseTensorProto,
  23 sparse_tensors SparseTensorProto*
TensorProto: 1 dims int*, 2 data_type int, 3 segment Segment, 4 float_data float*, 5 int32_data int*,
  6 string_data bytes*, 7 int64_data int*, 8 name text, 9 raw_data bytes, 10 double_data double*, 11 uint64_data int*,
  12 doc_string text, 13 external_data StringStringEntryProto*, 14 data_location int,
  16 metadata_props StringStringEntryProto*
Segment: 1 begin int, 2 end int
SparseTensorProto: 1 values TensorProto, 2 indices TensorProto, 3 dims int*
TensorAnnotation: 1 tensor_name text, 2 quant_parameter_tensor_names StringStringEntryProto*
ValueInfoProto: 1 name text, 2 type TypeProto, 3 doc_string text, 4 metadata_props StringStringEntryProto*
TypeProto: 1 tensor_type Tensor, 4 sequence_type Sequence, 5 map_type Map, 6 denotation text, 7 opaque_type Opaque,
  8 sparse_tensor_type SparseTensor, 9 optional_type Optional
Tensor: 1 elem_type int, 2 shape TensorShapeProto
SparseTensor: 1 elem_type int, 2 shape TensorShapeProto
Sequence: 1 elem_type TypeProto
Optional: 1 elem_type TypeProto
Map: 1 key_type int, 2 value_type TypeProto
Opaque: 1 domain text, 2 name text
TensorShapeProto: 1 dim Dimension*
Dimension: 1 dim_value int, 2 dim_param text, 3 denotation text
OperatorSetIdProto: 1 domain text, 2 version int
StringStringEntryProto: 1 key text, 2 value text
TrainingInfoProto: 1 initialization GraphProto, 2 algorithm GraphProto,
  3 initialization_binding StringStringEntryProto*, 4 update_binding StringStringEntryProto*
FunctionProto: 1 name text, 4 input text*, 5 output text*, 6 attribute text*, 7 node NodeProto*, 8 doc_string text,
  9 opset_import OperatorSetIdProto*, 10 domain text, 11 attribute_proto AttributeProto*, 12 value_info ValueInfoProto*,
  13 overload text, 14 metadata_props StringStringEntryProto*
DeviceConfigurationProto: 1 name text, 2 num_devices int, 3 device text*
NodeDeviceConfigurationProto: 1 configuration_id text, 2 sharding_spec ShardingSpecProto*, 3 pipeline_stage int
ShardingSpecProto: 1 tensor_name text, 2 device int*, 3 index_to_device_group_map IntIntListEntryProto*,
  4 sharded_dim ShardedDimProto*
IntIntListEntryProto: 1 key int, 2 value int*
ShardedDimProto: 1 axis int, 2 simple_sharding SimpleShardedDimProto*
SimpleShardedDimProto: 1 dim_value int, 2 dim_param text, 3 num_shards int
"""

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_WIRE_TYPES = {"int": _VARINT, "float": _FIXED32, "double": _FIXED64}
_SIZES = {_FIXED32: 4, _FIXED64: 8}
_OVER_64_BITS = re.compile(rb"[\x80-\xff]{9}[^\x00\x01]")  # nine times 7 bits and more than the one that is left
# Of these fields a message has one; parsers keep the last.
_ONE_OF = {
    "TypeProto": {
        "tensor_type", "sequence_type", "map_type", "opaque_type", "sparse_tensor_type", "optional_type",
    },
    "Dimension": {"dim_value", "dim_param"},
    "SimpleShardedDimProto": {"dim_value", "dim_param"},
}  # fmt: skip
# FlatBuffers have a name here. ONNX Runtime and OpenVINO would take such a file for their own, whatever else it is.
_OTHERS = {b"ORTM": "ONNX Runtime's own format", b"TFL3": "TensorFlow Lite"}


class _Field(NamedTuple):
    name: str
    type: str
    many: bool


def _schema() -> dict[str, dict[int, _Field]]:
    messages: dict[str, dict[int, _Field]] = {}
    for message in re.split(r"\n(?=\w)", _SCHEMA.strip()):
        name, _, rest = message.partition(":")
        messages[name] = {}
        for number, label, kind in (part.split() for part in rest.split(",")):
            messages[name][int(number)] = _Field(label, kind.removesuffix("*"), kind.endswith("*"))
    return messages


SCHEMA = _schema()
"""Message -> number of a field -> the field."""


@dataclass(slots=True)
class Message:
    """A part of a model.

    Attributes:
        kind: its name in the schema, such as ``NodeProto``.
        fields: what the file has of it: name -> values in their order; one value where the schema has one. Messages,
            text as ``str``, ``int`` as unsigned 64 bits; bytes, floats and packed numbers as views of the file.
    """

    kind: str
    fields: dict[str, list[Any]] = field(default_factory=dict)

    def all(self, name: str) -> list[Any]:
        """The values of a field; none where the file has none."""
        return self.fields.get(name, [])

    def text(self, name: str) -> str:
        """The value of a text that comes once; empty where the file has none."""
        return str(self.fields.get(name, [""])[0])

    def walk(self) -> Iterator[Message]:
        """This message and every one within it, at any depth."""
        yield self
        for values in self.fields.values():
            for value in values:
                if isinstance(value, Message):
                    yield from value.walk()


def parse(data: bytes) -> Message:
    """A serialised ``ModelProto`` -> all of it.

    Raises:
        IntegrityError: not such a message to the last byte: truncated, or with a field that is unknown, of another
            type, or there twice; a number longer than needed; text that is not UTF-8; or too deep, or too many fields.
    """
    if data[4:8] in _OTHERS:
        raise IntegrityError(f"not an ONNX file but {_OTHERS[data[4:8]]}; export it again with prostate-mim")
    if not data:
        raise _damaged("the file is empty", 0)
    return _Reader(data).message("ModelProto", 0, len(data), 1)


def _damaged(what: str, at: int) -> IntegrityError:
    return IntegrityError(f"not an ONNX file, or damaged or truncated ({what}, byte {at}); copy or export it again")


class _Reader:
    """Positions in one file; ``left`` counts the fields that may still come."""

    def __init__(self, data: bytes) -> None:
        self.data, self.view, self.left = data, memoryview(data), MAX_FIELDS

    def message(self, kind: str, at: int, end: int, depth: int) -> Message:
        """The message in bytes ``at`` to ``end``, which it must fill."""
        if depth > MAX_DEPTH:
            raise _damaged(f"{kind} more than {MAX_DEPTH} messages deep", at)
        schema, found = SCHEMA[kind], Message(kind)
        while at < end:
            begin = at
            tag, at = self.varint(at, end)
            known = schema.get(tag >> 3)
            if known is None:
                raise _damaged(f"{kind} has a field {tag >> 3} that this version does not know", begin)
            values = found.fields.setdefault(known.name, [])
            if values and not known.many:
                raise _damaged(f"{kind} has two of {known.name}", begin)
            self.left -= 1
            if self.left < 0:
                raise _damaged(f"more than {MAX_FIELDS} fields", begin)
            value, at = self.value(known, tag & 7, at, end, depth)
            values.append(value)
        if len(_ONE_OF.get(kind, set()) & found.fields.keys()) > 1:
            raise _damaged(f"{kind} is two things at once", end)
        return found

    def value(self, known: _Field, wire_type: int, at: int, end: int, depth: int) -> tuple[Any, int]:
        """The value at a position, and where it ends."""
        expected = _WIRE_TYPES.get(known.type, _LENGTH)
        packed = known.many and expected != _LENGTH and wire_type == _LENGTH
        if wire_type != expected and not packed:
            raise _damaged(f"{known.name} has wire type {wire_type}, not {expected}", at)
        if wire_type == _VARINT:
            return self.varint(at, end)
        length, at = self.varint(at, end) if wire_type == _LENGTH else (_SIZES[wire_type], at)
        stop = at + length
        if stop > end:
            raise _damaged(f"{known.name} of {length} bytes goes beyond its end", at)
        if packed:
            self.check_packed(known, expected, at, stop)
        elif known.type == "text":
            return self.text(known, at, stop), stop
        elif known.type in SCHEMA:
            return self.message(known.type, at, stop, depth + 1), stop
        return self.view[at:stop], stop

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """An unsigned number of at most 64 bits in as few bytes as it needs, and where it ends."""
        begin, value = at, 0
        while at < end and at < begin + 10:
            byte = self.data[at]
            value |= (byte & 0x7F) << 7 * (at - begin)
            at += 1
            if byte < 0x80:
                if value >= 2**64 or (byte == 0 and at > begin + 1):
                    break
                return value, at
        raise _damaged("a number that has no end or is longer than needed", begin)

    def text(self, known: _Field, at: int, stop: int) -> str:
        """Decoded; protobuf would leave it open what damaged text means."""
        try:
            return str(self.view[at:stop], "utf-8")
        except UnicodeDecodeError:
            raise _damaged(f"{known.name} is not UTF-8", at) from None

    def check_packed(self, known: _Field, expected: int, at: int, stop: int) -> None:
        """Numbers without tags between them: whole ones only."""
        if expected == _VARINT:
            whole = at == stop or self.data[stop - 1] < 0x80
            whole = whole and _OVER_64_BITS.search(self.data, at, stop) is None
        else:
            whole = (stop - at) % _SIZES[expected] == 0
        if not whole:
            raise _damaged(f"{known.name} holds a part of a number", at)

"""Header and Sample: the two records inside a prostate-mim .onnx, each a closed JSON schema. No torch."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from prostate_mim.errors import IntegrityError
from prostate_mim.spec import InputSpec

FloatArray = npt.NDArray[np.float32]

FORMAT = 2  # 1: no terms, no digest of the weights, no precision, no fixed size
MOST_LESIONS = 8
"""Of one study in one batch: what a session gathers, and what TensorRT and Triton plan for."""
INPUT = "voxels"
PLACE = ("affine", "position_mm_lps")
"""Further inputs of a file that holds the whole pipeline: (4, 4) and (N, 3) float64."""
OUTPUTS = {"classifier": ("logit", "probability"), "encoder": ("embedding", "features")}
HEADER_KEY, GOLDEN_KEY = "prostate_mim", "golden"
EXPORT_AGAIN = "export it again with this version of prostate-mim"
PRECISIONS = ("float32", "float16")

_HEADER_KEYS = {
    "format", "kind", "name", "revision", "weights_sha256", "license", "data_licenses", "spec", "spec_fingerprint",
    "stride_zyx", "size_zyx", "precision", "full_graph", "library_version",
}  # fmt: skip
_OPTIONAL = "whole_study"  # written where it is true
_TEXTS = ("kind", "name", "revision", "weights_sha256", "license", "spec_fingerprint", "precision", "library_version")


@dataclass(frozen=True)
class Header:
    """What the file is.

    Attributes:
        kind: ``classifier`` or ``encoder``.
        name, revision: of the model, as predictions repeat them.
        weights_sha256: of the ``model.safetensors`` that the weights are, or would be saved as.
        license: of the weights; ``unstated`` where nobody said it.
        data_licenses: of the data they were made of, by its name.
        spec: the input contract.
        stride_zyx: input sizes must be multiples of it (voxels).
        size_zyx: the only input size (voxels), of a file for one size; None where every size is taken.
        precision: of weights and activations, ``float32`` or ``float16``; input and outputs are float32.
        full_graph: its input is a study, and resampling, cropping and z-scoring are in the graph; else crops.
        library_version: of the prostate-mim that wrote the file.
        whole_study: a classifier that pools over the whole crop, where the middle counts no more than the rest.
    """

    kind: str
    name: str
    revision: str
    weights_sha256: str
    license: str
    data_licenses: Mapping[str, str]
    spec: InputSpec
    stride_zyx: tuple[int, int, int]
    size_zyx: tuple[int, int, int] | None
    precision: str
    full_graph: bool
    library_version: str
    whole_study: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """Of the graph, by name."""
        return (INPUT, *PLACE) if self.full_graph else (INPUT,)

    def to_json(self) -> str:
        """The ``prostate_mim`` entry."""
        values = {
            "format": FORMAT,
            "kind": self.kind,
            "name": self.name,
            "revision": self.revision,
            "weights_sha256": self.weights_sha256,
            "license": self.license,
            "data_licenses": dict(self.data_licenses),
            "spec": self.spec.to_dict(),
            "spec_fingerprint": self.spec.fingerprint,
            "stride_zyx": list(self.stride_zyx),
            "size_zyx": None if self.size_zyx is None else list(self.size_zyx),
            "precision": self.precision,
            "full_graph": self.full_graph,
            "library_version": self.library_version,
        }
        return json.dumps(values | ({_OPTIONAL: True} if self.whole_study else {}), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Header:
        """Read the closed schema.

        Raises:
            IntegrityError: a newer format, or not exactly what ``to_json`` writes.
        """
        values = _json_object(text, HEADER_KEY)
        found = values.get("format")
        if isinstance(found, int) and found > FORMAT:
            raise IntegrityError(f"format {found} is newer than this version reads ({FORMAT}); upgrade prostate-mim")
        whole_study = _OPTIONAL in values
        known = values.pop(_OPTIONAL, True) is True and set(values) == _HEADER_KEYS
        if found != FORMAT or not known or not all(isinstance(values[key], str) for key in _TEXTS):
            raise IntegrityError(f"metadata {HEADER_KEY!r} has missing or unknown fields; {EXPORT_AGAIN}")
        for key, allowed in (("kind", tuple(OUTPUTS)), ("precision", PRECISIONS)):
            if values[key] not in allowed:
                raise IntegrityError(f"{key} {values[key][:40]!r} is none of {', '.join(allowed)}; {EXPORT_AGAIN}")
        if type(values["full_graph"]) is not bool:
            raise IntegrityError(f"full_graph is neither true nor false; {EXPORT_AGAIN}")
        data = values["data_licenses"]
        if not isinstance(data, dict) or not all(isinstance(said, str) for said in data.values()):
            raise IntegrityError(f"data_licenses is not a table of names and licences; {EXPORT_AGAIN}")
        stride = _triple(values["stride_zyx"], "stride_zyx")
        size = None if values["size_zyx"] is None else _triple(values["size_zyx"], "size_zyx")
        if size is not None and any(n % s for n, s in zip(size, stride, strict=True)):
            raise IntegrityError(f"size_zyx {size} is no multiple of the stride {stride}; {EXPORT_AGAIN}")
        return cls(
            values["kind"], values["name"], values["revision"], values["weights_sha256"], values["license"], data,
            _spec(values), stride, size, values["precision"], values["full_graph"], values["library_version"],
            whole_study,
        )  # fmt: skip


def _spec(values: Mapping[str, Any]) -> InputSpec:
    try:
        spec = InputSpec.from_dict(values["spec"])
    except (TypeError, ValueError, OverflowError) as error:  # NaN and Infinity, which Python's JSON reads
        raise IntegrityError(f"the input contract holds impossible numbers; {EXPORT_AGAIN}") from error
    if spec.fingerprint != values["spec_fingerprint"]:
        raise IntegrityError(
            f"spec has fingerprint {spec.fingerprint}, expected {values['spec_fingerprint'][:16]!r}: the input "
            f"contract was edited; {EXPORT_AGAIN}"
        )
    return spec


def _triple(values: Any, name: str) -> tuple[int, int, int]:
    z, y, x = _positive_integers(values, name, 3)
    return z, y, x


@dataclass(frozen=True)
class Sample:
    """An input and what the model gives for it.

    Attributes:
        voxels: (N, C, D, H, W) float32, or (z, y, x) of a whole study; exactly representable in float16 where it is
            stored.
        outputs: by name of the graph's output, float32.
        place: of a whole study, the inputs of ``PLACE`` by name, float64.
    """

    voxels: FloatArray
    outputs: Mapping[str, FloatArray]
    place: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)

    def difference(self, found: Mapping[str, FloatArray]) -> float:
        """Largest absolute difference over all outputs, in units of max(1, largest absolute expected value).

        Float32 cannot be more exact than relative to the size of a number, hence the unit. Infinite where an
        output is missing, has another shape, or is not finite.
        """
        worst = 0.0
        for name, expected in self.outputs.items():
            got = found.get(name)
            if got is None or got.shape != expected.shape:
                return math.inf
            unit = max(1.0, float(np.abs(expected).max()))
            gap = float(np.abs(got.astype(np.float64) - expected).max()) / unit
            worst = max(worst, gap) if math.isfinite(gap) else math.inf
        return worst

    def to_json(self) -> str:
        """The ``golden`` entry."""
        outputs = {name: _packed(value, "<f4") for name, value in self.outputs.items()}
        place = {name: _packed(value, "<f8") for name, value in self.place.items()}
        return json.dumps({"input": _packed(self.voxels, "<f2"), "outputs": outputs, "place": place}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, header: Header) -> Sample:
        """Read the closed schema.

        Raises:
            IntegrityError: not exactly what ``to_json`` writes for a file with this header.
        """
        values = _json_object(text, GOLDEN_KEY)
        outputs, place = values.get("outputs"), values.get("place")
        asked = {"outputs": (outputs, OUTPUTS[header.kind]), "place": (place, header.inputs[1:])}
        known = all(isinstance(found, dict) and set(found) == set(names) for found, names in asked.values())
        if set(values) != {"input", *asked} or not known:
            raise IntegrityError(f"metadata {GOLDEN_KEY!r} has missing or unknown fields; {EXPORT_AGAIN}")
        voxels = _unpacked(values["input"], "<f2").astype(np.float32)
        axes, channels = 3 if header.full_graph else 5, len(header.spec.channels)
        if voxels.ndim != axes:
            raise IntegrityError(f"golden input has {voxels.ndim} axes, expected {axes}; {EXPORT_AGAIN}")
        if not header.full_graph and voxels.shape[1] != channels:
            raise IntegrityError(f"golden input has {voxels.shape[1]} channels, expected {channels}; {EXPORT_AGAIN}")
        found = {name: _unpacked(value, "<f4").astype(np.float32) for name, value in (outputs or {}).items()}
        placed = {name: _unpacked(value, "<f8").astype(np.float64) for name, value in (place or {}).items()}
        if placed and (placed["affine"].shape != (4, 4) or placed["position_mm_lps"].shape[1:] != (3,)):
            raise IntegrityError(f"golden place is not (4, 4) and (N, 3); {EXPORT_AGAIN}")
        return cls(voxels, found, placed)


def _json_object(text: str, name: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"metadata {name!r} is not valid JSON; {EXPORT_AGAIN}") from error
    if not isinstance(values, dict):
        raise IntegrityError(f"metadata {name!r} is not a JSON object; {EXPORT_AGAIN}")
    return values


def _positive_integers(values: Any, name: str, count: int) -> list[int]:
    good = isinstance(values, list) and len(values) == count
    if not good or not all(type(n) is int and 0 < n < 2**20 for n in values):
        raise IntegrityError(f"{name} = {str(values)[:80]}: expected {count} positive whole numbers; {EXPORT_AGAIN}")
    return list(values)


def _packed(values: npt.NDArray[Any], dtype: str) -> dict[str, Any]:
    raw = np.ascontiguousarray(values.astype(dtype))
    return {"shape": list(values.shape), "data": base64.b64encode(raw.tobytes()).decode()}


def _unpacked(packed: Any, dtype: str) -> npt.NDArray[Any]:
    if not isinstance(packed, dict) or set(packed) != {"shape", "data"} or not isinstance(packed["shape"], list):
        raise IntegrityError(f"metadata {GOLDEN_KEY!r} holds something that is no array; {EXPORT_AGAIN}")
    shape = _positive_integers(packed["shape"], "golden shape", len(packed["shape"]))
    try:
        raw = base64.b64decode(packed["data"], validate=True)
        return np.frombuffer(raw, dtype).reshape(shape)
    except (TypeError, ValueError, binascii.Error) as error:
        raise IntegrityError(f"metadata {GOLDEN_KEY!r} holds a damaged array; {EXPORT_AGAIN}") from error

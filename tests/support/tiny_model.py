"""A sealed ONNX file of four nodes, for tests that damage one many times."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from prostate_mim.deploy import container
from prostate_mim.deploy.contract import Header, Sample
from prostate_mim.spec import InputSpec


def sealed_tiny(spec: InputSpec, shift: float = 0.0) -> bytes:
    """The bytes of a classifier of one channel; ``shift`` is by how much its golden logit is off."""
    voxels = np.linspace(0, 1, 8, dtype=np.float16).astype(np.float32).reshape(1, 1, 2, 2, 2)
    logit = np.array([3 * voxels.mean() + shift], np.float32)
    golden = Sample(voxels, {"logit": logit, "probability": 1 / (1 + np.exp(-logit))})
    header = Header(
        "classifier", "tiny", "0123456789abcdef", "0" * 64, "unstated", {}, spec, (1, 1, 1), None, "float32", False, "0"
    )
    return container.seal(tiny_graph(), header, golden)


def tiny_graph() -> onnx.ModelProto:
    """Logit = 3 x mean of the voxels, as a graph of four nodes."""
    voxels = helper.make_tensor_value_info("voxels", TensorProto.FLOAT, ["batch", 1, "depth", "height", "width"])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch"]) for name in ("logit", "probability")]
    weights = [
        helper.make_tensor("axes", TensorProto.INT64, [4], np.array([1, 2, 3, 4], "<i8").tobytes(), raw=True),
        helper.make_tensor("factor", TensorProto.FLOAT, [1], np.array([3], "<f4").tobytes(), raw=True),
    ]
    nodes = [
        helper.make_node("ReduceMean", ["voxels", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "factor"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    graph = helper.make_graph(nodes, "tiny", [voxels], outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)

"""A torch graph -> an ``onnx.ModelProto`` with weights inside, and nothing about the machine it was traced on."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prostate_mim.deploy.contract import INPUT, OUTPUTS, PLACE, Header
from prostate_mim.deploy.samples import smooth, smooth_study
from prostate_mim.errors import BackendError
from prostate_mim.spec import InputSpec

OPSET = 20
_AXES = {0: "batch", 2: "depth", 3: "height", 4: "width"}


def trace(graph: nn.Module, header: Header, path: Path, begin: Callable[[str], None]) -> Any:
    """The graph as an ``onnx.ModelProto``; of a file for one size, only the batch is dynamic.

    Args:
        path: of the file to be, for messages.
        begin: told what begins, ``steps_of`` times.

    Raises:
        BackendError: torch cannot trace it.
    """
    example, axes = _of_studies() if header.full_graph else _of_crops(header)
    try:
        with _quiet(), _told(graph, begin):
            program = torch.onnx.export(
                graph,
                example,
                dynamo=True,
                external_data=False,
                opset_version=OPSET,
                input_names=list(header.inputs),
                output_names=list(OUTPUTS[header.kind]),
                dynamic_shapes={
                    key: {axis: torch.export.Dim(name) for axis, name in named.items()} for key, named in axes.items()
                },
                verbose=False,
            )
            assert program is not None  # noqa: S101 - dynamo=True always returns one
            traced = program.model_proto
    except Exception as error:  # the exporter wraps whatever torch.export raised
        reason = " ".join(str(error).split())[:300]
        raise BackendError(f"{path}: torch cannot export this model ({reason}); try another torch") from error
    return _anonymous(traced)


def steps_of(graph: nn.Module) -> int:
    """How many steps ``trace`` tells of: one for each encoder, and the translation into ONNX."""
    return len(_encoders(graph)) + 1


def _encoders(graph: nn.Module) -> list[nn.Module]:
    """The encoder of each member, as they are called."""
    named = (one for one in graph.modules() if isinstance(getattr(one, "spec", None), InputSpec))
    return [one for one in named if hasattr(one, "encoder") and not hasattr(one, "head")]


@contextmanager
def _told(graph: nn.Module, begin: Callable[[str], None]) -> Iterator[None]:
    """Say which encoder torch is at, when it is called; the translation begins when the graph was run through."""
    encoders, said = _encoders(graph), set[str]()

    def tell(what: str) -> None:
        if what not in said:  # torch may run through the graph again
            said.add(what)
            begin(what)

    def at(number: int) -> Callable[..., None]:
        return lambda *_: tell(f"tracing model {number} of {len(encoders)}")

    hooks = [one.register_forward_pre_hook(at(number)) for number, one in enumerate(encoders, 1)]
    hooks.append(graph.register_forward_hook(lambda *_: tell("translating into ONNX, the longest step")))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


# Sizes that differ on every axis, and none of them 1: torch.export would take a 1 for a constant.


def _of_crops(header: Header) -> tuple[tuple[Tensor, ...], dict[str, dict[int, str]]]:
    (z, y, x), channels = header.stride_zyx, len(header.spec.channels)
    example = torch.from_numpy(smooth((2, channels, *(header.size_zyx or (2 * z, 4 * y, 3 * x)))))
    return (example,), {INPUT: _AXES if header.size_zyx is None else {0: "batch"}}


def _of_studies() -> tuple[tuple[Tensor, ...], dict[str, dict[int, str]]]:
    study = smooth_study()
    positions = torch.from_numpy(np.stack([study.centre_mm_lps, study.centre_mm_lps + 1]))
    example = torch.from_numpy(study.voxels), torch.from_numpy(study.geometry.affine), positions
    return example, {INPUT: {0: "slices", 1: "rows", 2: "columns"}, PLACE[0]: {}, PLACE[1]: {0: "batch"}}


def _anonymous(model: Any) -> Any:
    """Drop debug notes: torch's exporter records, for every node, source paths of the machine it ran on."""
    for graph in every_graph(model.graph):
        del graph.metadata_props[:]
        del graph.value_info[:]
        graph.doc_string = ""
        for item in (*graph.node, *graph.initializer, *graph.input, *graph.output):
            del item.metadata_props[:]
            item.doc_string = ""
    model.doc_string = ""
    return model


def every_graph(graph: Any) -> Iterator[Any]:
    """A graph and every graph nested in its nodes (the bodies of If, Loop, Scan)."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from every_graph(inner)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's notes about torchvision and about its own deprecations."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

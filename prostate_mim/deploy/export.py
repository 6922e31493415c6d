"""PyTorch -> one verified .onnx: traced, sealed, read back, run and compared, and only then moved into place."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from prostate_mim._version import __version__
from prostate_mim.deploy.container import graphs, read_container, seal
from prostate_mim.deploy.contract import INPUT, OUTPUTS, Header, Sample
from prostate_mim.deploy.runtime import Runtime
from prostate_mim.errors import BackendError, UsageError, VerificationError
from prostate_mim.files import atomic_path
from prostate_mim.spec import InputSpec

OPSET = 20
_AXES = {0: "batch", 2: "depth", 3: "height", 4: "width"}


class _Strided(Protocol):
    total_stride_zyx: tuple[int, int, int]


class Exportable(Protocol):
    """What a PreMIM and a LesionClassifier have in common; both are ``torch.nn.Module``."""

    spec: InputSpec
    name: str
    revision: str


def export_onnx(model: nn.Module, path: str | Path, *, tolerance: float = 1e-5, sample: Tensor | None = None) -> Path:
    """Write a self-contained ONNX file of a ``LesionClassifier`` or a ``PreMIM``.

    The file holds weights, input contract and a golden sample, and no path of this machine. Input ``voxels``
    (batch, C, depth, height, width) float32 with a channel for each of the spec's (the image z-scored, masks as 0 and
    1), every axis but the channel dynamic. A classifier gives
    ``logit`` (batch,) and ``probability`` (batch,); an encoder gives ``embedding`` (batch, C) and ``features``
    (batch, C, d, h, w), its last stage. The given model is copied, so its mode, type and device stay as they are.

    Before the file appears it is read back by the reader that deployment uses, and ONNX Runtime on the CPU is
    compared with torch on the golden sample, on a batch of three of another size, and on one crop of the spec's
    size.

    Args:
        model: a ``LesionClassifier`` or a ``PreMIM``.
        path: ends in ``.onnx``; its folder exists.
        tolerance: largest absolute difference allowed, in units of max(1, largest expected value) of an output.
        sample: golden input (1, C, D, H, W), exactly representable in float16; a smooth synthetic one if None.

    Returns:
        The path written.

    Raises:
        UsageError: not such a model, a bad path or sample, or a folder that cannot be written.
        VerificationError: ONNX Runtime does not reproduce torch; nothing is written.
        BackendError: torch cannot trace the model, or ONNX Runtime is missing.
        ResourceError: the disk is full; nothing is left behind.
    """
    final = Path(path)
    if final.suffix != ".onnx" or final.is_dir():
        raise UsageError(f"{final}: an exported model is a file named *.onnx; choose such a name")
    header, network = _describe(model)
    golden = _golden_voxels(header, sample, final)
    with atomic_path(final) as temporary:
        temporary.write_bytes(seal(_trace(network, header, final), header, _expected(network, header, golden)))
        _verify(temporary, network, header, tolerance, final)
    return final


class _ClassifierGraph(nn.Module):
    """Voxels -> logit and probability, so that nobody has to guess the link function."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, voxels: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, D, H, W) -> (N,) logit, (N,) probability."""
        logit: Tensor = self.model(voxels)
        return logit, torch.sigmoid(logit)


class _EncoderGraph(nn.Module):
    """Voxels -> pooled vector and last stage."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, voxels: Tensor) -> tuple[Tensor, Tensor]:
        """(N, channels, D, H, W) -> (N, C) embedding, (N, C, d, h, w) features."""
        stages: list[Tensor] = self.model(voxels)
        return cast(Any, self.model).pool(stages), stages[-1]


def _describe(model: nn.Module) -> tuple[Header, nn.Module]:
    """The header, and a float32 copy on the CPU in evaluation mode, wrapped to give the named outputs."""
    described = cast(Exportable, model)
    parts = [part for part in ("head", "pool") if hasattr(model, part)]
    if not isinstance(getattr(model, "spec", None), InputSpec) or not parts:
        raise UsageError(f"a {type(model).__name__} cannot be exported; give a LesionClassifier or a PreMIM")
    network = copy.deepcopy(model).cpu().float().eval()
    kind = "classifier" if "head" in parts else "encoder"
    inner = cast(Any, model).encoder
    strided = cast(_Strided, inner.encoder if kind == "classifier" else inner)
    header = Header(kind, described.name, described.revision, described.spec, strided.total_stride_zyx, __version__)
    return header, _ClassifierGraph(network) if kind == "classifier" else _EncoderGraph(network)


def _golden_voxels(header: Header, sample: Tensor | None, path: Path) -> Tensor:
    (z, y, x), channels = header.stride_zyx, len(header.spec.channels)
    if sample is None:
        return _smooth((1, channels, 2 * z, 4 * y, 4 * x))
    voxels = sample.detach().cpu().float()
    divisible = voxels.ndim == 5 and all(n and n % s == 0 for n, s in zip(voxels.shape[2:], (z, y, x), strict=True))
    if not divisible or voxels.shape[:2] != (1, channels) or not torch.equal(voxels.half().float(), voxels):
        raise UsageError(
            f"{path}: golden sample of shape {tuple(sample.shape)} must be (1, {channels}, D, H, W), a multiple of the "
            f"stride {header.stride_zyx}, and exactly representable in float16"
        )
    return voxels


def _smooth(shape: tuple[int, int, int, int, int]) -> Tensor:
    """(N, C, D, H, W) different for each item, representable in float16; no patient in it.

    The first channel is a sum of plane waves, the others, masks, are 0 and 1.
    """
    rng = np.random.default_rng(20221229)
    grid = np.stack(np.meshgrid(*map(np.arange, shape[2:]), indexing="ij"), -1)
    items = []
    for _ in range(shape[0]):
        waves = rng.normal(size=(6, 3)) * (1.2, 0.15, 0.15)
        image = np.sin(grid @ waves.T + rng.uniform(0, 6, 6)).sum(-1) / np.sqrt(3)
        items.append(np.stack([image, *(np.roll(image, number, 2) > 0 for number in range(1, shape[1]))]))
    return torch.from_numpy(np.stack(items).astype(np.float16).astype(np.float32))


def _expected(network: nn.Module, header: Header, voxels: Tensor) -> Sample:
    """What torch gives for an input."""
    with torch.inference_mode():
        outputs = [value.numpy() for value in network(voxels)]
    return Sample(voxels.numpy(), dict(zip(OUTPUTS[header.kind], outputs, strict=True)))


def _trace(network: nn.Module, header: Header, path: Path) -> Any:
    """The network as an ``onnx.ModelProto`` with weights inside and nothing about this machine."""
    (z, y, x), channels = header.stride_zyx, len(header.spec.channels)
    # Sizes that differ on every axis, and none of them 1: torch.export would take a 1 for a constant.
    example = _smooth((2, channels, 2 * z, 4 * y, 3 * x))
    try:
        with _quiet():
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                external_data=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(OUTPUTS[header.kind]),
                dynamic_shapes={INPUT: {axis: torch.export.Dim(name) for axis, name in _AXES.items()}},
                verbose=False,
            )
            assert program is not None  # noqa: S101 - dynamo=True always returns one
            traced = program.model_proto
    except Exception as error:  # the exporter wraps whatever torch.export raised
        reason = " ".join(str(error).split())[:300]
        raise BackendError(f"{path}: torch cannot export this model ({reason}); try another torch") from error
    return _anonymous(traced)


def _anonymous(model: Any) -> Any:
    """Drop debug notes: torch's exporter records, for every node, source paths of the machine it ran on."""
    for graph in graphs(model.graph):
        del graph.metadata_props[:]
        del graph.value_info[:]
        graph.doc_string = ""
        for item in (*graph.node, *graph.initializer, *graph.input, *graph.output):
            del item.metadata_props[:]
            item.doc_string = ""
    model.doc_string = ""
    return model


def _verify(written: Path, network: nn.Module, header: Header, tolerance: float, path: Path) -> None:
    """Read the file back as deployment does, run it, and compare it with torch.

    Raises:
        VerificationError: it is not valid ONNX, or an output differs by more than ``tolerance``.
    """
    import onnx

    container = read_container(written)
    try:
        onnx.checker.check_model(container.data, full_check=True)
    except Exception as error:  # ValidationError and InferenceError have no common base
        raise VerificationError(f"{path}: the exported graph is not valid ONNX ({str(error)[:200]!r})") from error
    runtime = Runtime(container.data, "cpu", str(path))
    (z, y, x), channels = header.stride_zyx, len(header.spec.channels)
    others = _smooth((3, channels, 3 * z, 2 * y, 5 * x)), _smooth((1, channels, *header.spec.size_zyx))
    for expected in (container.golden, *(_expected(network, header, voxels) for voxels in others)):
        difference = expected.difference(runtime.run(expected.voxels))
        if not difference <= tolerance:
            raise VerificationError(
                f"{path}: ONNX Runtime differs from torch by {difference:.2e} (allowed {tolerance:g}) for an input of "
                f"{expected.voxels.shape}; nothing was written, try another onnxruntime or torch version"
            )


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

"""PyTorch -> one verified .onnx: traced, sealed, read back, run and compared, and only then moved into place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from prostate_mim._version import __version__
from prostate_mim.deploy.container import read_container, seal
from prostate_mim.deploy.contract import OUTPUTS, FloatArray, Header, Sample
from prostate_mim.deploy.graph import HalfGraph, for_engines, graph_of
from prostate_mim.deploy.pipeline import StudyGraph
from prostate_mim.deploy.runtime import open_runtime
from prostate_mim.deploy.samples import PHANTOMS, phantom_inputs, phantom_studies, smooth, smooth_study
from prostate_mim.deploy.trace import steps_of, trace
from prostate_mim.errors import UsageError, VerificationError
from prostate_mim.files import atomic_path
from prostate_mim.hub.registry import terms_of
from prostate_mim.manifest import Point
from prostate_mim.preprocess import prepare_input
from prostate_mim.spec import SINGLE_SLICE, InputSpec
from prostate_mim.volume import Volume

TOLERANCE = {"float32": 1e-5, "float16": 5e-3}
"""Largest difference from torch in float32 that an exported file may have on the CPU, by its precision."""
Size = tuple[int, int, int]
Progress = Callable[[int, int, str], None]
"""Told how many steps are done, of how many, and what is done now."""


class _Strided(Protocol):
    total_stride_zyx: Size


class Exportable(Protocol):
    """What a PreMIM and a LesionClassifier have in common; both are ``torch.nn.Module``."""

    spec: InputSpec
    name: str
    revision: str

    def weights_sha256(self) -> str:
        """See ``hub.weights.weights_digest``."""


def export_onnx(
    model: nn.Module,
    path: str | Path,
    *,
    half: bool = False,
    static_zyx: Size | None = None,
    full_graph: bool = False,
    tolerance: float | None = None,
    sample: Tensor | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a self-contained ONNX file of a ``LesionClassifier`` or a ``PreMIM``.

    The file holds weights, input contract, terms and a golden sample, and no path of this machine. Input ``voxels``
    (batch, C, depth, height, width) float32 with a channel for each of the spec's (the image z-scored, masks as 0 and
    1), every axis but the channel dynamic. A classifier gives
    ``logit`` (batch,) and ``probability`` (batch,); an encoder gives ``embedding`` (batch, C) and ``features``
    (batch, C, d, h, w), its last stage. The given model is copied, so its mode, type and device stay as they are.

    Before the file appears it is read back by the reader that deployment uses, and ONNX Runtime on the CPU is
    compared with torch in float32 on the golden sample, on a batch of three of another size, and on the crops of
    twelve phantoms.

    Args:
        model: a ``LesionClassifier`` or a ``PreMIM``.
        path: ends in ``.onnx``; its folder exists.
        half: weights and activations in float16, for GPUs; input and outputs stay float32.
        static_zyx: crops of this size only (voxels), for engines that plan for one size; it replaces that of the spec.
            The batch stays dynamic.
        full_graph: the whole pipeline: ``voxels`` are a study (z, y, x), beside them ``affine`` (4, 4) and
            ``position_mm_lps`` (batch, 3), float64, and outputs are NaN where ``preprocess`` refuses. For specs without
            masks; compared with ``preprocess`` and torch, on whole phantoms.
        tolerance: largest absolute difference allowed, in units of max(1, largest expected value) of an output;
            ``TOLERANCE`` of the precision if None.
        sample: golden input (1, C, D, H, W), exactly representable in float16; a smooth synthetic one if None.
        progress: told what is done, as an ensemble takes minutes; nobody if None.

    Returns:
        The path written.

    Raises:
        UsageError: not such a model, a bad path, size or sample, or a folder that cannot be written.
        VerificationError: ONNX Runtime does not reproduce torch; nothing is written.
        BackendError: torch cannot trace the model, or ONNX Runtime is missing.
        ResourceError: the disk is full; nothing is left behind.
    """
    final = Path(path)
    if final.suffix != ".onnx" or final.is_dir():
        raise UsageError(f"{final}: an exported model is a file named *.onnx; choose such a name")
    if full_graph and (static_zyx is not None or sample is not None):
        raise UsageError(f"{final}: a file that takes studies has no fixed size and a golden sample of its own")
    header = _describe(model, half, static_zyx, full_graph)
    graph = graph_of(model, header.kind)
    golden = _expected_of_study(graph, header, *_golden_study()) if full_graph else _expected(
        graph, header, _golden_voxels(header, sample, final)
    )  # fmt: skip
    engine_form = HalfGraph(for_engines(graph)) if half else for_engines(graph)
    with atomic_path(final) as temporary:  # first, so that a path that cannot be written costs no tracing
        whole = StudyGraph(engine_form, header.spec) if full_graph else engine_form
        steps = _Steps(steps_of(whole) + 1 + len(_compared(header)), progress)
        traced = trace(whole, header, final, steps.begin)
        steps.begin("writing and checking the file")
        temporary.write_bytes(seal(traced, header, golden))
        allowed = TOLERANCE[header.precision] if tolerance is None else tolerance
        _verify(temporary, graph, header, allowed, final, steps.begin)
    steps.end()
    return final


class _Steps:
    """How far an export is: told at the beginning of every step."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._begun, self._total, self._progress = 0, total, progress

    def begin(self, what: str) -> None:
        """The step before is done, and this one begins."""
        if self._progress is not None:
            self._progress(self._begun, self._total, what)
        self._begun += 1

    def end(self) -> None:
        """The last one is done."""
        if self._progress is not None:
            self._progress(self._total, self._total, "exported")


def _describe(model: nn.Module, half: bool, size: Size | None, full_graph: bool) -> Header:
    """The header of the file to be."""
    parts = [part for part in ("head", "pool") if hasattr(model, part)]
    if not isinstance(getattr(model, "spec", None), InputSpec) or not parts:
        raise UsageError(f"a {type(model).__name__} cannot be exported; give a LesionClassifier or a PreMIM")
    described, kind = cast(Exportable, model), "classifier" if "head" in parts else "encoder"
    inner = cast(Any, model).encoder
    stride = cast(_Strided, inner.encoder if kind == "classifier" else inner).total_stride_zyx
    if size is not None and any(n <= 0 or n % s for n, s in zip(size, stride, strict=True)):
        raise UsageError(f"a fixed size of {size} voxels is no multiple of the stride {stride} of {described.name}")
    spec = described.spec if size is None else described.spec.with_size(size)
    if full_graph and (spec.masks or spec.single_slice != SINGLE_SLICE[0]):
        raise UsageError(f"{described.name}: masks and repeated single slices are prepared outside of a graph; leave "
                         "the full graph away")  # fmt: skip
    digest = described.weights_sha256()
    license, data = terms_of(described.name, digest, kind)
    return Header(
        kind=kind, name=described.name, revision=described.revision, weights_sha256=digest, license=license,
        data_licenses=data, spec=spec, stride_zyx=stride, size_zyx=size,
        precision="float16" if half else "float32", full_graph=full_graph, library_version=__version__,
        whole_study=kind == "classifier" and bool(cast(Any, model).layout.whole_study),
    )  # fmt: skip


def _golden_voxels(header: Header, sample: Tensor | None, path: Path) -> FloatArray:
    (z, y, x), channels = header.stride_zyx, len(header.spec.channels)
    if sample is None:
        return smooth((1, channels, *(header.size_zyx or (2 * z, 4 * y, 4 * x))))
    voxels = sample.detach().cpu().float()
    divisible = voxels.ndim == 5 and all(n and n % s == 0 for n, s in zip(voxels.shape[2:], (z, y, x), strict=True))
    fits = divisible and header.size_zyx in (None, tuple(voxels.shape[2:]))
    if not fits or voxels.shape[:2] != (1, channels) or not torch.equal(voxels.half().float(), voxels):
        raise UsageError(
            f"{path}: golden sample of shape {tuple(sample.shape)} must be (1, {channels}, D, H, W), a multiple of the "
            f"stride {header.stride_zyx} (or the fixed size), and exactly representable in float16"
        )
    return cast(FloatArray, voxels.numpy())


def _expected(graph: nn.Module, header: Header, voxels: FloatArray) -> Sample:
    """What torch gives for an input."""
    with torch.inference_mode():
        outputs = [value.numpy() for value in graph(torch.from_numpy(voxels))]
    return Sample(voxels, dict(zip(OUTPUTS[header.kind], outputs, strict=True)))


def _golden_study() -> tuple[Volume, list[Point]]:
    volume = smooth_study()
    x, y, z = (float(v) for v in volume.centre_mm_lps)
    return volume, [(x, y, z), (x + 4.0, y - 3.0, z + 2.0)]


def _expected_of_study(graph: nn.Module, header: Header, volume: Volume, positions: list[Point]) -> Sample:
    """What ``preprocess`` and torch give for lesions of a study."""
    crops = np.stack([prepare_input(volume, header.spec, position) for position in positions])
    place = {"affine": volume.geometry.affine, "position_mm_lps": np.asarray(positions, np.float64)}
    return Sample(volume.voxels.astype(np.float32), _expected(graph, header, crops).outputs, place)


def _compared(header: Header) -> list[str]:
    """What is compared with torch, in the order of the golden sample and ``_others``."""
    phantoms = [f"phantom {number} of {PHANTOMS}" for number in range(1, PHANTOMS + 1)]
    return ["golden sample", *([] if header.full_graph else ["another size"]), *phantoms]


def _others(graph: nn.Module, header: Header) -> Iterator[Sample]:
    """What is compared beside the golden sample: other sizes, and twelve phantoms."""
    if header.full_graph:
        for volume, position in phantom_studies():
            yield _expected_of_study(graph, header, volume, [position])
        return
    (z, y, x), channels = header.stride_zyx, len(header.spec.channels)
    batch = smooth((3, channels, *(header.size_zyx or (3 * z, 2 * y, 5 * x))))
    for voxels in (batch, *phantom_inputs(header.spec)[:, None]):
        yield _expected(graph, header, voxels)


def _verify(
    written: Path, graph: nn.Module, header: Header, tolerance: float, path: Path, begin: Callable[[str], None]
) -> None:
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
    runtime = open_runtime(container, "cpu", str(path))
    samples = chain([container.golden], _others(graph, header))
    for name in _compared(header):
        begin(f"comparing with torch, {name}")
        expected = next(samples)
        difference = expected.difference(runtime.run(expected.voxels, **expected.place))
        if not difference <= tolerance:
            raise VerificationError(
                f"{path}: ONNX Runtime differs from torch by {difference:.2e} (allowed {tolerance:g}) for an input of "
                f"{expected.voxels.shape}; nothing was written, try another onnxruntime or torch version"
            )

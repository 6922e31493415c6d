"""One open model on one engine: ONNX Runtime on the CPU, CUDA or TensorRT, or OpenVINO. No torch.

Which engine computes is decided here and nowhere else; it is the one that was asked for, or an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from prostate_mim.deploy.container import Container
from prostate_mim.deploy.contract import FloatArray, Header
from prostate_mim.errors import BackendError, ResourceError, UsageError, VerificationError

DEVICES = ("auto", "cpu", "cuda", "tensorrt", "openvino")
REPLAY_TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "tf32": 5e-3}
"""Largest difference from torch on the golden sample, by what is computed in."""


@dataclass(frozen=True)
class RuntimeOptions:
    """How an engine is to compute; every default is the safe one.

    Attributes:
        threads: of the CPU; the engine's own choice if 0.
        memory_limit_mb: of the GPU; none if 0.
        tf32: let CUDA round products to 10 bits, which moves probabilities by up to 5e-3.
        warm_up: batch sizes that are run once while opening, so that the first patient does not wait.
    """

    threads: int = 0
    memory_limit_mb: int = 0
    tf32: bool = False
    warm_up: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        values = self.threads, self.memory_limit_mb, *self.warm_up
        if any(type(value) is not int or value < 0 for value in values) or 0 in self.warm_up:
            raise UsageError(f"{self}: threads, memory limit and batch sizes are whole numbers, not below 0 (1)")


DEFAULTS = RuntimeOptions()


class Runtime(Protocol):
    """An open model.

    Attributes:
        provider: what computes: an execution provider of ONNX Runtime, or ``OpenVINO:CPU``.
        settings: how, for the record: threads, TF32, algorithm search, CUDA graph.
        where: ``cpu`` or ``cuda``: where tensors for ``run_tensor`` have to be.
    """

    provider: str
    settings: Mapping[str, str]
    where: str

    def run(self, voxels: FloatArray, **place: npt.NDArray[np.float64]) -> dict[str, FloatArray]:
        """(N, C, D, H, W) float32, or a study (z, y, x) and the inputs of ``PLACE`` -> outputs by name, float32.

        Raises:
            ResourceError: out of memory.
            BackendError: any other failure of the engine.
        """

    def run_tensor(self, voxels: Any) -> dict[str, Any]:
        """As ``run``, without copies: any tensor that speaks DLPack in, DLPack tensors on the same device out."""


@dataclass(frozen=True)
class Opened:
    """An engine that has reproduced the golden sample.

    Attributes:
        runtime: ready to compute.
        difference: how far the golden sample's outputs were from torch's.
        reason: why this engine: asked for, or what ``auto`` found.
    """

    runtime: Runtime
    difference: float
    reason: str


def open_runtime(container: Container, device: str, where: str, options: RuntimeOptions = DEFAULTS) -> Runtime:
    """The engine that was asked for.

    Args:
        device: one of ``DEVICES`` but ``auto``.
        where: the file, for messages.

    Raises:
        UsageError: no such device.
        BackendError: the engine is not installed, or does not really compute there.
        ResourceError: out of memory.
    """
    if device not in DEVICES[1:]:
        raise UsageError(f"device {device!r} is none of {', '.join(DEVICES)}")
    if device == "openvino":
        from prostate_mim.deploy.openvino import OpenVino

        return OpenVino(container, where, options)
    if device == "tensorrt" and container.header.full_graph:
        raise BackendError(f"{where}: TensorRT takes crops, and this file takes studies; use device 'cuda'")
    from prostate_mim.deploy.ort import OnnxRuntime

    return OnnxRuntime(container, device, where, options)


def open_verified(container: Container, device: str, where: str, options: RuntimeOptions = DEFAULTS) -> Opened:
    """An engine that has reproduced the golden sample within ``REPLAY_TOLERANCE``, warmed up.

    ``auto`` takes CUDA if it works, else OpenVINO if it is installed, else ONNX Runtime on the CPU.

    Raises:
        VerificationError: this machine does not reproduce the golden sample.
        UsageError, BackendError, ResourceError: as ``open_runtime``.
    """
    if device == "auto":
        return _first_that_works(container, where, options)
    runtime = open_runtime(container, device, where, options)
    golden, allowed = container.golden, tolerance(container.header, device, options)
    difference = golden.difference(runtime.run(golden.voxels, **golden.place))
    if not difference <= allowed:
        raise VerificationError(
            f"{where}: {runtime.provider} differs from torch by {difference:.2e} on the golden sample (allowed "
            f"{allowed:g}); do not use it here, export it again or use another engine"
        )
    for count in options.warm_up:
        warm_up(runtime, container, count)
    return Opened(runtime, difference, "asked for")


def tolerance(header: Header, device: str, options: RuntimeOptions) -> float:
    """What the golden sample may differ by. TensorRT plans with TF32, and its provider has no switch for that."""
    rounded = header.precision == "float32" and (device == "tensorrt" or (options.tf32 and device == "cuda"))
    return REPLAY_TOLERANCE["tf32" if rounded else header.precision]


def warm_up(runtime: Runtime, container: Container, count: int) -> None:
    """Run a batch of crops once, or the golden study with as many lesions: only shapes matter."""
    header, golden = container.header, container.golden
    if header.full_graph:
        positions = np.repeat(golden.place["position_mm_lps"][:1], count, 0)
        runtime.run(golden.voxels, affine=golden.place["affine"], position_mm_lps=positions)
    else:
        runtime.run(np.zeros((count, len(header.spec.channels), *header.spec.size_zyx), np.float32))


def _first_that_works(container: Container, where: str, options: RuntimeOptions) -> Opened:
    reasons = []
    for device, title in (("cuda", "CUDA"), ("openvino", "OpenVINO")):
        try:
            opened = open_verified(container, device, where, options)
        except (BackendError, ResourceError, VerificationError) as error:
            said = str(error).removeprefix(f"{where}: ").removeprefix(f"{title} was asked for, but ")
            reasons.append(f"no {title} ({said.split(';')[0]})")
        else:
            return Opened(opened.runtime, opened.difference, "; ".join(["auto: it works here", *reasons]))
    opened = open_verified(container, "cpu", where, options)
    return Opened(opened.runtime, opened.difference, "; ".join(["auto: the only one that works here", *reasons]))

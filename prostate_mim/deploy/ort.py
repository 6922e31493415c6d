"""The only place that speaks to ONNX Runtime: a session on the provider that was asked for, or an error. No torch."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from prostate_mim.deploy.available import CPU, CUDA, INSTALL_GPU, TENSORRT, why_no_cuda, why_no_tensorrt
from prostate_mim.deploy.container import Container
from prostate_mim.deploy.contract import INPUT, FloatArray
from prostate_mim.deploy.providers import providers_for
from prostate_mim.deploy.telemetry import import_onnxruntime
from prostate_mim.errors import BackendError, ResourceError, UsageError

if TYPE_CHECKING:
    from prostate_mim.deploy.runtime import RuntimeOptions

PROVIDER_OF = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}
_SILENT, _WARNINGS = 4, 2  # severities of ONNX Runtime's logger; 2 is its default
_NO_GRAPH = "-1"  # ONNX Runtime's number for a run that is neither captured nor replayed


class OnnxRuntime:
    """One session of ONNX Runtime; several threads may share it.

    Args:
        container: a verified file.
        device: ``cpu``, ``cuda`` or ``tensorrt``. A GPU is never replaced by the CPU in silence.
        where: the file, for messages.
        options: how to compute.

    Attributes:
        provider: the execution provider that computes.
        settings: how, for the record.
        where: ``cpu`` or ``cuda``.
        convolutions: how many convolutions each provider was given; empty where ONNX Runtime cannot tell (< 1.24).

    Raises:
        BackendError: ONNX Runtime, the driver or a library is missing; or it refuses the model.
        ResourceError: out of memory.
    """

    def __init__(self, container: Container, device: str, where: str, options: RuntimeOptions) -> None:
        ort = _onnxruntime(where)
        self._ort, self._file, self._header = ort, where, container.header
        self.where = "cpu" if device == "cpu" else "cuda"
        providers = providers_for(container.header, device, options)
        try:
            if device == "cpu":
                self._session = _session(ort, container.data, providers, options)
            else:
                self._session = _gpu_session(ort, container.data, device, providers, options, where)
        except (BackendError, ResourceError):
            raise
        except Exception as error:  # onnxruntime raises a dozen unrelated types
            raise _explained(error, where, "open") from error
        self.provider: str = self._session.get_providers()[0]
        self.convolutions = _convolutions(self._session)
        own = dict(providers[0][1]) if isinstance(providers[0], tuple) else {}
        self.settings: Mapping[str, str] = {
            "version": str(ort.__version__), "threads": str(options.threads or "all"), **own,
        }  # fmt: skip
        self._names = [output.name for output in self._session.get_outputs()]
        self._graph = _CapturedGraph(ort, self._session, self._names) if own.get("enable_cuda_graph") == "1" else None
        if device != "cpu" and self.convolutions and set(self.convolutions) == {CPU}:
            count = sum(self.convolutions.values())
            raise BackendError(f"{where}: {device} took none of the {count} convolutions (no cuDNN?); {INSTALL_GPU}")

    def run(self, voxels: FloatArray, **place: npt.NDArray[np.float64]) -> dict[str, FloatArray]:
        """(N, C, D, H, W) float32, or a study and its place -> every output by name, float32.

        Raises:
            ResourceError: out of memory.
            BackendError: any other failure of the runtime.
        """
        try:
            if self._graph is not None and voxels.shape[1:] == self._fixed and len(voxels) == 1:
                return self._graph.run(voxels)
            found = self._session.run(self._names, {INPUT: voxels, **place}, self._run_options())
        except Exception as error:
            raise _explained(error, self._file, "run") from error
        return dict(zip(self._names, found, strict=True))

    def run_tensor(self, voxels: Any) -> dict[str, Any]:
        """As ``run``, without copies.

        Args:
            voxels: (N, C, D, H, W) float32, contiguous, on this engine's device: of torch, CuPy, or anything else that
                speaks DLPack.

        Returns:
            Outputs by name, which ``torch.from_dlpack`` and its like take where they are.

        Raises:
            UsageError: a tensor of another device.
            ResourceError, BackendError: as ``run``.
        """
        try:
            value = self._ort.OrtValue.from_dlpack(voxels)
        except (RuntimeError, TypeError, ValueError, BufferError, AttributeError) as error:
            raise UsageError(f"{INPUT}: no tensor that ONNX Runtime can read through DLPack ({error})") from error
        if value.device_name().lower() != self.where:
            raise UsageError(
                f"{INPUT}: lies on {value.device_name()!r}, and {self.provider} computes on {self.where!r}"
            )
        try:
            binding = self._session.io_binding()
            binding.bind_ortvalue_input(INPUT, value)
            for name in self._names:
                binding.bind_output(name, self.where)
            binding.synchronize_inputs()  # what another library is still computing
            self._session.run_with_iobinding(binding, self._run_options())
            binding.synchronize_outputs()
            return dict(zip(self._names, binding.get_outputs(), strict=True))
        except Exception as error:
            raise _explained(error, self._file, "run") from error

    @property
    def _fixed(self) -> tuple[int, ...]:
        return (len(self._header.spec.channels), *(self._header.size_zyx or ()))

    def _run_options(self) -> Any:
        """Of a run beside the captured graph, which holds one batch size and fixed addresses."""
        options = self._ort.RunOptions()
        options.log_severity_level = _SILENT  # what fails is raised, and said in one line
        if self._graph is not None:
            options.add_run_config_entry("gpu_graph_id", _NO_GRAPH)
        return options


class _CapturedGraph:
    """A CUDA graph of one input size at batch 1: kernels are launched at once, from and to fixed addresses."""

    def __init__(self, ort: ModuleType, session: Any, names: list[str]) -> None:
        self._ort, self._session, self._names = ort, session, names
        self._binding = session.io_binding()
        self._input: Any = None
        self._lock = threading.Lock()  # its addresses are shared by all threads

    def run(self, voxels: FloatArray) -> dict[str, FloatArray]:
        with self._lock:
            if self._input is None:
                self._input = self._ort.OrtValue.ortvalue_from_numpy(voxels, "cuda", 0)
                self._binding.bind_ortvalue_input(INPUT, self._input)
                for name in self._names:
                    self._binding.bind_output(name, "cuda")
                self._session.run_with_iobinding(self._binding)  # settles the outputs' addresses
                for name, value in zip(self._names, self._binding.get_outputs(), strict=True):
                    self._binding.bind_ortvalue_output(name, value)
            self._input.update_inplace(np.ascontiguousarray(voxels))
            self._session.run_with_iobinding(self._binding)
            found = self._binding.get_outputs()
            return {name: value.numpy().copy() for name, value in zip(self._names, found, strict=True)}


def _onnxruntime(where: str) -> ModuleType:
    try:
        module = import_onnxruntime()
    except ImportError as error:
        raise BackendError(f"{where}: onnxruntime is not installed; pip install onnxruntime") from error
    if not hasattr(module, "InferenceSession"):  # both wheels were installed, then one removed
        raise BackendError(f"{where}: the installed onnxruntime is an empty shell; {INSTALL_GPU}")
    module.disable_telemetry_events()
    return module


def _gpu_session(
    ort: ModuleType, data: bytes, device: str, providers: list[Any], options: RuntimeOptions, where: str
) -> Any:
    title = {"cuda": "CUDA", "tensorrt": "TensorRT"}[device]
    reason = why_no_cuda(ort)
    if reason is None:
        with contextlib.redirect_stdout(io.StringIO()) as told:
            ort.preload_dlls()
        reason = why_no_tensorrt(ort) if device == "tensorrt" else None
    if reason is None:
        try:
            session = _session(ort, data, providers, options)
        except Exception as error:
            said = _explained(error, where, "open")
            if isinstance(said, ResourceError):
                raise said from error
            raise BackendError(f"{where}: {title} was asked for, but {str(said).removeprefix(f'{where}: ')}") from error
        if session.get_providers()[0] == PROVIDER_OF[device]:
            return session
        lines = told.getvalue().split("\n")
        detail = next((f" ({line.strip()[:200]})" for line in lines if line.startswith("Failed to load")), "")
        reason = f"its libraries or the GPU cannot be used{detail}; check nvidia-smi, then {INSTALL_GPU}"
    raise BackendError(f"{where}: {title} was asked for, but {reason}")


def _session(ort: ModuleType, data: bytes, providers: list[Any], asked: RuntimeOptions) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = _SILENT
    options.intra_op_num_threads = asked.threads
    options.add_session_config_entry("session.load_model_format", "ONNX")  # not its own, whatever the bytes look like
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    with _quiet(ort):
        return ort.InferenceSession(data, options, providers=providers, enable_fallback=0)


def _convolutions(session: Any) -> dict[str, int]:
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    counts: dict[str, int] = {}
    for part in session.get_provider_graph_assignment_info():
        found = sum(node.op_type == "Conv" for node in part.get_nodes())
        if found:
            counts[part.ep_name] = counts.get(part.ep_name, 0) + found
    return counts


@contextlib.contextmanager
def _quiet(ort: ModuleType) -> Iterator[None]:
    """Silence what ONNX Runtime prints about providers it cannot load; our own error says it in one line."""
    ort.set_default_logger_severity(_SILENT)
    try:
        yield
    finally:
        ort.set_default_logger_severity(_WARNINGS)


def _explained(error: Exception, where: str, verb: str) -> BackendError | ResourceError:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    if isinstance(error, MemoryError) or "alloc" in reason.lower() or "out of memory" in reason.lower():
        return ResourceError(f"{where}: out of memory ({reason}); close other programs, or use device 'cpu'")
    return BackendError(f"{where}: ONNX Runtime cannot {verb} the model ({reason}); upgrade onnxruntime, or use 'cpu'")

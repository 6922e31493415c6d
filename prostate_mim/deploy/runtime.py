"""The only place that speaks to ONNX Runtime: a session on the device that was asked for, or an error. No torch."""

from __future__ import annotations

import contextlib
import ctypes
import io
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from prostate_mim.deploy.contract import INPUT, FloatArray
from prostate_mim.errors import BackendError, ResourceError, UsageError

DEVICES = ("auto", "cpu", "cuda")
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

_SILENT, _WARNINGS = 4, 2  # severities of ONNX Runtime's logger; 2 is its default
# TF32 would move probabilities by up to 5e-3; HEURISTIC avoids seconds of search for every new crop size.
_CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}
_INSTALL_GPU = (
    "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'onnxruntime-gpu[cuda,cudnn]>=1.28' "
    "(never both wheels)"
)


class Runtime:
    """One ONNX Runtime session.

    Args:
        data: a serialised ONNX model; ``read_container`` has verified it.
        device: ``cpu`` or ``cuda``. CUDA is never replaced by the CPU in silence.
        where: the file, for messages.

    Attributes:
        provider: the execution provider that computes, ``CPUExecutionProvider`` or ``CUDAExecutionProvider``.
        convolutions: how many convolutions each provider was given; empty where ONNX Runtime cannot tell (< 1.24).

    Raises:
        BackendError: ONNX Runtime, the CUDA driver or a CUDA library is missing; or it refuses the model.
        ResourceError: out of memory.
    """

    def __init__(self, data: bytes, device: str, where: str) -> None:
        if device not in DEVICES[1:]:
            raise UsageError(f"device {device!r} is none of {', '.join(DEVICES)}")
        ort = _onnxruntime(where)
        self._where = where
        try:
            self._session = _cuda_session(ort, data, where) if device == "cuda" else _session(ort, data, [CPU])
        except (BackendError, MemoryError):
            raise
        except Exception as error:  # onnxruntime raises a dozen unrelated types
            raise _explained(error, where, "open") from error
        self.provider: str = self._session.get_providers()[0]
        self.convolutions = _convolutions(self._session)
        if device == "cuda" and self.convolutions and CUDA not in self.convolutions:
            count = sum(self.convolutions.values())
            raise BackendError(f"{where}: CUDA took none of the {count} convolutions (no cuDNN?); {_INSTALL_GPU}")

    def run(self, voxels: FloatArray) -> dict[str, FloatArray]:
        """(N, C, D, H, W) float32 -> every output by name, float32.

        Raises:
            ResourceError: out of memory.
            BackendError: any other failure of the runtime.
        """
        names = [output.name for output in self._session.get_outputs()]
        try:
            return dict(zip(names, self._session.run(names, {INPUT: voxels}), strict=True))
        except Exception as error:
            raise _explained(error, self._where, "run") from error


def why_no_cuda(ort: ModuleType) -> str | None:
    """What CUDA lacks on this machine and what to do, as far as it can be told without a session; None if nothing."""
    if CUDA not in ort.get_available_providers():
        return f"this ONNX Runtime {ort.__version__} was built without it; {_INSTALL_GPU}"
    driver = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        ctypes.CDLL(driver)
    except OSError:
        return f"there is no NVIDIA driver ({driver}); install the driver, or use device 'cpu'"
    return None


def _onnxruntime(where: str) -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(f"{where}: onnxruntime is not installed; pip install onnxruntime") from error
    if not hasattr(onnxruntime, "InferenceSession"):  # both wheels were installed, then one removed
        raise BackendError(f"{where}: the installed onnxruntime is an empty shell; {_INSTALL_GPU}")
    module: ModuleType = onnxruntime
    module.disable_telemetry_events()
    return module


def _cuda_session(ort: ModuleType, data: bytes, where: str) -> Any:
    reason = why_no_cuda(ort)
    if reason is None:
        with contextlib.redirect_stdout(io.StringIO()) as told:
            ort.preload_dlls()
        session = _session(ort, data, [(CUDA, _CUDA_OPTIONS), CPU])
        if session.get_providers()[0] == CUDA:
            return session
        lines = told.getvalue().split("\n")
        detail = next((f" ({line.strip()[:200]})" for line in lines if line.startswith("Failed to load")), "")
        reason = f"its libraries or the GPU cannot be used{detail}; check nvidia-smi, then {_INSTALL_GPU}"
    raise BackendError(f"{where}: CUDA was asked for, but {reason}")


def _session(ort: ModuleType, data: bytes, providers: list[Any]) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = _SILENT
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

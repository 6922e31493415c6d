"""OpenVINO on the CPU: plans for every input size by itself, in float32. No torch."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from prostate_mim.deploy.container import Container
from prostate_mim.deploy.contract import INPUT, OUTPUTS, FloatArray
from prostate_mim.deploy.telemetry import import_openvino
from prostate_mim.errors import BackendError, ResourceError

if TYPE_CHECKING:
    from prostate_mim.deploy.runtime import RuntimeOptions

PROVIDER = "OpenVINO:CPU"
_SHAPES_KEPT = 4
_ONE_AT_A_TIME = threading.Lock()
_INSTALL = "pip install openvino, or use device 'cpu'"


class OpenVino:
    """A model on OpenVINO's CPU plugin. A plan of one size is two to three times as fast as one of all sizes.

    Plans of the last few sizes are kept; threads may share one instance, each works with a request of its own.

    Args:
        container: a verified file.
        where: the file, for messages.
        options: ``threads`` has a meaning here.

    Raises:
        BackendError: OpenVINO is not installed, or refuses the model.
        ResourceError: out of memory.
    """

    def __init__(self, container: Container, where: str, options: RuntimeOptions) -> None:
        if container.header.full_graph:
            raise BackendError(f"{where}: OpenVINO takes crops, and this file takes studies; use device 'cpu'")
        openvino = _import(where)
        self._core, self._data, self._file = _core(), container.data, where
        self._names = OUTPUTS[container.header.kind]
        # Other precisions and several streams are the plugin's own choices on some machines; neither is wanted here.
        self._config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if options.threads:
            self._config["INFERENCE_NUM_THREADS"] = options.threads
        self._plans: OrderedDict[tuple[int, ...], _Plan] = OrderedDict()
        self._lock = threading.Lock()
        self.provider, self.where = PROVIDER, "cpu"
        said = {"version": str(openvino.__version__), "threads": str(options.threads or "all")}
        self.settings: Mapping[str, str] = said
        channels = len(container.header.spec.channels)
        self._plan((1, channels, *container.header.spec.size_zyx))  # a model that it refuses is refused now

    def run(self, voxels: FloatArray, **place: npt.NDArray[np.float64]) -> dict[str, FloatArray]:
        """(N, C, D, H, W) float32 -> every output by name, float32; there is no ``place`` of crops."""
        try:
            plan = self._plan(voxels.shape)
            return dict(zip(self._names, plan.run(np.ascontiguousarray(voxels)), strict=True))
        except (BackendError, ResourceError):
            raise
        except Exception as error:  # openvino raises RuntimeError for everything
            raise _explained(error, self._file, "run") from error

    def run_tensor(self, voxels: Any) -> dict[str, FloatArray]:
        """As ``run``, for a tensor of the CPU that speaks DLPack; its memory is read where it is."""
        return self.run(np.asarray(np.from_dlpack(voxels), np.float32))

    def _plan(self, shape: tuple[int, ...]) -> _Plan:
        with self._lock:
            if shape not in self._plans:
                try:
                    model = self._core.read_model(self._data)
                    model.reshape({INPUT: list(shape)})
                    self._plans[shape] = _Plan(self._core.compile_model(model, "CPU", self._config))
                except Exception as error:
                    raise _explained(error, self._file, "open") from error
            self._plans.move_to_end(shape)
            while len(self._plans) > _SHAPES_KEPT:
                self._plans.popitem(last=False)
            return self._plans[shape]


class _Plan:
    """A compiled model of one size, and its requests that nobody is using."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._idle: list[Any] = []

    def run(self, voxels: FloatArray) -> list[FloatArray]:
        try:
            request = self._idle.pop()  # atomic, as append is
        except IndexError:
            request = self._compiled.create_infer_request()
        try:
            found = request.infer({INPUT: voxels}, share_inputs=True)
            return [np.array(value, np.float32) for value in found.values()]
        finally:
            self._idle.append(request)


def _import(where: str) -> ModuleType:
    try:
        return import_openvino()
    except ImportError as error:
        raise BackendError(f"{where}: OpenVINO is not installed; {_INSTALL}") from error


def _core() -> Any:
    """One for the process, never closed.

    Each makes a stack for the thread's signals, and gives back the one before it; two that are closed in the order in
    which they were made leave the stack of a closed one, and the next Ctrl-C kills the process (OpenVINO 2026.4).
    """
    with _ONE_AT_A_TIME:  # functools.cache alone lets threads that come together each make one
        return _made_core()


@functools.cache
def _made_core() -> Any:
    return import_openvino().Core()


def _explained(error: Exception, where: str, verb: str) -> BackendError | ResourceError:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    if isinstance(error, MemoryError) or "alloc" in reason.lower():
        return ResourceError(f"{where}: out of memory ({reason}); close other programs, or use device 'cpu'")
    return BackendError(f"{where}: OpenVINO cannot {verb} the model ({reason}); use device 'cpu'")

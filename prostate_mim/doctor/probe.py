"""Run as a child process: ``python -P probe.py NAME [ARGUMENT ...]`` tries one thing, and answers in JSON.

What is tried here may print, crash or hang, and that must not touch the parent. This file is run by its path and
imports nothing of this package.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import sys
from typing import Any

# A model of one 3D convolution, 1 x 1 x 1, that doubles its input x (1, 1, 2, 2, 2); tests/doctor makes it anew.
DOUBLING = (
    "CAg6bQoPCgF4CgF3EgF5IgRDb252EgFnKhUIAQgBCAEIAQgBEAEiBAAAAEBCAXdaHwoBeBIaChgIARIUCgIIAQoCCAEKAggCCgIIAgoCCAJiHwoB"
    "eRIaChgIARIUCgIIAQoCCAEKAggCCgIIAgoCCAJCBAoAEA0="
)
HUB_TIMEOUT_S = 5.0
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_SILENT = 4


def onnxruntime_cpu() -> dict[str, Any]:
    """A session on the CPU that really computes."""
    import onnxruntime

    if not hasattr(onnxruntime, "InferenceSession"):
        return {"shell": True}
    onnxruntime.disable_telemetry_events()
    session = _session(onnxruntime, [_CPU])
    return {
        "version": str(onnxruntime.__version__), "providers": list(onnxruntime.get_available_providers()),
        "right": _doubles(session),
    }  # fmt: skip


def onnxruntime_cuda() -> dict[str, Any]:
    """Whether a session that asks for CUDA gets it, down to its convolution."""
    import onnxruntime

    if _CUDA not in getattr(onnxruntime, "get_available_providers", list)():
        return {"listed": False}
    onnxruntime.disable_telemetry_events()
    onnxruntime.preload_dlls()
    session = _session(onnxruntime, [_CUDA, _CPU])
    answer: dict[str, Any] = {"listed": True, "provider": session.get_providers()[0], "convolution": "", "right": True}
    if answer["provider"] == _CUDA:
        if hasattr(session, "get_provider_graph_assignment_info"):
            for part in session.get_provider_graph_assignment_info():
                if any(node.op_type == "Conv" for node in part.get_nodes()):
                    answer["convolution"] = part.ep_name
        answer["right"] = _doubles(session)
    return answer


def _session(ort: Any, providers: list[str]) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = _SILENT
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    ort.set_default_logger_severity(_SILENT)
    return ort.InferenceSession(base64.b64decode(DOUBLING), options, providers=providers, enable_fallback=0)


def _doubles(session: Any) -> bool:
    import numpy as np

    (result,) = session.run(None, {"x": np.full((1, 1, 2, 2, 2), 3, np.float32)})
    return bool(np.all(result == np.float32(6)))


def libraries(*names: str) -> dict[str, Any]:
    """Which shared libraries cannot be loaded, after ONNX Runtime has loaded those it knows places of."""
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    missing = {}
    for name in names:
        try:
            ctypes.CDLL(name)
        except OSError as error:
            missing[name] = str(error)
    return {"missing": missing}


def driver() -> dict[str, Any]:
    """The NVIDIA driver: the CUDA version it goes up to, and its devices."""
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError as error:
        return {"library": False, "why": str(error)}
    version, count = ctypes.c_int(0), ctypes.c_int(0)
    cuda.cuDriverGetVersion(ctypes.byref(version))
    answer: dict[str, Any] = {"library": True, "cuda": version.value, "devices": []}
    code = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    if code:
        text = ctypes.c_char_p()
        known = cuda.cuGetErrorName(code, ctypes.byref(text)) == 0 and text.value is not None
        return answer | {"code": code, "error": (text.value or b"").decode("ascii", "replace") if known else str(code)}
    return answer | {"devices": [_device(cuda, number) for number in range(count.value)]}


def _device(cuda: Any, number: int) -> str:
    """Such as ``NVIDIA A100 (8.0, 80 GB)``."""
    name, memory, major, minor = ctypes.create_string_buffer(256), ctypes.c_size_t(0), ctypes.c_int(0), ctypes.c_int(0)
    cuda.cuDeviceGetName(name, len(name), number)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), number)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, number)  # of the compute capability, in cuda.h
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, number)
    shown = name.value.decode("utf-8", "replace")
    return f"{shown} ({major.value}.{minor.value}, {memory.value / 1e9:.0f} GB)"


def torch_build() -> dict[str, Any]:
    """Whether torch computes, and on what."""
    import torch
    from torch.nn.functional import conv3d

    answer: dict[str, Any] = {"version": str(torch.__version__), "cuda": torch.version.cuda, "devices": 0, "why": ""}
    ones, two = torch.ones(1, 1, 2, 2, 2), torch.full((1, 1, 1, 1, 1), 2.0)
    answer["right"] = bool((conv3d(ones, two) == 2).all())
    if torch.version.cuda:
        try:
            answer["devices"] = torch.cuda.device_count()
            answer["right_on_cuda"] = bool((conv3d(ones.cuda(), two.cuda()) == 2).all())
        except Exception as error:  # torch raises RuntimeError, AssertionError and classes of its own
            answer["why"] = f"{type(error).__name__}: {error}"
    return answer


def torchvision() -> dict[str, Any]:
    """Whether it imports: its operators are compiled for one torch."""
    import torchvision as found  # type: ignore[import-not-found, import-untyped]

    return {"version": str(found.__version__)}


def openvino() -> dict[str, Any]:
    """The devices it would use."""
    import openvino as found

    return {"version": str(found.__version__), "devices": list(found.Core().available_devices)}


def hub(url: str) -> dict[str, Any]:
    """The head of a hub's answer, asked by the client that fetches models: same proxies, same certificates."""
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

    with get_session().stream("GET", url, timeout=HUB_TIMEOUT_S) as answer:
        kind = answer.headers.get("content-type", "")
        return {"status": int(answer.status_code), "type": kind, "code": answer.headers.get("x-error-code", "")}


PROBES = {
    probe.__name__: probe
    for probe in (onnxruntime_cpu, onnxruntime_cuda, libraries, driver, torch_build, torchvision, openvino, hub)
}


def main() -> None:
    """Answer on what was stdout; whatever libraries print goes to stderr."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as deploy.telemetry does: neither is to report
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    reply = os.dup(1)
    os.dup2(2, 1)
    try:
        answer = PROBES[sys.argv[1]](*sys.argv[2:])
    except BaseException as error:  # SystemExit of a library's import, too: all of it is an answer
        answer = {"error": f"{type(error).__name__}: {error}"}
    os.write(reply, json.dumps(answer).encode())
    os._exit(0)  # an answer counts even where a library's clean-up would crash


if __name__ == "__main__":
    main()

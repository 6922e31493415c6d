"""Which of ONNX Runtime's providers this machine can have, as far as can be told without a session. No torch."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
INSTALL_GPU = (
    "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'onnxruntime-gpu[cuda,cudnn]>=1.28' "
    "(never both wheels)"
)
# ONNX Runtime's provider is linked against this one; the newest TensorRT on PyPI is a generation on.
_TENSORRT_LIBRARY = "nvinfer_10.dll" if sys.platform == "win32" else "libnvinfer.so.10"
_INSTALL_TENSORRT = "pip install 'tensorrt-cu13<11'"


def why_no_cuda(ort: ModuleType) -> str | None:
    """What CUDA lacks on this machine and what to do; None if nothing is known to be missing."""
    if CUDA not in ort.get_available_providers():
        return f"this ONNX Runtime {ort.__version__} was built without it; {INSTALL_GPU}"
    driver = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        ctypes.CDLL(driver)
    except OSError:
        return f"there is no NVIDIA driver ({driver}); install the driver, or use device 'cpu'"
    return None


def why_no_tensorrt(ort: ModuleType) -> str | None:
    """What TensorRT lacks, where CUDA lacks nothing; loads its library if it is there."""
    if TENSORRT not in ort.get_available_providers():
        return f"this ONNX Runtime {ort.__version__} was built without it; {INSTALL_GPU}"
    found = importlib.util.find_spec("tensorrt_libs")
    folders = [Path(folder) for folder in (found.submodule_search_locations or [])] if found else []
    for name in (*(str(folder / _TENSORRT_LIBRARY) for folder in folders), _TENSORRT_LIBRARY):
        with contextlib.suppress(OSError):
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
            return None
    return f"its library {_TENSORRT_LIBRARY} is missing; {_INSTALL_TENSORRT}, or use device 'cuda'"

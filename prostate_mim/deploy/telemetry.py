"""No telemetry: engines that report to their makers are imported so that they cannot. No torch.

OpenVINO sends an event over the network for every import. ONNX Runtime, from version 1.31 on, collects events of use,
and writes an identifier of the machine into the cache folder when it is imported.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import cast

_REPORTER, _ABSENT = "openvino_telemetry", object()
_SWITCH = "ORT_DISABLE_TELEMETRY"


def import_onnxruntime() -> ModuleType:
    """The package, told to collect nothing: by its environment variable, as it begins before any call could stop it.

    Raises:
        ImportError: it is not installed.
    """
    os.environ.setdefault(_SWITCH, "1")
    import onnxruntime

    return cast(ModuleType, onnxruntime)


def import_openvino() -> ModuleType:
    """The package. While it is imported its reporter cannot be found, for which it has a mute stand-in.

    Raises:
        ImportError: it is not installed.
    """
    before = sys.modules.get(_REPORTER, _ABSENT)
    if "openvino" not in sys.modules:
        sys.modules[_REPORTER] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        if before is _ABSENT:
            sys.modules.pop(_REPORTER, None)
        else:
            sys.modules[_REPORTER] = cast(ModuleType, before)
    return cast(ModuleType, openvino)

#!/usr/bin/env python3
"""Exit 0 only if CUDA really computed an exported model and reproduced its golden sample.

python smoke_gpu.py classifier.onnx
"""

from __future__ import annotations

import json
import os
import sys

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before ONNX Runtime is imported: it reports events of use


def main(argv: list[str]) -> int:
    """Print what ran as JSON, or one line on stderr; return the exit code of ``prostate_mim.errors``."""
    if len(argv) != 1:
        print("error: give exactly one .onnx file: smoke_gpu.py classifier.onnx", file=sys.stderr)
        return 2
    try:
        from prostate_mim.deploy.container import read_container
        from prostate_mim.deploy.runtime import DEFAULTS, open_runtime, tolerance
        from prostate_mim.errors import ProstateMimError
    except ImportError as error:
        print(f"error: {error}; pip install -r requirements-cuda.txt and the wheel", file=sys.stderr)
        return 6
    try:
        container = read_container(argv[0])
        runtime = open_runtime(container, "cuda", argv[0])
        difference = container.golden.difference(runtime.run(container.golden.voxels, **container.golden.place))
    except ProstateMimError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    convolutions = getattr(runtime, "convolutions", {})
    report = {"provider": runtime.provider, "difference": difference, "convolutions": convolutions}
    print(json.dumps(report | {"settings": dict(runtime.settings)}))
    if runtime.provider != "CUDAExecutionProvider":
        print(f"error: {argv[0]}: ran on {runtime.provider}, not on CUDA; see README.md", file=sys.stderr)
        return 6
    allowed = tolerance(container.header, "cuda", DEFAULTS)
    if not difference <= allowed:
        print(f"error: {argv[0]}: differs by {difference:.2e} (allowed {allowed:g})", file=sys.stderr)
        return 8
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

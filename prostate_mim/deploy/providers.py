"""The options of ONNX Runtime's execution providers, each with why. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prostate_mim.deploy.available import CPU, CUDA, TENSORRT
from prostate_mim.deploy.contract import INPUT, MOST_LESIONS, Header

if TYPE_CHECKING:
    from prostate_mim.deploy.runtime import RuntimeOptions


def providers_for(header: Header, device: str, options: RuntimeOptions) -> list[Any]:
    """The providers of a session, in order of preference, as ``InferenceSession`` takes them.

    Args:
        header: of the file.
        device: ``cpu``, ``cuda`` or ``tensorrt``.
        options: how to compute.
    """
    if device == "cpu":
        return [CPU]
    cuda = (CUDA, cuda_options(header, options, graph=device == "cuda"))
    if device == "cuda":
        return [cuda, CPU]
    return [(TENSORRT, tensorrt_options(header, options)), cuda, CPU]


def cuda_options(header: Header, options: RuntimeOptions, graph: bool = True) -> dict[str, str]:
    """Of the CUDA provider.

    A file for one size searches the fastest algorithm of every convolution once and replays a captured graph. One for
    all sizes asks for cuDNN's guess: searching costs seconds for every new size (PaddleX 5057), and the provider's
    ``DEFAULT`` takes algorithms that are fifty times slower (PaddleOCR 17970).
    """
    static = header.size_zyx is not None
    chosen = {
        "cudnn_conv_algo_search": "EXHAUSTIVE" if static else "HEURISTIC",
        "use_tf32": "1" if options.tf32 else "0",
    }
    if static and graph:
        chosen["enable_cuda_graph"] = "1"
    if options.memory_limit_mb:
        # Growing by what is asked for, not by powers of two, is what makes a limit a limit.
        limit = str(options.memory_limit_mb << 20)
        chosen |= {"gpu_mem_limit": limit, "arena_extend_strategy": "kSameAsRequested"}
    return chosen


def tensorrt_options(header: Header, options: RuntimeOptions) -> dict[str, str]:
    """Of the TensorRT provider: one plan for crops of the spec's size, from one lesion to eight at once."""
    channels, size = len(header.spec.channels), "x".join(map(str, header.spec.size_zyx))
    shapes = {
        key: f"{INPUT}:{count}x{channels}x{size}" for key, count in (("min", 1), ("opt", 1), ("max", MOST_LESIONS))
    }
    chosen = {f"trt_profile_{key}_shapes": shape for key, shape in shapes.items()}
    chosen["trt_fp16_enable"] = "1" if header.precision == "float16" else "0"
    if options.memory_limit_mb:
        chosen["trt_max_workspace_size"] = str(options.memory_limit_mb << 20)
    return chosen

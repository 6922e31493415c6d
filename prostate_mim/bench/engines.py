"""What is measured: each engine as a function from crops to logits, opened from one folder of files."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from prostate_mim.classifier import LesionClassifier
from prostate_mim.deploy.runtime import RuntimeOptions
from prostate_mim.deploy.session import OnnxClassifier
from prostate_mim.errors import BackendError

RELEASE, FULL, HALF = "release", "classifier.onnx", "classifier-fp16.onnx"
FloatArray = npt.NDArray[np.float32]
Network = Callable[[FloatArray], FloatArray]
"""(N, C, D, H, W) float32 -> (N,) logits."""


@dataclass(frozen=True)
class Engine:
    """One way to compute a classifier.

    Attributes:
        name: of the row.
        how: how a user gets it; empty of what is measured beside.
        open: takes a folder with the release and its exported files, and the number of threads; raises
            ``BackendError`` where the engine is not there.
        gpu: needs one.
        device, file: of an exported file.
    """

    name: str
    how: str
    open: Callable[[Path, int], Network]
    gpu: bool = False
    device: str = ""
    file: str = ""


def _torch(folder: Path, threads: int) -> LesionClassifier:
    torch.set_num_threads(threads)
    return LesionClassifier.from_pretrained(folder / RELEASE)


def _eager(folder: Path, threads: int) -> Network:
    return _on_cpu(_torch(folder, threads))


def _channels_last(folder: Path, threads: int) -> Network:
    model = cast(Any, _torch(folder, threads)).to(memory_format=torch.channels_last_3d)
    return _on_cpu(model, torch.channels_last_3d)


def _compiled(folder: Path, threads: int) -> Network:
    """Inductor with its weights frozen: packed once for the convolutions, which is where its speed is from."""
    if importlib.util.find_spec("torch._inductor") is None or not any(map(shutil.which, ("g++", "clang++", "cl"))):
        raise BackendError("torch.compile needs a C++ compiler, and there is none; install g++")
    import torch._inductor.config as inductor

    model = torch.compile(_torch(folder, threads))

    def run(voxels: FloatArray) -> FloatArray:
        with torch.no_grad(), inductor.patch(freezing=True):
            return _array(model(torch.from_numpy(voxels)))

    return run


def _on_cpu(model: nn.Module, layout: torch.memory_format = torch.contiguous_format) -> Network:
    def run(voxels: FloatArray) -> FloatArray:
        with torch.inference_mode():
            return _array(model(torch.from_numpy(voxels).to(memory_format=layout)))

    return run


def _on_cuda(half: bool, compiled: bool) -> Callable[[Path, int], Network]:
    def opened(folder: Path, threads: int) -> Network:
        if not torch.cuda.is_available():
            raise BackendError("this torch has no CUDA device")
        model: nn.Module = _torch(folder, threads).cuda()
        model = model.half() if half else model
        network = torch.compile(model, mode="max-autotune-no-cudagraphs") if compiled else model

        def run(voxels: FloatArray) -> FloatArray:
            with torch.inference_mode():
                batch = torch.from_numpy(voxels).cuda()
                return _array(network(batch.half() if half else batch))

        return run

    return opened


def _array(logits: torch.Tensor) -> FloatArray:
    found: FloatArray = logits.float().cpu().numpy()
    return found


def _exported(name: str, device: str, half: bool = False, gpu: bool = False) -> Engine:
    file = HALF if half else FULL

    def opened(folder: Path, threads: int) -> Network:
        model = OnnxClassifier(folder / file, device, RuntimeOptions(threads=threads))
        return lambda voxels: model.run(voxels)["logit"]

    how = f"--device {device}" + (", export --fp16" if half else "")
    return Engine(name, how, opened, gpu, device, file)


EAGER = "torch eager"
ENGINES = (
    Engine(EAGER, "predict, no export", _eager),
    Engine("torch channels_last", "", _channels_last),
    Engine("torch.compile + freezing", "", _compiled),
    _exported("ONNX Runtime CPU", "cpu"),
    _exported("OpenVINO CPU", "openvino"),
    Engine("torch CUDA", "", _on_cuda(half=False, compiled=False), gpu=True),
    Engine("torch.compile CUDA fp16", "", _on_cuda(half=True, compiled=True), gpu=True),
    _exported("ONNX Runtime CUDA", "cuda", gpu=True),
    _exported("ONNX Runtime CUDA fp16", "cuda", half=True, gpu=True),
    _exported("TensorRT fp16", "tensorrt", half=True, gpu=True),
)

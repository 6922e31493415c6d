"""export --triton: a model repository for NVIDIA Triton, made of one verified .onnx and its configuration."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from torch import nn

from prostate_mim.deploy.container import read_container
from prostate_mim.deploy.contract import INPUT, MOST_LESIONS, OUTPUTS, Header
from prostate_mim.deploy.export import Progress, Size, export_onnx
from prostate_mim.deploy.providers import cuda_options
from prostate_mim.deploy.runtime import DEFAULTS
from prostate_mim.errors import UsageError
from prostate_mim.files import make_folder, write_text

_DELAY_US = 2000  # how long a request waits for others to share its batch


def write_triton(
    model: nn.Module, folder: str | Path, *, half: bool = False, static_zyx: Size | None = None,
    progress: Progress | None = None,
) -> Path:  # fmt: skip
    """Write ``folder/NAME/config.pbtxt`` and ``folder/NAME/1/model.onnx``.

    Preprocessing stays with the client (``OnnxClassifier.prepare``, or ``prepare_input`` with the contract in the
    file): a server sees crops, never a study.

    Args:
        model: a ``LesionClassifier`` or a ``PreMIM``.
        folder: the model repository; other models in it stay. The model's own folder must not exist.
        half, static_zyx, progress: as for ``export_onnx``.

    Returns:
        The model's folder.

    Raises:
        UsageError: the model's folder exists already, or the repository cannot be written.
        VerificationError, BackendError, ResourceError: as ``export_onnx``; nothing is left of the model's folder.
    """
    name = re.sub(r"[^A-Za-z0-9_-]", "_", str(getattr(model, "name", "model")))
    place = Path(folder) / name
    if place.exists():
        raise UsageError(f"{place}: exists already; remove it, or choose another --triton folder")
    make_folder(place / "1")
    try:
        path = export_onnx(model, place / "1" / "model.onnx", half=half, static_zyx=static_zyx, progress=progress)
        container = read_container(path)
        sizes = {key: list(value.shape[1:]) for key, value in container.golden.outputs.items()}
        write_text(place / "config.pbtxt", config_text(name, container.header, sizes))
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    return place


def config_text(name: str, header: Header, sizes: dict[str, list[int]]) -> str:
    """The configuration, in protobuf's text form.

    Args:
        name: of the model's folder.
        header: of the file.
        sizes: of each output without the batch, as the golden sample has them.
    """
    channels, size = len(header.spec.channels), list(header.size_zyx or (-1, -1, -1))
    outputs = [_output(key, sizes[key], fixed=header.size_zyx is not None) for key in OUTPUTS[header.kind]]
    warm = _message(
        name=_text("one lesion"), batch_size="1",
        inputs=_message(key=_text(INPUT), value=_message(
            data_type="TYPE_FP32", dims=_numbers([channels, *header.spec.size_zyx]), zero_data="true",
        )),
    )  # fmt: skip
    # Triton hands them to the CUDA provider where there is a GPU; without one the model runs on the CPU.
    chosen = sorted(cuda_options(header, DEFAULTS, graph=False).items())
    options = " ".join(f"parameters {{ key: {_text(key)} value: {_text(value)} }}" for key, value in chosen)
    cuda = f"{{ execution_accelerators {{ gpu_execution_accelerator [ {{ name: {_text('cuda')} {options} }} ] }} }}"
    lines = [
        f"# {header.name} {header.revision}; licence of the weights: {header.license}. Research only.",
        f"name: {_text(name)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {MOST_LESIONS}",
        _field("input", _message(name=_text(INPUT), data_type="TYPE_FP32", dims=_numbers([channels, *size]))),
        *(_field("output", output) for output in outputs),
        _field("dynamic_batching", _message(max_queue_delay_microseconds=str(_DELAY_US))),
        _field("instance_group", _message(count="1", kind="KIND_AUTO")),
        _field("model_warmup", warm),
        _field("optimization", cuda),
    ]
    return "\n".join(lines) + "\n"


def _output(name: str, size: list[int], *, fixed: bool) -> str:
    """The message of one output; its axes after the channel follow the input's size, unless that is fixed."""
    if not size:  # a number per item: Triton wants an axis, ONNX Runtime has none
        return _message(name=_text(name), data_type="TYPE_FP32", dims="[ 1 ]", reshape=_message(shape="[ ]"))
    channels, *place = size
    dims = [channels, *(place if fixed else [-1] * len(place))]
    return _message(name=_text(name), data_type="TYPE_FP32", dims=_numbers(dims))


def _field(name: str, message: str) -> str:
    return f"{name} {message}"


def _message(**fields: Any) -> str:
    inside = " ".join(f"{key} {value}" if value.startswith("{") else f"{key}: {value}" for key, value in fields.items())
    return "{ " + inside + " }"


def _text(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _numbers(values: list[int]) -> str:
    return "[ " + ", ".join(map(str, values)) + " ]"

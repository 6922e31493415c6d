"""What runs an .onnx on the CPU: ONNX Runtime, and OpenVINO where it is installed."""

from __future__ import annotations

from collections.abc import Sequence

from prostate_mim.doctor.child import Answer
from prostate_mim.doctor.commands import install, uninstall
from prostate_mim.doctor.finding import Finding
from prostate_mim.doctor.wheels import Wheel, wanted

ONNXRUNTIME, OPENVINO = "onnxruntime", "openvino"


def check_onnxruntime(answer: Answer | None, wheels: Sequence[Wheel], *, gpu: bool) -> Finding:
    """Whether it imports, and computes on the CPU.

    Args:
        answer: of the probe ``onnxruntime_cpu``; None if nothing of that name can be imported.
        wheels: those that are installed.
        gpu: there is an NVIDIA GPU.
    """
    if answer is None:
        return Finding(ONNXRUNTIME, "not applicable", "there is nothing to import")
    names = [wheel.name for wheel in wheels] or ["onnxruntime"]
    fix = f"{uninstall(*dict.fromkeys(names))} && {install(wanted(gpu=gpu))}"
    if answer.error:
        return Finding(ONNXRUNTIME, "fault", f"it cannot compute: {answer.error}", fix)
    if answer.values.get("shell"):
        return Finding(ONNXRUNTIME, "fault", "it imports as an empty shell without InferenceSession", fix)
    if not answer.values["right"]:
        return Finding(ONNXRUNTIME, "fault", "it computes a convolution wrongly on the CPU", fix)
    listed = [name.removesuffix("ExecutionProvider") for name in answer.values["providers"]]
    return Finding(ONNXRUNTIME, "ok", f"{answer.values['version']} computes on the CPU; lists {', '.join(listed)}")


def check_openvino(answer: Answer | None) -> Finding:
    """Whether OpenVINO, where it is installed, imports and finds a device.

    Args:
        answer: of the probe ``openvino``; None if it is not installed.
    """
    if answer is None:
        return Finding(OPENVINO, "not applicable", "not installed; it is optional")
    if answer.error:
        return Finding(
            OPENVINO, "warning", f"it is installed and broken: {answer.error}", install(OPENVINO, again=True)
        )
    devices = ", ".join(answer.values["devices"])
    if not devices:
        return Finding(OPENVINO, "warning", "it finds no device to compute on", install(OPENVINO, again=True))
    return Finding(OPENVINO, "ok", f"{answer.values['version'].partition('-')[0]} for {devices}")

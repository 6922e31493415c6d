"""CUDA in ONNX Runtime: listed is not alive. Its libraries, its generation, a session that really computes on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prostate_mim.doctor.child import Answer
from prostate_mim.doctor.commands import install, uninstall
from prostate_mim.doctor.driver import Driver
from prostate_mim.doctor.elf import needed
from prostate_mim.doctor.finding import Finding, some
from prostate_mim.doctor.wheels import Wheel, wanted

LIBRARIES, GENERATION, SESSION = "cuda-libraries", "cuda-generation", "cuda-session"
_CUDA = "CUDAExecutionProvider"
_DRIVERS = ("libcuda.so", "nvcuda.dll")  # of the driver, not of CUDA
_FFT, _FFT_NUMBERS = "libcufft.so.", {12: "11", 13: "12"}  # numbered by itself, not by CUDA's generation
_NO_GPU = "nothing to do on a machine without an NVIDIA GPU (--device auto and cpu compute); else install its driver"


def wanted_libraries(wheel: Wheel) -> list[str]:
    """Shared libraries that CUDA in this wheel needs, beside the driver's: linked, and opened when first used.

    Raises:
        ValueError, OSError: its CUDA provider cannot be read.
    """
    if not wheel.cuda or not wheel.library.is_file():
        return []
    linked = [name for name in needed(wheel.library) if not name.startswith(_DRIVERS)]
    generation = int(wheel.cuda.split(".")[0])
    # cuDNN and cuFFT are opened when a session first needs them; a 3D convolution always needs cuDNN.
    late = ["libcudnn.so.9", *([_FFT + _FFT_NUMBERS[generation]] if generation in _FFT_NUMBERS else [])]
    return list(dict.fromkeys([*linked, *late]))


def check_libraries(wheel: Wheel | None, answer: Answer | None, driver: Driver) -> Finding:
    """Which of the libraries that CUDA in ONNX Runtime needs cannot be loaded.

    Args:
        answer: of the probe ``libraries``; None if it was not asked.
    """
    if wheel is None or not wheel.cuda:
        return Finding(LIBRARIES, "not applicable", "no wheel of ONNX Runtime with CUDA")
    if answer is None:
        found = f"which libraries {wheel.shown} needs for CUDA cannot be told here"
        return Finding(LIBRARIES, "not applicable", found)
    fix = install(f"{wheel.name}[cuda,cudnn]=={wheel.version}")
    if answer.error:
        return Finding(LIBRARIES, "fault" if driver.gpu else "warning", f"they cannot be tried: {answer.error}", fix)
    missing: Mapping[str, str] = answer.values["missing"]
    if not missing:
        return Finding(LIBRARIES, "ok", f"all that CUDA {wheel.cuda} in {wheel.shown} needs are found, cuDNN too")
    # What is there and cannot be loaded itself lacks something: its reason says what.
    broken = [f"{name} ({why})" for name, why in missing.items() if not why.startswith(f"{name}:")]
    found = f"not found for CUDA in {wheel.shown}: {some([*missing], 8)}" + (f"; {some(broken, 1)}" if broken else "")
    if not driver.gpu:
        return Finding(LIBRARIES, "not applicable", f"{found}; without an NVIDIA GPU nothing needs them")
    if all(name.startswith(_FFT) for name in missing):
        return Finding(LIBRARIES, "warning", f"{found}; Fourier transforms alone need it", fix)
    return Finding(LIBRARIES, "fault", found, fix)


def check_generation(wheel: Wheel | None, torch: Mapping[str, Any], driver: Driver) -> Finding:
    """CUDA 12 or 13: of ONNX Runtime against torch, and of both against the driver.

    Args:
        torch: answer of the probe ``torch_build``; empty if there is none.
    """
    built = {}
    if wheel is not None and wheel.cuda:
        built[wheel.shown] = wheel.cuda
    if torch.get("cuda"):
        built[f"torch {torch['version']}"] = str(torch["cuda"])
    if not built:
        return Finding(GENERATION, "not applicable", "neither ONNX Runtime nor torch was built with CUDA")
    found = ", ".join(f"{name} is for CUDA {version}" for name, version in built.items())
    newest = max(_generation(version) for version in built.values())
    if driver.library and 0 < driver.cuda[0] < newest:
        fix = f"install an NVIDIA driver for CUDA {newest}" + (" (580 or newer)" if newest == 13 else "")
        found += ", and the driver goes up to CUDA {}.{}".format(*driver.cuda)
        return Finding(GENERATION, "fault" if driver.gpu else "warning", found, fix)
    if len({_generation(version) for version in built.values()}) > 1:
        found += "; their two cuDNN have one name, and one environment holds one of them"
        return Finding(GENERATION, "warning", found, install("torch>=2.11", wanted(gpu=driver.gpu)))
    alone = "" if len(built) > 1 else "; nothing else has a CUDA to agree with"
    return Finding(GENERATION, "ok", found + alone)


def _generation(version: str) -> int:
    return int(version.split(".")[0])


def check_session(wheel: Wheel | None, answer: Answer, driver: Driver, libraries: Finding) -> Finding:
    """Whether a session that asks for CUDA gets it; ONNX Runtime lists CUDA wherever it was compiled in.

    Args:
        answer: of the probe ``onnxruntime_cuda``.
        libraries: what ``check_libraries`` found, where the reason often lies.
    """
    values = answer.values
    if values.get("listed") is False:
        return _not_built(wheel, driver)
    if values.get("provider") != _CUDA:
        got = f"fails: {answer.error}" if answer.error else f"gets {values['provider']}"
        reason = "" if driver.library else "; there is no NVIDIA driver"
        found = f"ONNX Runtime lists CUDA, but a session that asks for it {got}{reason}"
        if not driver.gpu:
            return Finding(SESSION, "warning", found, _NO_GPU)
        return Finding(SESSION, "fault", found, libraries.fix or "mend what the other findings on CUDA say")
    if not values["right"]:
        return Finding(SESSION, "fault", "a session on CUDA gives wrong numbers", "install the NVIDIA driver anew")
    if values["convolution"] not in ("", _CUDA):
        found = f"a session gets CUDA, and its convolution goes to {values['convolution']}: cuDNN cannot be used"
        return Finding(SESSION, "fault", found, libraries.fix or install(wanted(gpu=True)))
    return Finding(SESSION, "ok", "a session asked for CUDA and computed a convolution there")


def _not_built(wheel: Wheel | None, driver: Driver) -> Finding:
    found, right = "this ONNX Runtime was built without CUDA", wanted(gpu=True)
    if not driver.gpu:
        return Finding(SESSION, "not applicable", found)
    if not right.startswith("onnxruntime-gpu"):
        return Finding(SESSION, "not applicable", f"{found}; no wheel for this system has it")
    fix = install(right) if wheel is None else f"{uninstall(wheel.name)} && {install(right)}"
    return Finding(SESSION, "warning", f"{found}, and there is an NVIDIA GPU", fix)


def library_names(wheel: Wheel | None) -> list[str]:
    """``wanted_libraries``, and none where they cannot be told (the wheel's check says what is damaged)."""
    try:
        return wanted_libraries(wheel) if wheel is not None else []
    except (ValueError, OSError):
        return []

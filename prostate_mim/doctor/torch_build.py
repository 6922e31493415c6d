"""torch: there, able to compute, on the GPU if there is one; and torchvision, whose operators fit one torch only."""

from __future__ import annotations

import importlib.metadata
import re
from contextlib import suppress

from prostate_mim.doctor.child import Answer
from prostate_mim.doctor.commands import install, uninstall
from prostate_mim.doctor.driver import Driver
from prostate_mim.doctor.finding import Finding

TORCH, TORCHVISION = "torch", "torchvision"
_REQUIREMENT = "torch>=2.11"
_OF_CUDA = "install torch's CUDA build in its place: see pytorch.org, 'Get started'"
_PIN = re.compile(r"torch\s*\(?\s*==\s*([\w.]+)")


def version_of(name: str) -> str:
    """Version of an installed package by its metadata; empty if there is none."""
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name) or ""
    return ""


def check_torch(answer: Answer | None, driver: Driver) -> Finding:
    """Absent, broken, a CPU build, or a CUDA build, and whether it computes where it should.

    Args:
        answer: of the probe ``torch_build``; None if torch is not installed.
    """
    if answer is None:
        found = "not installed: an exported .onnx runs, training, 'embed' and 'predict' with other models do not"
        return Finding(TORCH, "warning", found, install(_REQUIREMENT))
    if answer.error:
        version = version_of(TORCH)
        again = install(f"{TORCH}=={version}" if version and "+" not in version else _REQUIREMENT, again=True)
        return Finding(TORCH, "fault", f"{version or 'it'} cannot be used: {answer.error}", again)
    values = answer.values
    shown = f"{values['version']}, " + (f"build for CUDA {values['cuda']}" if values["cuda"] else "CPU build")
    if not values["right"]:
        return Finding(TORCH, "fault", f"{shown}, computes wrongly on the CPU", install(_REQUIREMENT, again=True))
    if not driver.devices:
        return Finding(TORCH, "ok", f"{shown}, computes on the CPU")
    if not values["cuda"]:
        return Finding(TORCH, "warning", f"{shown}, and there is an NVIDIA GPU that it cannot use", _OF_CUDA)
    if not values.get("right_on_cuda"):
        found = f"{shown}, does not compute on the GPU: {values['why'] or 'wrong numbers'}"
        return Finding(TORCH, "fault", found, f"update the NVIDIA driver, or {_OF_CUDA}")
    return Finding(TORCH, "ok", f"{shown}, computes on {values['devices']} GPU(s)")


def check_torchvision(answer: Answer | None) -> Finding:
    """Whether it fits the torch that is installed. Nothing here needs it, so a warning; much else imports it.

    Args:
        answer: of the probe ``torchvision``; None if it is not installed.
    """
    if answer is None:
        return Finding(TORCHVISION, "not applicable", "not installed, and nothing here needs it")
    version, torch, pin = version_of(TORCHVISION), version_of(TORCH), _pinned_torch()
    fits = not pin or not torch or pin == torch or pin == torch.partition("+")[0]
    belongs = "" if fits else f"; it belongs to torch {pin}, and {torch} is installed"
    fix = uninstall(TORCHVISION)
    if answer.error:
        found = f"{version or 'it'} fails when it is imported: {answer.error}{belongs}"
        return Finding(TORCHVISION, "warning", found, fix)
    if not fits:
        return Finding(TORCHVISION, "warning", f"{version} is of another release{belongs}", fix)
    return Finding(TORCHVISION, "ok", f"{version} fits torch {torch}")


def _pinned_torch() -> str:
    """The one torch that the metadata of torchvision asks for; empty if it names none."""
    with suppress(importlib.metadata.PackageNotFoundError):
        for line in importlib.metadata.requires(TORCHVISION) or []:
            found = _PIN.match(line)
            if found:
                return found[1]
    return ""

"""The NVIDIA hardware and its driver, as far as they can be told without any package."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prostate_mim.doctor.child import Answer
from prostate_mim.doctor.commands import unset_variable
from prostate_mim.doctor.finding import Finding, State, one_line, some

NAME = "nvidia-driver"
_PCI, _NVIDIA, _DISPLAY = Path("/sys/bus/pci/devices"), "0x10de", ("0x0300", "0x0302")
_CONTAINERS = (Path("/.dockerenv"), Path("/run/.containerenv"))
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE, in cuda.h
_HIDING = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Driver:
    """What the driver says.

    Attributes:
        library: its library loads.
        cuda: the CUDA version it goes up to, (13, 0); (0, 0) if it does not say.
        devices: GPUs that it gives, with compute capability and memory.
        error: why it gives none.
        hardware: an NVIDIA GPU is on the PCI bus, whatever the driver says (Linux only).
    """

    library: bool
    cuda: tuple[int, int] = (0, 0)
    devices: tuple[str, ...] = ()
    error: str = ""
    hardware: bool = False

    @property
    def gpu(self) -> bool:
        """There is one, usable or not: CUDA is wanted here."""
        return self.hardware or bool(self.devices)


def read_driver(answer: Answer, pci: Path = _PCI) -> Driver:
    """From the answer of the probe ``driver``, and the devices of ``pci``."""
    values, hardware = answer.values, _on_bus(pci)
    if answer.error or not values.get("library"):
        return Driver(False, error=answer.error or one_line(str(values.get("why", "")), 200), hardware=hardware)
    version = int(values["cuda"])
    error = f"{values['error']} ({values['code']})" if "code" in values else ""
    return Driver(True, (version // 1000, version % 1000 // 10), tuple(values["devices"]), error, hardware)


def _on_bus(pci: Path) -> bool:
    with suppress(OSError):
        for device in pci.iterdir():
            with suppress(OSError):
                kind = (device / "class").read_text()[:6]
                if (device / "vendor").read_text().strip() == _NVIDIA and kind in _DISPLAY:
                    return True
    return False


def check_driver(driver: Driver, environ: Mapping[str, str]) -> Finding:
    """Whether there is a GPU, and a driver that gives it to programs."""
    up_to = "CUDA up to {}.{}".format(*driver.cuda)
    if driver.devices:
        count = len(driver.devices)
        found = f"{_release()}{up_to}, {count} GPU{'s' if count > 1 else ''}: {some(driver.devices)}"
        return Finding(NAME, "ok", found)
    if driver.library:
        hidden = environ.get(_HIDING)
        if hidden is not None and driver.error.endswith(f"({_NO_DEVICE})"):
            found = f"{_release()}{up_to}, and {_HIDING}={hidden!r} hides every GPU"
            return Finding(NAME, "warning", found, unset_variable(_HIDING))
        state: State = "fault" if driver.hardware else "warning"
        found = f"{_release()}{up_to}, and it gives no GPU: {driver.error or 'it counts none'}"
        return Finding(NAME, state, found, "run nvidia-smi; where it fails too, reboot, or install the driver anew")
    if not driver.hardware:
        return Finding(NAME, "not applicable", "no NVIDIA GPU and no driver; everything computes on the CPU")
    if any(path.exists() for path in _CONTAINERS):
        fix = "start the container with its GPUs (docker run --gpus all ..., with the NVIDIA Container Toolkit)"
    else:
        fix = "install the NVIDIA driver from your distribution, 580 or newer for CUDA 13, and reboot"
    return Finding(NAME, "fault", f"there is an NVIDIA GPU, and no driver for programs: {driver.error}", fix)


def _release() -> str:
    with suppress(OSError):
        found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", Path("/proc/driver/nvidia/version").read_text())
        return f"driver {found[1]}, " if found else ""
    return ""

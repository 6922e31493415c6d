"""All checks in their order: what is asked of child processes first, so that they run beside each other."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from prostate_mim._version import __version__
from prostate_mim.doctor import cuda, disk, network, runtimes, torch_build
from prostate_mim.doctor.addresses import hidden
from prostate_mim.doctor.child import TIMEOUT_S, Answer, Children
from prostate_mim.doctor.driver import NAME as DRIVER
from prostate_mim.doctor.driver import Driver, check_driver, read_driver
from prostate_mim.doctor.finding import Finding, one_line, printable
from prostate_mim.doctor.wheels import NAME as WHEELS
from prostate_mim.doctor.wheels import PACKAGE, Wheel, check_wheels, installed_wheels
from prostate_mim.errors import BackendError

PACKAGES = (
    "torch", "torchvision", "onnxruntime", "onnxruntime-gpu", "openvino", "onnx", "onnxscript", "numpy", "monai",
    "huggingface-hub", "safetensors", "nibabel", "SimpleITK",
)  # fmt: skip
_HUB_S = 20.0  # the probe itself waits 5 s for each step; looking up a name has no limit of its own
_OLDEST, _NEWEST = (3, 11), (3, 13)


@dataclass(frozen=True)
class Report:
    """What was found on this machine.

    Attributes:
        versions: of Python, the system, this package and those it stands on; None for what is not installed.
        findings: one a check, in their order.
    """

    versions: dict[str, str | None]
    findings: tuple[Finding, ...]

    def count(self, state: str) -> int:
        """How many findings are in a state."""
        return sum(finding.state == state for finding in self.findings)

    @property
    def exit_code(self) -> int:
        """0 if there is no fault, else that of ``BackendError``; warnings do not count."""
        return BackendError.exit_code if self.count("fault") else 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "faults": self.count("fault"), "warnings": self.count("warning"), "exit_code": self.exit_code,
            "versions": self.versions, "findings": [asdict(finding) for finding in self.findings],
        }  # fmt: skip


class Facts:
    """What the checks look at, each read once and when it is first asked for.

    Args:
        environ: environment variables.
        children: probes that were started; ``begin`` does it.
    """

    def __init__(self, environ: Mapping[str, str], children: Children) -> None:
        self.environ = environ
        self.children = children

    def begin(self, timeout_s: float = TIMEOUT_S) -> None:
        """Start every probe that has something to look at on this machine."""
        for probe in ("driver", *(("onnxruntime_cpu", "onnxruntime_cuda") if self.has_onnxruntime else ())):
            self.children.start(probe, timeout_s=timeout_s)
        for probe, package in (("torch_build", "torch"), ("torchvision", "torchvision"), ("openvino", "openvino")):
            if _spec(package):
                self.children.start(probe, timeout_s=timeout_s)
        question = network.question(self.environ)
        if question:
            self.children.start("hub", question, timeout_s=min(_HUB_S, timeout_s))
        names: list[str] = []
        with suppress(Exception):  # metadata may be broken in any way; the check of the wheels says how
            names = cuda.library_names(self.wheel)
        if names:
            self.children.start("libraries", *names, timeout_s=timeout_s)

    def answer(self, probe: str) -> Answer | None:
        """Of a probe; None if it was not started."""
        return self.children.answer(probe) if self.children.started(probe) else None

    @cached_property
    def has_onnxruntime(self) -> bool:
        """Something of that name can be imported, if only an empty folder."""
        return _spec(PACKAGE)

    @cached_property
    def wheels(self) -> list[Wheel]:
        """Of ONNX Runtime, all that are installed."""
        return installed_wheels()

    @cached_property
    def wheel(self) -> Wheel | None:
        """The one whose CUDA is looked at, if there is any."""
        with_cuda = [wheel for wheel in self.wheels if wheel.library.is_file()]
        return next(iter([*with_cuda, *self.wheels]), None)

    @cached_property
    def driver(self) -> Driver:
        """Of NVIDIA."""
        return read_driver(self.answer("driver") or Answer({}))

    @cached_property
    def onnxruntime(self) -> Finding:
        """Whether ONNX Runtime works at all; what is said of its CUDA depends on it."""
        answer = self.answer("onnxruntime_cpu")
        return runtimes.check_onnxruntime(answer, self.wheels, gpu=self.driver.gpu)

    @cached_property
    def libraries(self) -> Finding:
        """The libraries of CUDA, which the session's finding depends on."""
        return self.if_it_works(
            cuda.LIBRARIES, lambda: cuda.check_libraries(self.wheel, self.answer("libraries"), self.driver)
        )

    def if_it_works(self, name: str, check: Callable[[], Finding]) -> Finding:
        """A check that needs a working ONNX Runtime."""
        if self.onnxruntime.state != "ok":
            return Finding(name, "not applicable", "ONNX Runtime does not work at all")
        return check()


def check_python(facts: Facts) -> Finding:
    """A version and a system that the package is made for."""
    bits = 64 if sys.maxsize > 2**32 else 32
    found = f"{platform.python_version()}, {bits} bit, {platform.platform()}; prostate-mim {__version__}"
    if sys.version_info[:2] < _OLDEST or bits != 64:
        return Finding("python", "fault", found, "use a 64-bit Python {}.{}".format(*_NEWEST))
    if sys.version_info[:2] > _NEWEST:
        fix = "use Python {}.{}, if anything fails".format(*_NEWEST)
        return Finding("python", "warning", f"{found}; newer than what is tested", fix)
    return Finding("python", "ok", found)


def _session(facts: Facts) -> Finding:
    answer = facts.answer("onnxruntime_cuda") or Answer({}, "not asked")
    return facts.if_it_works(
        cuda.SESSION, lambda: cuda.check_session(facts.wheel, answer, facts.driver, facts.libraries)
    )


def _generation(facts: Facts) -> Finding:
    answer = facts.answer("torch_build") or Answer({})
    return cuda.check_generation(facts.wheel, answer.values, facts.driver)


def _cache(facts: Facts) -> Finding:
    return disk.check_cache(disk.cache_folder(facts.environ), offline=bool(network.offline(facts.environ)))


# Name and check, in the order of the report. Children answer while the checks before theirs are made.
CHECKS: tuple[tuple[str, Callable[[Facts], Finding]], ...] = (
    ("python", check_python),
    (WHEELS, lambda facts: check_wheels(facts.wheels, gpu=facts.driver.gpu)),
    (runtimes.ONNXRUNTIME, lambda facts: facts.onnxruntime),
    (DRIVER, lambda facts: check_driver(facts.driver, facts.environ)),
    (cuda.LIBRARIES, lambda facts: facts.libraries),
    (cuda.GENERATION, _generation),
    (cuda.SESSION, _session),
    (torch_build.TORCH, lambda facts: torch_build.check_torch(facts.answer("torch_build"), facts.driver)),
    (torch_build.TORCHVISION, lambda facts: torch_build.check_torchvision(facts.answer("torchvision"))),
    (runtimes.OPENVINO, lambda facts: runtimes.check_openvino(facts.answer("openvino"))),
    (network.PROXY, lambda facts: network.check_proxies(facts.environ)),
    (network.CERTIFICATES, lambda facts: network.check_certificates(facts.environ)),
    (network.HUB, lambda facts: network.check_hub(facts.environ, facts.answer("hub"))),
    (disk.CACHE, _cache),
    (disk.TEMPORARY, lambda facts: disk.check_temporary(facts.environ)),
)


def examine(timeout_s: float = TIMEOUT_S) -> Report:
    """Make every check, on this machine, with this interpreter and its environment variables.

    Nothing is installed, changed or left behind. The network is touched only where HF_ENDPOINT names a hub and no
    offline switch is on: that hub is asked one question.

    Args:
        timeout_s: for each child process; one that does not answer is a finding.
    """
    environ = dict(os.environ)
    with Children(environ) as children:
        facts = Facts(environ, children)
        facts.begin(timeout_s)
        findings = tuple(_made(name, check, facts) for name, check in CHECKS)
    return Report(_versions(), findings)


def _made(name: str, check: Callable[[Facts], Finding], facts: Facts) -> Finding:
    try:
        finding = check(facts)
    except Exception as error:  # what is broken here breaks in its own way; the other findings are wanted all the same
        found = f"the check itself failed: {type(error).__name__}: {error}"
        finding = Finding(name, "fault", found, "report it, with this line")
    found, fix = (hidden(text, facts.environ) for text in (finding.found, finding.fix))
    return Finding(finding.name, finding.state, one_line(found), printable(fix))  # a command is not cut short


def _spec(package: str) -> bool:
    """Whether an import would find something; nothing is imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return True  # it is there, and so broken that not even this works


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {
        "prostate-mim": __version__, "python": platform.python_version(), "platform": platform.platform(),
    }  # fmt: skip
    for name in PACKAGES:
        versions[name] = None
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name) or None
    return versions

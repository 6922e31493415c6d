"""The lowest versions that setup.cfg allows, and what pip would install for them, found out before it does."""

from __future__ import annotations

import configparser
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version
from release_rows import Ran, run

_OFFLINE = (
    "NewConnectionError",
    "Failed to establish a new connection",
    "NameResolutionError",
    "Network is unreachable",
)


class NoLowestError(Exception):
    """A requirement that says no lowest version; one line."""


def direct(tree: Path) -> list[Requirement]:
    """``install_requires`` of setup.cfg."""
    parser = configparser.ConfigParser()
    parser.read(tree / "setup.cfg", encoding="utf-8")
    lines = parser.get("options", "install_requires", fallback="").splitlines()
    return [Requirement(line) for line in lines if line.strip()]


def lowest_of(requirement: Requirement) -> Version:
    """The lowest version that a requirement allows by ``>=``, ``~=`` or ``==``.

    Raises:
        NoLowestError: it names none, or only one that itself is excluded (``>``).
    """
    named = [
        Version(one.version.removesuffix(".*")) for one in requirement.specifier if one.operator in (">=", "~=", "==")
    ]
    allowed = [version for version in named if requirement.specifier.contains(version, prereleases=True)]
    if not allowed:
        raise NoLowestError(f"{requirement}: names no lowest version; write NAME>=VERSION in setup.cfg")
    return min(allowed)


def lowest(requirements: list[Requirement], environment: dict[str, str]) -> dict[str, str]:
    """Name -> ``NAME[EXTRAS]==LOWEST`` of the requirements that apply in an environment of markers.

    Several lines of one name (by Python version) are one requirement each; the one whose marker holds counts, and the
    higher bound where several hold.

    Raises:
        NoLowestError: as ``lowest_of``.
    """
    found: dict[str, tuple[Version, str]] = {}
    for requirement in requirements:
        if requirement.marker is not None and not requirement.marker.evaluate(environment):
            continue
        version = lowest_of(requirement)
        extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
        if requirement.name not in found or version > found[requirement.name][0]:
            found[requirement.name] = version, f"{requirement.name}{extras}=={version}"
    return {name: line for name, (_, line) in found.items()}


def pinned(tree: Path, name: str) -> str:
    """``NAME==VERSION`` of a package in constraints.txt.

    Raises:
        NoLowestError: it is not pinned.
    """
    for line in (tree / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line.lower().startswith(f"{name.lower()}=="):
            return line.strip()
    raise NoLowestError(f"constraints.txt: {name} is not pinned")


@dataclass(frozen=True)
class Plan:
    """What pip would install.

    Attributes:
        versions: by name in lower case.
        cuda: packages that only a CUDA build of torch brings; installing them would take gigabytes.
    """

    versions: dict[str, str]
    cuda: tuple[str, ...]


def read_plan(report: dict[str, Any]) -> Plan:
    """A plan from pip's JSON report."""
    versions = {one["metadata"]["name"].lower(): one["metadata"]["version"] for one in report["install"]}
    cuda = tuple(sorted(name for name in versions if name.startswith("nvidia-") or name == "cuda-toolkit"))
    return Plan(versions, cuda)


@dataclass(frozen=True)
class Refused:
    """Why pip would not install.

    Attributes:
        reason: one line of pip's.
        offline: it did not reach an index, which says nothing about the requirements.
    """

    reason: str
    offline: bool


def plan(python: Path, words: list[str], work: Path) -> Plan | Refused:
    """What ``pip install`` would do in an environment, or why it would not.

    Wheels only: a lowest version that has to be compiled on the user's machine is none that works.
    """
    report = work / "plan.json"
    command = [python, "-m", "pip", "install", "--dry-run", "--only-binary", ":all:", "--report", report]
    done = run([*command, *words], work)
    if done.code:
        return Refused(_why(done), any(word in done.error for word in _OFFLINE))
    return read_plan(json.loads(report.read_text(encoding="utf-8")))


def _why(done: Ran) -> str:
    """Who wants what, where pip says it; else its last error."""
    _, found, told = done.out.partition("The conflict is caused by:\n")
    lines = [line.strip() for line in told.partition("\n\n")[0].splitlines() if line.strip()]
    return "conflict: " + ", ".join(lines)[:300] if found and lines else done.reason

"""Lowest versions, counted by hand, and what pip would install, asked of the real pip."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from release_requirements import NoLowestError, Plan, Refused, direct, lowest, lowest_of, pinned, plan, read_plan

ROOT = Path(__file__).resolve().parents[2]
LINUX = {
    "sys_platform": "linux", "platform_machine": "x86_64", "python_version": "3.11", "python_full_version": "3.11.7",
    "extra": "",
}  # fmt: skip


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("numpy>=1.26,<3", "1.26"), ("a~=1.4.2", "1.4.2"), ("a==2.0", "2.0"), ("a>=1,>=2", "2"), ("a==1.4.*", "1.4"),
        ("a>=1.0rc1", "1.0rc1"), ("a[x]>=3; python_version > '3'", "3"),
    ],
)  # fmt: skip
def test_lowest_of(line: str, expected: str) -> None:
    assert str(lowest_of(Requirement(line))) == expected


@pytest.mark.parametrize("line", ["a", "a<3", "a>1", "a!=2", "a>=1,!=1"])
def test_no_lowest(line: str) -> None:
    """``>1`` allows every version above and names none."""
    with pytest.raises(NoLowestError, match="names no lowest version"):
        lowest_of(Requirement(line))


def test_lines_by_python_version() -> None:
    """A requirement may have a higher bound on newer interpreters; the one that holds counts."""
    lines = ["numpy>=1.26", "numpy>=2.1; python_version >= '3.13'", "b[x,a]>=1; sys_platform == 'win32'", "c[z,y]>=4"]
    found = [Requirement(line) for line in lines]
    assert lowest(found, LINUX) == {"numpy": "numpy==1.26", "c": "c[y,z]==4"}
    newer = {**LINUX, "python_version": "3.13", "python_full_version": "3.13.0"}
    assert lowest(found, newer) == {"numpy": "numpy==2.1", "c": "c[y,z]==4"}


def test_our_own_requirements() -> None:
    """Each names its lowest version, on a new Python a newer one; one of the ONNX Runtimes applies; torch is pinned."""
    found = lowest(direct(ROOT), LINUX)
    assert len(found) == len({one.name for one in direct(ROOT)}) - 1
    newer = lowest(direct(ROOT), {**LINUX, "python_version": "3.13"})
    assert (found["numpy"], newer["numpy"]) == ("numpy==1.26", "numpy==2.1")
    assert "onnxruntime-gpu" in found and "onnxruntime" not in found
    assert found["safetensors"].startswith("safetensors==")
    assert pinned(ROOT, "torch").startswith("torch==")
    with pytest.raises(NoLowestError, match="nothing-like-it is not pinned"):
        pinned(ROOT, "nothing-like-it")


def _report(*names: str) -> dict[str, list[dict[str, dict[str, str]]]]:
    return {"install": [{"metadata": {"name": name, "version": "1"}} for name in names]}


def test_a_cuda_build_is_seen() -> None:
    assert read_plan(_report("Torch", "numpy")) == Plan({"torch": "1", "numpy": "1"}, ())
    assert read_plan(_report("torch", "nvidia-cudnn-cu13", "cuda-toolkit")).cuda == (
        "cuda-toolkit",
        "nvidia-cudnn-cu13",
    )


def test_pips_own_plan(tmp_path: Path, tiny_wheel: Path) -> None:
    """The real pip: a wheel that can be had, and a version that cannot."""
    offline = ["--no-index", "--no-deps", "--find-links", str(tiny_wheel.parent)]
    found = plan(Path(sys.executable), [*offline, "tiny==1.2.3"], tmp_path)
    assert found == Plan({"tiny": "1.2.3"}, ())
    refused = plan(Path(sys.executable), [*offline, "tiny==9"], tmp_path)
    assert isinstance(refused, Refused) and not refused.offline
    assert "tiny==9" in refused.reason and "\n" not in refused.reason

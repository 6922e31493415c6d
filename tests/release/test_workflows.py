"""The workflows: YAML with the keys they need, few rights, actions by a version, commands that exist."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".github" / "workflows"
NAMES = ("docs", "test", "wheel")
_PINNED = re.compile(r"[\w.-]+/[\w.-]+@(v\d+|release/v\d+)")
# Whom we let run in our pipelines.
_OWNERS = {"actions", "pypa"}


def workflow(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yml").read_text(encoding="utf-8"))
    return found


def problems(found: dict[str, Any]) -> list[str]:
    """What must not be in any workflow of ours."""
    told = [f"{key} is missing" for key in ("name", "on", "permissions", "jobs") if key not in found]
    if found.get("permissions") != {"contents": "read"}:
        told.append("permissions are more than to read")
    for name, job in found.get("jobs", {}).items():
        told += [f"{name}: {key} is missing" for key in ("runs-on", "timeout-minutes", "steps") if key not in job]
        rights = job.get("permissions", {})
        if set(rights) - {"id-token"} or (rights and "environment" not in job):
            told.append(f"{name}: has rights of its own")
        for step in job.get("steps", []):
            told += [f"{name}: {why}" for why in _of_step(step)]
    return told


def _of_step(step: dict[str, Any]) -> list[str]:
    uses = step.get("uses", "")
    if ("run" in step) == bool(uses):
        return ["a step either runs or uses"]
    if "run" in step:
        # Names of branches and tags are anybody's text: into a shell they go as variables, never as text.
        return ["an expression in a script"] if "${{" in step["run"] else []
    told = [] if _PINNED.fullmatch(uses) else [f"{uses} is not pinned to a major version"]
    if uses.partition("/")[0] not in _OWNERS:
        told.append(f"{uses} is of nobody we know")
    if uses.startswith("actions/checkout") and step.get("with", {}).get("persist-credentials") is not False:
        told.append("checkout leaves its token behind")
    return told


def test_all_are_looked_at() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == [f"{name}.yml" for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_workflow(name: str) -> None:
    found = workflow(name)
    assert problems(found) == []
    assert found["name"] == name
    assert {"push", "pull_request"} <= set(found["on"])
    assert "pull_request_target" not in found["on"]  # that one has secrets


@pytest.mark.parametrize("name", NAMES)
def test_make_targets_exist(name: str) -> None:
    """Commands of the workflows are targets of the Makefile, or scripts that are there."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    scripts = "\n".join(step.get("run", "") for job in workflow(name)["jobs"].values() for step in job["steps"])
    assert set(re.findall(r"^make ([a-z-]+)", scripts, re.M)) <= targets
    assert all((ROOT / path).is_file() for path in re.findall(r"python (tests/\S+\.py)", scripts))


def test_test_runs_on_every_python() -> None:
    """Those of the classifiers in setup.cfg; which index has the CPU build of torch is for the repository to say."""
    job = workflow("test")["jobs"]["test"]
    declared = re.findall(r"Python :: (3\.\d+)$", (ROOT / "setup.cfg").read_text(), re.M)
    assert job["strategy"]["matrix"]["python"] == declared
    assert job["env"]["PIP_EXTRA_INDEX_URL"] == "${{ vars.TORCH_CPU_INDEX }}"


def test_docs_are_kept() -> None:
    steps = workflow("docs")["jobs"]["docs"]["steps"]
    assert [step["with"]["path"] for step in steps if "upload-artifact" in step.get("uses", "")] == ["docs/_build/html"]


def test_publishing() -> None:
    """Only for a tag, only what was built and checked, by a trusted publisher and no secret."""
    found = workflow("wheel")
    build, publish = found["jobs"]["build"], found["jobs"]["publish"]
    assert found["on"]["push"]["tags"] == ["v*"]
    assert publish["needs"] == "build" and "refs/tags/v" in publish["if"] and "'push'" in publish["if"]
    assert publish["permissions"] == {"id-token": "write"} and publish["environment"] == "pypi"
    assert "permissions" not in build
    assert [step["uses"].partition("@")[0] for step in publish["steps"]] == [
        "actions/download-artifact", "pypa/gh-action-pypi-publish",
    ]  # fmt: skip
    kept = [
        step["with"]["name"] for job in (build, publish) for step in job["steps"] if "-artifact" in step.get("uses", "")
    ]
    assert kept == ["dist", "dist"]
    assert "secrets." not in (FOLDER / "wheel.yml").read_text()
    (script,) = (step["run"] for step in build["steps"] if "check.py" in step.get("run", ""))
    assert all(part in script for part in ("build", "contents", "twine", "versions", "--tag"))


def _broken(change: str) -> dict[str, Any]:
    found = copy.deepcopy(workflow("wheel"))
    build = found["jobs"]["build"]
    if change == "branch":
        build["steps"][0]["uses"] = "actions/checkout@main"
    elif change == "stranger":
        build["steps"][0]["uses"] = "somebody/checkout@v5"
    elif change == "token":
        build["steps"][0].pop("with")
    elif change == "write":
        found["permissions"] = {"contents": "write"}
    elif change == "job":
        build["permissions"] = {"packages": "write"}
    elif change == "shell":
        build["steps"][2]["run"] += "echo ${{ github.ref_name }}\n"
    elif change == "forever":
        build.pop("timeout-minutes")
    return found


@pytest.mark.parametrize("change", ["branch", "stranger", "token", "write", "job", "shell", "forever"])
def test_the_control(change: str) -> None:
    """Each rule refuses the workflow that breaks it."""
    assert len(problems(_broken(change))) == 1

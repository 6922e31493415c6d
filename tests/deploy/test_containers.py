"""Dockerfiles and Kubernetes files of the kit, as far as they can be checked without either.

No container is built here. What a build would do is done in parts: every file that is copied exists, every pinned
version is the tested one and nothing unpinned is left, and the very pip commands run in a new environment where wheels
lie ready: PROSTATE_MIM_KIT_WHEELS names a folder that `pip download -c export/pinned.txt` filled with the requirements,
setuptools and wheel. The health check meets a service in test_service.py.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
KIT = ROOT / "export"
DOCKERFILES = ("Dockerfile.cpu", "Dockerfile.cuda")
WHEELS = os.environ.get("PROSTATE_MIM_KIT_WHEELS")
_ELSEWHERE = {"onnxruntime": "onnxruntime-gpu"}  # what the development set has in its place
_NVIDIA = re.compile(r"nvidia-[a-z0-9-]+==\d[\d.]+")

Step = tuple[str, str]


def steps(text: str) -> list[Step]:
    """(instruction, arguments) of a Dockerfile, comments dropped and continued lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def dockerfile(name: str) -> list[Step]:
    return steps((KIT / name).read_text(encoding="utf-8"))


def environment(name: str) -> dict[str, str]:
    """Of the final image."""
    words = [word for key, rest in dockerfile(name) if key == "ENV" for word in shlex.split(rest)]
    return dict(word.split("=", 1) for word in words)


def copied(found: list[Step]) -> Iterator[str]:
    """Sources of COPY, those of an earlier stage left out."""
    for key, rest in found:
        if key == "COPY" and not rest.startswith("--from="):
            yield from rest.split()[:-1]


def names(file: Path) -> list[Requirement]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]


def pinned(file: Path) -> dict[str, str]:
    """Canonical name -> version; every line is ``name==version``."""
    found = {}
    for requirement in names(file):
        (one,) = requirement.specifier
        assert one.operator == "==" and not one.version.endswith("*"), f"{requirement} is no pin"
        found[canonicalize_name(requirement.name)] = one.version
    return found


def needed(requirements: list[Requirement]) -> set[str]:
    """The requirements and all they need in turn, by what is installed here."""
    found: set[str] = set()
    waiting = [(one, frozenset(one.extras)) for one in requirements]
    while waiting:
        one, extras = waiting.pop()
        name = canonicalize_name(one.name)
        if name in found or name.startswith("nvidia-"):
            continue
        found.add(name)
        metadata = importlib.metadata.distribution(_ELSEWHERE.get(name, name)).requires or []
        for text in metadata:
            inner = Requirement(text)
            if inner.marker is None or any(inner.marker.evaluate({"extra": e}) for e in ("", *extras)):
                waiting.append((inner, frozenset(inner.extras)))
    return found


# Dockerfiles


@pytest.mark.parametrize("name", DOCKERFILES)
def test_every_copied_file_is_there(name: str) -> None:
    """And is not kept out by the .dockerignore beside it."""
    kept = {line[1:] for line in (KIT / f"{name}.dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = list(copied(dockerfile(name)))
    assert sources
    for source in sources:
        assert list(ROOT.glob(source)), f"{source} does not exist"
        assert source.split("/")[0] in kept, f"{source} is ignored"


@pytest.mark.parametrize("name", DOCKERFILES)
def test_every_script_the_image_runs_is_copied(name: str) -> None:
    """With every module of the kit that it imports."""
    inside = {path.name for source in copied(dockerfile(name)) for path in ROOT.glob(source)}
    assert {"service.py", "run_study.py", "smoke_gpu.py", "report_sr.py", "serving_worker.py"} <= inside
    own = {path.stem for path in KIT.glob("*.py")}
    for script in (KIT / file for file in inside if file.endswith(".py")):
        used = set(re.findall(r"^\s*(?:from|import) (\w+)", script.read_text(), re.MULTILINE)) & own
        assert {f"{module}.py" for module in used} <= inside, f"{script.name} imports {used}"
    assert not {"load_test.py", "load_uploads.py", "load_running.py"} & inside


@pytest.mark.parametrize("name", DOCKERFILES)
def test_image_is_pinned_and_humble(name: str) -> None:
    """A full version of the base, another user than root before anything runs, a health check, and no torch."""
    found = dockerfile(name)
    keys = [key for key, _ in found]
    assert ("ARG", "PYTHON_IMAGE=python:3.11.14-slim-bookworm") in found
    assert [rest for key, rest in found if key == "FROM"] == ["${PYTHON_IMAGE} AS wheel", "${PYTHON_IMAGE}"]
    assert ("USER", "10001:10001") in found
    assert max(i for i, key in enumerate(keys) if key in ("RUN", "COPY")) < keys.index("USER") < keys.index("CMD")
    assert "HEALTHCHECK" in keys and "ADD" not in keys and "VOLUME" not in keys
    assert ("CMD", '["service.py"]') in found
    runs = " ".join(rest for key, rest in found if key == "RUN")
    assert not re.search(r"\b(torch|monai|curl|wget|apt-get)\b", runs)
    assert not re.search(r"pip install (?!.*(-c pinned\.txt|--no-deps|==))", runs.replace("RUN", "\n"))


@pytest.mark.parametrize("name", DOCKERFILES)
def test_image_knows_the_service(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its variables are those that service.py reads: the service starts from them alone, and asks for a token."""
    sys.path.insert(0, str(KIT))
    from serving_settings import read_settings

    from prostate_mim.deploy.runtime import DEVICES

    values = environment(name)
    assert values["ORT_DISABLE_TELEMETRY"] == "1"
    (tmp_path / "token").write_text("a-token-of-enough-letters")
    for key, value in values.items():
        monkeypatch.setenv(key, str(tmp_path / "token") if key.endswith("TOKEN_FILE") else value)
    read = read_settings([], DEVICES)
    assert (read.host, read.port, str(read.model)) == ("0.0.0.0", 8080, "/models/classifier.onnx")  # noqa: S104
    assert read.device == name.partition(".")[2] and read.token == "a-token-of-enough-letters"  # noqa: S105


# Versions


def test_pins_are_the_tested_versions() -> None:
    """Those of constraints.txt; the few that it has not are named."""
    ours, tested = pinned(KIT / "pinned.txt"), pinned(ROOT / "constraints.txt")
    assert {name: version for name, version in ours.items() if name in tested and tested[name] != version} == {}
    others = {name for name in ours if name not in tested and not name.startswith("nvidia-")}
    assert others <= {"onnxruntime", "prometheus-client", "python-multipart"}
    assert ours["onnxruntime"] == ours["onnxruntime-gpu"] == tested["onnxruntime-gpu"]
    assert importlib.metadata.version("prometheus-client") == ours["prometheus-client"]
    assert importlib.metadata.version("python-multipart") == ours["python-multipart"]


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_nothing_is_left_unpinned(kind: str) -> None:
    """Every requirement, and what it needs in turn, has a version; torch and monai are not among them."""
    files = [KIT / f"requirements-{part}.txt" for part in (kind, "service", "sr")]
    requirements = [one for file in files for one in names(file)]
    found, ours = needed(requirements), pinned(KIT / "pinned.txt")
    assert found - ours.keys() == set()
    assert not {"torch", "monai", "torchvision"} & found
    assert {"starlette", "h11", "pydantic-core"} <= found  # the walk goes on to what packages need
    for one in requirements:
        assert one.specifier.contains(ours[canonicalize_name(one.name)]), f"{one} is not what is pinned"
    assert len(_NVIDIA.findall((KIT / "pinned.txt").read_text())) >= 7


def test_a_missing_pin_is_seen() -> None:
    """Negative control: without the pin of a package that only another one needs."""
    ours = pinned(KIT / "pinned.txt")
    del ours["starlette"]
    assert needed(names(KIT / "requirements-service.txt")) - ours.keys() == {"starlette"}


@pytest.mark.skipif(WHEELS is None, reason="needs PROSTATE_MIM_KIT_WHEELS, a folder of downloaded wheels")
def test_pip_commands_of_the_image(tmp_path: Path) -> None:
    """Dockerfile.cpu's own RUN lines, in its order, in new environments without index; then the service's help."""
    assert WHEELS is not None
    own = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    own |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(Path(WHEELS).resolve()), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    place = tmp_path
    for key, rest in dockerfile("Dockerfile.cpu"):
        if key == "FROM":
            place = tmp_path / ("source" if "AS" in rest else "app")
            subprocess.run([sys.executable, "-m", "venv", str(place / ".venv")], check=True)
        elif key == "COPY" and not rest.startswith("--from="):
            *sources, target = rest.split()
            into = place if target == "./" else place / target
            into.mkdir(exist_ok=True)
            for path in (path for source in sources for path in sorted(ROOT.glob(source))):
                subprocess.run(["cp", "-r", f"{path}/." if path.is_dir() else str(path), str(into)], check=True)
        elif key == "RUN":
            command = rest.replace("/wheel/", f"{tmp_path}/wheel/").replace(
                "--wheel-dir /wheel", f"--wheel-dir {tmp_path}/wheel"
            )
            path = f"{place}/.venv/bin:{own['PATH']}"
            ran = subprocess.run(
                ["sh", "-ec", command], cwd=place, env={**own, "PATH": path}, capture_output=True, text=True
            )
            assert ran.returncode == 0, ran.stderr[-2000:]
    python = tmp_path / "app" / ".venv" / "bin" / "python"
    listed = json.loads(subprocess.check_output([python, "-m", "pip", "list", "--format", "json"], env=own))
    ours = pinned(KIT / "pinned.txt")
    for item in listed:
        name = canonicalize_name(item["name"])
        if name not in ("pip", "setuptools", "prostate-mim"):
            assert ours[name] == item["version"]
    for script in ("service.py", "run_study.py"):
        ran = subprocess.run([python, script, "--help"], cwd=tmp_path / "app", env=own, capture_output=True, text=True)
        assert (ran.returncode, ran.stderr) == (0, "") and "--device" in ran.stdout


# Kubernetes


@pytest.fixture(scope="module")
def objects() -> dict[str, Any]:
    """By kind."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    found = [
        one
        for path in sorted((KIT / "kubernetes").glob("*.yaml"))
        for one in yaml.safe_load_all(path.read_text(encoding="utf-8"))
    ]
    assert len({one["kind"] for one in found}) == len(found) == 3
    return {one["kind"]: one for one in found}


def test_pod_may_do_little(objects: dict[str, Any]) -> None:
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] == 10001
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert container["resources"].keys() == {"requests", "limits"}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert mounts.keys() == volumes.keys()
    assert [name for name, mount in mounts.items() if not mount.get("readOnly")] == ["uploads"]
    assert volumes["uploads"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "1100Mi"}
    assert volumes["token"]["secret"]["defaultMode"] == 0o440


def test_pod_fits_the_image(objects: dict[str, Any]) -> None:
    """Mounts, ports, arguments and probes are those of the image and of service.py."""
    sys.path.insert(0, str(KIT))
    from serving_app import ROUTES
    from serving_settings import _parser

    pod = objects["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    values = environment("Dockerfile.cpu")
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert values["PROSTATE_MIM_MODEL"].startswith(mounts["models"] + "/")
    assert Path(values["PROSTATE_MIM_TOKEN_FILE"]).parent == Path(mounts["token"])
    assert str(container["ports"][0]["containerPort"]) == values["PROSTATE_MIM_PORT"]
    script, *options = container["args"]
    given = _parser(("auto",)).parse_args(options)
    assert script == "service.py" and pod["terminationGracePeriodSeconds"] > given.timeout + 5
    assert int(1100 * 1.048576) >= 2 * given.concurrency * given.limit_mb  # sizeLimit in MB
    assert pod["enableServiceLinks"] is False  # PROSTATE_MIM_PORT=tcp://... of the Service would be taken for ours
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in ROUTES


def test_service_and_network(objects: dict[str, Any]) -> None:
    """One label finds the pod, and nothing gets out of it."""
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert objects["Service"]["spec"]["selector"] == labels
    policy = objects["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"} and policy["egress"] == []
    (rule,) = policy["ingress"]
    assert rule["from"] and rule["ports"] == [{"protocol": "TCP", "port": 8080}]

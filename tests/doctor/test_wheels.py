"""Two wheels of ONNX Runtime in one environment, really installed and uninstalled by pip; and each by itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from throw_away import Environment

from prostate_mim.doctor.wheels import check_wheels, installed_wheels

NAME = "onnxruntime-wheels"


def test_one_wheel_is_fine(gpu_only: Environment) -> None:
    """The control: as pip installs it, nothing is found, and it computes."""
    told = gpu_only.doctor("--json")
    assert told.code == 0, told.out
    assert told[NAME]["state"] == told["onnxruntime"]["state"] == "ok"
    assert told[NAME]["found"].startswith("onnxruntime-gpu ") and told[NAME]["fix"] == ""


@pytest.mark.parametrize("cpu", ["stand_in", "real_cpu"])
def test_both_wheels_then_one(wheels: Path, tmp_path: Path, cpu: str, request: pytest.FixtureRequest) -> None:
    """GPU then CPU: both are found, and pip sees nothing; one uninstalled: an empty shell."""
    environment = Environment(tmp_path / "venv")
    _both(environment, wheels, request.getfixturevalue(cpu))
    environment.shell("! python -m pip check | grep onnxruntime")
    told = environment.doctor("--json")
    assert told.code == 6
    assert told[NAME]["state"] == "fault"
    assert "are both installed and share one folder" in told[NAME]["found"]
    assert "files are no longer those of onnxruntime-gpu" in told[NAME]["found"]
    assert "no longer those of onnxruntime;" not in told[NAME]["found"]  # it came last, and is whole
    assert "uninstall -y" in told[NAME]["fix"] and "onnxruntime-gpu>=1.28" in told[NAME]["fix"]

    environment.pip("uninstall", "-q", "-y", "onnxruntime")
    told = environment.doctor("--json")
    assert told.code == 6
    assert {told[NAME]["state"], told["onnxruntime"]["state"]} == {"fault"}
    assert "is an empty shell" in told[NAME]["found"] and "empty shell" in told["onnxruntime"]["found"]
    assert told["cuda-session"]["state"] == told["cuda-libraries"]["state"] == "not applicable"


def test_fixes_mend(wheels: Path, stand_in: Path, tmp_path: Path) -> None:
    """The fix of each of the two, pasted into a shell as it is: the wheel is whole, and computes."""
    environment = Environment(tmp_path / "venv")
    _both(environment, wheels, stand_in)
    environment.shell(environment.doctor("--json")[NAME]["fix"], find=wheels)
    told = environment.doctor("--json")
    assert told.code == 0 and told[NAME]["state"] == told["onnxruntime"]["state"] == "ok"

    environment.pip("install", "-q", "--no-deps", "onnxruntime", find=stand_in)
    environment.pip("uninstall", "-q", "-y", "onnxruntime")
    environment.shell(environment.doctor("--json")[NAME]["fix"], find=wheels)
    told = environment.doctor("--json")
    assert told.code == 0 and told[NAME]["state"] == told["onnxruntime"]["state"] == "ok"


def _both(environment: Environment, gpu: Path, cpu: Path) -> None:
    environment.pip("install", "-q", "--no-deps", "onnxruntime-gpu", find=gpu)
    environment.pip("install", "-q", "--no-deps", "onnxruntime", find=cpu)


def test_cpu_wheel_has_no_cuda_to_be_dead(real_cpu: Path, tmp_path: Path) -> None:
    """The control of all: torch and the CPU wheel on a machine without a GPU; there is nothing to warn of."""
    environment = Environment(tmp_path / "venv", links=("torch", "torchgen", "functorch"))
    environment.pip("install", "-q", "--no-deps", "onnxruntime", find=real_cpu)
    told = environment.doctor("--json")
    if told["nvidia-driver"]["state"] != "not applicable":
        pytest.skip("this machine has an NVIDIA GPU or its driver")
    assert told.code == 0 and told.states() == {}
    assert told.report["versions"]["onnxruntime"] and told.report["versions"]["onnxruntime-gpu"] is None
    assert told["cuda-session"]["state"] == "not applicable"


def test_none(bare: Environment) -> None:
    """No wheel at all: the command that installs one; without torch, a warning."""
    told = bare.doctor("--json")
    assert told.code == 6 and told.states() == {NAME: "fault", "torch": "warning"}
    assert "pip install" in told[NAME]["fix"] and "onnxruntime" in told[NAME]["fix"]


def test_folder_without_wheel(tmp_path: Path) -> None:
    """What is left of a wheel when its last file is still in use: a folder of that name, importable and empty."""
    environment = Environment(tmp_path / "venv")
    (environment.site / "onnxruntime" / "capi").mkdir(parents=True)
    told = environment.doctor("--json")
    assert told.code == 6 and "an empty shell of its folder is left" in told[NAME]["found"]
    assert "without InferenceSession" in told["onnxruntime"]["found"]


# ---------------------------------------------------------------------- metadata and files, made small and by hand


def wheel_at(site: Path, name: str, version: str, record: str, files: dict[str, str]) -> None:
    """An installed distribution: its RECORD and the files that lie there."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text(record)
    for place, text in files.items():
        (site / place).parent.mkdir(parents=True, exist_ok=True)
        (site / place).write_text(text)


# SHA-256 of b"one", as RECORD spells it; by `printf one | sha256sum | xxd -r -p | base64`.
ONE = "sha256=dpLDrTVAu4A8Ags67mbNiIcSMjTqDG5xQ8Ct1z_0Me0"
RECORD = f"onnxruntime/__init__.py,{ONE},3\nonnxruntime/capi/a.so,{ONE},3\nonnxruntime/x.pyc,,\n../../bin/t,{ONE},3\n"
BOTH = {"onnxruntime/__init__.py": "one", "onnxruntime/capi/a.so": "one"}


def test_digest_is_the_one_of_the_shell() -> None:
    """The number above, by the programs that the comment names."""
    line = "printf one | openssl dgst -sha256 -binary | base64 | tr '+/' '-_' | tr -d '='"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout.strip():
        pytest.skip("no openssl program")
    assert f"sha256={done.stdout.strip()}" == ONE


@pytest.mark.parametrize(
    ("files", "missing", "changed"),
    [
        (BOTH, 0, 0),
        (BOTH | {"onnxruntime/capi/a.so": "two"}, 0, 1),  # as long, and another
        (BOTH | {"onnxruntime/capi/a.so": "three"}, 0, 1),
        ({"onnxruntime/__init__.py": "one"}, 1, 0),
        ({"onnxruntime/capi/b.so": "one"}, 2, 0),
    ],
)
def test_files_are_compared(tmp_path: Path, files: dict[str, str], missing: int, changed: int) -> None:
    """Missing, of another size, as long and of other bytes; what has no digest, or lies elsewhere, is not asked."""
    wheel_at(tmp_path, "onnxruntime", "1.30.0", RECORD, files)
    (wheel,) = installed_wheels([str(tmp_path)])
    assert (wheel.files, len(wheel.missing), len(wheel.changed)) == (2, missing, changed)
    finding = check_wheels([wheel], gpu=False)
    assert finding.state == ("fault" if missing or changed else "ok")
    assert bool(finding.fix) == bool(missing or changed)


@pytest.mark.parametrize(
    ("name", "version", "record", "state"),
    [
        ("onnxruntime-gpu", "1.28.0", RECORD, "ok"),
        ("onnxruntime_gpu", "1.27.0", RECORD, "warning"),  # its extra with CUDA cannot be installed
        ("onnxruntime", "1.24.1", RECORD, "ok"),
        ("onnxruntime", "1.9.0", RECORD, "warning"),
        ("onnxruntime-directml", "1.30.0", RECORD, "ok"),
        ("onnxruntime", "1.30.0", "", "ok"),  # conda keeps no RECORD
        ("onnxruntime", "1.30.0", 'onnxruntime/__init__.py,"', "ok"),
    ],
)
def test_one_wheel_of_many_kinds(tmp_path: Path, name: str, version: str, record: str, state: str) -> None:
    """Names of the family, versions as numbers, and a list of files that is not there or damaged."""
    wheel_at(tmp_path, name, version, record, BOTH)
    assert check_wheels(installed_wheels([str(tmp_path)]), gpu=False).state == state


def test_others_are_no_wheels_of_it(tmp_path: Path) -> None:
    """Packages with a name alike that own no such folder, and metadata without a name."""
    wheel_at(tmp_path, "onnxruntime-extensions", "0.14", "onnxruntime_extensions/__init__.py,,\n", {})
    wheel_at(tmp_path, "onnxruntime-gpu-tools", "1", "tools/__init__.py,,\n", {})
    wheel_at(tmp_path, "onnx", "1.23", RECORD, {})
    (tmp_path / "nothing-1.dist-info").mkdir()
    assert installed_wheels([str(tmp_path)]) == []


def test_upgrade_cut_short(tmp_path: Path) -> None:
    """Two versions of one wheel are one wheel: the one whose files lie there."""
    wheel_at(tmp_path, "onnxruntime-gpu", "1.30.0", RECORD.replace(ONE, "sha256=AAAA"), {})
    wheel_at(tmp_path, "onnxruntime-gpu", "1.31.0", RECORD, BOTH)
    assert [wheel.version for wheel in installed_wheels([str(tmp_path)])] == ["1.31.0"]


def test_two_folders(tmp_path: Path) -> None:
    """A user's own site-packages beside an environment: both are named, and that they lie apart."""
    for name, folder in (("onnxruntime", "user"), ("onnxruntime-gpu", "venv")):
        (tmp_path / folder).mkdir()
        wheel_at(tmp_path / folder, name, "1.30.0", RECORD, BOTH)
    finding = check_wheels(installed_wheels([str(tmp_path / "user"), str(tmp_path / "venv")]), gpu=True)
    assert finding.state == "fault" and "in several folders" in finding.found

"""The command as people and scripts meet it, and the children it asks."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from throw_away import COMMAND, ROOT, Environment, ask_doctor, clean, make_wheel

from prostate_mim.doctor import child, probe
from prostate_mim.doctor.commands import install, set_variable, uninstall
from prostate_mim.doctor.finding import one_line, some
from prostate_mim.doctor.run import CHECKS, Report

STATES = {"ok", "warning", "fault", "not applicable"}


def test_json(bare: Environment, gpu_only: Environment) -> None:
    """One object on stdout, with the exit code that the process has, fault or none; nothing else is printed."""
    for environment, code in ((bare, 6), (gpu_only, 0)):
        told = environment.doctor("--json")
        assert told.code == told.report["exit_code"] == code and told.err == ""
        assert list(told.report) == ["faults", "warnings", "exit_code", "versions", "findings"]
        findings = told.report["findings"]
        assert [one["name"] for one in findings] == [name for name, _ in CHECKS]
        assert {one["state"] for one in findings} <= STATES
        assert told.report["faults"] == sum(one["state"] == "fault" for one in findings)
        assert told.report["warnings"] == sum(one["state"] == "warning" for one in findings)
        for one in findings:
            assert one["found"] and "\n" not in one["found"] + one["fix"]
            assert one["fix"] or one["state"] in ("ok", "not applicable")
        assert told.report["versions"]["prostate-mim"] and told.report["versions"]["python"]


@pytest.mark.parametrize(
    "env",
    [
        {"TERM": "dumb"},
        {"COLUMNS": "40", "TERM": "dumb"},
        {"COLUMNS": "200"},
        {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0", "NO_COLOR": "1"},
    ],
)
def test_for_a_person(bare: Environment, env: dict[str, str]) -> None:
    """Faults first, each fix whole on one line whatever the width, a sum at the end, no escape codes into a pipe."""
    report = bare.doctor("--json").report
    told = bare.doctor(env=env)
    lines = told.out.splitlines()
    assert told.code == 6 and told.err == "" and "\x1b" not in told.out
    assert lines[-1] == "1 fault, 1 warning"
    for one in report["findings"]:
        if one["fix"]:
            assert f"fix {one['name']}: {one['fix']}" in lines
    rows = [line.strip("| ") for line in lines]
    states = [row.split()[0] for row in rows if row.startswith(("fault ", "warning ", "ok ", "n/a "))]
    assert states == sorted(states, key=["fault", "warning", "ok", "n/a"].index) and len(states) == len(CHECKS)
    width = int(env.get("COLUMNS", 80))
    assert all(len(line) <= width for line in lines if not line.startswith("fix "))


def test_works_with_nothing_installed(bare: Environment) -> None:
    """No import of what it examines, nor of anything that is heavy."""
    code = (
        "import sys, prostate_mim.cli.doctor, prostate_mim.doctor.run as run\n"
        "run.examine(timeout_s=60)\n"
        "heavy = {'torch', 'monai', 'onnx', 'onnxruntime', 'numpy', 'huggingface_hub', 'openvino'} & set(sys.modules)\n"
        "raise SystemExit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [bare.python, "-c", code], env=clean(bare.folder), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_file_named_like_a_package(bare: Environment, tmp_path: Path) -> None:
    """A file torch.py where a person happens to be is not what is installed."""
    (tmp_path / "torch.py").write_text("raise SystemExit('not this one')")
    assert "not installed" in ask_doctor(bare.python, tmp_path, "--json")["torch"]["found"]


def test_damaged_metadata_is_a_finding(tmp_path: Path) -> None:
    """A RECORD of random bytes; the other checks are made."""
    environment = Environment(tmp_path / "venv")
    made = make_wheel(tmp_path, "onnxruntime", "1.30.0", {"onnxruntime/__init__.py": b""})
    environment.unpack(made)
    (environment.site / "onnxruntime-1.30.0.dist-info" / "RECORD").write_bytes(bytes(range(256)) * 8)
    told = environment.doctor("--json")
    assert told.code == 6 and len(told.report["findings"]) == len(CHECKS)
    assert "no list of its files" in told["onnxruntime-wheels"]["found"]
    assert "without InferenceSession" in told["onnxruntime"]["found"]


def test_page_names_every_check() -> None:
    """docs/doctor.md has a row for each check and each key of the JSON, and no other check."""
    page = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
    table = page.partition("## What is checked")[2].partition("\n- ")[0]
    rows = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert rows == [name for name, _ in CHECKS]
    assert all(f"`{key}`" in page for key in Report({}, ()).to_dict())


def test_ctrl_c(bare: Environment, tmp_path: Path) -> None:
    """While a child hangs: one line, the exit code of an interruption, and the child is gone."""
    code = f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    (tmp_path / "openvino.py").write_text(code)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [bare.python, "-P", "-c", COMMAND, "--json"], env=clean(tmp_path, {"PYTHONPATH": path}), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    try:
        _written(tmp_path / "pid")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and out == "" and err.strip().splitlines()[-1].startswith("error: interrupted")
    assert _ends(int((tmp_path / "pid").read_text()))


# ------------------------------------------------------------------------------------------------------ children


def test_child_that_hangs(tmp_path: Path) -> None:
    """It is given up and killed, with what it started."""
    (tmp_path / "openvino").mkdir()
    code = (
        "import os, subprocess, sys, time\n"
        "other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "open(os.environ['PIDS'], 'w').write(f'{os.getpid()} {other.pid}')\n"
        "time.sleep(600)\n"
    )
    (tmp_path / "openvino" / "__init__.py").write_text(code)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with child.Children({**os.environ, "PYTHONPATH": path, "PIDS": str(tmp_path / "pids")}) as children:
        children.start("openvino", timeout_s=1)
        _written(tmp_path / "pids")
        assert children.answer("openvino") == child.Answer({}, "no answer within 1 s")
        assert children.answer("openvino").error  # asked again, it is the same
    for pid in (tmp_path / "pids").read_text().split():
        assert _ends(int(pid))


def _written(path: Path) -> None:
    """Wait until there is something in a file."""
    for _ in range(600):
        if path.exists() and path.read_text():
            return
        time.sleep(0.1)
    raise AssertionError(f"{path.name} was never written")


def _ends(pid: int) -> bool:
    """Whether a killed process is gone, or waits to be collected; the kernel takes a moment."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z"):
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


def test_children_end_with_their_parent(tmp_path: Path) -> None:
    """What was started and never asked is gone at the end."""
    (tmp_path / "openvino.py").write_text("import time; time.sleep(600)")
    with child.Children({**os.environ, "PYTHONPATH": str(tmp_path)}) as children:
        children.start("openvino")
        process = children._running["openvino"].process
        assert process.poll() is None
    assert process.poll() is not None


def test_no_process_can_be_started() -> None:
    """Out of processes, or an environment that is too large for one: an answer, not a crash."""
    with child.Children({**os.environ, "TOO_LONG": "x" * 4_000_000}) as children:
        children.start("driver")
        assert children.started("driver") and "no process can be started" in children.answer("driver").error


def test_child_that_prints(tmp_path: Path) -> None:
    """What a library prints when it is imported, from Python and from below, is no part of the answer."""
    code = (
        "import os\nprint('[1, 2]')\nos.write(1, b'{}')\n__version__ = '1'\n"
        "class Core:\n    available_devices = ['CPU']\n"
    )
    (tmp_path / "openvino.py").write_text(code)
    with child.Children({**os.environ, "PYTHONPATH": str(tmp_path)}) as children:
        children.start("openvino")
        assert children.answer("openvino").values == {"version": "1", "devices": ["CPU"]}


def test_model_of_the_probe() -> None:
    """The bytes in probe.py are this model."""
    shape = [1, 1, 2, 2, 2]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [helper.make_tensor("w", TensorProto.FLOAT, [1, 1, 1, 1, 1], [2.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    assert onnx.load_model_from_string(base64.b64decode(probe.DOUBLING)) == model


def test_looking_for_pip_leaves_torchs_compiler_alone() -> None:
    """The import hook of setuptools takes a search for pip for pip at work: then it, and torch.compile, cannot load."""
    for look, works in (
        ("from prostate_mim.doctor.commands import install; install('a')", True),
        ("import importlib.util; importlib.util.find_spec('pip')", sys.version_info >= (3, 12)),
    ):
        ran = subprocess.run([sys.executable, "-c", f"{look}; import setuptools"], capture_output=True, check=False)
        assert (ran.returncode == 0) == works, ran.stderr


def test_words() -> None:
    """One line of anything; the first few of many; commands that a shell reads as they are meant."""
    assert one_line("a\n b\x1b[31m\t c") == "a b [31m c" and one_line("x" * 500) == "x" * 397 + "..."
    assert some(["a", "b"]) == "a, b" and some(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
    assert install("a[b,c]>=1").endswith("-m pip install 'a[b,c]>=1'")
    assert install("a==1", again=True).endswith("-m pip install --force-reinstall --no-deps a==1")
    assert uninstall("a", "b").endswith("-m pip uninstall -y a b")
    assert set_variable("A", "b c") == "export A='b c'"
    assert json.loads(json.dumps(one_line("\ud800"))) is not None

"""``app.py`` as a command: one line and the right exit code for whatever is wrong; nothing is left of it."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import sys
from pathlib import Path
from types import ModuleType

import pytest
from space_parts import SPACE, serving

needs_gradio = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="Gradio is not installed (extra: demo): nothing can be served"
)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module; what it sets in the environment is undone."""
    for name in ("GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY", "GRADIO_TEMP_DIR", "GRADIO_SERVER_NAME"):
        monkeypatch.setenv(name, "")
    spec = importlib.util.spec_from_file_location("space_app", SPACE / "app.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def outcome(app: ModuleType, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code and the one line; SIGTERM is the test's own again afterwards."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        code = app.main([str(one) for one in arguments])
    except SystemExit as stopped:
        code = stopped.code
    finally:
        signal.signal(signal.SIGTERM, before)
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1
    return code, said.err


@needs_gradio
def test_what_is_wrong_is_one_line(
    app: ModuleType, run: Path, small_encoder: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A typo, a missing model, an encoder, another manifest, an address that is taken or never was one."""
    assert outcome(app, capsys, "--prot", "1")[0] == 2
    code, line = outcome(app, capsys, "--model", tmp_path / "missing", "--port", "0")
    assert code == 3 and "missing" in line
    code, line = outcome(app, capsys, "--model", small_encoder, "--port", "0")
    assert code == 2 and "not 'classifier'" in line
    code, line = outcome(app, capsys, "--manifest", cohort)
    assert code == 2 and "--manifest belongs to --model" in line
    assert outcome(app, capsys, "--model", run, "--manifest", tmp_path / "no.csv", "--port", "0")[0] == 3
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, line = outcome(app, capsys, "--model", run, "--port", taken.getsockname()[1])
    assert code == 2 and "cannot listen (Address already in use); choose another --port" in line
    assert outcome(app, capsys, "--model", run, "--port", "99999999")[0] == 2
    (tmp_path / "file").touch()
    code, line = outcome(app, capsys, "--cache", tmp_path / "file" / "below", "--port", "0")
    assert code == 2 and "cannot be written" in line


def test_without_gradio_the_remedy_is_said(
    app: ModuleType, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before a minute is spent on a demonstration."""
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "space_ui", raising=False)
    code, line = outcome(app, capsys, "--model", run, "--port", "0")
    assert code == 6 and "pip install 'prostate-mim[demo]'" in line


def test_usage_statistics_are_off(app: ModuleType) -> None:
    """Importing the script says so, before Gradio could ask."""
    assert (os.environ["GRADIO_ANALYTICS_ENABLED"], os.environ["HF_HUB_DISABLE_TELEMETRY"]) == ("False", "1")


@needs_gradio
def test_ctrl_c_leaves_nothing(run: Path, tmp_path: Path) -> None:
    """The folder for uploads is gone; while it served, it was there, and the user's alone. SIGTERM: see ``serving``."""
    with serving(tmp_path, "--model", run) as served:
        (folder,) = served.temporary.glob("prostate-mim-space-*")
        assert folder.stat().st_mode & 0o777 == 0o700
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(30) == 130
        assert list(served.temporary.glob("prostate-mim-space-*")) == []
        assert served.log.read_text() == "stopped\n"

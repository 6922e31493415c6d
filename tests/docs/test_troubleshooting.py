"""docs/troubleshooting.md: every message of it is provoked for real, and is what the page says, with class and code."""

from __future__ import annotations

import inspect
import re
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from prostate_mim import errors

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # tests are no packages

import provoked_inputs  # noqa: E402, F401 - they add to PROVOKED
import provoked_models  # noqa: E402, F401
import provoked_runs  # noqa: E402
from provoking import PROVOKED, Said, outcome  # noqa: E402

PAGE = HERE.parents[1] / "docs" / "troubleshooting.md"
TEXT = PAGE.read_text(encoding="utf-8")
_PATHS, _PATH = ("<file>", "<folder>", "<manifest>"), r"(?:(?! row \d)[^:])+"


@dataclass(frozen=True)
class Entry:
    """What the page says of one message; the class is "" where a signal ends the command."""

    message: str
    kind: str
    code: int

    def matches(self, message: str) -> bool:
        """Whether a message is this one; ``<...>`` stands for anything but nothing, and a file is no row of one."""
        parts = re.split(r"(<[^<>]+>)", self.message)
        pattern = (_PATH if part in _PATHS else ".+" if part.startswith("<") else re.escape(part) for part in parts)
        return re.fullmatch("".join(pattern), message) is not None


def entries(text: str = TEXT) -> list[Entry]:
    """The page's messages in order."""
    found = re.findall(r"^- `([^`]+)`\n  \*(?:(\w+), )?(\d+)\.\*", text, re.M)
    return [Entry(message, kind, int(code)) for message, kind, code in found]


def table_of_codes() -> dict[int, set[str]]:
    """Exit code -> classes, by the page's table."""
    rows = re.findall(r"^\| (\d+) \| [^|]+ \|([^|]*)\|$", TEXT, re.M)
    return {int(code): set(re.findall(r"`(\w+)`", classes)) for code, classes in rows}


_ALL = inspect.getmembers(errors, inspect.isclass)
CLASSES = {name: kind for name, kind in _ALL if kind.__module__ == errors.__name__}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Said]:
    """Everything that can be provoked on this machine, by name."""
    import torch

    found: dict[str, Said] = {}
    for name in PROVOKED:
        if name.startswith("cuda_") and torch.cuda.is_available():
            continue  # it works here
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HF_HUB_OFFLINE", "1")
            patch.delenv("HF_ENDPOINT", raising=False)
            found[name] = outcome(name, tmp_path_factory.mktemp(name))
    return found


def test_every_provoked_message_is_on_the_page(said: dict[str, Said]) -> None:
    """Once, with its class and its code."""
    wrong = []
    for name, one in said.items():
        own = [entry for entry in entries() if entry.matches(one.message)]
        if len(own) != 1 or own[0].code != one.code or (one.kind and own[0].kind != one.kind):
            wrong.append((name, one, own))
    assert wrong == []


def test_every_message_of_the_page_was_provoked(said: dict[str, Said]) -> None:
    """None is there that nothing prints any more; on a machine with a GPU, those of one without are left out."""
    messages = [one.message for one in said.values()]
    left = [entry.message for entry in entries() if not any(entry.matches(message) for message in messages)]
    if len(said) < len(PROVOKED):
        left = [message for message in left if "CUDA was asked for" not in message and "device cuda" not in message]
    assert left == []
    assert len(entries()) >= len(PROVOKED) - 2 > 50


def test_a_drifting_message_is_noticed() -> None:
    """The control: another word, another code."""
    (entry,) = (one for one in entries() if one.message.startswith("<folder>: holds a run already"))
    real = "runs/a: holds a run already; go on with --resume, or choose a new --out"
    assert entry.matches(real)
    assert not entry.matches(real.replace("go on", "continue"))
    assert not entry.matches(real + " instead")
    assert not entry.matches(real.removeprefix("runs/a"))


def test_every_class_and_every_code_is_there() -> None:
    """The table has the classes of errors.py with their codes, and each has a message; codes are the README's."""
    codes = table_of_codes()
    for name, kind in CLASSES.items():
        if name != "ProstateMimError":
            assert name in codes[kind.exit_code], name
            assert any(entry.kind == name and entry.code == kind.exit_code for entry in entries()), name
    assert {name for names in codes.values() for name in names} == set(CLASSES) - {"ProstateMimError"}
    readme = (PAGE.parents[1] / "README.md").read_text(encoding="utf-8")
    header = re.search(r"^## Exit codes\n\n\| (.*) \|$", readme, re.M)
    assert header is not None
    assert {int(code) for code in re.findall(r"\d+", header[1])} == set(codes)


def test_printed_as_the_page_says(tmp_path: Path) -> None:
    """A real command: one line that begins with ``error: `` on standard error, nothing on standard output."""
    import subprocess

    command = [sys.executable, "-m", "prostate_mim", "predict", "study.nii.gz"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: --model is missing")
    assert any(entry.matches(line.removeprefix("error: ")) for entry in entries())


def test_sigterm_ends_with_143(tmp_path: Path) -> None:
    """And prints nothing, as the table says."""
    ended = provoked_runs.stopped_by(signal.SIGTERM, tmp_path)
    assert (ended.code, ended.message) == (143, "")

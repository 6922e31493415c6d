"""Commands a person can paste: pip of this very environment, and setting an environment variable."""

from __future__ import annotations

import importlib.machinery
import os
import shlex
import shutil
import subprocess
import sys

_WINDOWS = sys.platform == "win32"


def quoted(*words: str) -> str:
    """Words as one shell line."""
    return subprocess.list2cmdline(words) if _WINDOWS else shlex.join(words)


def install(*requirements: str, again: bool = False) -> str:
    """Install into the environment that runs this.

    Args:
        requirements: as pip takes them, such as ``onnxruntime-gpu[cuda,cudnn]>=1.28``.
        again: the same version once more, and nothing else with it.
    """
    uv = _uv()
    if uv is not None:
        return quoted(*uv, "install", *_python_of_uv(), *(["--reinstall", "--no-deps"] if again else []), *requirements)
    return quoted(*_pip(), "install", *(["--force-reinstall", "--no-deps"] if again else []), *requirements)


def uninstall(*names: str) -> str:
    """Remove packages from the environment that runs this."""
    uv = _uv()
    if uv is not None:
        return quoted(*uv, "uninstall", *_python_of_uv(), *names)
    return quoted(*_pip(), "uninstall", "-y", *names)


def either(command: str, remark: str) -> str:
    """A command, and what else a person should know, in a way that the whole line can be pasted."""
    return command if _WINDOWS else f"{command} # {remark}"


def set_variable(name: str, value: str) -> str:
    """Set an environment variable for this terminal."""
    return f"set {name}={value}" if _WINDOWS else f"export {name}={shlex.quote(value)}"


def unset_variable(name: str) -> str:
    """Remove an environment variable of this terminal."""
    return f"set {name}=" if _WINDOWS else f"unset {name}"


def _pip() -> list[str]:
    """Of this interpreter; by its plain name where that is what a person's shell would run."""
    found = shutil.which("python")
    same = found is not None and os.path.dirname(os.path.abspath(found)) == os.path.dirname(sys.executable)
    return ["python" if same else sys.executable, "-m", "pip"]


def _uv() -> list[str] | None:
    """Environments that uv makes have no pip."""
    # importlib.util.find_spec would ask setuptools' hook, which takes the question for pip at work and gives up its
    # own distutils: torch.compile then fails in this process (Python 3.11).
    has_pip = importlib.machinery.PathFinder.find_spec("pip") is not None
    return None if has_pip or not shutil.which("uv") else ["uv", "pip"]


def _python_of_uv() -> list[str]:
    return ["--python", sys.executable]

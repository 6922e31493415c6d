"""Short-lived processes, forked from one that has done the slow imports: what real signals are tried on.

The nursery reads a command a line (module, function, arguments), forks, and waits for the child's end. A child says
something by ``say``, a line on the shared pipe; its stderr goes to a file.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class Nursery:
    """The tests' end. Use as a context manager; one life at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(Path(__file__).resolve())]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=HERE.parents[1]
        )

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()  # a life that is left dies with it
        self.process.wait()
        self.process.stdout.close()

    def begin(self, function: str, *arguments: Any, **options: Any) -> Life:
        """Start ``module.function(say, *arguments, **options)`` (a module beside this one) in a process."""
        self._count += 1
        said = self._folder / f"{self._count}.stderr"
        line = json.dumps([function, [_plain(value) for value in arguments], options, str(said)])
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        word, _, pid = self.process.stdout.readline().strip().partition(" ")
        assert word == "pid", (word, pid)
        return Life(self.process.stdout, int(pid), said)

    def run(self, function: str, *arguments: Any, **options: Any) -> Life:
        """``begin``, and wait for its end."""
        life = self.begin(function, *arguments, **options)
        life.end()
        return life


class Life:
    """One process.

    Attributes:
        pid: its number.
        said: what it has said so far, as far as it has been read.
        code: how it ended: its exit code, or minus the signal's number; None before ``end``.
    """

    def __init__(self, stream: Any, pid: int, stderr: Path) -> None:
        self._stream, self.pid, self._stderr = stream, pid, stderr
        self.said: list[Any] = []
        self.code: int | None = None

    def hear(self) -> Any:
        """The next thing it says; None when it has ended."""
        word, _, rest = self._stream.readline().strip().partition(" ")
        if word == "end":
            self.code = int(rest)
            return None
        assert word == "said", (word, rest)
        self.said.append(json.loads(rest))
        return self.said[-1]

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)  # not waited for before "end" is read, so the number cannot be another process's

    def end(self) -> int:
        """Wait for its end: exit code, or minus a signal's number."""
        while self.code is None:
            self.hear()
        return self.code

    @property
    def stderr(self) -> str:
        return self._stderr.read_text(errors="replace")


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


# --------------------------------------------------------------------------------------------- the other end


def _say(value: Any) -> None:
    os.write(1, f"said {json.dumps(value)}\n".encode())  # one write, shorter than a pipe's atomic limit


def _live(function: Any, arguments: list[Any], options: dict[str, Any], stderr: str) -> int:
    from prostate_mim.errors import ProstateMimError

    os.setsid()  # signals to its group reach its own children only
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no life outlives the tests
    os.write(1, f"pid {os.getpid()}\n".encode())
    handle = os.open(stderr, os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(handle, 2)
    try:
        function(_say, *arguments, **options)
    except ProstateMimError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except SystemExit as stop:
        return int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    """Fork a life for every line of stdin."""
    sys.path.insert(0, str(HERE))
    for line in sys.stdin:
        name, arguments, options, stderr = json.loads(line)
        module, function = name.split(".")
        found = getattr(importlib.import_module(module), function)  # here, so that only the first life waits for it
        child = os.fork()
        if child == 0:
            code = _live(found, arguments, options, stderr)
            with contextlib.suppress(OSError):
                sys.stderr.flush()
            os._exit(code)
        _, status = os.waitpid(child, 0)
        os.write(1, f"end {os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    main()

"""What every command shares: reading three numbers, showing results, a bar, and errors as one line with a code."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import typer

from prostate_mim.errors import ProstateMimError, ResourceError, UsageError

INTERRUPTED = 130
_GO_ON = {"pretrain": "--resume", "finetune": "--resume", "study": ""}  # what a command is repeated with
_SHOWN_BY_PYTHON = warnings.showwarning


class Advance(Protocol):
    """Moves a bar."""

    def __call__(self, done: int, total: int, what: str = "") -> None:
        """So many are done, of so many; and what is done now, where the bar's own label is too little."""


@contextmanager
def bar(label: str) -> Iterator[Advance]:
    """A progress bar on stderr, as a function of how many are done, of how many, and perhaps of what is done now."""
    from prostate_mim.engine.tracker import progress_bar

    with progress_bar() as progress:
        task = progress.add_task(label, total=None)

        def advance(done: int, total: int, what: str = "") -> None:
            progress.update(task, completed=done, total=total, description=what or label)

        yield advance


@contextmanager
def waiting(label: str) -> Iterator[None]:
    """A sign of life on stderr for work of unknown length; nothing is written where that is no terminal."""
    from rich.console import Console

    with Console(stderr=True).status(label):
        yield


def numbers(text: str, option: str) -> tuple[float, float, float]:
    """Three numbers of an option's text, separated by spaces or commas."""
    try:
        a, b, c = (float(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise UsageError(f"{option} is {text!r}; expected three numbers, e.g. '12 8 8'") from None
    return a, b, c


def whole_numbers(text: str, option: str) -> tuple[int, int, int]:
    """Three whole numbers of an option's text; 16.0 is one, 16.5 and inf are not."""
    z, y, x = (int(value) if math.isfinite(value) and value == int(value) else None for value in numbers(text, option))
    if z is None or y is None or x is None:
        raise UsageError(f"{option} is {text!r}; expected three whole numbers, e.g. '16 96 96'")
    return z, y, x


def plain(summary: Any) -> dict[str, Any]:
    """A dataclass of results as ``show`` takes it: paths are text, tuples are lists."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(summary), default=str))
    return values


def show(values: Any, as_json: bool) -> None:
    """Results on stdout: JSON, or lines for a person, who is not told of lists that are empty."""
    if as_json:
        typer.echo(json.dumps(values, indent=2))
    elif isinstance(values, list):
        for value in values:
            typer.echo(str(value))
    else:
        for key, value in values.items():
            if value != []:
                typer.echo(f"{key}: {_in_words(key, value)}")


def _in_words(key: str, value: Any) -> str:
    """A result as a person reads it: rounded where its name says its unit."""
    if key == "seconds":
        return f"{value:.0f} s" if value >= 10 else f"{value:.1f} s"
    if key == "bytes":
        return _size(value)
    if isinstance(value, list) and not any(isinstance(one, dict | list) for one in value):
        return ", ".join(map(str, value))
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


def _size(count: int) -> str:
    """A number of bytes, in the unit that leaves it below 1000."""
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:.0f} {unit}" if count >= 10 * size else f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def run_app(app: Callable[[], object]) -> None:
    """Run a Typer app: our errors become one line on stderr and their exit code; nothing else is caught."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    warnings.showwarning = _warn
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app()
    except ProstateMimError as error:
        _fail(str(error), error.exit_code)
    except MemoryError:
        _fail(f"out of memory; use a smaller --batch or --size ({ResourceError.__name__})", ResourceError.exit_code)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # typer has already swallowed the KeyboardInterrupt
            sys.stderr.write(f"error: interrupted; no file is half-written{to_go_on(sys.argv)}\n")
        raise


def to_go_on(arguments: Sequence[str]) -> str:
    """What to type after Ctrl-C, quoted for the shell: a training goes on, other commands are simply repeated.

    Args:
        arguments: of the process, its program first.
    """
    program, verb = arguments[0], arguments[1] if len(arguments) > 1 else ""
    if verb not in _GO_ON:
        return ""
    if "WORLD_SIZE" in os.environ:  # a launcher's words are not among ours
        return f"; go on with the same command{' and ' * bool(_GO_ON[verb])}{_GO_ON[verb]}"
    begins = ["python", "-m", "prostate_mim"] if Path(program).name == "__main__.py" else ["prostate-mim"]
    more = [_GO_ON[verb]] if _GO_ON[verb] and _GO_ON[verb] not in arguments else []
    return f"; go on with: {shlex.join([*begins, *arguments[1:], *more])}"


def _warn(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """Ours as one line for a person; those of libraries as Python shows them."""
    if category.__module__.startswith("prostate_mim"):
        sys.stderr.write("warning: " + " ".join(str(message).split()) + "\n")
    else:
        _SHOWN_BY_PYTHON(message, category, *place, **more)


def _fail(message: str, code: int) -> None:
    sys.stderr.write("error: " + " ".join(message.split()) + "\n")
    sys.exit(code)

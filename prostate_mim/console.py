"""What every command shares: reading three numbers, showing results, a bar, and errors as one line with a code."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer

from prostate_mim.errors import ProstateMimError, ResourceError, UsageError

INTERRUPTED = 130
_SHOWN_BY_PYTHON = warnings.showwarning


@contextmanager
def bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, as a function of how many are done and of how many."""
    from prostate_mim.engine.tracker import progress_bar

    with progress_bar() as progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


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
    """Results on stdout: JSON, or lines for a person."""
    if as_json:
        typer.echo(json.dumps(values, indent=2))
    elif isinstance(values, list):
        for value in values:
            typer.echo(str(value))
    else:
        for key, value in values.items():
            typer.echo(f"{key}: {json.dumps(value) if isinstance(value, dict | list) else value}")


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
            _fail("interrupted; no file is half-written, and a training run goes on with --resume", INTERRUPTED)
        raise


def _warn(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """Ours as one line for a person; those of libraries as Python shows them."""
    if category.__module__.startswith("prostate_mim"):
        sys.stderr.write("warning: " + " ".join(str(message).split()) + "\n")
    else:
        _SHOWN_BY_PYTHON(message, category, *place, **more)


def _fail(message: str, code: int) -> None:
    sys.stderr.write("error: " + " ".join(message.split()) + "\n")
    sys.exit(code)

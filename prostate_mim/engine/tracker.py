"""What a run writes while it goes: metrics as JSON lines, the trackers asked for by name, a progress bar on stderr."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from prostate_mim.engine.tracking import Backend, check_trackers, hyperparameters, one_line, say, start_tracker
from prostate_mim.errors import BackendError, ProstateMimError
from prostate_mim.files import append_line, write_text


def progress_bar(*columns: str, quiet: bool = False) -> Progress:
    """A rich progress bar on stderr: description, bar, count, extra columns such as ``"{task.fields[loss]}"``."""
    texts = [TextColumn(column) for column in columns]
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        *texts,
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=quiet,
    )


class Tracker:
    """Metrics of one run: ``metrics.jsonl`` always, and every tracker named. Use as a context manager.

    Everything stays in the run folder and nothing is sent: MLflow keeps a file store in ``mlflow/`` unless
    MLFLOW_TRACKING_URI is set, W&B an offline run in ``wandb/`` unless WANDB_MODE or WANDB_API_KEY is set (``wandb
    sync`` sends it later). One run folder is one run of each tracker, however often it is resumed (``trackers.json``
    keeps their identifiers). A tracker that fails on the way is given up, aloud; the training goes on.

    Args:
        folder: the run folder.
        resume_step: what was logged for later steps, after the checkpoint that is resumed, is dropped from
            metrics.jsonl and TensorBoard. MLflow and W&B cannot drop; there a repeated step is logged again.
        names: of ``tracking.TRACKERS``.
        config: the resolved configuration, nested; logged as hyper-parameters with dotted names, paths replaced.
        quiet: log nothing and write no file: for every process but the first.

    Raises:
        UsageError: an unknown tracker.
        BackendError: a tracker's package is missing, or it could not start.
    """

    def __init__(
        self,
        folder: Path,
        resume_step: int = 0,
        names: Sequence[str] = ("tensorboard",),
        config: Mapping[str, Any] | None = None,
        quiet: bool = False,
    ) -> None:
        self.path = folder / "metrics.jsonl"
        self._quiet = quiet
        self._started = time.monotonic()
        self._backends: dict[str, Backend] = {}
        if quiet:
            return
        chosen = check_trackers(names)
        _drop_after(self.path, resume_step or -1)  # begun anew, it looks at the beginning anew
        values = hyperparameters(config or {})
        try:
            for name in chosen:
                self._open(name, resume_step, values)
        except BaseException:
            self._close(failed=True)
            raise

    def _open(self, name: str, resume_step: int, config: dict[str, Any]) -> None:
        try:
            backend = start_tracker(name, self.path.parent, resume_step, config)
        except ProstateMimError:
            raise
        except Exception as error:
            why = one_line(error)
            raise BackendError(f"tracker {name}: could not start ({why}); correct it, or leave it out") from error
        if backend is not None:
            self._backends[name] = backend

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(failed=kind is not None)

    def log(self, step: int, **values: float) -> None:
        """One line: step, seconds since this process started, and the values; NaN and infinities become null there."""
        if self._quiet:
            return
        seconds = round(time.monotonic() - self._started, 3)
        # NumPy and torch scalars are no JSON numbers; NaN and Infinity are no JSON at all.
        plain = {key: value if isinstance(value, int) else float(value) for key, value in values.items()}
        line = {key: value if math.isfinite(value) else None for key, value in plain.items()}
        append_line(self.path, json.dumps({"step": step, "seconds": seconds, **line}, allow_nan=False))
        for name, backend in list(self._backends.items()):
            try:
                backend.log(step, plain)
            except Exception as error:
                # A full disk or a lost server of a tracker must not cost the run; metrics.jsonl has it all.
                with suppress(Exception):
                    self._backends.pop(name).close(failed=True)
                say(f"tracker {name}: given up at step {step} ({one_line(error)}); metrics.jsonl goes on")

    def _close(self, *, failed: bool) -> None:
        while self._backends:
            name, backend = self._backends.popitem()
            try:
                backend.close(failed=failed)
            except Exception as error:
                say(f"tracker {name}: could not be closed ({one_line(error)}); metrics.jsonl is complete")


def _drop_after(path: Path, step: int) -> None:
    """Keep the lines up to ``step``; a last line that kill -9 has torn goes quietly, any other damage aloud."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    steps = [_step_of(line) for line in lines]
    damaged = sum(found is None and bool(line) for line, found in zip(lines[:-1], steps[:-1], strict=True))
    if damaged:
        say(f"metrics.jsonl: {damaged} damaged lines dropped; the curves have gaps there")
    kept = [line for line, found in zip(lines, steps, strict=True) if found is not None and found <= step]
    write_text(path, "".join(line + "\n" for line in kept))


def _step_of(line: str) -> int | None:
    try:
        value = json.loads(line)["step"]
    except (ValueError, TypeError, KeyError):
        return None
    return value if isinstance(value, int) else None

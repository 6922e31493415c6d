"""What a run writes while it goes: metrics as JSON lines, TensorBoard events, and a progress bar on stderr."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from prostate_mim.files import append_line, write_text


def progress_bar(*columns: str, quiet: bool = False) -> Progress:
    """A rich progress bar on stderr: description, bar, count, extra columns such as ``"{task.fields[loss]}"``."""
    texts = [TextColumn(column) for column in columns]
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        TextColumn("{task.completed}/{task.total}"),
        *texts,
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=quiet,
    )


class Tracker:
    """Metrics of one run. Use as a context manager.

    Args:
        folder: the run folder; ``metrics.jsonl`` and ``tensorboard/`` are written there.
        resume_step: lines of later steps, written after the checkpoint that is resumed, are dropped.
    """

    def __init__(self, folder: Path, resume_step: int = 0) -> None:
        self.path = folder / "metrics.jsonl"
        self._drop_after(resume_step)
        self._events = _tensorboard_writer(folder / "tensorboard", resume_step)
        self._started = time.monotonic()

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._events is not None:
            self._events.close()

    def log(self, step: int, **values: float) -> None:
        """One line: step, seconds since start, and the values."""
        seconds = round(time.monotonic() - self._started, 3)
        append_line(self.path, json.dumps({"step": step, "seconds": seconds, **values}))
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)

    def _drop_after(self, step: int) -> None:
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
            write_text(self.path, "".join(line + "\n" for line in kept))


def _tensorboard_writer(folder: Path, resume_step: int) -> Any:
    """A TensorBoard writer, or None where the optional package is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        Console(stderr=True).print("tensorboard is not installed: no event files (pip install 'prostate-mim[train]')")
        return None
    return SummaryWriter(str(folder), purge_step=resume_step or None)

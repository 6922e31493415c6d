"""The folder of a run: may it be begun there, or gone on with? No torch, so that a command can ask first of all."""

from __future__ import annotations

from pathlib import Path

from prostate_mim.engine.launched import launched_rank
from prostate_mim.errors import UsageError
from prostate_mim.files import make_folder


def check_run_folder(out: str | Path, resume: bool) -> None:
    """Refuse a folder that holds a run already, unless it is resumed. Nothing is made or written.

    Raises:
        UsageError: it holds a run and ``resume`` is off, or a finished one.
    """
    if launched_rank():
        return  # rank 0 looks at it, and may have begun to write there
    run = Path(out)
    if (run / "release").exists():
        raise UsageError(f"{run}: this run is finished (it has release/); choose a new --out")
    begun = any(any(run.glob(pattern)) for pattern in ("metrics.jsonl", "checkpoint-*", "*/metrics.jsonl"))
    if begun and not resume:
        raise UsageError(f"{run}: holds a run already; go on with --resume, or choose a new --out")


def prepare_run(out: str | Path, resume: bool) -> Path:
    """The run folder, made and writable now, after ``check_run_folder``.

    Raises:
        UsageError: as ``check_run_folder``, or it cannot be written.
    """
    check_run_folder(out, resume)
    return Path(out) if launched_rank() else make_folder(out)

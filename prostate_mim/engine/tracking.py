"""The trackers a run can name: TensorBoard, and MLflow and Weights & Biases through accelerate; local, nothing sent."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from prostate_mim.engine.identity import flatten
from prostate_mim.engine.records import without_paths
from prostate_mim.errors import BackendError, UsageError, nearest
from prostate_mim.files import write_text

TRACKERS = ("tensorboard", "mlflow", "wandb")
PROJECT = "prostate-mim"
_PACKAGES = {"mlflow": "mlflow-skinny", "wandb": "wandb"}
# W&B would otherwise copy the command line, the host name, the installed packages and the terminal into its run.
_WANDB_PRIVATE: dict[str, Any] = {
    "silent": True, "console": "off", "save_code": False, "disable_code": True, "disable_git": True,
    "host": "withheld", "x_disable_meta": True, "x_disable_stats": True, "x_save_requirements": False,
}  # fmt: skip


def check_trackers(names: Sequence[str]) -> tuple[str, ...]:
    """The trackers to start, each once; empty for none. ``"none"`` alone, or nothing, means metrics.jsonl only.

    Raises:
        UsageError: an unknown name, or ``"none"`` beside another.
        BackendError: the package of a named tracker is missing (TensorBoard, the default, may be).
    """
    listed = names.split(",") if isinstance(names, str) else names
    wanted = [name for name in dict.fromkeys(part.strip() for part in listed) if name]
    for name in wanted:
        if name not in (*TRACKERS, "none"):
            near = nearest(name, TRACKERS, 0)
            raise UsageError(f"tracker {name!r} is unknown; did you mean {near}? There are {', '.join(TRACKERS)}, none")
    if "none" in wanted:
        if len(wanted) > 1:
            raise UsageError(f"trackers {', '.join(wanted)}: none cannot stand beside another; leave it out")
        return ()
    optional = [name for name in wanted if name in _PACKAGES]
    if optional:
        from accelerate.tracking import get_available_trackers

        there = {str(found) for found in get_available_trackers()}
        for name in optional:
            if name not in there:
                package = _PACKAGES[name]
                raise BackendError(f"tracker {name}: its package is missing; pip install {package}, or leave it out")
    return tuple(wanted)


def hyperparameters(config: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """``{"a": {"b": 1}}`` -> ``{"a.b": 1}``; lists and None become text, paths ``<path>`` (they stay in the run)."""
    return {name: _plain(value) for name, value in flatten(dict(config)).items()}


def _plain(value: object) -> bool | int | float | str:
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return ", ".join(without_paths(str(part)) for part in value)
    return "<path>" if isinstance(value, Path) else without_paths(str(value))


class Backend(Protocol):
    """One tracker that has been started."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Values of one step."""

    def close(self, *, failed: bool) -> None:
        """Write what is left, and whether the run failed."""


def start_tracker(name: str, folder: Path, resume_step: int, config: dict[str, Any]) -> Backend | None:
    """Start one of ``TRACKERS`` for a run folder, or go on with the run of it that the folder has; None: not there."""
    if name == "tensorboard":
        return _TensorBoard.start(folder, resume_step, config)
    from accelerate import PartialState

    PartialState()  # accelerate's trackers refuse to work without; the loop's accelerator has made it before
    kept = _identifiers(folder)
    backend: _Mlflow | _Wandb = (_Mlflow if name == "mlflow" else _Wandb)(folder, kept.get(name), config)
    if backend.identifier != kept.get(name):
        write_text(folder / "trackers.json", json.dumps({**kept, name: backend.identifier}) + "\n")
    return backend


class _TensorBoard:
    """Event files in ``tensorboard/``, flushed at every step so that kill -9 costs nothing."""

    def __init__(self, writer: Any, config: dict[str, Any]) -> None:
        from torch.utils.tensorboard.summary import hparams

        self._writer = writer
        if config:
            # Not add_hparams: it opens a second event file, and a viewer then stops reading the first.
            for summary in hparams(config, {}):  # type: ignore[no-untyped-call]
                writer.file_writer.add_summary(summary)

    @classmethod
    def start(cls, folder: Path, resume_step: int, config: dict[str, Any]) -> _TensorBoard | None:
        """None, aloud, where the optional package is missing."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            say("tensorboard is not installed: no event files (pip install 'prostate-mim[train]')")
            return None
        # Events of purge_step itself are dropped too, so it is the first step still to come.
        return cls(SummaryWriter(str(folder / "tensorboard"), purge_step=resume_step + 1), config)

    def log(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, *, failed: bool) -> None:
        self._writer.close()


class _Mlflow:
    """An MLflow run through accelerate; by default in a file store, the one that mlflow-skinny has without a server."""

    def __init__(self, folder: Path, identifier: str | None, config: dict[str, Any]) -> None:
        self._stack = ExitStack()
        self._stack.enter_context(
            _environment(
                MLFLOW_TRACKING_URI=(folder / "mlflow").resolve().as_uri(),
                MLFLOW_ALLOW_FILE_STORE="true",
                MLFLOW_DISABLE_TELEMETRY="true",
                MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT="true",
            )
        )
        try:
            self._tracker = self._begin(folder.resolve().name, identifier)
            self.identifier: str = self._tracker.tracker.info.run_id
            self._configure(config)
        except BaseException:
            self._stack.close()
            raise

    @staticmethod
    def _begin(name: str, identifier: str | None) -> Any:
        import mlflow
        from accelerate.tracking import MLflowTracker
        from mlflow.exceptions import MlflowException

        nested = mlflow.active_run() is not None  # the caller's own run stays open around ours
        for run_id in dict.fromkeys((identifier, None)):
            tracker = MLflowTracker(PROJECT, run_id=run_id, run_name=name, nested_run=nested)
            tracker.main_process_only = False  # which process logs is Tracker's business
            try:
                tracker.start()
            except MlflowException as error:
                if run_id is None:
                    raise
                say(f"tracker mlflow: run {run_id} cannot be continued ({one_line(error)}); a new one begins")
            else:
                break
        return tracker

    def _configure(self, config: dict[str, Any]) -> None:
        """Parameters cannot change in MLflow; what a resumed run was told to change becomes a tag."""
        import mlflow

        known = mlflow.get_run(self.identifier).data.params
        self._tracker.store_init_configuration({k: v for k, v in config.items() if k not in known})
        changed = {f"changed.{k}": str(v) for k, v in config.items() if k in known and known[k] != str(v)}
        if changed:
            mlflow.set_tags(changed)

    def log(self, step: int, values: dict[str, float]) -> None:
        self._tracker.log(values, step=step)

    def close(self, *, failed: bool) -> None:
        import mlflow

        with self._stack:
            mlflow.end_run("FAILED" if failed else "FINISHED")


class _Wandb:
    """A Weights & Biases run through accelerate; offline unless the user has set it up otherwise."""

    def __init__(self, folder: Path, identifier: str | None, config: dict[str, Any]) -> None:
        with _environment(WANDB_ERROR_REPORTING="false"):
            import wandb
            from accelerate.tracking import WandBTracker

            told = "WANDB_MODE" in os.environ or "WANDB_API_KEY" in os.environ
            self._tracker = WandBTracker(
                PROJECT,
                name=folder.resolve().name,
                dir=str(folder.resolve()),
                id=identifier,
                resume="allow",
                settings=wandb.Settings(**_WANDB_PRIVATE),
                **({} if told else {"mode": "offline"}),
            )
            self._tracker.start()
        self.identifier: str = self._tracker.tracker.id
        self._tracker.store_init_configuration(config)

    def log(self, step: int, values: dict[str, float]) -> None:
        self._tracker.log(values, step=step)

    def close(self, *, failed: bool) -> None:
        self._tracker.tracker.finish(exit_code=int(failed))


def _identifiers(folder: Path) -> dict[str, str]:
    """Which run of which tracker this folder is, from ``trackers.json``."""
    path = folder / "trackers.json"
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): str(value) for name, value in found.items()}
    except (ValueError, AttributeError, OSError):
        say("trackers.json is damaged; MLflow and W&B begin a new run")
        return {}


@contextmanager
def _environment(**defaults: str) -> Iterator[None]:
    """Environment variables for as long as the block runs; one that the user has set is left as it is."""
    ours = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def one_line(error: BaseException) -> str:
    """What an error says, at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def say(text: str) -> None:
    """A warning on stderr."""
    sys.stderr.write(f"warning: {text}\n")

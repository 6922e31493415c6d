"""The beginning of a run: its folder, and its studies on the network's grid."""

from __future__ import annotations

import sys
from pathlib import Path

from prostate_mim.engine.data import Region
from prostate_mim.engine.distributed import launched_rank
from prostate_mim.engine.tracker import progress_bar
from prostate_mim.errors import UsageError
from prostate_mim.files import make_folder
from prostate_mim.manifest import Manifest
from prostate_mim.spec import InputSpec
from prostate_mim.store import PreparedManifest, PreparedRow, prepare_manifest


def prepare_run(out: str | Path, resume: bool) -> Path:
    """The run folder, writable now; a folder that holds a run already needs ``--resume``.

    Raises:
        UsageError: it holds a run and ``resume`` is off, or a finished one, or cannot be written.
    """
    if launched_rank():
        return Path(out)  # rank 0 looks at it, and may have begun to write there
    run = make_folder(out)
    if (run / "release").exists():
        raise UsageError(f"{run}: this run is finished (it has release/); choose a new --out")
    begun = any(any(run.glob(pattern)) for pattern in ("metrics.jsonl", "checkpoint-*", "*/metrics.jsonl"))
    if begun and not resume:
        raise UsageError(f"{run}: holds a run already; go on with --resume, or choose a new --out")
    return run


def prepare_rows(
    manifest: Manifest,
    spec: InputSpec,
    *,
    store: Path | None = None,
    workers: int = 0,
    skip_bad: bool = False,
) -> PreparedManifest:
    """Every study of a manifest on the network's grid, with a progress bar.

    Args:
        spec: its size is that of the region kept of each study, from which crops are drawn.
        store: folder of prepared studies; None keeps them in memory.
        workers: processes that prepare what the store lacks.
        skip_bad: leave out studies that cannot be used, aloud, instead of refusing the manifest.

    Raises:
        VolumeError, ManifestError, NotFoundError: a study cannot be used, or none can.
    """
    quiet = launched_rank() > 0
    with progress_bar(quiet=quiet) as bar:
        task = bar.add_task("reading studies", total=len(manifest.rows))
        found = prepare_manifest(
            manifest,
            spec,
            store,
            workers=workers,
            skip_bad=skip_bad,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if not quiet:
        for failure in found.failures:
            sys.stderr.write(f"warning: row {failure.number} is left out: {failure.reason}\n")
    return found


def region_of(prepared: PreparedRow) -> Region:
    """A prepared row as the loader reads it; label -1 where none is given."""
    label = -1 if prepared.row.label is None else prepared.row.label
    return Region(prepared.study, label, prepared.row.number)

"""The studies of a run on the network's grid."""

from __future__ import annotations

import sys
from pathlib import Path

from prostate_mim.engine.data import Region
from prostate_mim.engine.launched import launched_rank
from prostate_mim.engine.tracker import progress_bar
from prostate_mim.manifest import Manifest
from prostate_mim.spec import InputSpec
from prostate_mim.store import PreparedManifest, PreparedRow, prepare_manifest


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

"""Before a model is judged: nothing that it is judged on may have been seen by it, under whatever name."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from prostate_mim.engine.distributed import launched_rank
from prostate_mim.hub import Studies
from prostate_mim.leaks import Leak, model_saw, read_aliases, refuse, same_person, same_voxels
from prostate_mim.manifest import Manifest
from prostate_mim.store import PreparedManifest


def check_overlap(
    manifest: Manifest,
    prepared: PreparedManifest,
    folds: Sequence[int],
    seen: Studies,
    *,
    picai_labels: Path | None = None,
    allow: bool = False,
) -> tuple[str, ...]:
    """Refuse one image under two ids, one person in two folds, and studies that the model was trained on.

    Args:
        manifest: the rows.
        prepared: their studies, for the hashes of their voxels.
        folds: one a row.
        seen: by the model.
        picai_labels: the user's folder of that name, which says who is in PROSTATEx and in PI-CAI.
        allow: warn instead.

    Returns:
        What was found, one line each, for every result of the run.

    Raises:
        ManifestError: something was found, and ``allow`` is off.
        NotFoundError: ``picai_labels`` holds no table.
    """
    aliases = {} if picai_labels is None else read_aliases(picai_labels)
    hashes = prepared.voxel_hashes
    leaks: list[Leak] = [*same_voxels(manifest.rows, hashes), *same_person(manifest.rows, aliases, folds)]
    for studies in seen.known:
        leaks += model_saw(manifest.rows, hashes, studies)
    messages = refuse(leaks, allow, str(manifest.path))
    if launched_rank() == 0:
        for message in messages:
            sys.stderr.write(f"warning: allowed overlap: {message}\n")
    return messages

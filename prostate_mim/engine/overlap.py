"""Before a model is judged: nothing that it is judged on may have been seen by it, under whatever name."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from prostate_mim.engine.launched import launched_rank
from prostate_mim.hub import Studies
from prostate_mim.leaks import Leak, model_saw, read_aliases, refuse, same_person, same_voxels
from prostate_mim.manifest import Manifest
from prostate_mim.store import PreparedManifest

_SHOWN = 3  # findings that are named on the terminal: a public set has a thousand


def check_overlap(
    manifest: Manifest,
    prepared: PreparedManifest,
    folds: Sequence[int],
    seen: Studies,
    *,
    picai_labels: Path | None = None,
    allow: bool = False,
    test_fold: int | None = None,
) -> tuple[str, ...]:
    """Refuse one image under two ids, one person in two folds, and studies that the model was trained on.

    Args:
        manifest: the rows.
        prepared: their studies, for the hashes of their voxels.
        folds: one a row.
        seen: by the model.
        picai_labels: the user's folder of that name, which says who is in PROSTATEx and in PI-CAI.
        allow: warn instead, in one line (``summary``).
        test_fold: the only fold that is tested on. The model may have seen the others, which it learns from anyway, and
            a person may be in several of them. None: all are, in turn.

    Returns:
        What was found, one line each, for every result of the run.

    Raises:
        ManifestError: something was found, and ``allow`` is off.
        NotFoundError: ``picai_labels`` holds no table.
    """
    aliases = {} if picai_labels is None else read_aliases(picai_labels)
    hashes = prepared.voxel_hashes
    sides = folds if test_fold is None else [int(fold == test_fold) for fold in folds]
    leaks: list[Leak] = [*same_voxels(manifest.rows, hashes), *same_person(manifest.rows, aliases, sides)]
    pairs = zip(manifest.rows, folds, strict=True)
    tested = [row for row, fold in pairs if test_fold in (None, fold)]
    for studies in seen.known:
        leaks += model_saw(tested, hashes, studies)
    messages = refuse(leaks, allow, str(manifest.path))
    if leaks and launched_rank() == 0:
        sys.stderr.write(f"warning: allowed overlap: {summary(leaks)}\n")
    return messages


def summary(leaks: Sequence[Leak]) -> str:
    """One line for the terminal: how many findings of each kind, the first rows, where all of them are."""
    if len(leaks) == 1:
        return leaks[0].message
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(leak.kind for leak in leaks).items())
    first = "; ".join(leak.message.partition(":")[0] for leak in leaks[:_SHOWN])
    more = f" and {len(leaks) - _SHOWN} more" if len(leaks) > _SHOWN else ""
    return (
        f"{len(leaks)} findings ({kinds}): {first}{more}; every one is listed under allowed_overlap in results.json, "
        "run.json and the release, and the figures may flatter"
    )

"""Made-up manifest rows whose identifiers are easily found in a message."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prostate_mim.leaks import Leak
from prostate_mim.manifest import ManifestRow


def rows_of(*ids: tuple[str, str]) -> list[ManifestRow]:
    """One row each: (patient, study)."""
    return [
        ManifestRow(number, study, patient, Path(f"/SECRET/{study}.mha"), lesion_id=str(number))
        for number, (patient, study) in enumerate(ids, 1)
    ]


def found(leaks: Sequence[Leak]) -> list[tuple[str, tuple[int, ...]]]:
    """Kinds and rows; fails where a message names anybody, or is more than one line."""
    for leak in leaks:
        assert "SECRET" not in leak.message
        assert "\n" not in leak.message
        assert str(leak.rows[0]) in leak.message
    return [(leak.kind, leak.rows) for leak in leaks]

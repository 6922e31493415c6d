"""The two sheets of Prostate-MRI-US-Biopsy: biopsy cores with their track in the MRI, and scores of the targets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prostate_mim.datasets.surface import FloatArray, Surface
from prostate_mim.datasets.tables import Record, column, read_table

TARGET_SHEETS = ("target*data*.xlsx", "target*data*.csv")
BIOPSY_SHEETS = ("*biopsy*data*.xlsx", "*biopsy*data*.csv")

_MISSING_MM = 999.0  # coordinates that were not recorded are -1000 or 1000
_STEP_MM = 0.5
_VOLUME_TOLERANCE = 0.2
_SMALL_CC = 0.05
_SCORE = "UCLA Score (Similar to PIRADS v2)"
_VOLUME = "ROI Volume (cc)"
_MR_TARGETS, _MR_CORES = "seriesInstanceUID_MR", "Series Instance UID (MRI)"
_NUMBERS = ("Target No.", "Target Number", "ROI No.", "ROI Number")


@dataclass(frozen=True)
class Core:
    """One biopsy core.

    Attributes:
        tip_mm, base_mm: (x, y, z) of the two ends of its track in the MRI.
        targeted: aimed at a target (or at an earlier positive core), not at a place of the systematic scheme.
        isup: grade group 1 to 5; 0 for a core without cancer; None where the pattern is incomplete.
    """

    tip_mm: tuple[float, ...]
    base_mm: tuple[float, ...]
    targeted: bool
    isup: int | None

    def track(self) -> FloatArray:
        """(n, 3) points along the core, at most half a millimetre apart."""
        tip, base = np.asarray(self.tip_mm), np.asarray(self.base_mm)
        number = max(2, math.ceil(float(np.linalg.norm(base - tip)) / _STEP_MM) + 1)
        return np.asarray(tip + np.linspace(0.0, 1.0, number)[:, None] * (base - tip))


@dataclass(frozen=True)
class Score:
    """One row of the target sheet: score 1 to 5 (None where it is missing or 0) of a target known by its volume."""

    number: str
    volume_cc: float | None
    value: int | None


def read_cores(path: Path) -> dict[str, list[Core]]:
    """SeriesInstanceUID of the MRI -> cores whose track in that MRI was recorded.

    Raises:
        NotFoundError, ManifestError, BackendError: as ``read_table``.
    """
    ends = {end: [f"Bx {end} {axis} (MRI Coord)" for axis in "XYZ"] for end in ("Tip", "Base")}
    rows = read_table(
        path, (_MR_CORES, "Primary Gleason", "Secondary Gleason", "Core Label", *ends["Tip"], *ends["Base"])
    )
    found: dict[str, list[Core]] = {}
    for row in rows:
        tip, base = ([_number(column(row, name)) for name in ends[end]] for end in ("Tip", "Base"))
        if all(value is not None and abs(value) < _MISSING_MM for value in (*tip, *base)):
            core = Core(
                tuple(value for value in tip if value is not None),
                tuple(value for value in base if value is not None),
                "target" in column(row, "Core Label").lower(),
                isup_grade(column(row, "Primary Gleason"), column(row, "Secondary Gleason")),
            )
            found.setdefault(column(row, _MR_CORES), []).append(core)
    return found


def read_scores(path: Path) -> dict[str, list[Score]]:
    """SeriesInstanceUID of the MRI -> its targets; a target listed for several ultrasound series appears once.

    Raises:
        NotFoundError, ManifestError, BackendError: as ``read_table``.
    """
    found: dict[str, list[Score]] = {}
    for row in read_table(path, (_MR_TARGETS, _VOLUME, _SCORE)):
        number = next((text for text in (column(row, name) for name in _NUMBERS) if text), "")
        score = Score(_plain_number(number), _number(column(row, _VOLUME)), _score(row))
        listed = found.setdefault(column(row, _MR_TARGETS), [])
        if score not in listed:
            listed.append(score)
    return found


def isup_grade(primary: str, secondary: str) -> int | None:
    """Grade group of two Gleason patterns: 0 where both are blank (no cancer), None where they make no sense.

    Epstein et al., Am J Surg Pathol 2016;40:244-252.
    """
    if not primary and not secondary:
        return 0
    first, second = _number(primary), _number(secondary)
    if first not in (1, 2, 3, 4, 5) or second not in (1, 2, 3, 4, 5):
        return None
    total = first + second
    if total <= 6:
        return 1
    if total == 7:
        return 2 if first < second else 3
    return 4 if total == 8 else 5


def cores_label(cores: Iterable[Core], target: Surface) -> tuple[int | None, int | None]:
    """(label, grade group) of a target by the cores that pass through its surface.

    Positive: one of them has grade group 2 or more. Negative: none has, all their grades are known, and at least one
    was aimed at a target. Else (None, None): a systematic core that grazes a target does not show that it is benign.
    """
    through = [core for core in cores if target.contains(core.track()).any()]
    grades = [core.isup for core in through if core.isup is not None]
    highest = max(grades, default=0)
    if highest >= 2:
        return 1, highest
    if any(core.targeted for core in through) and len(grades) == len(through):
        return 0, highest
    return None, None


def score_of(scores: Sequence[Score], number: str, volume_cc: float) -> int | None:
    """The score of a target, by its number where the sheet states one, else by its volume (within 20%).

    None where no row fits, or where several fit and disagree: the sheet's order says nothing.
    """
    if any(score.number for score in scores):
        fitting = [score for score in scores if score.number == number]
    else:
        allowed = max(_VOLUME_TOLERANCE * volume_cc, _SMALL_CC)
        fitting = [s for s in scores if s.volume_cc is not None and abs(s.volume_cc - volume_cc) <= allowed]
    values = {score.value for score in fitting}
    return values.pop() if len(values) == 1 else None


def named_series(*sheets: Mapping[str, object]) -> set[str]:
    """All series that the sheets name."""
    return {uid for sheet in sheets for uid in sheet if uid}


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _plain_number(text: str) -> str:
    """``1`` for ``1``, ``1.0`` and ``Target 1``."""
    return "".join(letter for letter in text.removesuffix(".0") if letter.isdigit())


def _score(row: Record) -> int | None:
    value = _number(column(row, _SCORE))
    return int(value) if value in (1, 2, 3, 4, 5) else None

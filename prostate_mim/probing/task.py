"""ProbeTask: what a probe asks of frozen features, on which studies. Plain values, so that a TOML file can hold it."""

from __future__ import annotations

from dataclasses import dataclass

from prostate_mim.errors import UsageError
from prostate_mim.spec import InputSpec

KINDS = {
    "gland": "gland voxels against all others of the window",
    "zone": "transition zone against peripheral zone, voxels of either",
    "lesion": "lesion voxels against the gland's others",
    "centre": "the scanner centre of a study",
}
CONTROLS = ("", "permuted", "place", "location")


@dataclass(frozen=True)
class ProbeTask:
    """A linear probe on frozen features.

    Attributes:
        kind: key of ``KINDS``; all but ``centre`` ask about voxels.
        manifest: CSV of studies with the masks (or the ``centre``) that the kind asks for.
        spacing_mm_zyx: voxel size of the windows.
        size_zyx: voxels of a window.
        region_zyx: voxels kept of each study around its centre; windows are cut from there.
        windows: a study. They lie at random offsets around the gland, so that the place of a voxel in its window, which
            zero padding tells a network, says little about what it is.
        voxels: drawn per window, of those measured (and of the gland, where the kind is about parts of it).
        stages: how many of the encoder's coarsest stages are read together.
        penalties: C of the logistic regression; one is chosen on inner folds of the fitted patients.
        inner_folds: for that choice.
        folds: patient folds where the manifest gives none.
        test_folds: folds that are tested, each by a probe fitted to all other patients; all folds if empty.
        calibrate: take batch norms' statistics from the windows of the fitted patients first, for every arm alike.
    """

    kind: str
    manifest: str
    spacing_mm_zyx: tuple[float, float, float] = (3.0, 0.5, 0.5)
    size_zyx: tuple[int, int, int] = (16, 96, 96)
    region_zyx: tuple[int, int, int] = (32, 256, 256)
    windows: int = 4
    voxels: int = 300
    stages: int = 3
    penalties: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)
    inner_folds: int = 3
    folds: int = 5
    test_folds: tuple[int, ...] = ()
    calibrate: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"probe kind {self.kind!r} is unknown; choose {', '.join(KINDS)}")
        for name in ("windows", "voxels", "stages"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("inner_folds", "folds"):
            if getattr(self, name) < 2:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 2")
        if not self.penalties or min(self.penalties) <= 0:
            raise UsageError(f"penalties are {self.penalties}; give one or more positive numbers")
        if any(room < n for room, n in zip(self.region_zyx, self.size_zyx, strict=True)):
            raise UsageError(
                f"region_zyx {self.region_zyx} is smaller than the window {self.size_zyx}; make it at least as large"
            )

    @property
    def window(self) -> InputSpec:
        """The input contract of a window."""
        return InputSpec(spacing_mm_zyx=self.spacing_mm_zyx, size_zyx=self.size_zyx)

    @property
    def region(self) -> InputSpec:
        """What is kept of each study."""
        return self.window.with_size(self.region_zyx)

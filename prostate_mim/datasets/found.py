"""What an importer finds in the folder of a data set: rows for a manifest, and what was left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prostate_mim.manifest import Point

# Reasons of ``Skipped`` that importers share.
SECOND_TIME = "the same study a second time"
NO_SPACING = "bare array without a spacing; state spacing_mm_zyx in a table given by --labels"


@dataclass(frozen=True)
class FoundRow:
    """One study, or one lesion of a study: the columns of a manifest, in its units. Paths may be absolute.

    Attributes:
        is_crop: the image itself is a crop around the lesion.
        extra: further columns by name; kept in the manifest. It knows ``isup``, ``sha256`` and ``zone_mask`` (a path
            as seen from the manifest) and ignores all others, such as ``subset``.
    """

    study_id: str
    patient_id: str
    t2w: Path
    lesion_id: str = ""
    label: int | None = None
    position_mm_lps: Point | None = None
    lesion_mask: Path | None = None
    gland_mask: Path | None = None
    zone: str = ""
    centre: str = ""
    fold: int | None = None
    spacing_mm_zyx: Point | None = None
    is_crop: bool = False
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_lesion(self) -> bool:
        """Whether the row says where its lesion is."""
        return self.is_crop or self.position_mm_lps is not None or self.lesion_mask is not None


@dataclass(frozen=True)
class Skipped:
    """One thing of the folder that became no row.

    Attributes:
        item: which: an identifier or a file name. It goes only into the list beside the manifest.
        reason: one of few, in words a person understands; it names no patient, because counts of it are shown.
    """

    item: str
    reason: str


@dataclass(frozen=True)
class Found:
    """All that was found.

    Attributes:
        rows: in the order of the manifest; sorted by study and lesion.
        skipped: what became no row.
        label_source: where labels and lesions come from, with their version; empty where there are none.
        notes: what a user of this manifest should know: conventions assumed, traps of the set.
    """

    rows: tuple[FoundRow, ...]
    skipped: tuple[Skipped, ...] = ()
    label_source: str = ""
    notes: tuple[str, ...] = ()

    def skipped_counts(self) -> dict[str, int]:
        """How many things were left out, by reason."""
        return dict(sorted(Counter(item.reason for item in self.skipped).items()))


@dataclass(frozen=True)
class ImportOptions:
    """What a user may say about a folder beyond where it is.

    Attributes:
        labels: a second folder or a table that does not lie in the data set's own folder.
        label_source: which of several sets of labels to use; the data set's default if None.
        derived: folder for files an importer has to make (a 3-D volume out of a 4-D file, a mask out of DICOM-SEG);
            it does not exist until an importer makes it.
    """

    labels: Path | None
    label_source: str | None
    derived: Path


Find = Callable[[Path, ImportOptions], Found]


@dataclass(frozen=True)
class DataSet:
    """A public data set and how to read its folder.

    Attributes:
        name: as in ``prostate-mim data import NAME``.
        title: full name.
        licence: of images and labels, as far as known; users must check.
        citation: what its terms ask to cite.
        url: where it is to be had.
        find: folder and options -> what is in it; see ``FoundRow``.
        labels_help: what ``--labels`` names for this set; empty where it has no use.
        label_sources: what ``--label-source`` may be, the default first; empty where there is no choice.
    """

    name: str
    title: str
    licence: str
    citation: str
    url: str
    find: Find
    labels_help: str = ""
    label_sources: tuple[str, ...] = ()

"""studies.json of a release: keyed hashes of the studies that its weights have seen. No identifier, no path."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prostate_mim.errors import IntegrityError
from prostate_mim.leaks import StudyHashes

if TYPE_CHECKING:
    from torch import Tensor

STUDIES = "studies.json"
FORMAT = 1
_PRETRAINING, _FINE_TUNING = "pretraining", "fine-tuning"
_SECTION = f"""## Which studies it saw

`{STUDIES}` holds keyed hashes of the voxels of {{counts}}, and no identifier. With
them `prostate-mim data check` and `finetune` find out whether a study at hand is among them, so that nobody tests this
model on what it was trained on. A resampled, cropped or rescaled copy, or another series of the same patient, is not
recognised.
"""
_LARGEST_BYTES = 64 << 20  # a million studies are 36 MB


@dataclass(frozen=True)
class Studies:
    """What a model was trained on; both are None where nobody wrote it down.

    Attributes:
        pretraining: without labels.
        fine_tuning: with labels.
    """

    pretraining: StudyHashes | None = None
    fine_tuning: StudyHashes | None = None

    @property
    def known(self) -> tuple[StudyHashes, ...]:
        """Those that are not None."""
        return tuple(found for found in (self.pretraining, self.fine_tuning) if found is not None)

    def to_text(self) -> str:
        """The content of the file."""
        parts = {_PRETRAINING: self.pretraining, _FINE_TUNING: self.fine_tuning}
        values = {name: found.to_dict() for name, found in parts.items() if found is not None}
        return json.dumps({"format": FORMAT, **values}, indent=1) + "\n"

    def describe(self) -> str:
        """A section of a model card; empty where nothing is known."""
        counts = [
            f"{len(found.digests):,} studies of its {name}"
            for name, found in ((_PRETRAINING, self.pretraining), (_FINE_TUNING, self.fine_tuning))
            if found is not None
        ]
        if not counts:
            return ""
        return _SECTION.format(counts=" and of ".join(counts))


def read_studies(path: Path) -> Studies:
    """Read ``studies.json``: a closed schema.

    Raises:
        IntegrityError: it is damaged, or not of this version.
    """
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise IntegrityError(f"more than {_LARGEST_BYTES >> 20} MB")
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
            raise IntegrityError(f"not a JSON object of format {FORMAT}")
        if not values or set(values) - {_PRETRAINING, _FINE_TUNING}:
            raise IntegrityError(f"expected {_PRETRAINING}, {_FINE_TUNING} or both, and nothing else")
        found = {name: StudyHashes.from_dict(value) for name, value in values.items()}
    except (OSError, ValueError, RecursionError) as error:
        raise IntegrityError(f"{path}: not valid JSON; fetch the release again") from error
    except IntegrityError as error:
        raise IntegrityError(f"{path}: {error}; fetch the release again") from error
    return Studies(found.get(_PRETRAINING), found.get(_FINE_TUNING))


def study_key(weights: Mapping[str, Tensor]) -> str:
    """The key of a release's study hashes (32 hex digits): of the weights, so that no two models share one.

    It keeps nothing secret: it stands in the file. It keeps two releases from being compared with each other, and the
    same training gives the same file.
    """
    total = hashlib.sha256(b"prostate-mim studies")
    for name in sorted(weights):
        total.update(name.encode() + b"\0" + weights[name].detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()[:32]

"""The classifier behind the page: loaded, or made from phantoms at the first start; one judgement of one place."""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import torch
from space_interval import Heads, Interval, bootstrap_heads, members_interval, read_heads

from prostate_mim._version import __version__
from prostate_mim.classifier import LesionClassifier
from prostate_mim.encoder import PreMIM
from prostate_mim.errors import ProstateMimError, UsageError
from prostate_mim.files import file_lock, make_folder
from prostate_mim.finetuning import FinetuneConfig, finetune
from prostate_mim.hub import BUNDLED_DEFAULT
from prostate_mim.manifest import Point, level_of
from prostate_mim.modality import Guard, ModalityReport
from prostate_mim.phantom import write_cohort
from prostate_mim.prediction import load_guard
from prostate_mim.saliency import Explanation, explain
from prostate_mim.volume import Volume

NAME = "demonstration.synthetic-lesions"
STUDIES, SEED = 60, 7  # of the demonstration; the page's list has another seed
_MAKING = ".demonstration-"
_WAIT_S = 900.0


@dataclass(frozen=True, eq=False)
class Judged:
    """All that is shown of one place.

    Attributes:
        made: probability and saliency map.
        interval: None where nothing is known of other trainings.
        report: what the modality guard says of the image.
    """

    made: Explanation
    interval: Interval | None
    report: ModalityReport


class Judge:
    """A classifier with the modality guard. One judgement at a time: the map's hooks are on the network itself.

    Args:
        model: a classifier of the image alone.
        heads: resampled heads of it.
        demonstration: it is the one made from phantoms.

    Raises:
        UsageError: the model wants masks, for which the page has no field.
    """

    def __init__(self, model: LesionClassifier, heads: Heads | None = None, *, demonstration: bool = False) -> None:
        wanted = model.spec.channels[1:]
        if wanted:
            raise UsageError(f"--model: it looks at masks ({', '.join(wanted)}), which this page has no field for")
        self.model, self.demonstration = model, demonstration
        self._heads, self._guard, self._lock = heads, load_guard(), threading.Lock()

    @property
    def level(self) -> str:
        """What a place means to the model: the middle of a ``lesion``, or of a whole ``study``'s gland."""
        return level_of(self.model.details)

    def __call__(self, volume: Volume, position_mm_lps: Point, method: str = "gradcam") -> Judged:
        """Probability, interval, map and verdict.

        Raises:
            VolumeError, UsageError, IntegrityError: as ``saliency.explain``.
        """
        with self._lock:
            made = explain(self.model, volume, position_mm_lps, method=method)
            return Judged(made, self._interval(volume, position_mm_lps), self._verdict(self._guard, volume))

    @staticmethod
    def _verdict(guard: Guard, volume: Volume) -> ModalityReport:
        return guard(volume, volume.shape_zyx[0] == 1)

    @torch.inference_mode()
    def _interval(self, volume: Volume, position: Point) -> Interval | None:
        if self._heads is None and not self.model.others:
            return None
        batch = self.model.prepare(volume, position)
        if self._heads is None:
            return members_interval(self.model, batch)
        return self._heads.interval(self.model.features(batch).double().numpy())


def open_judge(model: Path, manifest: Path | None = None) -> Judge:
    """A classifier of the user's.

    Args:
        model: release or run folder.
        manifest: what a linear probe was made from, for the interval.

    Raises:
        ProstateMimError: as ``LesionClassifier.from_pretrained`` and ``bootstrap_heads``.
    """
    classifier = LesionClassifier.from_pretrained(model)
    return Judge(classifier, None if manifest is None else bootstrap_heads(classifier, manifest))


def open_demonstration(cache: Path, studies: int = STUDIES) -> Judge:
    """The classifier of synthetic lesions, made now if the cache has none: about a minute.

    Args:
        cache: folder, made if need be; two starts at once make one.
        studies: phantoms to learn from.

    Raises:
        UsageError, ResourceError: the cache cannot be written.
        IntegrityError: it is damaged.
    """
    folder = make_folder(cache) / f"demonstration-{__version__}-{SEED}-{studies}"
    with file_lock(cache / "demonstration.lock", _WAIT_S) as held:
        if not held:
            raise UsageError(f"{cache}: another start has been making the demonstration for long; stop it, start again")
        if not folder.exists():
            for left in cache.glob(f"{_MAKING}*"):  # by a start that was killed: whoever holds the lock is alone
                shutil.rmtree(left, ignore_errors=True)
            print(f"making the demonstration from {studies} phantoms: a minute or two, once", file=sys.stderr)
            _make_demonstration(folder, studies)
    try:
        classifier = LesionClassifier.from_pretrained(folder / "run")
        return Judge(classifier, read_heads(folder / "heads.npz", classifier), demonstration=True)
    except ProstateMimError as error:
        raise type(error)(f"{error}; remove {folder}, and it is made again") from None


def _make_demonstration(folder: Path, studies: int) -> None:
    """Phantoms -> linear probe on the bundled encoder -> its resampled heads; the phantoms are not kept."""
    with tempfile.TemporaryDirectory(prefix=_MAKING, dir=folder.parent) as place:
        kept = make_folder(Path(place) / "kept")
        manifest = write_cohort(Path(place) / "phantoms", studies, SEED)
        finetune(
            LesionClassifier(PreMIM.from_pretrained(BUNDLED_DEFAULT)), manifest, kept / "run", FinetuneConfig(name=NAME)
        )
        classifier = LesionClassifier.from_pretrained(kept / "run")
        bootstrap_heads(classifier, manifest).save(kept / "heads.npz")
        shutil.move(kept, folder)  # within one folder: a rename, so that half a demonstration is never found

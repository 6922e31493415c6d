"""A finetune run on whole studies as the folder that picai_eval scores: a probability and one place for each study.

The probability is the out-of-fold one. The place is the hottest one of a HiResCAM map, drawn by the very model that
gave it: the member of the ensemble that did not see the patient, or the one model of a run that tested a fold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prostate_mim.classifier import LesionClassifier
from prostate_mim.engine.distributed import pick_device
from prostate_mim.errors import ManifestError, UsageError
from prostate_mim.files import whole_folder
from prostate_mim.finetuning.out_of_fold import NAME, OutOfFold, match, read_predictions
from prostate_mim.manifest import LEVELS, Manifest, ManifestRow, level_of, read_manifest
from prostate_mim.metrics import PicaiCase, auroc, detection_map, write_picai
from prostate_mim.preprocess import mask_on_grid
from prostate_mim.saliency.explanation import explain
from prostate_mim.studies import Study, open_study
from prostate_mim.volume import Volume
from prostate_mim.volume.grids import same_grid

NEAR = 0.02
"""By how much a probability may differ from the run's, whose studies were rounded, and read on a GPU perhaps.

Other images, or the members in another order, differ by more in nearly every row.
"""


@dataclass(frozen=True)
class PicaiRun:
    """What was written.

    Attributes:
        folder: for ``picai_eval.evaluate_folder``; files are named by row numbers.
        studies: how many it holds.
        positives: how many of them are.
        left_out: row numbers of positive studies without a delineation: picai_eval would take them for benign.
        moved: row numbers whose delineation was on another grid than the t2w and was put there by place.
        unplaced: row numbers whose map was empty: the candidate is drawn at the middle of the crop.
        auroc: by this package, of the very values that were written.
    """

    folder: Path
    studies: int
    positives: int
    left_out: tuple[int, ...]
    moved: tuple[int, ...]
    unplaced: tuple[int, ...]
    auroc: float


def write_run_picai(
    run: str | Path,
    manifest: str | Path,
    out: str | Path,
    *,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> PicaiRun:
    """Write detection maps and labels of every study of a run, for ``picai_eval.evaluate_folder``.

    Args:
        run: folder of a finished ``finetune`` with ``--level study``, and ``--ensemble`` or ``--test-fold`` (then the
            studies of that fold are written).
        manifest: that of the run; positive studies without ``lesion_mask`` are left out.
        out: must not exist or be empty; it appears when all of it is written.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: called with how many studies are done, and of how many.

    Raises:
        UsageError: the run is of lesions, or its release has seen every patient; ``out`` holds something.
        NotFoundError: no such run or manifest.
        ManifestError: the manifest is not that of the run; no positive or no negative study would be left; a mask is
            damaged. Rows are named by number.
        VolumeError, IntegrityError: a study cannot be read, or the weights give no finite map.
        ResourceError: the disk is full.
    """
    source = Path(run)
    predictions = read_predictions(source)
    model = _whole_studies(source)
    members = _members_by_fold(source, model, predictions)
    listed = read_manifest(manifest, labels=True, level=LEVELS[1])
    rows = match(listed, predictions, source, test_fold=model.details["finetuning"].get("test_fold"))
    chosen = [row for row in rows if not row.label or row.lesion_mask is not None]
    _check_classes(listed, chosen)
    where = pick_device(device)
    for member in members.values():
        member.to(where)
    drawn = _Drawn(listed, predictions, members, source, flips=bool(model.details["finetuning"].get("flips")))
    with whole_folder(out) as temporary:
        write_picai(temporary, drawn.cases(chosen, progress or (lambda done, total: None)))
    labels = [int(row.label or 0) for row in chosen]
    value = auroc(labels, drawn.scores)
    assert value is not None  # noqa: S101 - _check_classes has seen both
    left_out = sorted({row.number for row in rows} - {row.number for row in chosen})
    return PicaiRun(
        Path(out), len(chosen), sum(labels), tuple(left_out), tuple(drawn.moved), tuple(drawn.unplaced), value
    )


def _whole_studies(run: Path) -> LesionClassifier:
    """The run's release, if it is of whole studies and holds, for every row, a model that has not seen it."""
    model = LesionClassifier.from_pretrained(run)
    if level_of(model.details) != LEVELS[1]:
        raise UsageError(f"{run}: was fine-tuned on lesions, and picai_eval scores studies; use finetune --level study")
    made = model.details["finetuning"]
    if not made.get("ensemble") and made.get("test_fold") is None:
        raise UsageError(
            f"{run}: its release is one model that was trained on every patient, so that no place in a study would be "
            "by a model that had not seen it; run finetune with --ensemble, which keeps the models of the folds"
        )
    return model


def _members_by_fold(
    run: Path, model: LesionClassifier, predictions: Mapping[int, OutOfFold]
) -> dict[int, LesionClassifier]:
    """Fold -> the model that was trained without it."""
    folds, members = sorted({told.fold for told in predictions.values()}), model.members
    if len(folds) != len(members):
        raise UsageError(
            f"{run}: {NAME} has {len(folds)} folds, its release {len(members)} models; they are not of one run, run "
            "finetune again"
        )
    return dict(zip(folds, members, strict=True))


def _check_classes(listed: Manifest, chosen: list[ManifestRow]) -> None:
    """Both are needed for every figure; found before an hour of maps."""
    if not any(row.label for row in chosen):
        raise ManifestError(
            f"{listed.path}: no positive study has a lesion_mask, and picai_eval needs delineations; add the column "
            "(for PI-CAI: data import picai --label-source)"
        )
    if all(row.label for row in chosen):
        raise ManifestError(f"{listed.path}: every study is positive; figures need negative studies too")


class _Drawn:
    """Cases of studies, one after the other, and what was met on the way."""

    def __init__(
        self,
        listed: Manifest,
        predictions: Mapping[int, OutOfFold],
        members: Mapping[int, LesionClassifier],
        run: Path,
        *,
        flips: bool,
    ) -> None:
        self._listed, self._predictions, self._members = listed, predictions, members
        self._run, self._flips = run, flips
        self.scores: list[float] = []
        self.moved: list[int] = []
        self.unplaced: list[int] = []

    def cases(self, rows: list[ManifestRow], progress: Callable[[int, int], None]) -> Iterator[PicaiCase]:
        """A case a row; a positive one has a delineation."""
        for done, row in enumerate(rows):
            progress(done, len(rows))
            told = self._predictions[row.number]
            member = self._members[told.fold]
            wanted = {*member.spec.masks, *(("lesion",) if row.label else ())}
            study = open_study(self._listed, row, wanted)
            detection = self._detection(study, member, told)
            self.scores.append(float(detection.voxels.max()))
            yield PicaiCase(str(row.number), detection, self._truth(study))
        progress(len(rows), len(rows))

    def _detection(self, study: Study, member: LesionClassifier, told: OutOfFold) -> Volume:
        """The out-of-fold probability, at the hottest place for the model that gave it."""
        given: dict[str, Any] = {"position_mm_lps": study.centre_mm_lps, "masks": study.masks}
        made = explain(member, study.volume, method="hirescam", **given)
        probability = made.prediction.probability
        if self._flips:
            probability = member.predict(study.volume, **given, flips=True).probability
        if not abs(probability - told.probability) <= NEAR:
            raise ManifestError(
                f"{study.where}: the model of fold {told.fold} gives {probability:.3f}, but {self._run / NAME} tells "
                f"{told.probability:.3f}; give the manifest of this run, as it was, with its images"
            )
        if made.hottest_mm_lps is None:
            self.unplaced.append(told.row)
        return detection_map(study.volume, [(made.hottest_mm_lps or study.centre_mm_lps, told.probability)])

    def _truth(self, study: Study) -> Volume:
        """(z, y, x) uint8: the delineation on the grid of the t2w; nothing in a negative study."""
        volume, lesion = study.volume, study.read_mask("lesion") if study.row.label else None
        if lesion is None:
            return Volume(np.zeros(volume.shape_zyx, np.uint8), volume.geometry)
        marked = mask_on_grid(lesion, volume.geometry, volume.shape_zyx)
        if not marked.any():
            raise ManifestError(
                f"{study.where} (lesion_mask): nothing of it falls on a voxel of the t2w; give a mask on its grid"
            )
        if not same_grid(lesion, volume):
            self.moved.append(study.row.number)
        return Volume(marked.astype(np.uint8), volume.geometry)

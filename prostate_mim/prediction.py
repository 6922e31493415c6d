"""predict and embed: one study file or a whole manifest -> probabilities or vectors, with provenance."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prostate_mim.classifier import LesionClassifier
from prostate_mim.deploy.prediction import Prediction
from prostate_mim.encoder import PreMIM
from prostate_mim.engine.tracker import progress_bar
from prostate_mim.files import atomic_path
from prostate_mim.manifest import Point, level_of, read_manifest
from prostate_mim.modality import Guard, refuse_flagged
from prostate_mim.modality.reference import bundled_reference
from prostate_mim.studies import Study, open_all
from prostate_mim.volume import Volume


@dataclass(frozen=True)
class StudyPrediction:
    """A prediction and which manifest row it belongs to; of a study without a row, both names are empty."""

    study_id: str
    lesion_id: str
    prediction: Prediction

    @property
    def flags(self) -> tuple[str, ...]:
        """What to know of the study, one short line each; empty if nothing is."""
        return self.prediction.flags

    def to_dict(self) -> dict[str, Any]:
        """What ``predict --json`` prints: ``study_id`` and ``lesion_id``, and what the deployment kit says of a study.

        Both names are None where there is no row, and a row need not name its lesion.
        """
        made = dataclasses.asdict(self.prediction)
        made |= {"flags": list(made["flags"]), "position_mm_lps": list(made["position_mm_lps"] or ()) or None}
        return {"study_id": self.study_id or None, "lesion_id": self.lesion_id or None} | made


@dataclass(frozen=True)
class Embeddings:
    """One vector per manifest row, or that of one study.

    Attributes:
        study_id, lesion_id: (N,) unicode; an empty lesion_id where the row names none, both empty of one study.
        embedding: (N, C) float32.
    """

    study_id: npt.NDArray[np.str_]
    lesion_id: npt.NDArray[np.str_]
    embedding: npt.NDArray[np.float32]

    def save(self, path: str | Path) -> None:
        """Write an .npz with the three arrays, atomically; it is read without pickle."""
        final = Path(path)
        with atomic_path(final if final.suffix == ".npz" else final.with_name(final.name + ".npz")) as temporary:
            np.savez(temporary, study_id=self.study_id, lesion_id=self.lesion_id, embedding=self.embedding)


def predict_volume(
    model: LesionClassifier,
    volume: Volume,
    position_mm_lps: Point | None,
    guard: Guard,
    *,
    masks: Mapping[str, Volume] | None = None,
    is_crop: bool = False,
    strict: bool = False,
) -> Prediction:
    """A probability with what the modality guard says of the image.

    Args:
        model: the classifier.
        volume: as ``read_volume`` returns it.
        position_mm_lps: (x, y, z) of the lesion; the image centre if None.
        guard: as ``load_guard`` makes it.
        masks: those among the model's channels, by name; others are not looked at.
        is_crop: the volume is a piece around a lesion.
        strict: refuse a volume whose image has flags; that no position was given is no matter of the image.

    Raises:
        VolumeError: the position lies outside; a mask is missing; or, if strict, something is off with the image.
    """
    report = guard(volume, is_crop)
    if strict:
        refuse_flagged(report, volume.source)
    made = model.predict(volume, position_mm_lps, masks)
    return dataclasses.replace(made, flags=(*report.flags, *(() if is_crop else made.flags)))


def predict_study(model: LesionClassifier, study: Study, guard: Guard, *, strict: bool = False) -> Prediction:
    """``predict_volume`` of an opened manifest row: around its centre, with the masks it names."""
    place = study.centre_mm_lps if study.row.has_place else None
    return predict_volume(
        model, study.volume, place, guard, masks=study.masks, is_crop=study.row.is_crop, strict=strict
    )  # fmt: skip


def embed_study(encoder: PreMIM, study: Study) -> npt.NDArray[np.float32]:
    """(C,) float32: the vector of an opened manifest row, around its centre, with the masks it names."""
    return encoder.embed(study.volume, study.centre_mm_lps, study.masks)


def predict_manifest(
    model: LesionClassifier, manifest: str | Path, *, level: str | None = None, strict: bool = False
) -> list[StudyPrediction]:
    """A probability for every row: around its lesion, else its gland, else the image centre.

    A model of whole studies takes the gland, else the image centre, whatever a row says of a lesion.

    Args:
        model: the classifier.
        manifest: the CSV; a row that lacks a mask among the model's channels is refused.
        level: as for ``read_manifest``; what the model was trained on if None.
        strict: refuse the first row whose image has flags, instead of carrying them.
    """
    guard = load_guard()
    found = []
    for study in _studies(manifest, "predicting", level or level_of(model.details)):
        made = predict_study(model, study, guard, strict=strict)
        found.append(StudyPrediction(study.row.study_id, study.row.lesion_id, made))
    return found


def load_guard() -> Guard:
    """The modality guard with the encoder that its statistics are of, the bundled one."""
    return Guard(PreMIM.from_pretrained(bundled_reference().encoder))


def embed_manifest(encoder: PreMIM, manifest: str | Path, *, level: str = "lesion") -> Embeddings:
    """A vector for every row, around its lesion where the row names one (not at level ``study``)."""
    rows: list[tuple[str, str]] = []
    vectors = []
    for study in _studies(manifest, "embedding", level):
        rows.append((study.row.study_id, study.row.lesion_id))
        vectors.append(embed_study(encoder, study))
    names = np.asarray(rows, dtype=np.str_)
    return Embeddings(names[:, 0], names[:, 1], np.stack(vectors))


def embed_volume(
    encoder: PreMIM, volume: Volume, position_mm_lps: Point | None, masks: Mapping[str, Volume] | None = None
) -> Embeddings:
    """The vector of one study that is in no manifest, as a table of one row without names.

    Args:
        encoder: what embeds.
        volume: as ``read_volume`` returns it.
        position_mm_lps: (x, y, z); the image centre if None.
        masks: those among the encoder's channels, by name.

    Raises:
        VolumeError: the position lies outside, or a mask is missing.
    """
    nameless = np.asarray([""], dtype=np.str_)
    return Embeddings(nameless, nameless, encoder.embed(volume, position_mm_lps, masks)[None])


def _studies(manifest: str | Path, label: str, level: str) -> Iterator[Study]:
    listed = read_manifest(manifest, level=level)
    with progress_bar() as bar:
        task = bar.add_task(label, total=len(listed.rows))
        for study in open_all(listed):
            for note in study.notes:
                sys.stderr.write(f"warning: row {study.row.number}: {note}\n")
            yield study
            bar.advance(task)

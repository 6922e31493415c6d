"""predict and embed: one study file or a whole manifest -> probabilities or vectors, with provenance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prostate_mim.classifier import LesionClassifier, Prediction
from prostate_mim.encoder import PreMIM
from prostate_mim.engine.tracker import progress_bar
from prostate_mim.files import atomic_path
from prostate_mim.hub import read_release, resolve
from prostate_mim.manifest import read_manifest
from prostate_mim.studies import Study, open_all


@dataclass(frozen=True)
class StudyPrediction:
    """A prediction and which manifest row it belongs to."""

    study_id: str
    lesion_id: str
    prediction: Prediction

    def to_dict(self) -> dict[str, str | float]:
        """The columns that ``predict --json`` prints."""
        made = self.prediction
        return {
            "study_id": self.study_id,
            "lesion_id": self.lesion_id,
            "probability": made.probability,
            "model": made.model,
            "revision": made.revision,
            "spec": made.spec,
            "device": made.device,
        }


@dataclass(frozen=True)
class Embeddings:
    """One vector per manifest row.

    Attributes:
        study_id, lesion_id: (N,) unicode; an empty lesion_id where the row names none.
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


def predict_manifest(model: LesionClassifier, manifest: str | Path) -> list[StudyPrediction]:
    """A probability for every row: around its lesion, else its gland, else the image centre."""
    return [
        StudyPrediction(s.row.study_id, s.row.lesion_id, model.predict(s.volume, s.centre_mm_lps))
        for s in _studies(manifest, "predicting")
    ]


def embed_manifest(encoder: PreMIM, manifest: str | Path) -> Embeddings:
    """A vector for every row, around its lesion where the row names one."""
    rows: list[tuple[str, str]] = []
    vectors = []
    for study in _studies(manifest, "embedding"):
        rows.append((study.row.study_id, study.row.lesion_id))
        vectors.append(encoder.embed(study.volume, study.centre_mm_lps))
    names = np.asarray(rows, dtype=np.str_)
    return Embeddings(names[:, 0], names[:, 1], np.stack(vectors))


def load_encoder(name: str | Path) -> PreMIM:
    """The encoder of a release of either kind."""
    folder = resolve(name)
    if read_release(folder).kind == "classifier":
        return LesionClassifier.from_pretrained(folder).encoder
    return PreMIM.from_pretrained(folder)


def _studies(manifest: str | Path, label: str) -> Iterator[Study]:
    listed = read_manifest(manifest)
    with progress_bar() as bar:
        task = bar.add_task(label, total=len(listed.rows))
        for study in open_all(listed):
            yield study
            bar.advance(task)

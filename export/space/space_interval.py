"""How far a probability hangs on who was in the training: heads fitted again to resampled patients, or an ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from prostate_mim.classifier import LesionClassifier
from prostate_mim.errors import IntegrityError, UsageError
from prostate_mim.files import atomic_path
from prostate_mim.finetuning import fit_linear_probe
from prostate_mim.manifest import level_of, read_manifest
from prostate_mim.studies import open_all

RESAMPLES = 200
PERCENTILES = (2.5, 97.5)
_SAME = 0.05  # logits of the training rows: prepared studies are stored as integers, which moves them by less
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """What other trainings would have made of the same crop.

    Attributes:
        low, high: probabilities.
        name: what kind of interval it is, a few words.
        words: what it says, and what not.
    """

    low: float
    high: float
    name: str
    words: str


@dataclass(frozen=True, eq=False)
class Heads:
    """Linear heads, each fitted to one bootstrap resample of the training patients.

    Attributes:
        weight: (F, B) of features as the encoder gives them, standardisation and temperature included.
        bias: (B,).
        patients: how many the resamples were drawn from.
        revision: of the classifier whose head they vary.
    """

    weight: Array
    bias: Array
    patients: int
    revision: str

    def interval(self, features: Array) -> Interval:
        """(1, F) features of one crop -> percentiles of the heads' probabilities."""
        logits = (features @ self.weight + self.bias)[0]
        low, high = np.percentile(1 / (1 + np.exp(-logits)), PERCENTILES)
        words = (
            f"The last layer was fitted again to {len(self.bias)} bootstrap resamples of the {self.patients} training "
            "patients, with the encoder and the strength of the penalty as they are; the interval holds the middle "
            "95 % of those probabilities. It says how much this probability hangs on which patients were in the "
            "training. It does not say how likely the answer is right, and knows nothing of other scanners, of the "
            "encoder's own training, or of where exactly the lesion was marked."
        )
        name = f"95 % bootstrap interval over {self.patients} training patients"
        return Interval(float(low), float(high), name, words)

    def save(self, path: Path) -> None:
        """Write them as .npz without pickle, atomically."""
        values = {"weight": self.weight, "bias": self.bias, "patients": self.patients, "revision": self.revision}
        with atomic_path(path) as temporary:
            np.savez(temporary, **values)  # type: ignore[arg-type]


def read_heads(path: Path, model: LesionClassifier) -> Heads:
    """What ``Heads.save`` wrote.

    Raises:
        IntegrityError: damaged, or of another classifier.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            heads = Heads(stored["weight"], stored["bias"], int(stored["patients"]), str(stored["revision"]))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise IntegrityError(f"{path}: cannot be read ({type(error).__name__})") from error
    if heads.revision != model.revision:
        raise IntegrityError(f"{path}: is of classifier {heads.revision}, not {model.revision}")
    return heads


def bootstrap_heads(model: LesionClassifier, manifest: str | Path, resamples: int = RESAMPLES, seed: int = 0) -> Heads:
    """Fit the head of a linear probe again to resamples of its training patients.

    Args:
        model: a classifier that ``finetune`` made in mode linear.
        manifest: the one that it was made from: a probe fitted to it must come out as the model's head.
        resamples: how many.
        seed: of the draws.

    Raises:
        UsageError: another kind of model, or another manifest.
        ManifestError, VolumeError, NotFoundError: as the manifest is read.
    """
    made = model.details.get("finetuning")
    if not isinstance(made, Mapping) or made.get("mode") != "linear" or made.get("fraction") != 1 or model.others:
        raise UsageError(
            "--manifest is for classifiers made by 'finetune --mode linear' from all of their labels, and this one "
            "was not; leave it out (an ensemble has an interval of its own)"
        )
    features, labels, patients = _rows(model, manifest, made)
    penalty = _penalty(model, features, labels, patients, made)
    places = {name: np.flatnonzero(np.asarray(patients) == name) for name in dict.fromkeys(patients)}
    names, generator = list(places), np.random.default_rng(seed)
    weights: list[Array] = []
    biases: list[float] = []
    while len(biases) < resamples:
        drawn = np.concatenate([places[names[n]] for n in generator.integers(len(names), size=len(names))])
        if len(set((labels[drawn] >= _positive(made)).tolist())) < 2:
            continue  # nothing can be fitted to one class
        probe = _fit(features[drawn], labels[drawn], [patients[n] for n in drawn], penalty, made)
        weight = probe.weight / probe.scale / float(model.temperature)
        weights.append(weight)
        biases.append(probe.bias / float(model.temperature) - float(probe.mean @ weight))
    return Heads(np.stack(weights, 1), np.asarray(biases), len(names), model.revision)


@torch.inference_mode()
def _rows(
    model: LesionClassifier, manifest: str | Path, made: Mapping[str, Any]
) -> tuple[Array, npt.NDArray[np.int64], list[str]]:
    """(N, F) features of the frozen encoder, (N,) labels or grades, whose rows they are."""
    listed = read_manifest(manifest, labels=True, level=level_of(model.details))
    features, targets, patients = [], [], []
    for study in open_all(listed):
        batch = model.prepare(study.volume, study.centre_mm_lps, study.masks)
        features.append(model.features(batch)[0].double().numpy())
        target = study.row.isup if made.get("target") == "isup" else study.row.label
        targets.append(-1 if target is None else target)
        patients.append(study.row.patient_id)
    return np.stack(features), np.asarray(targets, np.int64), patients


def _positive(made: Mapping[str, Any]) -> int:
    """The lowest target that counts as positive."""
    return 2 if made.get("target") == "isup" else 1


def _fit(features: Array, labels: Any, patients: Sequence[str], penalty: float, made: Mapping[str, Any]) -> Any:
    """A probe at one penalty, as the model's was fitted."""
    return fit_linear_probe(
        features, labels, patients, penalties=[penalty], inner_folds=1,
        class_weight=bool(made.get("class_weight")), ordinal=made.get("target") == "isup",
    )  # fmt: skip


def _penalty(
    model: LesionClassifier, features: Array, labels: Any, patients: list[str], made: Mapping[str, Any]
) -> float:
    """The penalty at which a probe fitted to these rows is the model's head.

    Raises:
        UsageError: there is none, so that these are not the rows the head was fitted to.
    """
    with torch.inference_mode():
        own = (model.head(torch.from_numpy(features).float()) / model.temperature).double().numpy()
    for penalty in made.get("penalties", ()):
        probe = _fit(features, labels, patients, float(penalty), made)
        if np.abs(probe.logits(features) / float(model.temperature) - own).max() < _SAME:
            return float(penalty)
    raise UsageError("--manifest: a head fitted to its rows is not the model's; give the manifest of its training")


@torch.inference_mode()
def members_interval(model: LesionClassifier, batch: Tensor) -> Interval:
    """Lowest and highest probability among the members of an ensemble, for one crop (1, C, D, H, W)."""
    found = [float(torch.sigmoid(member(batch))[0]) for member in model.members]
    words = (
        f"The lowest and the highest probability among the ensemble's {len(found)} members, each trained without one "
        "fold of the patients. It shows where they disagree. It is no confidence interval: the members share most of "
        "their training, and none says how likely the answer is right."
    )
    return Interval(min(found), max(found), f"range of the ensemble's {len(found)} members", words)

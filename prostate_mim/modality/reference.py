"""How unusual a volume's features are: a distance to what an encoder gave for good volumes.

Features are standardised and split into a few principal directions, in which they are weighed by their variance
(Mahalanobis), and the rest, which is weighed by its mean variance. There is one mean for real volumes and one for
phantoms; the nearer counts. What is stored are sums over volumes: no vector of a single patient.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from prostate_mim.errors import IntegrityError
from prostate_mim.preprocess import preprocess
from prostate_mim.spec import InputSpec
from prostate_mim.volume import Volume

FORMAT = 1
SPACING_MM_ZYX, SIZE_ZYX = (3.0, 1.0, 1.0), (16, 96, 96)
BUNDLED = Path(__file__).parent / "reference.safetensors"
_ARRAYS = {"mean": 1, "scale": 1, "centres": 2, "directions": 2, "variances": 1, "rest": 1, "limit": 1}
_TEXTS = ("encoder", "revision", "spec", "made_of")
_FLOOR = 1e-3  # a feature that never varied in training weighs no more than one of this deviation

FloatArray = npt.NDArray[np.float64]


class Encoder(Protocol):
    """What is asked of an encoder; ``PreMIM`` has it. A protocol, so that this package needs no network to import."""

    revision: str

    @property
    def spec(self) -> InputSpec:
        """Its input contract."""
        ...

    def __call__(self, batch: Any) -> Sequence[Any]:
        """(1, 1, D, H, W) float32 tensor -> stages (1, C, d, h, w), coarse last."""
        ...


@dataclass(frozen=True)
class Reference:
    """Statistics of one encoder's features of good volumes.

    Attributes:
        mean, scale: (C,) that standardise the features.
        centres: (G, C) standardised mean of each group of good volumes.
        directions: (K, C) orthonormal rows, the principal directions about the centres.
        variances: (K,) of the projections.
        rest: mean variance of the remaining C - K directions.
        limit: scores above it are flagged.
        encoder, revision, spec: of the encoder that gave the features.
        made_of: what the good volumes were.
    """

    mean: FloatArray
    scale: FloatArray
    centres: FloatArray
    directions: FloatArray
    variances: FloatArray
    rest: float
    limit: float
    encoder: str
    revision: str
    spec: str
    made_of: str

    def score(self, features: npt.ArrayLike) -> float:
        """Root mean squared deviation from the nearest centre; about 1 for a volume like the good ones.

        Args:
            features: (C,) as ``features_of`` returns them.
        """
        standard = (np.asarray(features, float) - self.mean) / self.scale - self.centres
        along = standard @ self.directions.T
        inside = (along**2 / self.variances).sum(1)
        outside = ((standard**2).sum(1) - (along**2).sum(1)) / self.rest
        return float(np.sqrt(((inside + outside) / self.mean.size).min()))

    def to_bytes(self) -> bytes:
        """The file's content; the same statistics give the same bytes."""
        from safetensors.numpy import save

        arrays = {name: np.atleast_1d(np.asarray(getattr(self, name), np.float32)) for name in _ARRAYS}
        texts = {name: str(getattr(self, name)) for name in _TEXTS}
        return bytes(save(arrays, {"reference": json.dumps({"format": FORMAT, **texts}, sort_keys=True)}))

    @classmethod
    def read(cls, path: Path) -> Reference:
        """Read the closed schema.

        Raises:
            IntegrityError: not exactly what ``to_bytes`` writes.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                texts = json.loads((file.metadata() or {}).get("reference", "null"))
                arrays = {name: file.get_tensor(name).astype(float) for name in sorted(file.keys())}
        except (OSError, ValueError, SafetensorError) as error:
            reason = type(error).__name__
            raise IntegrityError(f"{path}: cannot be read ({reason}); install the package again") from error
        if not isinstance(texts, dict) or texts.pop("format", None) != FORMAT or set(texts) != set(_TEXTS):
            raise IntegrityError(f"{path}: is not of format {FORMAT}; install the package again")
        if {name: array.ndim for name, array in arrays.items()} != _ARRAYS or not _consistent(arrays):
            raise IntegrityError(f"{path}: has missing or impossible arrays; install the package again")
        rest, limit = (float(arrays.pop(name)[0]) for name in ("rest", "limit"))
        return cls(**arrays, rest=rest, limit=limit, **texts)


def fit(vectors: FloatArray, groups: Sequence[int], directions: int) -> tuple[FloatArray, ...]:
    """Statistics of good volumes.

    Args:
        vectors: (N, C) features, one row a volume.
        groups: (N,) 0, 1, ...: which mean a row belongs to.
        directions: how many principal directions are kept.

    Returns:
        mean, scale, centres, directions, variances and rest (1,), as ``Reference`` has them.
    """
    mean, scale = vectors.mean(0), np.maximum(vectors.std(0), _FLOOR)
    standard, which = (vectors - mean) / scale, np.asarray(groups)
    centres = np.stack([standard[which == group].mean(0) for group in range(which.max() + 1)])
    about = standard - centres[which]
    free = len(about) - len(centres)  # degrees of freedom that are left for variances
    _, sizes, rows = np.linalg.svd(about, full_matrices=False)
    rest = np.atleast_1d((sizes[directions:] ** 2).sum() / free / (about.shape[1] - directions))
    return mean, scale, centres, rows[:directions], sizes[:directions] ** 2 / free, rest


def features_of(volume: Volume, encoder: Encoder) -> FloatArray:
    """(C,) features of the middle 48 x 96 x 96 mm of a volume.

    The crop is sampled more coarsely than the encoder was trained on, so that one pass sees the gland and what lies
    around it; the score compares like with like. Of the second and third coarsest stage: mean and deviation of every
    channel; of the second coarsest also the mean of the anterior half minus that of the posterior half.

    Raises:
        VolumeError: the middle of the volume is constant.
    """
    import torch

    spec = dataclasses.replace(encoder.spec, spacing_mm_zyx=SPACING_MM_ZYX, size_zyx=SIZE_ZYX)
    with torch.inference_mode():
        stages = encoder(torch.from_numpy(preprocess(volume, spec))[None, None])
        middle, coarse = (np.asarray(stage[0].numpy(), float) for stage in stages[-3:-1])
    half = coarse.shape[2] // 2
    difference = coarse[:, :, :half].mean((1, 2, 3)) - coarse[:, :, half:].mean((1, 2, 3))
    parts = [part for stage in (middle, coarse) for part in (stage.mean((1, 2, 3)), stage.std((1, 2, 3)))]
    return np.concatenate([*parts, difference])


@cache
def bundled_reference() -> Reference:
    """The statistics that come with the package, for the bundled encoder."""
    return Reference.read(BUNDLED)


def _consistent(arrays: dict[str, FloatArray]) -> bool:
    """Whether shapes fit each other, all is finite, and nothing divides by zero."""
    size, kept = arrays["mean"].size, arrays["variances"].size
    shapes = {"scale": (size,), "rest": (1,), "limit": (1,), "directions": (kept, size)}
    good = all(arrays[name].shape == shape for name, shape in shapes.items()) and arrays["centres"].shape[1] == size
    positive = all((arrays[name] > 0).all() for name in ("scale", "variances", "rest", "limit"))
    return bool(good and positive and all(np.isfinite(array).all() for array in arrays.values()))

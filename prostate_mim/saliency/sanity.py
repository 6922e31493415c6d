"""Does a map depend on the model and on the image? Checks that a map must pass before anybody reads it.

Randomised weights (Adebayo et al. 2018, section 3.1, cascading) must change the map: an edge detector would give the
same one. Covering the hottest voxels must lower the logit (Petsiuk et al. 2018) more than covering as many elsewhere.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from prostate_mim.classifier import LesionClassifier
from prostate_mim.nets.modes import evaluating
from prostate_mim.saliency.cells import FloatArray
from prostate_mim.saliency.gradcam import encoders_of

# A map that is this like the one of a shuffled network shows the image, not the model.
MOST_ALIKE = 0.7
_WINDOW = 7
_K1, _K2 = 0.01, 0.03

# (classifier, (1, C, D, H, W)) -> (D, H, W), 0 and above.
Mapper = Callable[[LesionClassifier, Tensor], FloatArray]


@dataclass(frozen=True)
class Randomised:
    """A map after some of the weights were shuffled, beside the map of the model.

    Attributes:
        what: which weights, from the head down.
        rank: Spearman's correlation of the two maps, -1 to 1; 0 where one of them is constant.
        ssim: mean structural similarity of the two maps, each scaled to 0..1.
    """

    what: str
    rank: float
    ssim: float


def cascade(model: LesionClassifier, batch: Tensor, mapper: Mapper, generator: torch.Generator) -> list[Randomised]:
    """Compare a map with those of the same network, shuffled from the head down, step by step.

    The values within each weight tensor are permuted, not drawn anew: every layer keeps its scale, so that no map
    differs for mere overflow.

    Args:
        model: the classifier; a copy of it is shuffled.
        batch: (1, C, D, H, W).
        mapper: the method that is checked.
        generator: of the permutations.

    Returns:
        One for each step: the head, then a quarter of the encoder's layers after the other, all of them at last.
    """
    first = mapper(model, batch)
    shuffled = copy.deepcopy(model)
    found = []
    for what, modules in _steps(shuffled):
        for module in modules:
            _shuffle(module, generator)
        made = mapper(shuffled, batch)
        found.append(Randomised(what, rank_correlation(first, made), ssim(first, made)))
    return found


def depends_on_weights(steps: Sequence[Randomised]) -> bool:
    """Whether the map of the wholly shuffled network is another one, by rank and by structure."""
    return steps[-1].rank < MOST_ALIKE and steps[-1].ssim < MOST_ALIKE


def deletion(
    model: LesionClassifier, batch: Tensor, found: FloatArray, share: float, generator: torch.Generator, draws: int = 20
) -> tuple[float, float]:
    """By how much the logit falls when the hottest voxels are covered, and when the same shape is covered elsewhere.

    The shape is moved in a circle along all axes: as many voxels, as ragged a border. Scattered random voxels would
    disturb a network by their noise alone.

    Args:
        model: the classifier.
        batch: (1, C, D, H, W); channel 0 is covered with 0, the crop's mean.
        found: (D, H, W), the map.
        share: of the voxels, 0 to 1.
        generator: of the moves.
        draws: how many of them.

    Returns:
        The fall for the hottest voxels and the mean fall for the moved shapes, in logits.
    """
    count = max(1, round(share * found.size))
    hottest = np.zeros(found.size, bool)
    hottest[np.argsort(-found.ravel(), kind="stable")[:count]] = True
    shape = torch.from_numpy(hottest.reshape(found.shape))
    moves = [[int(torch.randint(n, (1,), generator=generator)) for n in found.shape] for _ in range(draws)]
    covers = [shape, *(torch.roll(shape, move, (0, 1, 2)) for move in moves)]
    with evaluating(model), torch.inference_mode():
        before = float(model(batch)[0])
        falls = [before - float(model(_cover(batch, cover))[0]) for cover in covers]
    return falls[0], float(np.mean(falls[1:]))


def rank_correlation(first: FloatArray, second: FloatArray) -> float:
    """Spearman's correlation over all voxels, ties at their mean rank; 0 where a map is constant."""
    from scipy.stats import rankdata

    a, b = (rankdata(values.ravel()) for values in (first, second))
    if a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def ssim(first: FloatArray, second: FloatArray) -> float:
    """Mean structural similarity (Wang et al. 2004, equation 13) of two maps (z, y, x), each divided by its maximum."""
    from scipy.ndimage import uniform_filter

    a, b = (np.asarray(values, float) / (float(values.max()) or 1.0) for values in (first, second))
    size = tuple(min(_WINDOW, n) for n in a.shape)

    def mean(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> FloatArray:
        return np.asarray(uniform_filter(values, size))

    mean_a, mean_b = mean(a), mean(b)
    variance = mean(a * a) - mean_a**2 + mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + _K1**2) / (mean_a**2 + mean_b**2 + _K1**2)
    return float((likeness * (2 * covariance + _K2**2) / (variance + _K2**2)).mean())


def _steps(model: LesionClassifier) -> list[tuple[str, list[nn.Module]]]:
    """Layers with weights of their own, from the output to the input."""
    inner = {module for encoder in encoders_of(model) for module in encoder.modules()}
    layers = [module for module in model.modules() if any(True for _ in module.parameters(recurse=False))]
    head = [module for module in layers if module not in inner]
    layers = [module for module in layers if module in inner][::-1]
    quarters = [list(part) for part in np.array_split(np.array(layers, dtype=object), 4)]
    names = ("a quarter of the encoder", "half of the encoder", "three quarters of the encoder", "all")
    return [("head", head), *zip(names, quarters, strict=True)]


@torch.no_grad()
def _shuffle(module: nn.Module, generator: torch.Generator) -> None:
    for parameter in module.parameters(recurse=False):
        order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
        parameter.copy_(parameter.flatten()[order].view_as(parameter))


def _cover(batch: Tensor, cover: Tensor) -> Tensor:
    covered = batch.clone()
    covered[:, 0, cover] = 0
    return covered

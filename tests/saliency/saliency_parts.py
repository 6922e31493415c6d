"""What the tests of saliency share: tiny encoders, crops with a ball, volumes of any geometry."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from prostate_mim.classifier import Head, LesionClassifier
from prostate_mim.encoder import PreMIM
from prostate_mim.nets.encoder import PYRAMID_ZYX, Encoder, StageChain
from prostate_mim.nets.pooling import MeanPool
from prostate_mim.spec import InputSpec
from prostate_mim.volume import Geometry, Volume

SPEC = InputSpec(size_zyx=(8, 64, 64))
SPACING = np.asarray(SPEC.spacing_mm_zyx)
_KERNELS = ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3))


def classifier_of(encoder: Encoder, spec: InputSpec = SPEC) -> LesionClassifier:
    """A classifier around any encoder: plain means, a linear head of zeros."""
    made = LesionClassifier(PreMIM("resenc-s", spec), pooling="mean")
    made.encoder.encoder = encoder
    made.pool = MeanPool(encoder.stage_info, spec.spacing_mm_zyx)
    made.head = Head(made.pool.channels)
    return made.eval()


def small_chain(generator: torch.Generator, channels: tuple[int, ...] = (8, 8, 16, 16)) -> StageChain:
    """Four stages of one convolution, group norm and leaky ReLU, with weights of a generator."""
    stages = []
    inputs = 1
    for outputs, kernel, stride in zip(channels, _KERNELS, PYRAMID_ZYX, strict=True):
        z, y, x = (n // 2 for n in kernel)
        layer = nn.Conv3d(inputs, outputs, kernel, stride, (z, y, x))
        with torch.no_grad():
            layer.weight.normal_(0, float(np.sqrt(2 / layer.weight[0].numel())), generator=generator)
        stages.append(nn.Sequential(layer, nn.GroupNorm(4, outputs), nn.LeakyReLU(0.1)))
        inputs = outputs
    return StageChain(stages, PYRAMID_ZYX, channels)


def brightness(spec: InputSpec = SPEC) -> LesionClassifier:
    """The logit is the mean of what is brighter than the crop, blurred four times: its evidence is what is bright."""
    stages = []
    for kernel, stride in zip(_KERNELS, PYRAMID_ZYX, strict=True):
        z, y, x = (n // 2 for n in kernel)
        layer = nn.Conv3d(1, 1, kernel, stride, (z, y, x), bias=False)
        nn.init.constant_(layer.weight, 1 / layer.weight.numel())
        stages.append(nn.Sequential(layer, nn.ReLU()))
    made = classifier_of(StageChain(stages, PYRAMID_ZYX, (1, 1, 1, 1)), spec)
    with torch.no_grad():
        made.head.linear.weight[0, 2] = 1.0  # the mean of the coarsest stage
    return made


def ball(
    place: npt.ArrayLike, size: tuple[int, ...] = SPEC.size_zyx, radius_mm: float = 4.0
) -> npt.NDArray[np.float64]:
    """(z, y, x): a smooth ball of height 1 around a voxel index (z, y, x)."""
    width = 2 * (radius_mm / 1.5) ** 2
    z, y, x = (
        np.exp(-(((np.arange(n) - p) * mm) ** 2) / width)
        for n, p, mm in zip(size, np.asarray(place), SPACING, strict=True)
    )
    return np.asarray(z[:, None, None] * y[:, None] * x)


def ball_crop(generator: torch.Generator, *, ball: bool) -> tuple[Tensor, npt.NDArray[np.float64]]:
    """(1, D, H, W) noise with three dark balls and, if asked for, a bright one; and the index of that."""
    size = SPEC.size_zyx

    def anywhere() -> npt.NDArray[np.float64]:
        share = torch.rand(3, generator=generator).numpy().astype(float)
        return np.asarray((0.15 + 0.7 * share) * (np.asarray(size) - 1))

    noise = torch.randn(size, generator=generator).numpy() * 0.4
    for _ in range(3):
        noise = noise - 1.5 * _ball(anywhere())
    place = anywhere()
    made = noise + (2.0 * _ball(place) if ball else 0)
    made = (made - made.mean()) / made.std()
    return torch.from_numpy(made.astype(np.float32))[None], place


_ball = ball


def train(model: LesionClassifier, generator: torch.Generator, steps: int) -> None:
    """Some steps of Adam on new crops, half of them with a ball."""
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    labels = torch.arange(8) % 2
    model.train()
    for _ in range(steps):
        batch = torch.stack([ball_crop(generator, ball=bool(label))[0] for label in labels])
        loss = nn.functional.binary_cross_entropy_with_logits(model(batch), labels.float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()


def rotation(degrees: float) -> npt.NDArray[np.float64]:
    """Tilted about the left-right axis, then a little in the plane, as axial prostate series often are."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    tilt = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    c, s = np.cos(0.1), np.sin(0.1)
    return np.asarray(tilt @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]))


def study_with_ball(
    geometry: Geometry, size_zyx: tuple[int, int, int], place_mm: npt.ArrayLike, radius_mm: float = 4.0
) -> Volume:
    """A dim ramp with a bright smooth ball around a position (x, y, z) in mm."""
    index = np.indices(size_zyx).transpose(1, 2, 3, 0)
    squares = ((geometry.index_to_position(index) - np.asarray(place_mm)) ** 2).sum(-1)
    values = 100 + 0.2 * index.sum(-1) + 300 * np.exp(-squares / (2 * (radius_mm / 1.5) ** 2))
    return Volume(values.astype(np.float32), geometry)

"""The loop's guards, and that draws are random where they must be and repeat where they must."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from prostate_mim.engine.augment import Augmentation, augment
from prostate_mim.engine.data import DrawDataset, Region, draw_loader
from prostate_mim.engine.loop import LoopConfig, pick_device, train
from prostate_mim.engine.schedule import warmup_cosine
from prostate_mim.engine.seeding import derive_seed
from prostate_mim.errors import BackendError, TrainingError, UsageError
from prostate_mim.preprocess import Crop
from prostate_mim.spec import InputSpec
from prostate_mim.volume import Geometry

SPEC = InputSpec(size_zyx=(4, 16, 16))


@pytest.fixture
def dataset() -> DrawDataset:
    rng = np.random.default_rng(0)
    regions = []
    for row in range(1, 6):
        voxels = rng.normal(size=(8, 32, 32)).astype(np.float32)
        crop = Crop(voxels, np.ones(voxels.shape, bool), Geometry(SPEC.spacing_mm_zyx))
        regions.append(Region(crop, row % 2, row))
    return DrawDataset(regions, SPEC, Augmentation(jitter_zyx=(4, 16, 16)), seed=0)


class _Mean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4 * 16 * 16, 1)

    def forward(self, voxels: torch.Tensor) -> torch.Tensor:
        return self.linear(voxels.flatten(1))[:, 0]


def loss(model: nn.Module, batch: dict[str, torch.Tensor], step: int) -> tuple[torch.Tensor, dict[str, float]]:
    return (model(batch["voxels"]) - batch["label"]).square().mean(), {}


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_non_finite_loss_stops_before_the_step(dataset: DrawDataset, tmp_path: Path, poison: float) -> None:
    """A NaN or infinite loss at step 3 changes no weight, names the rows, and keeps the checkpoint of step 2."""
    model = _Mean()
    seen = {}

    def poisoned(net: nn.Module, batch: dict[str, torch.Tensor], step: int) -> tuple[torch.Tensor, dict[str, float]]:
        value, numbers = loss(net, batch, step)
        if step == 2:
            seen["before"] = copy.deepcopy(net.state_dict())
            seen["rows"] = batch["row"].tolist()
            value = value * poison
        return value, numbers

    config = LoopConfig(steps=5, batch=2, checkpoint_every=1, device="cpu")
    with pytest.raises(TrainingError, match="step 3") as caught:
        train(model, dataset, poisoned, config, tmp_path, identity={})
    assert all(torch.equal(value, seen["before"][key]) for key, value in model.state_dict().items())
    assert all(str(row) in str(caught.value) for row in seen["rows"])
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*"))[-1] == "checkpoint-00000002.safetensors"


def test_non_finite_gradient_stops_before_the_step(dataset: DrawDataset, tmp_path: Path) -> None:
    """A finite loss with an infinite gradient (a root at 0) changes no weight either."""
    model = _Mean()
    nn.init.zeros_(model.linear.weight)
    nn.init.zeros_(model.linear.bias)

    def rooted(net: nn.Module, batch: dict[str, torch.Tensor], step: int) -> tuple[torch.Tensor, dict[str, float]]:
        return net(batch["voxels"]).abs().sqrt().mean(), {}

    with pytest.raises(TrainingError, match="gradient norm"):
        train(model, dataset, rooted, LoopConfig(steps=2, batch=2, device="cpu"), tmp_path, identity={})
    assert float(model.linear.weight.abs().max()) == 0


def test_draws_differ_and_repeat(dataset: DrawDataset) -> None:
    """Two epochs never show the same crop twice; the same draw number always shows the same crop."""
    crops = [dataset[draw]["voxels"] for draw in range(10)]
    assert all(not torch.equal(a, b) for i, a in enumerate(crops) for b in crops[:i])
    assert all(torch.equal(crop, dataset[draw]["voxels"]) for draw, crop in enumerate(crops))
    assert sorted(dataset[draw]["row"] for draw in range(5)) == [1, 2, 3, 4, 5]


def test_workers_do_not_change_draws(dataset: DrawDataset) -> None:
    """Two loader processes give the same batches as none."""
    alone = [batch["voxels"] for batch in draw_loader(dataset, 0, 8, 2, 0)]
    shared = [batch["voxels"] for batch in draw_loader(dataset, 0, 8, 2, 2)]
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


def test_padding_stays_zero() -> None:
    """Contrast, brightness and noise never reach voxels outside the study."""
    inside = np.zeros((2, 4, 4), bool)
    inside[:, :, :2] = True
    voxels = np.where(inside, 1, 0).astype(np.float32)
    varied, kept = augment(voxels, inside, Augmentation(), np.random.default_rng(1))
    assert np.all(varied[~kept] == 0)
    assert np.all(varied[kept] != 1)


def test_schedule_by_hand() -> None:
    """Half the peak in the middle of the warm-up, the peak after it, 1 % at the end."""
    rates = [warmup_cosine(step, peak=1.0, warmup=4, total=100) for step in (1, 3, 4, 52, 100)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.505, 0.01])


def test_seeds_are_stable_and_unrelated() -> None:
    """A committed number guards every published run against a changed derivation."""
    assert derive_seed(0, "draw", 1) == 3728898681373670792
    assert len({derive_seed(0, "draw", n) for n in range(1000)}) == 1000
    assert derive_seed(0, "draw", 1) != derive_seed(0, "hidden", 1)


def test_refusals() -> None:
    """Impossible settings are usage errors; CUDA that is not there is a backend error."""
    with pytest.raises(UsageError, match="steps is 0"):
        LoopConfig(steps=0)
    with pytest.raises(UsageError, match="precision"):
        LoopConfig(precision="fp8")
    with pytest.raises(UsageError, match="device"):
        pick_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(BackendError, match="no usable CUDA"):
            pick_device("cuda")

"""Masked image modelling in the loop: how often a crop is hidden, how it repeats, what precision and memory may change.

Real models on crops of noise; whole runs from files are in test_pretraining.py.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_regions import region
from made_training import Limited, config, curve, furthest
from torch import Tensor

from prostate_mim.engine.augment import Augmentation
from prostate_mim.engine.batch import Batch, finish_batch
from prostate_mim.engine.checkpoint import find_checkpoints, read_checkpoint
from prostate_mim.engine.data import DrawDataset
from prostate_mim.engine.loop import Task, train
from prostate_mim.engine.step import LossFunction
from prostate_mim.mim import METHODS, MaskedImageModel, Method, MimBatch, teacher
from prostate_mim.pretraining import MimTask, PretrainConfig, make_model
from prostate_mim.spec import InputSpec

SPEC = InputSpec(size_zyx=(8, 32, 32))
STEPS = 3


def dataset(count: int = 6) -> DrawDataset:
    rng = np.random.default_rng(0)
    return DrawDataset(
        [region(rng.normal(300, 100, (8, 40, 40)), row) for row in range(1, count + 1)], SPEC, (0, 4, 4), 0
    )


def model_of(method: Method) -> MaskedImageModel:
    return make_model(PretrainConfig(spec=SPEC, method=method, loop=config(seed=0)))


def fit(
    run: Path, method: Method = METHODS["fcmae"], *, around: Any = None, masks: int = 1, **changes: Any
) -> dict[str, Tensor]:
    """``STEPS`` steps of two crops; ``around`` may wrap the loss."""
    run.mkdir()
    mim = MimTask(0, STEPS, masks)
    loss: LossFunction = mim.loss if around is None else around(mim.loss)
    settings = config(steps=STEPS, batch=2, **changes)
    return train(model_of(method), dataset(), Task(loss, begin_step=mim.begin_step), settings, run, identity={})


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("mim") / "straight"
    fit(run)
    return run


def batch_of(draws: list[int]) -> Batch:
    data = dataset()
    items = torch.utils.data.default_collate([data[draw] for draw in draws])
    return finish_batch(items, "cpu", SPEC, None, 0)


def hidden_by(masks: int, draws: list[int], seed: int = 0) -> MimBatch:
    """What the model is given."""
    model, given = model_of(Method(ratio="0.5")), []
    model.register_forward_pre_hook(lambda module, arguments: given.append(arguments[0]))
    MimTask(seed, STEPS, masks).loss(model, batch_of(draws), 0)
    (only,) = given
    found: MimBatch = only
    return found


def test_several_masks_per_crop() -> None:
    """Two for each crop, side by side, of the same voxels; all four differ; the first are those of one per crop."""
    one, two = hidden_by(1, [0, 1]), hidden_by(2, [0, 1])
    assert (len(one.voxels), len(two.voxels)) == (2, 4)
    assert torch.equal(two.voxels[::2], one.voxels)
    assert torch.equal(two.voxels[1::2], one.voxels)
    blocks = [value.flatten().tolist() for value in two.hidden_blocks]
    assert all(a != b for i, a in enumerate(blocks) for b in blocks[:i])
    assert torch.equal(two.hidden_blocks[::2], one.hidden_blocks)
    assert torch.equal(two.hidden_blocks.sum((1, 2, 3)), torch.full((4,), blocks[0].count(True)))


def test_masks_repeat_and_belong_to_draws() -> None:
    """The same blocks again, in any company; others for another draw or seed."""
    together, alone = hidden_by(2, [0, 1]), hidden_by(2, [1])
    assert torch.equal(hidden_by(2, [0, 1]).hidden_blocks, together.hidden_blocks)
    assert torch.equal(together.hidden_blocks[2:], alone.hidden_blocks)
    assert not torch.equal(hidden_by(2, [1], seed=1).hidden_blocks, alone.hidden_blocks)
    assert not torch.equal(hidden_by(2, [7]).hidden_blocks, alone.hidden_blocks)


def test_places_reach_the_target_that_asks() -> None:
    """One a hidden sample, as the crops were drawn and varied; other targets are told nothing."""
    given = []
    for method, augmentation in ((METHODS["position"], None), (METHODS["position"], Augmentation(flip_chance=1.0))):
        model = model_of(method)
        model.register_forward_pre_hook(lambda module, arguments: given.append(arguments[0].place))
        MimTask(0, STEPS, 2, augmentation).loss(model, batch_of([0, 1]), 0)
    plain, varied = given
    places = batch_of([0, 1])["place"] / 2
    assert plain[:, :, 3].tolist() == [places[n // 2].tolist() for n in range(4)]
    assert varied[:, 2, 3].tolist() == [-places[n // 2][2].item() for n in range(4)]
    assert places[:, 1:].all()
    assert hidden_by(1, [0]).place is None


def test_several_masks_train(straight: Path, tmp_path: Path) -> None:
    """Twice the hidden samples is another run, that repeats bit for bit, and in one piece or two is the same."""
    final = fit(tmp_path / "two", masks=2)
    again = fit(tmp_path / "again", masks=2)
    fit(tmp_path / "pieces", masks=2, accumulate=2)
    assert curve(tmp_path / "two") != curve(straight)
    assert all(torch.equal(value, again[name]) for name, value in final.items())
    assert curve(tmp_path / "pieces") == pytest.approx(curve(tmp_path / "two"), rel=1e-5)


def test_micro_batches_of_unequal_counts(straight: Path, tmp_path: Path) -> None:
    """Masked crops count as many values as they hide within the study: one crop at a time gives the same curve."""
    for name, method in (("fcmae", METHODS["fcmae"]), ("ratios", Method(ratio="0.25..0.75"))):
        whole = straight if name == "fcmae" else tmp_path / "whole"
        if name == "ratios":
            fit(whole, method)
        fit(tmp_path / name, method, accumulate=2)
        assert curve(tmp_path / name) == pytest.approx(curve(whole), rel=1e-5)
        assert curve(tmp_path / name, "gradient_norm") == pytest.approx(curve(whole, "gradient_norm"), rel=1e-4)


def test_memory_format_changes_no_loss(straight: Path, tmp_path: Path) -> None:
    """Of a masked network either."""
    fit(tmp_path / "contiguous", memory_format="contiguous")
    assert curve(tmp_path / "contiguous") == pytest.approx(curve(straight), rel=1e-5)


def test_bf16_is_finite(straight: Path, tmp_path: Path) -> None:
    """A masked method in bf16 on the CPU: finite, near, and not the same."""
    final = fit(tmp_path / "run", precision="bf16")
    assert all(value.isfinite().all() for value in final.values())
    assert all(math.isfinite(norm) and norm > 0 for norm in curve(tmp_path / "run", "gradient_norm"))
    assert curve(tmp_path / "run") == pytest.approx(curve(straight), rel=5e-2)
    assert curve(tmp_path / "run") != curve(straight)


def test_compiling_takes_the_dense_path() -> None:
    """Rows differ in number from step to step; what is compiled must not. Both give the same loss."""
    compiled = make_model(PretrainConfig(spec=SPEC, loop=config(seed=0, compile=True)))
    plain = model_of(METHODS["fcmae"])
    batch = batch_of([0, 1])
    one, two = (float(MimTask(0, STEPS).loss(model, batch, 0).loss) for model in (compiled, plain))
    assert one == pytest.approx(two, rel=1e-4)


def test_a_real_teacher_follows_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory runs out at the first two steps, which are tried again: the teacher is where it would be without."""
    monkeypatch.setattr(teacher, "FIRST_MOMENTUM", 0.5)  # at 0.999 nobody would notice a second time
    monkeypatch.setattr(teacher, "LAST_MOMENTUM", 0.5)
    method, followed = Method(target="features"), []
    follow = teacher.EmaTeacher.follow
    monkeypatch.setattr(teacher.EmaTeacher, "follow", lambda *a: followed.append(a[-1]) or follow(*a))
    fit(tmp_path / "straight", method)
    fit(tmp_path / "retried", method, around=lambda loss: Limited(1, first=1, inner=loss))
    assert followed == pytest.approx([1 / 3, 2 / 3] * 2)
    one, two = (read_checkpoint(find_checkpoints(tmp_path / run)[0]) for run in ("straight", "retried"))
    assert two.state["settled"]["pieces"] == 2
    teachers = [{name: v for name, v in c.part("model").items() if name.startswith("teacher.")} for c in (one, two)]
    assert teachers[0]
    assert furthest(teachers[0], teachers[1]) < 1e-4
    students = {name: one.part("model")[name.removeprefix("teacher.")] for name in teachers[0]}
    assert furthest(teachers[0], students) > 1e-3  # negative control: it is not simply the student

"""The slowly following copy: it follows exactly, is never trained, is saved, and says which blocks are hard."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from prostate_mim.mim import BlockGrid, MaskedImageModel, Method, MimBatch, hide
from prostate_mim.mim.hiding import _covers, block_difficulty
from prostate_mim.mim.teacher import FIRST_MOMENTUM, LAST_MOMENTUM, EmaTeacher
from prostate_mim.nets import build_encoder

GRID = BlockGrid((4, 16, 16), (2, 2, 2))
NOISY = (1, 0, 1)  # the block that holds noise


def make(strategy: str = "hard", target: str = "voxels", architecture: str = "resenc-s") -> MaskedImageModel:
    torch.manual_seed(0)
    return MaskedImageModel(build_encoder(architecture), GRID, Method(target=target, strategy=strategy, ratio="0.5"))


def sample(n: int = 2, seed: int = 0) -> MimBatch:
    """Smooth crops with one block of noise."""
    generator = torch.Generator().manual_seed(seed)
    voxels = torch.zeros(n, 1, *GRID.size_zyx)
    voxels += torch.linspace(-0.2, 0.2, 32) * torch.randn(n, 1, 1, 1, 1, generator=generator)
    z, y, x = (slice(a * b, a * b + b) for a, b in zip(NOISY, GRID.block_zyx, strict=True))
    voxels[:, :, z, y, x] = torch.randn(n, 1, *GRID.block_zyx, generator=generator)
    nothing = torch.zeros(n, *GRID.grid_zyx, dtype=torch.bool)
    return MimBatch(voxels, torch.ones_like(voxels, dtype=torch.bool), nothing)


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in numbers]


def train_a_little(model: MaskedImageModel, batch: MimBatch, steps: int, rate: float = 1e-3) -> None:
    """As ``MimTask`` does: follow, hide, step."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    for step in range(steps):
        if model.teacher is not None and step:
            model.teacher.follow(model.encoding, model.decoder, step / steps)
        hidden, _ = hide(model, batch, seeds(*range(100 * step, 100 * step + len(batch.voxels))), progress=step / steps)
        optimizer.zero_grad()
        model(hidden).loss.backward()
        optimizer.step()


def plain(value: float) -> nn.Module:
    """One weight and one batch norm, filled with a number."""
    module = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    for tensor in module.state_dict().values():
        tensor.fill_(value)
    return module


@pytest.mark.parametrize(("progress", "momentum"), [(0.0, 0.999), (1.0, 0.9999), (0.5, 0.99945)])
def test_it_follows_by_hand(progress: float, momentum: float) -> None:
    """Weights move by 1 - momentum, which grows with training; running statistics and counts are the student's own."""
    assert (FIRST_MOMENTUM, LAST_MOMENTUM) == (0.999, 0.9999)
    encoding, decoder = plain(2), plain(-1)
    teacher = EmaTeacher(encoding, decoder)
    for tensor in encoding.state_dict().values():
        tensor.fill_(12)
    wanted = 2.0
    for _ in range(3):
        teacher.follow(encoding, decoder, progress)
        wanted = momentum * wanted + (1 - momentum) * 12
    assert teacher.encoding[0].weight.item() == pytest.approx(wanted, rel=1e-6)
    assert teacher.encoding[1].weight.item() == pytest.approx(wanted, rel=1e-6)
    assert teacher.encoding[1].running_var.item() == 12
    assert teacher.encoding[1].num_batches_tracked.item() == 12
    assert teacher.encoding[1].num_batches_tracked.dtype == torch.int64
    assert teacher.decoder[0].weight.item() == -1  # negative control: a student that stays
    assert encoding[0].weight.item() == 12


def test_it_follows_every_weight_of_the_model() -> None:
    """After one step of training each weight is 0.999 of its own and 0.001 of the student's."""
    model = make(architecture="resnet10")
    assert model.teacher is not None
    before = {name: value.clone() for name, value in model.teacher.named_parameters()}
    train_a_little(model, sample(), 1, rate=0.1)
    model.teacher.follow(model.encoding, model.decoder, 0.0)
    student = dict(model.named_parameters())
    moved = 0
    for name, value in model.teacher.named_parameters():
        expected = before[name] * 0.999 + student[name].detach() * 0.001
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)
        moved += not torch.equal(value, before[name])
    assert moved > 0.9 * len(before)
    buffers = dict(model.encoding.named_buffers())
    assert buffers
    assert all(torch.equal(value, buffers[name]) for name, value in model.teacher.encoding.named_buffers())


def test_who_has_a_teacher() -> None:
    """Only methods that ask it: for features as target, or for difficulty as guide."""
    assert make("random").teacher is None
    assert make("gland").teacher is None
    assert make("random", "features").teacher is not None
    assert make("hard").teacher is not None
    assert make("mixture:random=1,hard=1").teacher is not None


def test_it_is_never_trained() -> None:
    """No gradient, no part in the optimiser's parameters, always in evaluation mode; its statistics do not move."""
    model = make(target="features", architecture="resnet10").train()
    teacher = model.teacher
    assert teacher is not None
    assert model.encoding.training
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    hidden, _ = hide(model, sample(), seeds(0, 1), progress=0.5)
    model(hidden).loss.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    student = dict(model.encoding.named_buffers())
    assert any(not torch.equal(v, before[f"encoding.{n}"]) for n, v in student.items())  # control: the student's moved


def test_it_is_in_the_state_of_the_model() -> None:
    """A model restored from its state has the same teacher, not a fresh one."""
    model, other = make(), make()
    train_a_little(model, sample(), 3, rate=0.1)
    names = [name for name in model.state_dict() if name.startswith("teacher.")]
    assert len(names) == len(model.encoding.state_dict()) + len(model.decoder.state_dict())
    batch, covers = sample(), _covers(seeds(0, 1), GRID.grid_zyx)
    assert not torch.equal(block_difficulty(other, batch, covers), block_difficulty(model, batch, covers))  # control
    other.load_state_dict(copy.deepcopy(model.state_dict()), strict=True)
    assert torch.equal(block_difficulty(other, batch, covers), block_difficulty(model, batch, covers))


def test_copies_are_independent() -> None:
    """The teacher shares no tensor with the student, nor a deep copy of the model with the model."""
    model = make()
    assert model.teacher is not None
    own = {value.data_ptr() for value in model.teacher.state_dict().values()}
    student = {value.data_ptr() for part in (model.encoding, model.decoder) for value in part.state_dict().values()}
    assert not own & student
    twin = copy.deepcopy(model)
    theirs = {value.data_ptr() for value in twin.state_dict().values()}
    assert not theirs & {value.data_ptr() for value in model.state_dict().values()}
    before = {name: value.clone() for name, value in twin.state_dict().items()}
    train_a_little(model, sample(), 2, rate=0.1)
    assert all(torch.equal(value, before[name]) for name, value in twin.state_dict().items())
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert any(name.startswith("teacher.") for name in changed)  # control: something did happen


# -------------------------------------------------------------------------------------------------- difficulty


@pytest.mark.parametrize("grid_zyx", [(2, 2, 2), (1, 1, 3), (4, 6, 6), (1, 3, 1)])
def test_covers_hide_every_block_once(grid_zyx: tuple[int, int, int]) -> None:
    """Two random halves, complementary in every sample, and not the same in each."""
    first, second = _covers(seeds(*range(8)), grid_zyx)
    assert torch.equal(first, ~second)
    blocks = grid_zyx[0] * grid_zyx[1] * grid_zyx[2]
    assert first.flatten(1).sum(1).tolist() == [blocks // 2] * 8
    assert len({tuple(cover.flatten().tolist()) for cover in first}) > 1


def test_difficulty_is_the_teachers_error_of_every_block() -> None:
    """Each block's number is the teacher's error in the cover that hides it, not the student's, nor of visible ones."""
    model = make(architecture="resnet10")
    train_a_little(model, sample(), 2, rate=0.05)
    batch = sample(seed=5)
    covers = _covers(seeds(3, 4), GRID.grid_zyx)
    found = block_difficulty(model, batch, covers)
    as_teacher = copy.deepcopy(model).eval()
    as_teacher.encoding, as_teacher.decoder = model.teacher.encoding, model.teacher.decoder
    with torch.no_grad():
        errors = [as_teacher(replace(batch, hidden_blocks=cover)).block_error for cover in covers]
        student = [model(replace(batch, hidden_blocks=cover)).block_error for cover in covers]
    torch.testing.assert_close(found, torch.where(covers[0], errors[0], errors[1]))
    assert not torch.allclose(found, torch.where(covers[0], student[0], student[1]))  # negative control
    assert found.shape == (2, *GRID.grid_zyx)
    assert (found > 0).all()
    assert not found.requires_grad


def test_a_block_hidden_twice_counts_its_mean() -> None:
    """Three covers: means over those that hide a block; a block never hidden is 0."""
    model, batch = make(), sample(1)
    first = torch.zeros(1, *GRID.grid_zyx, dtype=torch.bool)
    first[0, 0] = True
    second = first.clone()
    second[0, 0, 0, 0], second[0, 1, 0, 0] = False, True
    one, two = (block_difficulty(model, batch, [cover]) for cover in (first, second))
    both = block_difficulty(model, batch, [first, second])
    times = first.float() + second.float()
    torch.testing.assert_close(both, (one + two) / times.clamp(min=1))
    assert not both[times == 0].any()


def test_the_model_is_as_it_was() -> None:
    """Asking the teacher leaves mode, weights, statistics and gradients of the student alone."""
    model = make(architecture="resnet10").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parts = dict(model._modules)
    block_difficulty(model, sample(), _covers(seeds(0, 1), GRID.grid_zyx))
    assert model._modules == parts
    assert model.training
    assert model.encoding.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


class Zero(nn.Module):
    """A made-up decoder that always says 0: the mean of a z-scored crop."""

    levels = 1

    def forward(self, features: list[Tensor], visible: list[Tensor], hidden_cells: Tensor) -> Tensor:
        """(N, 1024, d, h, w) zeros."""
        return features[-1].new_zeros(len(hidden_cells), 1024, *hidden_cells.shape[2:])


def test_noise_is_harder_than_a_constant() -> None:
    """A teacher that says 0 is wrong by the mean square of a block: noise 1, a constant of 0.1 a hundredth."""
    model = make(target="voxels")
    model.teacher.decoder = Zero()
    batch = sample()
    z, y, x = NOISY
    voxels = torch.full_like(batch.voxels, 0.1)
    noise = torch.where(batch.voxels.abs() > 0, batch.voxels, 0.0)[:, :, 4:, :16, 16:]
    voxels[:, :, 4:, :16, 16:] = noise
    found = block_difficulty(model, replace(batch, voxels=voxels), _covers(seeds(0, 1), GRID.grid_zyx))
    for place in range(2):
        assert found[place, z, y, x].item() == pytest.approx(noise[place].square().mean().item(), rel=1e-5)
        assert found[place].argmax() == (z * 2 + y) * 2 + x
        assert found[place].flatten().sort().values[:-1].tolist() == pytest.approx([0.01] * 7, rel=1e-4)


def test_hard_hides_what_the_teacher_finds_hard() -> None:
    """At the end of training half of the hidden blocks are the hardest; at the start all are random."""
    model = make("hard:share=1")
    model.teacher.decoder = Zero()
    batch = sample(8)
    late = [hide(model, batch, seeds(*range(s, s + 8)), progress=1.0) for s in range(0, 40, 8)]
    early = [hide(model, batch, seeds(*range(s, s + 8)), progress=0.0) for s in range(0, 40, 8)]
    assert all(names == ("hard",) * 8 for _, names in late)
    share = [
        torch.cat([found.hidden_blocks[:, *NOISY] for found, _ in each]).float().mean().item() for each in (late, early)
    ]
    assert share[0] == 1.0
    assert 0.2 < share[1] < 0.8  # negative control


def test_features_are_of_everything() -> None:
    """The target's features are the teacher's coarsest of the whole crop, and follow the teacher, not the student."""
    model, batch = make("random", "features"), sample()
    with torch.no_grad():
        bare = build_encoder("resenc-s").eval()
        bare.load_state_dict(model.encoder.state_dict())
        expected = bare(batch.voxels)[-1]
        found = model.source(batch).teacher
        torch.testing.assert_close(found, expected)
        for parameter in model.encoder.parameters():
            parameter += 0.1
        assert torch.equal(model.source(batch).teacher, found)
        for parameter in model.teacher.parameters():
            parameter += 0.1
        assert not torch.allclose(model.source(batch).teacher, found)  # negative control


@pytest.mark.parametrize(("strategy", "target"), [("random", "features"), ("hard", "voxels"), ("hard", "features")])
def test_training_with_a_teacher(strategy: str, target: str) -> None:
    """A few steps on two crops: the loss falls, stays finite, and the teacher has moved a little."""
    model, batch = make(strategy, target), sample()
    start = {name: value.clone() for name, value in model.teacher.named_parameters()}
    fixed, _ = hide(make("random", target), batch, seeds(7, 8))

    def loss() -> float:
        with torch.no_grad():
            return float(model(fixed).loss)

    before = loss()
    train_a_little(model, batch, 8)
    assert loss() < before
    student = dict(model.named_parameters())
    for name, value in model.teacher.named_parameters():
        assert value.isfinite().all()
        assert (value - start[name]).norm() <= (student[name] - start[name]).norm() + 1e-6
    assert any(not torch.equal(value, start[name]) for name, value in model.teacher.named_parameters())

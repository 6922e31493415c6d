"""One optimiser step: numbers by hand, and the guards: not finite, out of memory, any other error."""

from __future__ import annotations

import copy
import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from made_training import Limited, Seen, config, furthest, named_rows, poisoned, small, squared, uneven
from torch import nn

from prostate_mim.engine.batch import Batch, Items
from prostate_mim.engine.schedule import warmup_cosine
from prostate_mim.engine.step import LossFunction, StepLoss, Stepper, is_out_of_memory
from prostate_mim.errors import ProstateMimError, ResourceError, TrainingError

ROWS = torch.tensor([11, 12, 13, 14])
POISONS = [math.nan, math.inf, -math.inf]


def unchanged(items: Items) -> Batch:
    return items


def items(seed: int = 0, count: int = 4) -> Items:
    voxels = torch.randn(count, 1, 4, 16, 16, generator=torch.Generator().manual_seed(seed))
    return {"voxels": voxels, "row": torch.arange(11, 11 + count), "draw": torch.arange(count)}


def stepper(
    model: nn.Module, loss: LossFunction = squared, pieces: int = 1, *, optimizer: Any = None,
    finish: Callable[[Items], Batch] = unchanged, **changes: Any,
) -> Stepper:  # fmt: skip
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=1.0)
    return Stepper(Accelerator(cpu=True), model, optimizer, loss, finish, config(**changes), pieces)


# ------------------------------------------------------------------------------------------------ numbers by hand


def hand(
    weights: list[float], *, clip: float = 100.0, scale: float = 1.0, pieces: int = 2
) -> tuple[dict[str, float], float]:
    """One step of SGD on w * mean(x) with w = 2, x = 1, 2, 3, 4 and a weight for each micro-batch; the new w too."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    given = iter(weights)

    def loss(net: nn.Module, batch: Batch, step: int) -> StepLoss:
        return StepLoss(net(batch["voxels"]).mean(), next(given), {"middle": float(batch["voxels"].mean())})

    optimizer = torch.optim.SGD([{"params": model.parameters(), "scale": scale}], lr=9.0)
    four = {"voxels": torch.tensor([[1.0], [2.0], [3.0], [4.0]]), "row": ROWS, "draw": torch.arange(4)}
    changes = {"learning_rate": 0.1, "warmup": 1, "clip_norm": clip}
    return stepper(model, loss, pieces, optimizer=optimizer, **changes).step(four, 0), float(model.weight)


def test_weighted_mean_by_hand() -> None:
    """Means 1.5 and 3.5 with weights 1 and 3: gradient (1.5 + 3 * 3.5) / 4 = 3, loss 3w = 6, w = 2 - 0.1 * 3 = 1.7."""
    values, weight = hand([1.0, 3.0])
    assert values == pytest.approx({"loss": 6.0, "gradient_norm": 3.0, "middle": 2.5, "learning_rate": 0.1})
    assert weight == pytest.approx(1.7)
    values, weight = hand([1.0, 1.0])  # negative control: other weights, another mean
    assert (values["loss"], weight) == pytest.approx((5.0, 1.75))


def test_four_micro_batches_by_hand() -> None:
    """Means 1, 2, 3, 4 with weights 0, 0, 0, 5: only the last one counts."""
    values, weight = hand([0.0, 0.0, 0.0, 5.0], pieces=4)
    assert (values["loss"], values["gradient_norm"], weight) == pytest.approx((8.0, 4.0, 1.6))


def test_clipping_by_hand() -> None:
    """A gradient of 3 becomes one of 1.5, after the mean; what is logged is the norm before."""
    values, weight = hand([1.0, 3.0], clip=1.5)
    assert values["gradient_norm"] == pytest.approx(3.0)
    assert weight == pytest.approx(2 - 0.1 * 1.5, abs=1e-5)


def test_group_scale_by_hand() -> None:
    """A group that is trained at half the rate moves half as far."""
    assert hand([1.0, 3.0], scale=0.5)[1] == pytest.approx(2 - 0.05 * 3)


def test_nothing_counted_is_no_step() -> None:
    """Crops without any counted voxel: no loss, no gradient, no division by 0."""
    values, weight = hand([0.0, 0.0])
    assert (values["loss"], values["gradient_norm"], weight) == (0.0, 0.0, 2.0)


def test_schedule_by_hand() -> None:
    """A quarter, a half ... of the peak in 4 steps of warm-up, the peak after it, the middle, 1 % at the end."""
    rates = [warmup_cosine(step, peak=2.0, warmup=4, total=100) for step in (0, 1, 3, 4, 52, 100)]
    assert rates == pytest.approx([0.5, 1.0, 2.0, 2.0, 1.01, 0.02])
    assert warmup_cosine(0, peak=1.0, warmup=0, total=1) == 1.0
    falling = [warmup_cosine(step, peak=1.0, warmup=4, total=100) for step in range(4, 101)]
    assert all(later < earlier for earlier, later in itertools.pairwise(falling))


@pytest.mark.parametrize("norm", ["none", "instance"])
@pytest.mark.parametrize("loss", [squared, uneven])
@pytest.mark.parametrize("pieces", [2, 3, 4, 9])
def test_micro_batches_change_no_number(norm: str, loss: LossFunction, pieces: int) -> None:
    """The same loss, norm and weights to 1e-5 however a batch is divided, evenly or not."""
    whole, parts = small(norm), small(norm)
    one, two = stepper(whole, loss, learning_rate=1e-2), stepper(parts, loss, pieces, learning_rate=1e-2)
    for step in range(3):
        assert one.step(items(step), step) == pytest.approx(two.step(items(step), step), rel=1e-5)
    assert furthest(whole.state_dict(), parts.state_dict()) < 1e-5
    assert furthest(whole.state_dict(), small(norm).state_dict()) > 1e-3  # negative control: it did train


def test_ignored_weights_would_be_noticed() -> None:
    """Negative control of the law above: the mean of means is another number."""
    one, two = stepper(small(), uneven), stepper(small(), lambda *a: StepLoss(uneven(*a).loss), 3)
    assert abs(one.step(items(), 0)["loss"] / two.step(items(), 0)["loss"] - 1) > 1e-2


# ----------------------------------------------------------------------------------------------------- not finite


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("where", ["loss", "gradient", "statistics", "weight"])
@pytest.mark.parametrize(("pieces", "row", "named"), [
    (1, 12, [11, 12, 13, 14]), (2, 12, [11, 12]), (2, 13, [13, 14]), (4, 11, [11]), (4, 13, [13]), (4, 14, [14]),
])  # fmt: skip
def test_nothing_changes_where_a_number_is_not_finite(
    where: str, poison: float, pieces: int, row: int, named: list[int]
) -> None:
    """No parameter and no running statistic; the rows of the micro-batch at fault are named, and no others."""
    if where == "loss" and poison < 0:
        poison = -1e39  # overflows: as bad as an infinity
    model = small("batch")
    own = stepper(model, poisoned(where, poison, row, 1), pieces)
    own.step(items(), 0)
    before = copy.deepcopy(model.state_dict())
    moments = copy.deepcopy(own.optimizer.state_dict()["state"])
    with pytest.raises(TrainingError, match=r"^step 2: .* no weight was changed") as caught:
        own.step(items(1), 1)
    assert named_rows(caught.value) == named
    assert caught.value.exit_code == 9
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    after = own.optimizer.state_dict()["state"]
    assert all(torch.equal(after[k][name], value) for k, entry in moments.items() for name, value in entry.items())
    assert all(p.grad is None for p in model.parameters())


def spoil(row: int, poison: float) -> Callable[[Items], Batch]:
    def finish(given: Items) -> Batch:
        voxels = given["voxels"].clone()
        voxels[given["row"] == row, 0, 3, 15, 15] = poison
        return {**given, "voxels": voxels}

    return finish


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_bad_voxels_name_their_row_alone(poison: float, pieces: int) -> None:
    """One voxel of one crop; running statistics that earlier micro-batches have moved are put back."""
    model = small("batch")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TrainingError, match="voxels are not finite") as caught:
        stepper(model, pieces=pieces, finish=spoil(13, poison)).step(items(), 0)
    assert named_rows(caught.value) == [13]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_without_the_guard_weights_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: the same injections do destroy a model that nobody watches."""
    monkeypatch.setattr(Stepper, "_refuse", lambda *a, **k: None)
    monkeypatch.setattr(Stepper, "_check_voxels", lambda *a, **k: None)
    for where in ("loss", "gradient", "statistics"):
        model = small("batch")
        stepper(model, poisoned(where, math.nan, 12, 0)).step(items(), 0)
        assert any(not value.isfinite().all() for value in model.state_dict().values()), where
    model = small("batch")
    stepper(model, finish=spoil(12, math.nan)).step(items(), 0)
    assert any(not value.isfinite().all() for value in model.state_dict().values())


def test_a_large_loss_is_not_refused() -> None:
    """Only what is not finite stops a run: a loss of 1e30 with a gradient of 1 is trained on."""
    model = small("none")

    def loss(net: nn.Module, batch: Batch, step: int) -> StepLoss:
        return StepLoss(net(batch["voxels"]).mean() + 1e30)

    assert stepper(model, loss).step(items(), 0)["loss"] == pytest.approx(1e30)


# -------------------------------------------------------------------------------------------------- out of memory


@pytest.mark.parametrize(("crops", "pieces"), [(2, 2), (1, 4)])
def test_less_memory_gives_the_same_numbers(crops: int, pieces: int, capsys: pytest.CaptureFixture[str]) -> None:
    """As with more micro-batches from the beginning, bit for bit; a line per doubling says so; later steps keep it."""
    whole, limited, seen = small(), small(), Limited(crops, first=0)
    full, own, same = stepper(whole), stepper(limited, seen), stepper(small(), pieces=pieces)
    values = [own.step(items(step), step) for step in range(3)]
    assert values == [same.step(items(step), step) for step in range(3)]
    for step in range(3):
        assert values[step] == pytest.approx(full.step(items(step), step), rel=1e-5)
    assert furthest(whole.state_dict(), limited.state_dict()) < 1e-5
    assert own.pieces == pieces
    assert [size for step, size in seen.sizes if step] == [crops] * (2 * pieces)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == pieces.bit_length() - 1
    assert said[-1].startswith(f"step 1: out of memory; going on with {pieces} micro-batches of at most {crops} crop")


def test_a_retried_step_counts_once_in_running_statistics() -> None:
    """Batch norm has seen the whole batch before memory ran out; afterwards only what the step was made with."""
    retried, straight = small("batch"), small("batch")
    stepper(retried, Limited(2, first=0)).step(items(), 0)
    stepper(straight, squared, 2).step(items(), 0)
    assert all(torch.equal(value, straight.state_dict()[name]) for name, value in retried.state_dict().items())
    assert int(retried.norm.num_batches_tracked) == 2


def test_running_statistics_that_are_not_put_back_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of the test above."""
    monkeypatch.setattr(Stepper, "_undo", lambda *a: None)
    retried = small("batch")
    stepper(retried, Limited(2, first=0)).step(items(), 0)
    assert int(retried.norm.num_batches_tracked) == 3


@pytest.mark.parametrize("count", [1, 3, 4])
def test_one_crop_at_a_time_is_the_last_resort(count: int) -> None:
    """Then the error says what to do; nothing has changed."""
    model, seen = small("batch"), Limited(0, first=0)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ResourceError, match=r"^step 1: out of memory with one crop at a time; use") as caught:
        stepper(model, seen).step(items(count=count), 0)
    assert caught.value.exit_code == 7
    assert seen.sizes[-1] == (0, 1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("error", [
    RuntimeError("CUDA error: an illegal memory access was encountered"), RuntimeError("out of memory, says a library"),
    ValueError("no"), MemoryError(), ResourceError("the disk is full"), TrainingError("row 3"), KeyboardInterrupt(),
])  # fmt: skip
def test_any_other_error_goes_through(error: BaseException) -> None:
    """The very object, after one attempt."""
    calls = []

    def loss(net: nn.Module, batch: Batch, step: int) -> StepLoss:
        calls.append(step)
        raise error

    with pytest.raises(type(error)) as caught:
        stepper(small(), loss).step(items(), 0)
    assert caught.value is error
    assert len(calls) == 1
    assert not is_out_of_memory(error)


def test_what_is_out_of_memory() -> None:
    """Torch's class, and the words of its CPU allocator, as it really says them."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))


class _Full(torch.optim.SGD):
    """Runs out of memory when half of the weights have been changed."""

    def step(self, closure: Any = None) -> None:
        with torch.no_grad():
            self.param_groups[0]["params"][0].add_(1.0)
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_the_optimiser_is_never_asked_twice() -> None:
    """What it has half done cannot be done again; the run ends, and goes on from the last checkpoint."""
    model, seen = small(), Seen()
    with pytest.raises(ResourceError, match=r"in the optimiser.*--resume"):
        stepper(model, seen, optimizer=_Full(model.parameters(), lr=1.0)).step(items(), 0)
    assert seen.sizes == [(0, 4)]


REAL = """
import json, resource, sys
sys.path.insert(0, {folder!r})
import torch
from made_training import Seen, squared
from test_step import items, small, stepper
from prostate_mim.errors import ResourceError

def hungry(model, batch, step):
    made = squared(model, batch, step)
    torch.empty(len(batch["draw"]), 2**28, dtype=torch.uint8)  # 256 MiB for each crop, never touched
    return made

for mib in (4096, 768, 128):
    seen = Seen(hungry)
    own = stepper(small(), seen)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    own.step(items(), 0)
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + mib * 2**20, resource.RLIM_INFINITY))
    try:
        loss = own.step(items(1), 1)["loss"]
    except ResourceError as error:
        loss = str(error)
    print(json.dumps([mib, loss, [size for step, size in seen.sizes if step]]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS and /proc")
def test_real_out_of_memory_on_the_cpu() -> None:
    """A process may use 4 GiB more: one piece. 768 MiB: two, with the same loss. 128 MiB: refused, not killed."""
    straight = stepper(small())
    straight.step(items(), 0)
    expected = straight.step(items(1), 1)["loss"]
    code = REAL.format(folder=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    plenty, less, none = (json.loads(line) for line in done.stdout.splitlines())
    assert plenty == [4096, pytest.approx(expected, rel=1e-5), [4]]
    assert less == [768, pytest.approx(expected, rel=1e-5), [4, 2, 2]]
    assert none[2] == [4, 2, 1]
    assert none[1].startswith("step 2: out of memory with one crop at a time")
    assert "step 2: out of memory; going on with 2 micro-batches" in done.stderr


def test_every_refusal_is_of_the_closed_list() -> None:
    """The command line turns them into exit codes."""
    assert issubclass(TrainingError, ProstateMimError)
    assert (TrainingError.exit_code, ResourceError.exit_code) == (9, 7)

"""The loop: what it refuses, what it keeps, and that neither memory, layout nor division of a batch changes numbers."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from made_regions import noise_dataset
from made_training import ROWS, Limited, Seen, curve, fit, furthest, named_rows, poisoned, small, squared, uneven
from torch import Tensor, nn

from prostate_mim.engine import distributed, loop
from prostate_mim.engine.checkpoint import find_checkpoints, load_newest, read_checkpoint
from prostate_mim.engine.distributed import pick_device
from prostate_mim.engine.loop import Task
from prostate_mim.engine.settings import LoopConfig
from prostate_mim.errors import BackendError, ResourceError, TrainingError, UsageError

STEPS = 4


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four undisturbed steps, all checkpoints kept."""
    run = tmp_path_factory.mktemp("loop") / "straight"
    fit(run, keep_last=9)
    return run


def trained(run: Path) -> dict[str, Tensor]:
    """Weights and running statistics at the newest checkpoint."""
    checkpoint = load_newest(run)
    assert checkpoint is not None
    return checkpoint.part("model")


# ----------------------------------------------------------------------------------------------------- not finite


@pytest.mark.parametrize(("where", "poison", "accumulate"), [
    ("voxels", float("nan"), 1), ("voxels", float("inf"), 2), ("loss", float("nan"), 2), ("loss", float("inf"), 1),
    ("gradient", float("nan"), 1), ("gradient", float("inf"), 4), ("statistics", float("nan"), 2),
    ("statistics", float("inf"), 1),
])  # fmt: skip
def test_not_finite_stops_within_the_step(
    where: str, poison: float, accumulate: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At step 3: nothing changes, the rows at fault are named, step 2's checkpoint is there and goes on from there."""
    rows = noise_dataset(ROWS).rows_of(range(8, 12))
    bad, run, finish = rows[2], tmp_path / "run", loop.finish_batch
    model, loss = small("batch"), poisoned(where, poison, bad, 2)
    started: dict[str, Tensor] = {}

    def snapshot(net: nn.Module, step: int) -> None:
        started.update({name: value.clone() for name, value in net.state_dict().items()})

    def spoilt(items: dict[str, Tensor], *arguments: Any) -> dict[str, Tensor]:
        batch = finish(items, *arguments)
        if where == "voxels" and int(items["draw"][0]) // 4 == 2:
            batch["voxels"][batch["row"] == bad, 0, 0, 0, 0] = poison
        return batch

    with monkeypatch.context() as patch:
        patch.setattr(loop, "finish_batch", spoilt)
        with pytest.raises(TrainingError, match=r"^step 3: ") as caught:
            fit(run, model=model, task=Task(loss, begin_step=snapshot), accumulate=accumulate, ema=0.9)
    assert named_rows(caught.value) == ([bad] if where == "voxels" else {1: rows, 2: rows[2:], 4: [bad]}[accumulate])
    assert all(torch.equal(value, started[name]) for name, value in model.state_dict().items())
    assert len(curve(run)) == 2
    kept = load_newest(run)
    assert kept is not None
    assert kept.step == 2
    assert all(torch.equal(value, started[name]) for name, value in kept.part("model").items())
    final = fit(run, model=small("batch"), accumulate=accumulate, ema=0.9, resume=True)
    untouched = fit(tmp_path / "untouched", model=small("batch"), accumulate=accumulate, ema=0.9)
    assert all(torch.equal(value, untouched[name]) for name, value in final.items())


# -------------------------------------------------------------------------------------------------- out of memory


def test_out_of_memory_changes_no_number(straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Memory runs out at step 2: the same curve and weights to 1e-5, one line says so, the checkpoint remembers."""
    seen = Limited(2, first=1)
    fit(tmp_path / "run", seen, keep_last=9)
    assert curve(tmp_path / "run") == pytest.approx(curve(straight), rel=1e-5)
    assert furthest(trained(tmp_path / "run"), trained(straight)) < 1e-5
    assert seen.sizes == [(0, 4), (1, 4), (1, 2), (1, 2), (2, 2), (2, 2), (3, 2), (3, 2)]
    said = [line for line in capsys.readouterr().err.splitlines() if "out of memory" in line]
    assert len(said) == 1
    assert "step 2: out of memory; going on with 2 micro-batches" in said[0]
    pieces = [read_checkpoint(path).state["settled"]["pieces"] for path in find_checkpoints(tmp_path / "run")]
    assert pieces == [2, 2, 2, 1]  # newest first


def test_fewer_crops_are_remembered(tmp_path: Path) -> None:
    """A resumed run begins with what fitted, instead of running out again; its numbers are those of a straight one."""
    fit(tmp_path / "run", Limited(2, first=1), keep_last=9)
    (tmp_path / "half").mkdir()
    path = next(path for path in find_checkpoints(tmp_path / "run") if read_checkpoint(path).step == 2)
    shutil.copy(path, tmp_path / "half" / path.name)
    seen = Limited(2, first=1)
    final = fit(tmp_path / "half", seen, resume=True)
    assert seen.sizes == [(2, 2), (2, 2), (3, 2), (3, 2)]
    expected = trained(tmp_path / "run")
    assert all(torch.equal(value, expected[name]) for name, value in final.items())


def test_more_micro_batches_than_asked_for(tmp_path: Path) -> None:
    """The user's own accumulation stays, and doubles like any other."""
    seen = Limited(1, first=2)
    fit(tmp_path / "run", seen, accumulate=2)
    assert [size for _, size in seen.sizes] == [2, 2, 2, 2, 2, *[1] * 8]


def test_one_crop_that_does_not_fit_ends_the_run(tmp_path: Path) -> None:
    """With exit code 7; what was saved before stays."""
    with pytest.raises(ResourceError, match="step 3: out of memory with one crop at a time"):
        fit(tmp_path / "run", Limited(0, first=2))
    assert read_checkpoint(find_checkpoints(tmp_path / "run")[0]).step == 2


def test_other_errors_go_through(tmp_path: Path) -> None:
    """The very object."""
    error = RuntimeError("CUDA error: device-side assert triggered")

    def loss(model: nn.Module, batch: dict[str, Tensor], step: int) -> Any:
        raise error

    with pytest.raises(RuntimeError) as caught:
        fit(tmp_path / "run", loss)
    assert caught.value is error


def test_a_teacher_follows_once_per_step(tmp_path: Path) -> None:
    """However often a step is tried."""
    begun: list[int] = []
    seen = Limited(1, first=0)
    fit(tmp_path / "run", task=Task(seen, begin_step=lambda model, step: begun.append(step)), ema=0.5)
    assert begun == [0, 1, 2, 3]
    assert [size for step, size in seen.sizes if step == 0] == [4, 2, 1, 1, 1, 1]


# --------------------------------------------------------------------------------------- the same numbers, always


@pytest.mark.parametrize("norm", ["none", "instance"])
def test_accumulation_changes_no_number(norm: str, tmp_path: Path) -> None:
    """1, 2, 3 and 4 micro-batches, each of another weight: the same curve, gradient norms and weights to 1e-5."""
    runs = {count: tmp_path / str(count) for count in (1, 2, 3, 4)}
    for count, run in runs.items():
        fit(run, uneven, small(norm), accumulate=count)
    for count in (2, 3, 4):
        for name in ("loss", "gradient_norm"):
            assert curve(runs[count], name) == pytest.approx(curve(runs[1], name), rel=1e-5)
        assert furthest(trained(runs[count]), trained(runs[1])) < 1e-5


def test_the_same_seed_repeats_and_another_does_not(straight: Path, tmp_path: Path) -> None:
    """Bit for bit on the CPU."""
    fit(tmp_path / "again")
    fit(tmp_path / "other", seed=1, dataset=noise_dataset(ROWS, seed=1))
    assert curve(tmp_path / "again") == curve(straight)
    assert all(torch.equal(value, trained(straight)[name]) for name, value in trained(tmp_path / "again").items())
    assert curve(tmp_path / "other") != curve(straight)


def test_threads_change_no_loss(straight: Path, tmp_path: Path) -> None:
    """Two threads add up in another order: at most 1e-5."""
    before = torch.get_num_threads()
    torch.set_num_threads(2 if before == 1 else 1)
    try:
        fit(tmp_path / "run")
    finally:
        torch.set_num_threads(before)
    assert curve(tmp_path / "run") == pytest.approx(curve(straight), rel=1e-5)


def test_memory_format_changes_no_loss(straight: Path, tmp_path: Path) -> None:
    """Contiguous and channels last to 1e-5; what was chosen is in the checkpoint, and a CPU never measures."""
    found = {}
    for name in ("contiguous", "channels_last"):
        fit(tmp_path / name, memory_format=name)
        assert curve(tmp_path / name) == pytest.approx(curve(straight), rel=1e-5)
        found[name] = read_checkpoint(find_checkpoints(tmp_path / name)[0]).state["settled"]["memory_format"]
    assert found == {"contiguous": "contiguous", "channels_last": "channels_last"}
    assert curve(tmp_path / "channels_last") == curve(straight)


@pytest.mark.parametrize(("name", "layout"), [
    ("channels_last", torch.channels_last_3d), ("contiguous", torch.contiguous_format)
])  # fmt: skip
def test_memory_format_is_that_of_the_weights(name: str, layout: torch.memory_format, tmp_path: Path) -> None:
    """Negative control of the test above: the two really differ."""
    model = small()
    model.conv = nn.Sequential(nn.Conv3d(1, 4, 3), nn.Conv3d(4, 4, 3, padding=1))  # type: ignore[assignment]
    fit(tmp_path / "run", model=model, memory_format=name, steps=1)
    kernel = model.conv[1].weight  # type: ignore[index]
    assert kernel.is_contiguous(memory_format=layout)
    assert not kernel.is_contiguous(
        memory_format=torch.contiguous_format if name == "channels_last" else torch.channels_last_3d
    )


def test_bf16_is_near_and_not_the_same(straight: Path, tmp_path: Path) -> None:
    """Autocast is really on: losses within 2 %, and not equal; weights stay float32."""
    final = fit(tmp_path / "run", precision="bf16")
    assert curve(tmp_path / "run") == pytest.approx(curve(straight), rel=2e-2)
    assert curve(tmp_path / "run") != curve(straight)
    assert {value.dtype for value in final.values()} == {torch.float32}


def test_compiled_gives_the_same_losses(straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile with inductor, really: it has made a graph; the losses agree to 1e-4, the names are the same."""
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("inductor needs a C++ compiler for the CPU, and there is none")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    final = fit(tmp_path / "run", compile=True)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    assert list((tmp_path / "cache").rglob("*.so"))
    assert curve(tmp_path / "run") == pytest.approx(curve(straight), rel=1e-4)
    assert final.keys() == trained(straight).keys()
    torch._dynamo.reset()


def test_a_failing_compiler_is_a_backend_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What to do instead is said in one line; no other error is taken for that."""

    def broken(graph: Any, inputs: Any) -> Any:
        raise OSError("g++: not found\non this machine")

    def compiled(self: nn.Module) -> None:
        self._compiled_call_impl = torch.compile(self._call_impl, backend=broken)

    torch._dynamo.reset()
    monkeypatch.setattr(nn.Module, "compile", compiled)
    with pytest.raises(BackendError, match="run without --compile") as caught:
        fit(tmp_path / "run", compile=True)
    assert "\n" not in str(caught.value)
    torch._dynamo.reset()


# --------------------------------------------------------------------------------------------------------- average


def test_the_average_is_what_is_published(tmp_path: Path) -> None:
    """By hand from the weights of each step; the model's own are another thing, and both are in the checkpoint."""
    final = fit(tmp_path / "run", model=small("batch"), ema=0.15, keep_last=9)
    steps = [read_checkpoint(path) for path in reversed(find_checkpoints(tmp_path / "run"))]
    start = dict(small("batch").named_parameters())
    for name, value in start.items():
        average = value.detach().double()
        for step, checkpoint in enumerate(steps):
            momentum = min(0.15, (1 + step) / (10 + step))
            average = momentum * average + (1 - momentum) * checkpoint.part("model")[name].double()
        assert torch.allclose(final[name].double(), average, atol=1e-6)
        assert not torch.allclose(final[name], steps[-1].part("model")[name], atol=1e-6)
        assert torch.equal(final[name], steps[-1].part("average")[name])
    assert torch.equal(final["norm.running_mean"], steps[-1].part("model")["norm.running_mean"])


def test_the_average_does_not_train(straight: Path, tmp_path: Path) -> None:
    """Losses are the same with and without it."""
    fit(tmp_path / "run", ema=0.9)
    assert curve(tmp_path / "run") == curve(straight)


@pytest.mark.parametrize("lost", ["", "average.conv.weight"])
def test_the_average_is_resumed(lost: str, tmp_path: Path) -> None:
    """Bit for bit; negative control: not where the checkpoint's average is another."""
    expected = fit(tmp_path / "run", ema=0.9, keep_last=9)
    path = next(path for path in find_checkpoints(tmp_path / "run") if read_checkpoint(path).step == 2)
    checkpoint = read_checkpoint(path)
    if lost:
        checkpoint.tensors[lost].add_(1.0)
    (tmp_path / "half").mkdir()
    loop.write_checkpoint(tmp_path / "half", checkpoint)
    final = fit(tmp_path / "half", ema=0.9, resume=True)
    assert all(torch.equal(value, expected[name]) for name, value in final.items()) == (not lost)


def test_layer_decay_slows_the_input(tmp_path: Path) -> None:
    """AdamW's first step is as long as the rate, whatever the gradient: scales show in it. 0.5: stem 1/4, norm 1/2."""
    start, depths = small().state_dict(), {"conv.weight": 0, "norm.weight": 1, "norm.bias": 1}
    common: dict[str, Any] = {"steps": 1, "learning_rate": 1e-3, "weight_decay": 0.0}
    final = fit(tmp_path / "run", task=Task(squared, depths=depths), layer_decay=0.5, **common)
    moved = {name: float((final[name] - start[name]).abs().max()) for name in final}
    expected = {"conv.weight": 0.25e-3, "norm.weight": 0.5e-3, "norm.bias": 0.5e-3, "linear.weight": 1e-3}
    assert {name: moved[name] for name in expected} == pytest.approx(expected, rel=1e-2)
    same = fit(tmp_path / "same", task=Task(squared, depths=depths), **common)
    assert float((same["conv.weight"] - start["conv.weight"]).abs().max()) == pytest.approx(1e-3, rel=1e-2)


# -------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(("changes", "words"), [
    ({"steps": 0}, "steps is 0; it must be positive"), ({"batch": -1}, "batch is -1"),
    ({"learning_rate": 0.0}, "learning_rate is 0.0"), ({"learning_rate": float("nan")}, "learning_rate is nan"),
    ({"accumulate": 0}, "accumulate is 0"), ({"clip_norm": 0.0}, "clip_norm is 0.0"), ({"keep_last": 0}, "keep_last"),
    ({"checkpoint_every": 0}, "checkpoint_every is 0"), ({"loader_timeout": 0.0}, "loader_timeout is 0.0"),
    ({"warmup": -1}, "warmup is -1; it must not be negative"), ({"weight_decay": -0.1}, "weight_decay is -0.1"),
    ({"health_every": -1}, "health_every"), ({"workers": -1}, "workers is -1"), ({"ema": 1.0}, "ema is 1.0"),
    ({"ema": -0.1}, "ema is -0.1"), ({"ema": float("nan")}, "ema is nan"), ({"layer_decay": 1.5}, "layer_decay is 1.5"),
    ({"layer_decay": 0.0}, "layer_decay is 0.0"), ({"precision": "fp8"}, "precision 'fp8' is unknown; choose fp32 or"),
    ({"memory_format": "nhwc"}, "memory_format 'nhwc' is unknown; choose auto or channels_last or contiguous"),
])  # fmt: skip
def test_impossible_settings_are_usage_errors(changes: dict[str, Any], words: str) -> None:
    """One line that names the setting and what it was."""
    with pytest.raises(UsageError) as caught:
        LoopConfig(**changes)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_devices() -> None:
    """An unknown one is a usage error; CUDA that is not there is a backend error, not a silent CPU."""
    with pytest.raises(UsageError, match="device 'tpu' is unknown"):
        pick_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(BackendError, match="no usable CUDA"):
            pick_device("cuda")
        assert pick_device("auto") == torch.device("cpu")


@pytest.mark.parametrize(("batch", "ranks"), [(4, 3), (2, 4), (5, 2)])
def test_a_batch_that_ranks_cannot_share(
    batch: int, ranks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before anything is written."""
    monkeypatch.setattr(distributed, "make_accelerator", lambda device: SimpleNamespace(num_processes=ranks))
    with pytest.raises(UsageError, match=f"batch {batch} cannot be shared by {ranks} processes; use a multiple"):
        fit(tmp_path / "run", batch=batch)
    assert not list((tmp_path / "run").iterdir())


def test_a_batch_may_be_larger_than_the_data(tmp_path: Path) -> None:
    """Draws go on through epochs; more micro-batches than crops are as many as crops."""
    seen = Seen()
    fit(tmp_path / "run", seen, batch=11, steps=2, accumulate=20)
    assert [size for _, size in seen.sizes] == [1] * 22


@pytest.mark.parametrize("every", [0, 4])
def test_the_bar_says_that_it_looks(
    every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A look can take longer than all steps did: the bar has words for it, and only for it."""
    monkeypatch.setenv("FORCE_COLOR", "1")  # drawn as on a terminal
    monkeypatch.setenv("TERM", "xterm")
    task = Task(squared, observe=lambda model, done: {"seen": 1.0}, label="the run")
    fit(tmp_path / "run", task=task, health_every=every)
    drawn = capsys.readouterr().err
    assert ("measuring what was learnt" in drawn) == bool(every)
    assert drawn.rindex("the run") > drawn.rfind("measuring")

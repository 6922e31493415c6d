"""The loader: the same draws whoever reads them, and no hang and no silence when a reader dies."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_regions import JITTER, SPEC, noise_dataset, noise_regions, region

from prostate_mim.engine import loader as loader_module
from prostate_mim.engine import resident as resident_module
from prostate_mim.engine.augment import Augmentation
from prostate_mim.engine.batch import finish_batch, finish_crops
from prostate_mim.engine.data import DrawDataset
from prostate_mim.engine.loader import DrawLoader
from prostate_mim.engine.resident import fits_on, resident_bytes
from prostate_mim.errors import TrainingError, UsageError, VolumeError

CPU = torch.device("cpu")


def collect(dataset: DrawDataset, last: int = 4, batch: int = 4, **options) -> dict[str, torch.Tensor]:
    """All items of some steps, one after the other."""
    steps = list(DrawLoader(dataset, first_step=options.pop("first", 0), last_step=last, batch=batch, **options))
    return {key: torch.cat([items[key] for items in steps]) for key in steps[0]}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Bit for bit, key for key, type for type?"""
    assert set(one) == set(other)
    return all(torch.equal(one[key], other[key]) and one[key].dtype == other[key].dtype for key in one)


def children() -> set[int]:
    """Processes that this one has forked to work for it; Python's own helper for shared memory is none of them."""
    return {child.pid for child in multiprocessing.active_children() if child.pid is not None}


# ----------------------------------------------------------------------------------------------- the same draws


def test_workers_do_not_change_draws():
    """One and three loader processes give bit for bit what none gives."""
    dataset = noise_dataset(masks=True)
    alone = collect(dataset)
    assert alone["draw"].tolist() == list(range(16))
    assert equal(alone, collect(dataset, workers=1))
    assert equal(alone, collect(dataset, workers=3))
    assert not equal(alone, collect(noise_dataset(masks=True, seed=1)))


def test_workers_finish_crops_as_the_main_process_does():
    """Normalised and augmented by two workers, or here: the same batches bit for bit. Another seed is another batch."""
    dataset = noise_dataset(masks=True)
    finish = partial(finish_crops, device="cpu", spec=SPEC, augmentation=Augmentation(), seed=3)

    def batches(seed: int = 3, **options) -> dict[str, torch.Tensor]:
        loader = DrawLoader(dataset, first_step=0, last_step=4, batch=4, **options)
        done = [finish_batch(items, "cpu", SPEC, Augmentation(), seed) for items in loader]
        return {key: torch.cat([batch[key] for batch in done]) for key in done[0]}

    alone = batches()
    assert equal(alone, batches(workers=2, finish=finish))
    assert equal(alone, batches(workers=0, finish=finish))
    assert not equal(alone, batches(workers=2, finish=partial(finish, seed=4)))


def test_loading_takes_nothing_from_the_global_generators():
    """With workers or without, the numbers a model draws itself (dropout, say) stay the same."""
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    for options in ({"workers": 0}, {"workers": 2}, {"resident_on": CPU}):
        collect(noise_dataset(), **options)
        assert torch.equal(before, torch.get_rng_state())
        assert np.array_equal(numpy_before, np.random.get_state()[1])


def test_64_items_of_4_workers_are_64_draws():
    """64 distinct crops; a second epoch has 64 others; the same seed repeats both, another does not."""

    def crops(seed: int) -> list[bytes]:
        found = collect(noise_dataset(64, seed=seed), 32, 4, workers=4)
        return [voxels.numpy().tobytes() for voxels in found["voxels"]]

    first = crops(0)
    assert len(set(first)) == 128
    assert set(first[:64]).isdisjoint(first[64:])
    assert crops(0) == first
    assert set(crops(1)).isdisjoint(first)


def test_resuming_is_starting_at_another_step():
    """Steps 3 to 5 read alone are steps 3 to 5 of all of them."""
    dataset = noise_dataset()
    whole, rest = collect(dataset, 6), collect(dataset, 6, first=3, workers=2)
    assert equal({key: value[12:] for key, value in whole.items()}, rest)
    assert len(DrawLoader(dataset, first_step=3, last_step=6, batch=4)) == 3
    assert list(DrawLoader(dataset, first_step=6, last_step=6, batch=4)) == []


@settings(max_examples=40, deadline=None)
@given(batch=st.integers(1, 9), ranks=st.integers(1, 9), step=st.integers(0, 1000))
def test_ranks_share_every_step_whole(batch, ranks, step):
    """The shares of all ranks, in order, are the step's draws: none twice, none missing."""
    dataset = noise_dataset()
    if ranks > batch:
        with pytest.raises(UsageError, match="cannot be shared"):
            DrawLoader(dataset, first_step=0, last_step=1, batch=batch, rank=0, ranks=ranks)
        return
    shares = [
        next(iter(DrawLoader(dataset, first_step=step, last_step=step + 1, batch=batch, rank=rank, ranks=ranks)))
        for rank in range(ranks)
    ]
    drawn = torch.cat([share["draw"] for share in shares]).tolist()
    assert drawn == list(range(step * batch, (step + 1) * batch))


def test_waiting_is_measured():
    """After each step the loader says how long its data took."""
    loader = DrawLoader(_Slow(seconds=0.05), first_step=0, last_step=2, batch=2)
    for _ in loader:
        assert 0.1 <= loader.last_wait_seconds < 10


@pytest.mark.parametrize("wrong", [{"workers": -1}, {"timeout_seconds": 0.0}, {"rank": 2, "ranks": 2}])
def test_impossible_numbers_are_refused(wrong):
    """Negative counts, no time, a rank beyond the last."""
    with pytest.raises(UsageError):
        DrawLoader(noise_dataset(), first_step=0, last_step=1, batch=4, **wrong)


# --------------------------------------------------------------------------------------------- wholly on a device


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), edge=st.integers(1, 32), density=st.sampled_from([0.0, 0.002, 0.01, 0.2, 1.0]))
def test_resident_crops_are_the_same(seed, edge, density):
    """Cut on a device or read: the same items, with padding, with masks, and where tissue must be looked for."""
    rng = np.random.default_rng(seed)
    regions = []
    for row in (1, 2, 3):
        voxels = np.where(rng.random((8, 32, 32)) < density, rng.integers(1, 900, (8, 32, 32)), 0)
        masks = {"gland": voxels > 100} if row == 2 else {}
        regions.append(region(voxels, row, box=((0, 8), (0, 32), (0, edge)), **masks))
    dataset = DrawDataset(regions, SPEC, JITTER, seed)

    def outcome(**options):
        try:
            return collect(dataset, 2, 3, **options)
        except VolumeError as error:
            return str(error)

    read, cut = outcome(), outcome(resident_on=CPU)
    assert read == cut if isinstance(read, str) or isinstance(cut, str) else equal(read, cut)


def test_resident_crops_look_for_tissue(monkeypatch):
    """The control of the law above: a device that believes every first place hands out other crops."""
    voxels = np.zeros((8, 32, 32))
    voxels[:, :, :12] = np.random.default_rng(0).integers(1, 900, (8, 32, 12))
    dataset = DrawDataset([region(voxels)], SPEC, JITTER, 0)
    read = collect(dataset, 10)
    assert equal(read, collect(dataset, 10, resident_on=CPU))
    monkeypatch.setattr(resident_module.ResidentRegions, "_surely_tissue", lambda self, crops, *_: [True] * len(crops))
    assert not equal(read, collect(dataset, 10, resident_on=CPU))


def test_what_residence_takes(monkeypatch):
    """2 bytes a voxel, 3 with masks; on CUDA at most half of what is free."""
    voxels = np.zeros((8, 32, 32))
    regions = [region(voxels, 1), region(voxels, 2, gland=voxels > 0)]
    assert resident_bytes(DrawDataset(regions, SPEC, JITTER, 0)) == 5 * 8 * 32 * 32
    assert fits_on(CPU, 10**15)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 4000))
    assert fits_on(torch.device("cuda"), 500)
    assert not fits_on(torch.device("cuda"), 501)


# -------------------------------------------------------------------------------------------- readers that fail


class _Slow(DrawDataset):
    """Each item takes a while."""

    def __init__(self, seconds: float) -> None:
        super().__init__(noise_regions(), SPEC, JITTER, 0)
        self.seconds = seconds

    def __getitem__(self, draw):
        time.sleep(self.seconds)
        return super().__getitem__(draw)


class _Failing(DrawDataset):
    """At draw 9 the reading process does something."""

    def __init__(self, what: str) -> None:
        super().__init__(noise_regions(), SPEC, JITTER, 0)
        self.what = what

    def __getitem__(self, draw):
        if draw == 9:
            if self.what == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            elif self.what == "stopped":
                os.kill(os.getpid(), signal.SIGSTOP)
            elif self.what == "hangs":
                time.sleep(600)
            elif self.what == "exits":
                os._exit(3)
            elif self.what == "raises":
                raise OSError(5, "Input/output error", "/data/Mueller_Hans/scan.b2nd")
            elif self.what == "refuses":
                raise VolumeError("row 4: 10 random crops held no tissue")
        return super().__getitem__(draw)


def rows_in(message: str) -> list[int]:
    return [int(n) for n in re.match(r"manifest rows ([\d, ]+):", message)[1].split(", ")]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("killed", "was killed by SIGKILL"), ("exits", "exit code 3"), ("hangs", "have hung"), ("stopped", "have hung"),
        ("raises", "failed with OSError"),
    ],
)  # fmt: skip
def test_a_worker_that_fails_ends_the_run(what, words):
    """The rows that were waited for, and the one being read, are named in time; no process is left; no path is told.

    A worker that dies at draw 9 may take along steps it has read and not sent.
    """
    dataset, before, handler = _Failing(what), children(), signal.getsignal(signal.SIGCHLD)
    loader = DrawLoader(dataset, first_step=0, last_step=50, batch=4, workers=2, timeout_seconds=3)
    seen, started = [], time.monotonic()
    with pytest.raises(TrainingError, match=words) as caught:
        for items in loader:
            seen += items["draw"].tolist()
    assert time.monotonic() - started < 30
    assert seen in ([], list(range(4)), list(range(8)))
    assert rows_in(str(caught.value)) == sorted(set(dataset.rows_of(range(len(seen), len(seen) + 4))))
    if what != "raises":
        assert f"(reading row {dataset.rows_of([9])[0]})" in str(caught.value)
    assert "Mueller" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert children() == before
    assert signal.getsignal(signal.SIGCHLD) == handler


@pytest.mark.parametrize("workers", [0, 2])
def test_a_study_that_is_refused_is_named(workers):
    """An error of this package arrives as it was raised, from a worker too."""
    with pytest.raises(VolumeError, match=r"^row 4: 10 random crops held no tissue$"):
        collect(_Failing("refuses"), workers=workers)


def test_an_error_without_workers_names_rows_too():
    """Reading in this process fails with the same words."""
    with pytest.raises(
        TrainingError, match=r"^manifest rows [\d, ]+: .*OSError \(test_loader.py, line \d+\)"
    ) as caught:
        collect(_Failing("raises"))
    assert "Mueller" not in str(caught.value)


def test_slow_is_not_hung():
    """The control: readers slower than the polling, but within the timeout, deliver everything."""
    found = collect(_Slow(seconds=0.4), 2, 4, workers=1, timeout_seconds=30)
    assert equal(found, collect(_Slow(seconds=0.0), 2, 4))


@pytest.mark.parametrize("guarded", [True, False])
def test_a_killed_worker_never_interrupts_a_step(monkeypatch, guarded):
    """While the main process computes, a worker's death raises nothing there: only the next wait tells.

    The control: left to itself, torch raises in the middle of whatever is being computed.
    """
    if not guarded:
        monkeypatch.setattr(loader_module, "_ignore_children", lambda: None)
        monkeypatch.setattr(torch.utils.data._utils.signal_handling, "_SIGCHLD_handler_set", False)
    before = children()
    loader = iter(DrawLoader(noise_dataset(), first_step=0, last_step=1000, batch=2, workers=1, timeout_seconds=20))
    next(loader)
    (worker,) = (psutil.Process(pid) for pid in children() - before)

    def compute():
        worker.kill()
        while worker.status() != "zombie":  # not waited for: that would take the news from the loader
            time.sleep(0.01)
        time.sleep(0.1)

    if guarded:
        compute()
        with pytest.raises(TrainingError, match="SIGKILL"):
            for _ in range(1000):
                next(loader)
    else:
        with pytest.raises(RuntimeError, match="DataLoader worker"):
            compute()
            time.sleep(20)  # wherever the main thread happens to be, it is interrupted
        loader.close()
    assert children() == before


def test_leaving_early_leaves_no_process():
    """A loop that breaks, or fails, ends the workers with it."""
    before = children()
    loader = iter(DrawLoader(noise_dataset(), first_step=0, last_step=1000, batch=2, workers=2))
    next(loader)
    assert children() - before
    loader.close()
    assert children() == before


def test_workers_leave_signals_to_the_main_process():
    """SIGTERM to the whole group, as SLURM sends it, ends no worker: the main process can finish its step and save."""
    before = children()
    loader = iter(DrawLoader(_Slow(seconds=0.02), first_step=0, last_step=40, batch=2, workers=1))
    next(loader)
    for pid in children() - before:
        os.kill(pid, signal.SIGTERM)
    assert len(list(loader)) == 39
    assert children() == before


def test_nothing_is_left_in_shared_memory():
    """Batches that were never collected are not left behind."""
    folder = Path("/dev/shm")  # noqa: S108 - only looked at
    if not folder.is_dir():
        pytest.skip("no /dev/shm here")
    mine = f"torch_{os.getpid()}"
    loader = iter(DrawLoader(noise_dataset(), first_step=0, last_step=1000, batch=2, workers=2))
    next(loader)
    loader.close()
    assert not [path.name for path in folder.iterdir() if path.name.startswith(mine)]

"""What a training says first: where it computes, and that fewer loaders than asked for are started."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
import torch
from made_training import fit, small

from prostate_mim.engine.announce import announce
from prostate_mim.engine.loader import usable_workers
from prostate_mim.engine.settings import LoopConfig
from prostate_mim.errors import UsageError

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def said(capsys: pytest.CaptureFixture[str], config: LoopConfig, **options: bool) -> list[str]:
    """The lines on stderr; none may be on stdout, where --json is."""
    announce(config, **options)
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()


def test_the_device_and_the_precision_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """What was asked for, without a reason; where the network only computes features, in fp32 whatever is asked."""
    asked = LoopConfig(device="cpu", precision="bf16")
    assert said(capsys, asked) == ["device cpu, bf16"]
    assert said(capsys, asked, steps=False) == ["device cpu, fp32"]
    with pytest.raises(UsageError, match="device 'tpu' is unknown"):
        announce(LoopConfig(device="tpu"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="here auto is CUDA")
def test_auto_says_why_it_is_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever waits on the CPU by mistake reads why in the first line."""
    why = "this torch is built for CPUs only" if torch.version.cuda is None else "torch finds no usable GPU"
    assert said(capsys, LoopConfig()) == [f"device cpu, fp32; no CUDA: {why}"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_auto_is_cuda_where_it_works(capsys: pytest.CaptureFixture[str]) -> None:
    """There is nothing to explain."""
    assert said(capsys, LoopConfig(precision="bf16")) == ["device cuda, bf16"]


def test_only_the_first_process_speaks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One line of a run, however many processes it has."""
    monkeypatch.setenv("RANK", "1")
    assert said(capsys, LoopConfig(device="cpu", workers=CORES + 1)) == []
    monkeypatch.setenv("RANK", "0")
    assert len(said(capsys, LoopConfig(device="cpu", workers=CORES + 1))) == 2


def test_more_workers_than_cores_are_said_once_and_not_started(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A line of ours in the place of torch's warning, and only there; the weights are those of no workers."""
    many = LoopConfig(device="cpu", workers=CORES + 2)
    line = f"loader workers: {CORES} of {CORES + 2}, as this process may use no more cores; no number changes"
    assert said(capsys, many)[1:] == [line]
    assert len(said(capsys, many, steps=False)) == 1
    assert len(said(capsys, LoopConfig(device="cpu", workers=CORES))) == 1
    assert [usable_workers(asked) for asked in (0, 1, CORES, CORES + 2)] == [0, 1, CORES, CORES]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = fit(tmp_path / "many", model=small(), workers=CORES + 2)
        with pytest.raises(UserWarning, match="worker"):  # the control: this is where torch would have warned
            torch.utils.data.DataLoader([0], num_workers=CORES + 2)
    alone = fit(tmp_path / "alone", model=small(), workers=0)
    assert all(torch.equal(value, alone[name]) for name, value in made.items())

"""Runs, memory, disk and signals: see provoking.py."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
from provoking import AS_A_COMMAND, Said, command, last_line, process, provokes, saved, table

# ------------------------------------------------------------------ runs and their configuration

TINY_RUN = (
    "--steps", "2", "--batch", "1", "--size", "8 32 32", "--mask-ratio", "0.5", "--device", "cpu",
    "--health-every", "0", "--tracker", "none", "--set", "region_zyx=[8, 32, 32]", "--workers", "0",
)  # fmt: skip


@provokes
def run_is_there(folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "run" / "metrics.jsonl").write_text("{}\n")
    command("pretrain", "--manifest", table(folder).write(), "--out", folder / "run", *TINY_RUN)


@provokes
def run_is_finished(folder: Path) -> None:
    (folder / "run" / "release").mkdir(parents=True)
    command("pretrain", "--manifest", table(folder).write(), "--out", folder / "run", "--resume", *TINY_RUN)


@provokes
def resumed_with_another_configuration(folder: Path) -> None:
    from prostate_mim.engine.identity import check_same_run

    check_same_run(folder / "run", {"loop": {"steps": 400}}, {"loop": {"steps": 500}})


@provokes
def unknown_key(folder: Path) -> None:
    (folder / "run.toml").write_text("architecture = 'resenc-s'\n[loop]\nstpes = 100\n")
    out = ("--out", folder / "run", "--config", folder / "run.toml")
    command("pretrain", "--manifest", table(folder).write(), *out)


@provokes
def block_does_not_fit(folder: Path) -> None:
    manifest = table(folder).write()
    command("pretrain", "--manifest", manifest, "--out", folder / "run", "--block-mm", "12 30 8", "--device", "cpu")


@provokes
def diverged(folder: Path) -> None:
    """A learning rate that nobody would choose; the second step has no finite loss."""
    rate = ("--learning-rate", "1e30", "--set", "loop.warmup=0", "--set", "loop.clip_norm=1e30")
    command("pretrain", "--manifest", table(folder).write(), "--out", folder / "run", *TINY_RUN, "--steps", "4", *rate)


@provokes
def model_option_missing(folder: Path) -> None:
    command("predict", saved(folder))


@provokes
def folder_cannot_be_written(folder: Path) -> None:
    (folder / "file").write_text("")
    command("phantom", "--out", folder / "file" / "data", "--studies", "1")


# ------------------------------------------------------------------ memory, disk, signals


@provokes
def disk_full(folder: Path) -> Said:
    """Files may grow to 1,000 bytes: to the program, a full disk."""

    def limits() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    code = AS_A_COMMAND.format("write_bytes(sys.argv[1], bytes(5000))")
    return process(code, folder / "weights.bin", limits=limits)


@provokes
def memory_short_while_reading(folder: Path) -> Said:
    """128 MB of voxels, and 40 MB more of address space than the process has after it has read another study."""
    small, large = saved(folder), folder / "large.nii"
    header = nibabel.Nifti1Image(np.zeros((2, 2, 2), "i2"), np.diag([0.4, 0.4, 3.0, 1.0])).header
    header.set_data_shape((1024, 1024, 64))
    header["vox_offset"], header["magic"] = 352, b"n+1"
    large.write_bytes(header.binaryblock + b"\0" * 4)
    os.truncate(large, 352 + 2 * 2**26)
    code = AS_A_COMMAND.format(
        "read_volume(sys.argv[1]); pages = int(open('/proc/self/statm').read().split()[0]); "
        "most = pages * resource.getpagesize() + 40 * 2**20; resource.setrlimit(resource.RLIMIT_AS, (most, most)); "
        "read_volume(sys.argv[2])"
    )
    return process(code, small, large)


def stopped_by(number: signal.Signals, folder: Path) -> Said:
    """A command that would take minutes, stopped by a signal after its first study."""
    run = [sys.executable, "-m", "prostate_mim", "phantom", "--out", str(folder / "data"), "--studies", "999"]
    begun = subprocess.Popen(run, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        deadline = time.monotonic() + 60
        while begun.poll() is None and not list(folder.glob("data/*/t2w*")) and time.monotonic() < deadline:
            time.sleep(0.02)
        begun.send_signal(number)
        _, stderr = begun.communicate(timeout=60)
    finally:
        begun.kill()
        begun.wait()
    return last_line(begun.returncode, stderr)


@provokes
def interrupted(folder: Path) -> Said:
    return stopped_by(signal.SIGINT, folder)

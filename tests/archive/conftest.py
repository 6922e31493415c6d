"""Fixtures of the archive's tests: changed manifests, parts made without a cluster, one shared cluster."""

from __future__ import annotations

import csv
import importlib.util
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from prostate_mim.archive.job import Job

PATHS = ("t2w", "gland_mask", "lesion_mask", "zone_mask")


Rows = list[dict[str, str]]


@pytest.fixture
def edited(cohort: Path) -> Callable[[Path, Callable[[Rows], Rows]], Path]:
    """A function that writes the cohort's manifest elsewhere, its rows changed; its files stay where they are."""

    def edit(path: Path, change: Callable[[Rows], Rows]) -> Path:
        with cohort.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        for row in rows:
            row.update({name: str(cohort.parent / row[name]) for name in PATHS if row.get(name)})
        rows = change(rows)
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return path

    return edit


@pytest.fixture(scope="session")
def needs_pyarrow() -> None:
    """Skip where the parts cannot be written."""
    if importlib.util.find_spec("pyarrow") is None:
        pytest.skip("pyarrow is not installed: pip install 'prostate-mim[ray]'")


@pytest.fixture(scope="session")
def needs_ray(needs_pyarrow: None) -> None:
    """Skip where there is no Ray; it is not imported here, for the package must be the first to do so."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed: pip install 'prostate-mim[ray]'")


@pytest.fixture(scope="session")
def two_workers(needs_ray: None) -> Iterator[None]:
    """One private cluster of two CPUs for all tests that need one: starting it takes seconds."""
    from prostate_mim.archive.cluster import cluster

    handler = signal.getsignal(signal.SIGTERM)
    with cluster(2):
        assert signal.getsignal(signal.SIGTERM) == handler  # Ray's own would end a training run without its last save
        yield


@pytest.fixture(scope="session")
def make_parts(needs_pyarrow: None, small_encoder: Path) -> Callable[..., Job]:
    """Make all parts of an archive in this process, with the worker's own code; returns the job."""

    def make(
        manifest: Path, out: Path, *, task: str = "embed", model: Path = small_encoder, shard_rows: int = 5
    ) -> Job:
        import torch
        from threadpoolctl import threadpool_limits

        from prostate_mim.archive.job import make_job
        from prostate_mim.archive.worker import ShardWorker

        job, _ = make_job(
            task, str(model), manifest, out, workers=1, shard_rows=shard_rows, attempts=3, journal=".attempts-test"
        )
        Path(job.journal).mkdir(parents=True)
        threads = torch.get_num_threads()
        with threadpool_limits(1):  # puts back afterwards what the worker limits for its whole process
            worker = ShardWorker(job)
            for shard in range(job.shards):
                answer = worker({"shard": np.array([shard])})
                assert answer["error"] == [""], answer["message"]
        torch.set_num_threads(threads)
        shutil.rmtree(job.journal)
        return job

    return make

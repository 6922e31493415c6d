"""Two processes compare their views with those of both, as one process would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rank_worker import OWNERS, VIEWS, batch, model, step

from prostate_mim.contrastive import ContrastiveTask
from prostate_mim.errors import ResourceError

WORKER = Path(__file__).parent / "rank_worker.py"


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    """Results of both processes; one that waits for the other for ever is a failure."""
    folder = tmp_path_factory.mktemp("ranks")
    results = [folder / f"{rank}.pt" for rank in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, WORKER, str(rank), "2", folder / "rendezvous", results[rank]], stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        for process in processes:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors[-2000:]
    finally:
        for process in processes:
            process.kill()
    return [torch.load(result, weights_only=True) for result in results]


def test_two_processes_are_one(ranks: list[dict[str, torch.Tensor]]) -> None:
    """The weighted mean of the losses, and the sum of the gradients, to single precision."""
    alone = step(0, 1)
    weight = sum(float(each["weight"]) for each in ranks)
    assert weight == float(alone["weight"]) == VIEWS
    loss = sum(float(each["loss"]) * float(each["weight"]) for each in ranks) / weight
    assert loss == pytest.approx(float(alone["loss"]), rel=1e-5)
    gradients = [name for name in alone if name.startswith("gradient.")]
    assert len(gradients) > 10
    for name in gradients:
        apart = ranks[0][name] + ranks[1][name] - alone[name]
        assert apart.norm() < 1e-3 * alone[name].norm().clamp(min=1e-2), name


def test_views_of_one_process_alone_are_another_loss() -> None:
    """The control: half of the views without the other half."""
    network = model()
    half = ContrastiveTask(0.2, VIEWS // 2, OWNERS).loss(network, batch(0, 2), 0)
    assert abs(float(half.loss) - float(step(0, 1)["loss"])) > 0.1


def test_a_divided_step_is_refused() -> None:
    """After running out of memory the loop divides a batch, which would be another loss."""
    task = ContrastiveTask(0.2, VIEWS, OWNERS)
    with pytest.raises(ResourceError, match="step 4: out of memory, and a contrastive step cannot be divided"):
        task.loss(model(), batch(0, 2), 3)

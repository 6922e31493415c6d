"""Synchronised batch norm on two processes is batch norm on one, whatever each of them sees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from masked_cases import PATHS, distance, voxels_of
from masked_oracle import Field, World, judge
from sync_worker import network, weights_of, worlds

WORKER = Path(__file__).parent / "sync_worker.py"


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Results of both ranks; a rank that waits for the other for ever is a failure."""
    folder = tmp_path_factory.mktemp("ranks")
    results = [folder / f"{rank}.pt" for rank in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, WORKER, str(rank), folder / "rendezvous", results[rank]],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=90)
            assert process.returncode == 0, errors[-2000:]
    finally:
        for process in processes:
            process.kill()
    return [torch.load(result, weights_only=True) for result in results]


def expected(place: World) -> tuple[torch.Tensor, torch.Tensor, torch.nn.Module]:
    """The oracle on the whole batch: output, gradient of voxels, module with gradients and running moments."""
    voxels = voxels_of(place).requires_grad_()
    module = judge(network())
    out = module(Field.hide(place, voxels)).dense()
    if out.requires_grad:  # else nothing is visible
        (out * weights_of(out.shape)).sum().backward()
    return out.detach(), torch.zeros_like(voxels) if voxels.grad is None else voxels.grad, module


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["ragged", "rank 1 sees nothing", "rank 0 sees nothing", "nobody sees"])
def test_two_ranks_are_one(ranks: list[Any], name: str, path: str) -> None:
    """Outputs and voxel gradients side by side, parameter gradients summed, running moments equal on both: 1e-10."""
    out, voxels, module = expected(worlds()[name])
    found = [rank[f"{name}, {path}"] for rank in ranks]
    assert distance(torch.cat([part["output"] for part in found]), out) < 1e-10
    assert distance(torch.cat([part["voxels"] for part in found]), voxels) < 1e-10
    for key, parameter in module.named_parameters():
        zero = torch.zeros_like(parameter)
        total = sum(zero if part["gradients"][key] is None else part["gradients"][key] for part in found)
        assert distance(total, zero if parameter.grad is None else parameter.grad) < 1e-10, key
    for key, buffer in module.named_buffers():
        if not key.endswith("num_batches_tracked"):
            assert max(distance(part["buffers"][key], buffer) for part in found) < 1e-10, key


def test_ranks_on_their_own_would_be_noticed(ranks: list[Any]) -> None:
    """The control: batch norm of rank 0 alone is something else."""
    place = worlds()["ragged"]
    alone = World(place.blocks[:2], place.block_zyx, place.size_zyx)
    voxels = voxels_of(place)[:2]
    assert distance(judge(network())(Field.hide(alone, voxels)).dense(), ranks[0]["ragged, rows"]["output"]) > 1e-3

"""One process of a contrastive step over gloo: ``python rank_worker.py rank ranks rendezvous-file result-file``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from prostate_mim.contrastive import ContrastiveConfig, ContrastiveModel, ContrastiveTask
from prostate_mim.masked.over_ranks import over_ranks
from prostate_mim.nets import build_encoder

VIEWS = 8
OWNERS = {0: 0, 1: 1, 2: 2, 3: 0}  # rows 0 and 3 are of one patient


def model() -> nn.Module:
    """A small encoder with instance norms and a head with a shared batch norm."""
    torch.manual_seed(0)
    encoder = build_encoder("resenc-s")
    config = ContrastiveConfig(projection=8, hidden=16)
    return over_ranks(ContrastiveModel(encoder, config, (3.0, 0.5, 0.5))).train()


def batch(rank: int, ranks: int) -> dict[str, Tensor]:
    """This process's share of the same eight views."""
    voxels = torch.randn(VIEWS, 1, 4, 32, 32, generator=torch.Generator().manual_seed(1))
    share = slice(rank * VIEWS // ranks, (rank + 1) * VIEWS // ranks)
    draws = torch.arange(VIEWS)
    return {"voxels": voxels[share], "draw": draws[share], "row": (draws // 2)[share]}


def step(rank: int, ranks: int) -> dict[str, Tensor]:
    """Loss, weight and the sum over views of every gradient."""
    network = model()
    made = ContrastiveTask(0.2, VIEWS // ranks, OWNERS).loss(network, batch(rank, ranks), 0)
    (made.loss * made.weight).backward()
    found = {f"gradient.{name}": p.grad for name, p in network.named_parameters() if p.grad is not None}
    return {"loss": made.loss.detach(), "weight": torch.as_tensor(made.weight), **found}


def main() -> None:
    """Write what this process found."""
    rank, ranks, rendezvous, result = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=ranks)
    torch.save(step(rank, ranks), result)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

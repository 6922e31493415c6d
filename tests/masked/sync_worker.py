"""One rank of a synchronised batch norm over gloo: ``python sync_worker.py rank rendezvous-file result-file``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

HERE = Path(__file__).parent
SPLIT = {0: slice(0, 2), 1: slice(2, 3)}  # samples of each rank


def network() -> nn.Module:
    """Two synchronised norms, so that gradients cross ranks twice."""
    from masked_cases import scramble

    parts = [nn.Conv3d(4, 4, 3, padding=1), nn.BatchNorm3d(4), nn.SiLU(), nn.Conv3d(4, 3, 1, (1, 2, 2))]
    parts.append(nn.BatchNorm3d(3, momentum=0.3))
    return scramble(nn.Sequential(*parts)).double()


def worlds() -> dict[str, Any]:
    """Hidden blocks of three samples: ragged; nothing visible on rank 1; nothing visible at all."""
    from masked_cases import ODD, grid_of, hide_blocks
    from masked_oracle import World

    grid = grid_of(*ODD)
    ragged = hide_blocks("ragged", grid)
    alone = ragged.clone()
    alone[2] = True
    first = ragged.clone()
    first[:2] = True
    hidden = {"ragged": ragged, "rank 1 sees nothing": alone, "rank 0 sees nothing": first}
    hidden["nobody sees"] = torch.ones_like(ragged)
    return {name: World(blocks, ODD[1], ODD[0]) for name, blocks in hidden.items()}


def weights_of(shape: torch.Size) -> torch.Tensor:
    """A fixed random linear loss over the whole batch."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def work(rank: int) -> dict[str, Any]:
    """Name -> outputs, gradients and buffers of this rank."""
    from masked_cases import voxels_of

    from prostate_mim.masked import MaskContext, masked_twin

    results = {}
    for path in ("dense", "rows"):
        for name, place in worlds().items():
            module = nn.SyncBatchNorm.convert_sync_batchnorm(network())
            voxels = voxels_of(place)[SPLIT[rank]].clone().requires_grad_()
            context = MaskContext(place.blocks[SPLIT[rank]], place.block_zyx, place.size_zyx)
            out = masked_twin(module)(context.hide(voxels, path=path)).dense()
            whole = torch.Size((place.samples, *out.shape[1:]))
            (out * weights_of(whole)[SPLIT[rank]]).sum().backward()
            results[f"{name}, {path}"] = {
                "output": out.detach(),
                "voxels": voxels.grad,
                "gradients": {key: parameter.grad for key, parameter in module.named_parameters()},
                "buffers": {key: buffer.clone() for key, buffer in module.named_buffers()},
            }
    return results


if __name__ == "__main__":
    sys.path[:0] = [str(HERE), str(HERE.parents[1])]
    torch.set_num_threads(1)
    number, rendezvous, result = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=number, world_size=2)
    torch.save(work(number), result)
    dist.destroy_process_group()

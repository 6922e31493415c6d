"""Shared memory, made once, in which loader processes leave raw batches.

Only the number of a slot travels through the pipe between processes. A batch that was left is whole and stays readable
when the process that left it is killed or stopped, which is not so for tensors that are sent one by one.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prostate_mim.errors import ResourceError
from prostate_mim.store import BITS

# Where Linux keeps shared memory. Writing into more than there is kills the writer without a word.
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - looked at, never written to by name
_FLAGS = tuple(f"has_{name}" for name in BITS)
_NUMBERS = ("label", "row", "draw")


class Slots:
    """Room for some batches of raw items.

    Args:
        count: batches that are in work at once.
        items: crops a batch.
        size_zyx: voxels of a crop.
        workers: processes that leave batches.
        finished: room for finished crops instead of raw ones.

    Attributes:
        reading: (workers,) which draw each worker is reading, -1 where none.

    Raises:
        ResourceError: the system's shared memory has no room for them.
    """

    def __init__(
        self, count: int, items: int, size_zyx: tuple[int, int, int], workers: int, *, finished: bool = False
    ) -> None:
        crops = torch.Size((count, items, 1, *size_zyx))
        needed = crops.numel() * (6 if finished else 3)
        if os.path.ismount(_SHARED_MEMORY) and shutil.disk_usage(_SHARED_MEMORY).free < needed:
            raise ResourceError(
                f"loader workers need {needed / 2**20:.0f} MB of shared memory and less is free; use fewer workers or "
                "a smaller batch, or give the container more (docker run --shm-size)"
            )
        self.voxels = _shared(crops, torch.float32 if finished else torch.int16)
        self.inside = _shared(crops, torch.bool) if finished else None
        self.labels = _shared(crops, torch.uint8)
        self.facts = _shared(torch.Size((count, items, 9 + len(_FLAGS) + len(_NUMBERS))), torch.int64)
        self.reading = _shared(torch.Size((workers,)), torch.int64).fill_(-1)

    def __len__(self) -> int:
        return len(self.voxels)

    def put(self, slot: int, place: int, item: dict[str, Any]) -> None:
        """Leave one item of ``DrawDataset``, raw or finished."""
        self.voxels[slot, place] = item["voxels"]
        if self.inside is not None:
            self.inside[slot, place] = item["inside"]
        self.labels[slot, place] = item["labels"]
        where = (*item["box"].flatten().tolist(), *item["place"].tolist())
        facts = [*where, *(int(item[name]) for name in (*_FLAGS, *_NUMBERS))]
        self.facts[slot, place] = torch.tensor(facts)

    def take(self, slot: int, *, pinned: bool) -> dict[str, Tensor]:
        """A copy of a whole batch, in pinned memory if asked for; the slot may then be used again."""
        facts = self.facts[slot].clone()
        named = dict(zip((*_FLAGS, *_NUMBERS), facts[:, 9:].unbind(1), strict=True))
        inside = {} if self.inside is None else {"inside": _copy(self.inside[slot])}
        return {
            **inside,
            "voxels": self.voxels[slot].pin_memory() if pinned else _copy(self.voxels[slot]),
            "labels": self.labels[slot].pin_memory() if pinned else _copy(self.labels[slot]),
            "box": facts[:, :6].reshape(-1, 3, 2),
            "place": facts[:, 6:9].contiguous(),
            **{name: named[name] > 0 for name in _FLAGS},
            **{name: named[name].contiguous() for name in _NUMBERS},
        }


def _copy(batch: Tensor) -> Tensor:
    return torch.from_numpy(batch.numpy().copy())  # with one thread: torch would wait for others where cores are shared


def _shared(shape: torch.Size, kind: torch.dtype) -> Tensor:
    made: Tensor = torch.zeros(shape, dtype=kind).share_memory_()  # type: ignore[no-untyped-call]
    return made

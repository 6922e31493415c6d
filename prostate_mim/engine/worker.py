"""What runs within a loader process: reading draws into shared slots, and putting errors into words."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset, default_collate, get_worker_info

from prostate_mim.engine.data import DrawDataset
from prostate_mim.engine.slots import Slots
from prostate_mim.errors import ProstateMimError

# Stacked raw items -> voxels, inside and labels, finished
Finish = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class Failure:
    """What went wrong in a worker, in words that hold no path."""

    what: str
    known: ProstateMimError | None


def failure(error: Exception) -> Failure:
    """An error in words: those of this package as they are, of others the kind and the line of code."""
    if isinstance(error, ProstateMimError):
        return Failure(type(error).__name__, error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return Failure(f"{type(error).__name__} ({Path(last.filename).name}, line {last.lineno})", None)


class CropReader(Dataset[Any]):
    """Leaves batches in slots. Its errors are results: they arrive whole, in order, and say nothing of paths.

    Args:
        dataset: what is read.
        slots: where it goes.
        finish: what is done with each crop here, if anything; the slots must have room for that.
    """

    def __init__(self, dataset: DrawDataset, slots: Slots, finish: Finish | None = None) -> None:
        self.dataset, self.slots, self.finish = dataset, slots, finish

    def __getitems__(self, numbers: list[int]) -> int | Failure:
        slot, *draws = numbers
        own = get_worker_info()
        reading = self.slots.reading[own.id if own else 0]
        try:
            for place, draw in enumerate(draws):
                reading.fill_(draw)  # the main process looks there if this one dies
                self.slots.put(slot, place, self._item(draw))
            reading.fill_(-1)
        except Exception as error:
            return failure(error)
        return slot

    def _item(self, draw: int) -> dict[str, Any]:
        item = self.dataset[draw]
        if self.finish is None:
            return item
        made = self.finish(default_collate([item]))
        return {**item, **{name: values[0] for name, values in made.items()}}


def as_it_is(found: Any) -> Any:
    """For torch, which would put items together: a slot or a failure is whole already."""
    return found


def start_worker(number: int) -> None:
    """Leave signals to the main process: it saves and then ends the workers; torch reads with one thread already."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

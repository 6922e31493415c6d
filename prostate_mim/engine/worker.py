"""What runs within a loader process: reading draws into shared slots, and putting errors into words."""

from __future__ import annotations

import signal
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset, get_worker_info

from prostate_mim.engine.data import DrawDataset
from prostate_mim.engine.slots import Slots
from prostate_mim.errors import ProstateMimError


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
    """Leaves batches in slots. Its errors are results: they arrive whole, in order, and say nothing of paths."""

    def __init__(self, dataset: DrawDataset, slots: Slots) -> None:
        self.dataset, self.slots = dataset, slots

    def __getitems__(self, numbers: list[int]) -> int | Failure:
        slot, *draws = numbers
        own = get_worker_info()
        reading = self.slots.reading[own.id if own else 0]
        try:
            for place, draw in enumerate(draws):
                reading.fill_(draw)  # the main process looks there if this one dies
                self.slots.put(slot, place, self.dataset[draw])
            reading.fill_(-1)
        except Exception as error:
            return failure(error)
        return slot


def as_it_is(found: Any) -> Any:
    """For torch, which would put items together: a slot or a failure is whole already."""
    return found


def start_worker(number: int) -> None:
    """Leave signals to the main process: it saves and then ends the workers; torch reads with one thread already."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

"""What the launcher (``torchrun``, ``accelerate launch``) has said of this process. No torch."""

from __future__ import annotations

import os


def launched_rank() -> int:
    """This process's number among those the launcher started; 0 where there is but one."""
    return int(os.environ.get("RANK", "0"))


def launched_ranks() -> int:
    """How many processes the launcher started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))

"""The benchmark is a handful of scripts that import each other as neighbours."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    """The benchmark sets their number."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)

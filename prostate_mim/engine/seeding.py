"""Randomness with an owner: every generator is derived from one seed and the purpose it serves.

Because a draw's generator depends only on (seed, purpose, draw number), a resumed run, another worker count or
another rank sees the same draws without any generator state to carry along.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose, unrelated to those of other purposes."""
    text = ":".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """A NumPy generator for one purpose."""
    return np.random.default_rng(derive_seed(seed, *purpose))


def torch_generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A torch CPU generator for one purpose."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))

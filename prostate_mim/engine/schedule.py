"""Learning rate as a pure function of the step: linear warm-up, then half a cosine. No state to save."""

from __future__ import annotations

import math


def usual_warmup(steps: int) -> int:
    """Warm-up of a run whose configuration gives none: 10 % of its steps, at most 50; short runs have short ones."""
    return min(50, max(1, steps // 10))


def warmup_cosine(step: int, *, peak: float, warmup: int, total: int) -> float:
    """Learning rate of the 0-based ``step`` of ``total``; 1 % of ``peak`` is left at the end."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))

"""What comes out: a row for each engine, the winner, and a whole study from file to probability."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measured:
    """One engine.

    Attributes:
        engine: its name.
        how: how a user gets it; empty of what is measured beside.
        median_ms, p90_ms: of one call; None where it could not be measured.
        speedup: torch eager's median over this one's.
        memory_mb: the most that a process with this engine alone held.
        difference: largest absolute difference of logits from torch eager's.
        note: why it could not be measured.
    """

    engine: str
    how: str
    median_ms: float | None = None
    p90_ms: float | None = None
    speedup: float | None = None
    memory_mb: float | None = None
    difference: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Whole:
    """A study from file to probability, in milliseconds, on the winner.

    Attributes:
        reading: ``read_volume`` of a .nii.gz.
        network: the network alone.
        all: everything: reading, checks of the image, resampling, network.
    """

    reading: float
    network: float
    all: float

    @property
    def ratio(self) -> float:
        """All of it, in units of reading and network."""
        return self.all / (self.reading + self.network)


@dataclass(frozen=True)
class Bench:
    """One run of ``bench``.

    Attributes:
        model, revision: what was measured.
        shape: of the input, (N, C, D, H, W).
        threads: of the CPU.
        rounds: turns of each engine.
        hardware, versions: where, and of what.
        engines: a row each, in the order of ``ENGINES``.
        winner: the fastest engine that is offered.
        whole: from file to probability.
    """

    model: str
    revision: str
    shape: tuple[int, ...]
    threads: int
    rounds: int
    hardware: str
    versions: dict[str, str]
    engines: tuple[Measured, ...]
    winner: str
    whole: Whole

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**dataclasses.asdict(self), "whole": {**dataclasses.asdict(self.whole), "ratio": self.whole.ratio}}

    def lines(self) -> list[str]:
        """A table of what was measured, what was not and why, the winner, and a whole study."""
        lines = [f"{'engine':26}{'median':>9}{'p90':>9}{'x eager':>9}{'memory':>9}{'differs':>10}  how"]
        absent: dict[str, list[str]] = {}
        for row in self.engines:
            if row.median_ms is None:
                absent.setdefault(row.note, []).append(row.engine)
                continue
            memory = "" if row.memory_mb is None else f"{row.memory_mb:.0f} MB"
            figures = f"{row.median_ms:6.1f} ms{row.p90_ms:6.1f} ms{row.speedup:9.2f}{memory:>9}{row.difference:10.1e}"
            lines.append(f"{row.engine:26}{figures}  {row.how or '(beside)'}")
        lines += [f"not measured: {', '.join(names)} ({note})" for note, names in absent.items()]
        sizes = " x ".join(str(size) for size in (self.shape[0], *self.shape[2:]))
        whole = self.whole
        lines.append(f"{self.model} {self.revision}: {sizes} voxels, {self.threads} threads, {self.hardware}")
        lines.append(
            f"fastest that is offered: {self.winner}; file to probability {whole.all:.0f} ms, {whole.ratio:.2f} times "
            f"reading ({whole.reading:.0f} ms) and network ({whole.network:.0f} ms)"
        )
        return lines

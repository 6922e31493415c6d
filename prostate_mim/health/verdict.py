"""The one line that says whether pretraining has learnt to restore hidden tissue, beside what needs no training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prostate_mim.health.run_folder import RunFolder, read_run

BY_BLOCK = "block"  # the target whose block mean and contrast the network is given (mim.targets.BlockTarget)
_NAMES = {
    "interpolation": "interpolation",
    "interpolation_centred": "mean-corrected interpolation",
    "unchanged": "the input as it is",
}


@dataclass(frozen=True)
class Verdict:
    """How the last look at hidden tissue compares; errors are mean squares in units of each block's variance.

    Attributes:
        step: optimiser steps done at that look.
        error: of the network.
        block_mean: of each block's true mean, about 1.
        beside: what else needs no training: ``interpolation_centred`` where targets are normalised by block (the
            network is given each block's mean, so the guess is too; an untrained network lies below the uncorrected
            one), else ``interpolation``; ``unchanged`` where voxels are changed and no block is hidden.
        beside_error: of that.
    """

    step: int
    error: float
    block_mean: float
    beside: str
    beside_error: float

    @property
    def restored(self) -> bool:
        """The network's error is below both others."""
        return self.error < min(self.block_mean, self.beside_error)

    @property
    def text(self) -> str:
        """One line for a person, without what it is about."""
        mean, other = f"the block mean {self.block_mean:.3f}", f"{_NAMES[self.beside]} {self.beside_error:.3f}"
        said = f"error {self.error:.3f}, "
        if self.restored:
            return f"{said}below {mean} and {other}"
        if self.error < self.block_mean:
            return f"{said}below {mean}, not yet below {other}"
        if self.beside == "interpolation_centred":
            return f"{said}not yet below {mean}: nothing learnt that a mean does not say"
        below = self.error < self.beside_error
        return f"{said}below {other}, not yet below {mean}" if below else f"{said}not yet below {mean} or {other}"

    @property
    def subject(self) -> str:
        """What was to be restored."""
        return "changed tissue" if self.beside == "unchanged" else "hidden tissue"

    def to_dict(self) -> dict[str, object]:
        """Plain values, as ``--json`` gives them."""
        errors = {"error": self.error, "block_mean": self.block_mean, self.beside: self.beside_error}
        return {"step": self.step, **errors, "restored": self.restored, "text": self.text}


def baseline_of(config: Mapping[str, object]) -> str:
    """Which interpolation the network's error is compared with; the stricter one where the target is not known.

    Args:
        config: of the run, as its ``config.toml`` has it.
    """
    method = config.get("method")
    target = method.get("target", BY_BLOCK) if isinstance(method, Mapping) else BY_BLOCK
    return "interpolation_centred" if target == BY_BLOCK else "interpolation"


def verdict_of(folder: RunFolder) -> Verdict | None:
    """Of the last look at everything hidden; None where nothing was looked at, or the method predicts no voxels."""
    for step, values in reversed(folder.health()):
        beside = "unchanged" if "health/unchanged" in values else baseline_of(folder.config)
        names = ("error", "block_mean", beside)
        error, mean, other = (values.get(f"health/{name}") for name in names)
        if error is not None and mean is not None and other is not None:
            return Verdict(step, error, mean, beside, other)
    return None


def read_verdict(run: str | Path) -> Verdict | None:
    """Of a run folder, finished or going; see ``verdict_of``."""
    return verdict_of(read_run(Path(run)))

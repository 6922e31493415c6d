"""Tasks of kind ``voxels`` and ``centres``: probes of frozen features, one value per patient and metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from prostate_mim.encoder import PreMIM
from prostate_mim.metrics.table import defined
from prostate_mim.probing import ProbeTask, run_probe
from prostate_mim.probing.data import Questions, ask
from prostate_mim.study.tasks import ALL_FOLDS, OpenTask


def probe_rows(
    task: OpenTask, encoders: Sequence[tuple[int, Path]], seed: int, control: str = "", store: Path | None = None
) -> list[dict[str, Any]]:
    """Columns patient (running number), metric and value (None where it is undefined).

    Args:
        task: of kind ``voxels`` or ``centres``.
        encoders: (fold, release folder): one for all folds, or one for each tested fold.
        seed: of windows and drawn voxels.
        control, store: as ``probing.run_probe`` takes them.

    Raises:
        ProstateMimError: as ``probing.run_probe``.
    """
    found = []
    questions = _asked(replace(task.config.probe_task(), test_folds=()), seed, store)
    for fold, release in encoders:
        probe = task.config.probe_task(None if fold == ALL_FOLDS else (fold,))
        encoder = PreMIM.from_pretrained(release)
        result = run_probe(encoder, probe, seed, control=control, store=store, questions=questions)
        for metric, values in sorted(result.values.items()):
            pairs = zip(result.patients.tolist(), values.tolist(), strict=True)
            found += [{"patient": int(patient), "metric": metric, "value": defined(value)} for patient, value in pairs]
    return found


@lru_cache(maxsize=8)
def _asked(task: ProbeTask, seed: int, store: Path | None) -> Questions:
    """Every arm is asked the same, seed by seed; what was asked last stays in this process, as ``open_task``'s do."""
    return ask(task, seed, store=store)

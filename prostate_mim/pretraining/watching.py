"""What is looked at while a run goes: fixed studies, the probes' labelled ones, warnings and the report."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from prostate_mim.contrastive import ContrastiveModel
from prostate_mim.engine.distributed import unwrapped
from prostate_mim.engine.launched import launched_rank
from prostate_mim.engine.loop import Observer
from prostate_mim.engine.runs import prepare_rows
from prostate_mim.health import HealthMonitor, Watched
from prostate_mim.manifest import read_manifest
from prostate_mim.mim import MaskedImageModel
from prostate_mim.pretraining.config import SIMCLR, PretrainConfig
from prostate_mim.pretraining.contrast import fixed_views
from prostate_mim.store import PreparedRow


def watch_run(
    prepared: Sequence[PreparedRow], config: PretrainConfig, run: Path, *, store: Path | None = None, workers: int = 0
) -> Observer | None:
    """The loop's ``observe``; None where the configuration never looks, or on ranks that need not.

    Args:
        prepared: the training studies; those with a gland mask are watched first.
        config: of the run.
        run: its folder.
        store: of prepared studies, for the labelled manifest.
        workers: that prepare it.

    Raises:
        ManifestError, VolumeError, NotFoundError, UsageError: the labelled manifest.
    """
    if not config.loop.health_every or launched_rank():
        return None
    ordered = sorted(prepared, key=lambda one: "gland" not in one.study.masks)
    watched = [_watched(one, {}, {}) for one in ordered[: config.health.studies]]
    # The training studies tell scanner centres apart; only the other manifest's labels are looked at.
    labelled = [dataclasses.replace(one, label=-1) for one in _numbered([one for one in prepared if one.row.centre])]
    if config.watch:
        listed = read_manifest(config.watch, labels=True)
        rows = prepare_rows(listed, config.spec.with_size(config.region_zyx), store=store, workers=workers).rows
        labelled += [dataclasses.replace(one, centre=-1) for one in _numbered(rows)]
    own = fixed_views(ordered[: config.health.studies], config) if config.objective == SIMCLR else None
    monitor = HealthMonitor(watched, labelled, config.spec, config.health, config.loop.seed, own)
    said: set[str] = set()

    def observe(model: nn.Module, step: int) -> Mapping[str, float]:
        bare = unwrapped(model, MaskedImageModel) if own is None else unwrapped(model, ContrastiveModel)
        values = monitor.observe(bare, step, run)
        for warning in monitor.warnings(values):
            if warning not in said:  # once is visible; at every look it would bury the rest
                said.add(warning)
                sys.stderr.write(f"warning: step {step}: {warning}\n")
        return values

    return observe


def score(values: Mapping[str, float]) -> float | None:
    """The masked error; of methods without an image to compare, the loss on hidden blocks, or on fixed views."""
    names = ("health/error", "health/loss", "health/view_loss")
    return next((values[name] for name in names if name in values), None)


def _numbered(rows: Sequence[PreparedRow]) -> list[Watched]:
    """Patients and centres as numbers: their names stay in the manifest."""
    patients: dict[str, int] = {}
    centres: dict[str, int] = {}
    return [_watched(one, patients, centres) for one in rows]


def _watched(one: PreparedRow, patients: dict[str, int], centres: dict[str, int]) -> Watched:
    label = -1 if one.row.label is None else one.row.label
    group = patients.setdefault(one.row.patient_id, len(patients))
    centre = centres.setdefault(one.row.centre, len(centres)) if one.row.centre else -1
    return Watched(one.study, label, group, centre)

"""A cell of the grid: out-of-fold predictions of one arm on one task, for one label fraction and seed."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prostate_mim.engine.seeding import derive_seed
from prostate_mim.finetuning import FinetuneConfig, labelled_subset
from prostate_mim.finetuning.crossfit import fit_rows
from prostate_mim.finetuning.lesions import check_targets
from prostate_mim.study.cache import Places, identity_of, key_of
from prostate_mim.study.config import LESIONS, TaskConfig
from prostate_mim.study.features import Features, feature_key, fold_of_features, read_features
from prostate_mim.study.probes import probe_rows
from prostate_mim.study.records import CASES, CONTROL, PERMUTED, PREDICTIONS, write_table
from prostate_mim.study.tasks import ALL_FOLDS, Ints, OpenTask, TaskTable, open_task
from prostate_mim.study.training import fit_and_predict

PLACE, LOCATION = f"{CONTROL}place:", f"{CONTROL}location:"
"""Beginnings of controls' names; the arm's own follows. Instead of features: a voxel's place in its window, or body."""
_FROM_FEATURES = ("linear", "full")
_PROBE_CONTROLS = {PERMUTED: "permuted", PLACE: "place", LOCATION: "location"}


@dataclass(frozen=True)
class Cell:
    """A place in the grid.

    Attributes:
        task, arm: names; of a control, ``PERMUTED`` and the arm's name.
        architecture: key of ``nets.ARCHITECTURES``.
        mode: ``linear``, ``attentive``, ``full``, or ``probe``.
        fraction: of the training patients' labels.
        seed: of everything random that is not the weights' own.
    """

    task: str
    arm: str
    architecture: str
    mode: str
    fraction: float
    seed: int

    @property
    def title(self) -> str:
        """For the progress bar and failures."""
        return f"{self.task} | {self.arm} | {self.architecture} | {self.mode} | {self.fraction:g} | seed {self.seed}"

    def named(self) -> dict[str, Any]:
        """The columns that tables give to all of its rows."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class EncoderAt:
    """A finished encoder.

    Attributes:
        fold: that it is for, or ``ALL_FOLDS``.
        release: its folder.
        weights: SHA-256 of its weights.
    """

    fold: int
    release: Path
    weights: str


@dataclass(frozen=True)
class CellJob:
    """What computes a cell.

    Attributes:
        key: see ``cell_key``.
        cell: its place in the grid.
        task: the task.
        study_seed: of folds and permuted labels.
        encoders: one for all folds, or one a fold.
        finetune: with the cell's mode, fraction and seed.
        proofs: of the guard, one line an encoder; kept in the cell's file.
        places: of the study.
        device: ``auto``, ``cpu`` or ``cuda``.
    """

    key: str
    cell: Cell
    task: TaskConfig
    study_seed: int
    encoders: tuple[EncoderAt, ...]
    finetune: FinetuneConfig
    proofs: tuple[str, ...]
    places: Places
    device: str

    @property
    def title(self) -> str:
        """Where in the grid it is."""
        return self.cell.title

    @property
    def has_bar(self) -> bool:
        """Linear cells take milliseconds."""
        return self.cell.mode != "linear"

    @property
    def path(self) -> Path:
        """Where its result lies."""
        return self.places.table("cells", self.key)

    def run(self) -> None:
        """Compute the cell and keep its rows, if they are not there."""
        if self.path.is_file():
            return
        opened = open_task(self.task, self.study_seed, self.places.store)
        said = {"key": self.key, "guard": list(self.proofs), "weights": [one.weights for one in self.encoders]}
        if self.task.kind != LESIONS:
            control = next((name for start, name in _PROBE_CONTROLS.items() if self.cell.arm.startswith(start)), "")
            pairs = [(one.fold, one.release) for one in self.encoders]
            rows = probe_rows(opened, pairs, self.cell.seed, control, self.places.store)
            write_table(self.path, CASES, [{**self._blank, **row} for row in rows], said)
            return
        check_targets(opened.manifest, self.finetune)
        permutation = None
        if self.cell.arm.startswith(PERMUTED):
            permutation = derive_seed(self.study_seed, "permutation", self.cell.seed)
        targets = opened.table.targets(permutation)
        probabilities = np.full(len(opened.table.rows), np.nan)
        for fold in opened.tested:
            held_out = opened.rows_of(fold)
            probabilities[held_out] = self._fold(opened, targets, fold, held_out)
        write_table(self.path, PREDICTIONS, self._rows(opened.table, targets[0], probabilities), said)
        shutil.rmtree(self._training, ignore_errors=True)  # checkpoints resume what is now finished

    def feature_keys(self, table: TaskTable, fold: int) -> list[tuple[str, int, bool]]:
        """(key, fold that calibrates, mirrored) of the features that one fold reads; those of the crops come first."""
        if self.cell.mode not in _FROM_FEATURES:
            return []
        both = self.finetune.flips and self.cell.mode == "linear"
        weights, own = encoder_of(self.encoders, fold).weights, fold_of_features(self.task, fold)
        views = (False, True) if both else (False,)
        return [(feature_key(self.task, table, weights, own, mirrored=flip), own, flip) for flip in views]

    def _fold(self, opened: OpenTask, targets: tuple[Ints, Ints], fold: int, held_out: Sequence[int]) -> Features:
        """Probabilities of the rows of one fold, by a model that saw nobody of it."""
        table, config, encoder = opened.table, self.finetune, encoder_of(self.encoders, fold)
        others = [place for place, own in enumerate(table.folds) if own != fold]
        training = labelled_subset(targets[0], table.names, others, config.fraction, config.fraction_seed)
        keys = self.feature_keys(table, fold)
        views = [read_features(self.places.features(key), len(table.rows)) for key, *_ in keys]
        if config.mode != "linear":
            folder = self._training / f"fold-{fold}"
            first = views[0] if views else None
            return fit_and_predict(
                opened, targets, first, training, held_out, encoder.release, fold, folder, config
            )  # fmt: skip
        aims = targets[1] if config.target == "isup" else targets[0]
        probe = fit_rows(views[0], aims, table.names, training, config, config.fraction_seed)
        mean: Features = np.mean([probe.probabilities(view[held_out]) for view in views], axis=0)
        return mean

    @property
    def _training(self) -> Path:
        return self.places.folder("training", self.key)

    @property
    def _blank(self) -> dict[str, Any]:
        # Arms with equal weights share a cell: its names are given where tables are put together.
        return {"task": "", "arm": "", "architecture": "", "mode": "", "fraction": 0.0, "seed": 0}

    def _rows(self, table: TaskTable, labels: Ints, probabilities: Features) -> list[Mapping[str, Any]]:
        columns = zip(
            table.rows, table.patients, table.folds, table.zones, table.centres, labels.tolist(),
            probabilities.tolist(), strict=True,
        )  # fmt: skip
        names = ("row", "patient", "fold", "zone", "centre", "label", "probability")
        return [{**self._blank, **dict(zip(names, values, strict=True))} for values in columns]


def encoder_of(encoders: Sequence[EncoderAt], fold: int) -> EncoderAt:
    """The encoder that may be used where a fold is held out."""
    return next(one for one in encoders if one.fold in (fold, ALL_FOLDS))


def cell_config(finetune: FinetuneConfig, cell: Cell, task: TaskConfig, device: str) -> FinetuneConfig:
    """The configuration of a cell: its mode, fraction and seed in place of the study's, its task's level and folds.

    What a mode has not (a linear head has no epochs to stop) is left out, so that one configuration serves all modes.
    """
    own: dict[str, Any] = {"mode": cell.mode if task.kind == LESIONS else "linear"}
    if own["mode"] != "full":
        own["freeze_epochs"] = 0
    if own["mode"] == "linear":
        own |= {"patience": 0, "loss": "bce", "zone_auxiliary": 0.0}
    own |= {"level": task.level, "folds": task.folds, "fraction": cell.fraction, "fraction_seed": cell.seed}
    loop = dataclasses.replace(finetune.loop, seed=cell.seed, device=device, trackers=())
    return dataclasses.replace(finetune, **own, loop=loop)


def cell_key(
    cell: Cell, task: TaskConfig, table: TaskTable, encoders: Sequence[EncoderAt], config: FinetuneConfig, seed: int
) -> str:
    """A hash of everything that decides a cell's numbers, and of nothing else: not of names.

    Args:
        seed: of the study; it decides which labels are permuted.
    """
    values: dict[str, Any] = {
        "kind": task.kind,
        "level": task.level,
        "spec": task.spec.to_dict(),
        "pooling": task.pooling,
        "calibrate_norms": task.calibrate_norms,
        "data": table.digest(),
        "encoders": [[one.fold, one.weights] for one in encoders],
        "finetune": identity_of(config),
    }
    if task.kind == LESIONS and config.mode == "linear":
        values["prevalence"] = "one"  # of the probes of all folds: cells from before that are not read
    if task.kind != LESIONS:
        probe = dataclasses.asdict(task.probe_task())
        del probe["manifest"]  # where it lies decides nothing
        values |= {"probe": probe, "seed": cell.seed}
        del values["finetune"]
    if cell.arm.startswith(CONTROL):
        # What a control does has changed twice; cells of what it did before are not read.
        values["control"] = [cell.arm.split(":")[1], seed, 2]
    return key_of("cell", values)

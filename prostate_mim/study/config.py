"""StudyConfig: the whole grid as plain values."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from prostate_mim.errors import UsageError
from prostate_mim.finetuning import MODES, FinetuneConfig
from prostate_mim.initialisations import INITIALISATIONS
from prostate_mim.mim.methods import find_method
from prostate_mim.nets import ARCHITECTURES, unknown_architecture
from prostate_mim.nets.pooling import POOLINGS
from prostate_mim.pretraining import PretrainConfig
from prostate_mim.probing import ProbeTask
from prostate_mim.spec import InputSpec
from prostate_mim.study.records import CONTROL

LESIONS, VOXELS, CENTRES = "lesions", "voxels", "centres"
KINDS = (LESIONS, VOXELS, CENTRES)
PRETRAINED, RELEASE = "pretrained", "release"
EXTERNAL, PER_FOLD = "external", "per-fold"
PROBE = "probe"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]*")


@dataclass(frozen=True)
class ProbeOptions:
    """How probes look at frozen features; see ``probing.ProbeTask``.

    Attributes:
        region_zyx, windows, voxels, stages, penalties, inner_folds: as there.
        test_folds: folds of the manifest that are held out, one after the other; all if empty. Patients of other folds
            are fitted to only, and may be in the pretraining data.
    """

    region_zyx: tuple[int, int, int] = (32, 256, 256)
    windows: int = 4
    voxels: int = 300
    stages: int = 3
    penalties: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)
    inner_folds: int = 3
    test_folds: tuple[int, ...] = ()


@dataclass(frozen=True)
class TaskConfig:
    """What every arm is judged on.

    Attributes:
        name: in tables and figures.
        manifest: the CSV; a relative path starts at the folder of the configuration file (or ``--data``).
        kind: ``lesions`` (classification), ``voxels`` or ``centres`` (probes of frozen features).
        level: of ``lesions``: ``lesion``, or ``study`` (one label and no place a row).
        target: of ``voxels``: ``gland`` (from the rest of the window), ``lesion`` (from the rest of the gland) or
            ``zone`` (TZ from PZ).
        folds: patient-grouped, where the manifest does not give its own; manifests of probes must.
        spec: the crop that is looked at.
        pooling: of the features: ``centre`` or ``mean``.
        calibrate_norms: set the statistics of every arm's normalisation layers on the task's own crops, unlabelled and
            of the training folds, so that no arm suffers from another modality's.
        pretraining_scope: ``external``: an arm's pretraining may hold no patient of this task. ``per-fold``: one
            pretraining an outer fold, on the rows of every patient who is not held out in it.
        pretraining_manifest: of this task's pretraining; the study's if empty.
        picai_labels: the user's folder of that name, which says who is in PROSTATEx and in PI-CAI.
        allow_overlap: go on where the guard finds overlap; every result says so.
        probe: of ``voxels`` and ``centres``.
    """

    name: str
    manifest: str
    kind: str = LESIONS
    level: str = "lesion"
    target: str = "gland"
    folds: int = 5
    spec: InputSpec = field(default_factory=InputSpec)
    pooling: str = "centre"
    calibrate_norms: bool = False
    pretraining_scope: str = EXTERNAL
    pretraining_manifest: str = ""
    picai_labels: str = ""
    allow_overlap: bool = False
    probe: ProbeOptions = field(default_factory=ProbeOptions)

    def __post_init__(self) -> None:
        _check_name("task", self.name)
        _check_among("kind", self.kind, KINDS)
        _check_among("level", self.level, ("lesion", "study"))
        _check_among("pooling", self.pooling, POOLINGS)
        _check_among("target", self.target, ("gland", "lesion", "zone"))
        _check_among("pretraining_scope", self.pretraining_scope, (EXTERNAL, PER_FOLD))
        self.probe_task()  # refuses what makes no probe

    def probe_task(self, test_folds: tuple[int, ...] | None = None) -> ProbeTask:
        """The probe of a task of kind ``voxels`` or ``centres``.

        Args:
            test_folds: in place of its own.
        """
        own = self.probe
        return ProbeTask(
            "centre" if self.kind == CENTRES else self.target, self.manifest, self.spec.spacing_mm_zyx,
            self.spec.size_zyx, own.region_zyx, own.windows, own.voxels, own.stages, own.penalties, own.inner_folds,
            self.folds, own.test_folds if test_folds is None else test_folds, self.calibrate_norms,
        )  # fmt: skip


@dataclass(frozen=True)
class ArmConfig:
    """Where weights come from, for each of its architectures.

    Attributes:
        name: in tables and figures.
        initialisation: key of ``INITIALISATIONS`` (``random``, ``imagenet``, ``release``, ...), or ``pretrained``: by
            this study.
        architectures: keys of ``nets.ARCHITECTURES``; the study's if empty.
        source: of ``release``: its name or folder; of ``medicalnet`` and ``imagenet``: the file of weights, if any.
        method: of ``pretrained``: key of ``METHODS``, in place of the configuration's own.
        strategy, ratio: of ``pretrained``: in place of the method's.
        pretraining: of ``pretrained``: a table of what differs from the study's own ``[pretraining]``.
        pretraining_manifest: of ``pretrained``: in place of the task's or the study's.
        pretraining_seeds: seeds of the weights, random ones too; the study's seed number i uses number i of these,
            begun anew when they are used up.
        average: of ``pretrained``, begun at weights that exist: the share of the pretrained weights in a mean with
            those; 1 for the pretrained weights as they are. Arms that differ in it alone share their pretraining.
        strategies: of such a mean: one pretraining with each, and ``average`` is the share of all of them together.
    """

    name: str
    initialisation: str = PRETRAINED
    architectures: tuple[str, ...] = ()
    source: str = ""
    method: str = ""
    strategy: str = ""
    ratio: str = ""
    pretraining: PretrainConfig = field(default_factory=PretrainConfig)
    pretraining_manifest: str = ""
    pretraining_seeds: tuple[int, ...] = (0,)
    average: float = 1.0
    strategies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_name("arm", self.name)
        if self.name.startswith(CONTROL):
            raise UsageError(f"arm {self.name!r}: {CONTROL!r} is the beginning of the controls' names; choose another")
        _check_among("initialisation", self.initialisation, (*INITIALISATIONS, PRETRAINED))
        if not self.pretraining_seeds:
            raise UsageError(f"arm {self.name!r}: pretraining_seeds is empty; give at least one")
        if self.initialisation == RELEASE and not self.source:
            raise UsageError(f"arm {self.name!r}: a release needs a source: its name or folder")
        own = self.method or self.strategy or self.ratio or self.strategies or self.average != 1.0
        if self.initialisation != PRETRAINED and own:
            raise UsageError(
                f"arm {self.name!r}: method, strategy, ratio and average are for initialisation {PRETRAINED!r}"
            )
        if self.strategies and (self.strategy or self.average == 1.0):
            raise UsageError(f"arm {self.name!r}: strategies are those of an average; give it, and no strategy")
        if self.method:
            find_method(self.method)

    def pretrain_configs(self, architecture: str, seed: int) -> list[PretrainConfig]:
        """The complete configurations of this arm's pretrainings, mostly one, for one architecture and seed."""
        own = self.pretraining
        method = find_method(self.method) if self.method else own.method
        loop = dataclasses.replace(own.loop, seed=seed)
        return [
            dataclasses.replace(
                own, architecture=architecture, loop=loop,
                method=dataclasses.replace(method, strategy=strategy, ratio=self.ratio or method.ratio),
            )
            for strategy in self.strategies or (self.strategy or method.strategy,)
        ]  # fmt: skip


@dataclass(frozen=True)
class StudyConfig:
    """What ``run_study`` computes: tasks x arms x architectures x modes x fractions x seeds.

    Attributes:
        tasks, arms: the grid's rows and columns.
        name: of the study.
        seed: of folds, intervals and controls.
        seeds: of label subsets, inner folds, heads and training; every cell is computed once a seed.
        architectures: of every arm that names none.
        modes: ``linear`` (frozen features) and ``full`` (all weights); probes have a mode of their own.
        fractions: of the training patients' labels that are used.
        references: arms that every other is compared with; the first arm if empty.
        controls: compute the controls too: permuted labels, duplicated studies, a planted leak.
        samples: of every bootstrap.
        device: of features and full fine-tuning: ``auto``, ``cpu`` or ``cuda``.
        threads: of every job on the CPU. One number for all engines: sums depend on it in their last bits.
        pretraining_manifest: what the arms of initialisation ``pretrained`` are pretrained on.
        pretraining: of those arms, where they say nothing else.
        finetune: of every cell; its mode, fraction and seed are the cell's.
    """

    tasks: tuple[TaskConfig, ...]
    arms: tuple[ArmConfig, ...]
    name: str = "study"
    seed: int = 0
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    architectures: tuple[str, ...] = ("effnet-lite0",)
    modes: tuple[str, ...] = ("linear",)
    fractions: tuple[float, ...] = (1.0,)
    references: tuple[str, ...] = ()
    controls: bool = False
    samples: int = 2000
    device: str = "auto"
    threads: int = 1
    pretraining_manifest: str = ""
    pretraining: PretrainConfig = field(default_factory=PretrainConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)

    def __post_init__(self) -> None:
        _check_once("tasks", [task.name for task in self.tasks])
        _check_once("arms", [arm.name for arm in self.arms])
        for name in ("seeds", "architectures", "modes", "fractions"):
            _check_once(name, getattr(self, name))
        for arm in self.arms:
            _check_architectures(arm, self.architectures_of(arm))
        for name in self.modes:
            _check_among("mode", name, MODES)
        for name in self.references:
            _check_among("reference", name, [arm.name for arm in self.arms])
        if not all(0 < fraction <= 1 for fraction in self.fractions):
            raise UsageError(f"fractions {self.fractions}: each must be over 0 and at most 1")
        if self.samples < 2 or self.threads < 1:
            raise UsageError(f"samples is {self.samples} and threads {self.threads}; at least 2 and 1 are needed")
        self._check_folds()
        for task in self.tasks:
            for arm in self.arms:
                if arm.initialisation == PRETRAINED and not self.pretraining_manifest_of(task, arm):
                    raise UsageError(f"arm {arm.name!r} is to be pretrained, but no pretraining_manifest is given")

    def _check_folds(self) -> None:
        """A study tests every fold in turn, and leaves out by itself what its encoders must not see."""
        own = [("pretraining", self.pretraining), *((f"arm {arm.name!r}", arm.pretraining) for arm in self.arms)]
        for where, pretraining in own:
            if pretraining.leave_out_fold is not None:
                raise UsageError(
                    f"{where}: leave_out_fold is {pretraining.leave_out_fold}; a study leaves out each tested fold "
                    f"itself, where the task's pretraining_scope is {PER_FOLD!r}: use that"
                )
        if self.finetune.test_fold is not None:
            raise UsageError(f"finetune.test_fold is {self.finetune.test_fold}; a study tests every fold, leave it out")

    def pretraining_manifest_of(self, task: TaskConfig, arm: ArmConfig) -> str:
        """What an arm is pretrained on for a task; empty if nothing is given."""
        return arm.pretraining_manifest or task.pretraining_manifest or self.pretraining_manifest

    def architectures_of(self, arm: ArmConfig) -> tuple[str, ...]:
        """The architectures an arm is computed for."""
        return arm.architectures or self.architectures

    @property
    def references_or_first(self) -> tuple[str, ...]:
        """Names of the arms that every other is compared with."""
        return self.references or (self.arms[0].name,)


def _check_name(what: str, name: str) -> None:
    if not _NAME.fullmatch(name) and not name.startswith(CONTROL):
        raise UsageError(f"{what} name {name!r}: use letters, digits, spaces and . _ + -")


def _check_architectures(arm: ArmConfig, names: Iterable[str]) -> None:
    known = INITIALISATIONS[arm.initialisation].architectures if arm.initialisation != PRETRAINED else ()
    for name in names:
        if name not in ARCHITECTURES:
            raise UsageError(unknown_architecture(name))
        if known and name not in known:
            raise UsageError(
                f"arm {arm.name!r}: there are no {arm.initialisation} weights of {name}; give the arm architectures "
                f"among {', '.join(known)}"
            )


def _check_among(what: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise UsageError(f"{what} {name!r} is unknown; choose {', '.join(known)}")


def _check_once(what: str, values: Iterable[Any]) -> None:
    found = list(values)
    if not found:
        raise UsageError(f"{what} is empty; give at least one")
    if len(set(found)) < len(found):
        raise UsageError(f"{what} {found}: each must be there once")

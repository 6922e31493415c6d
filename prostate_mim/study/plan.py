"""Everything that is known before anything is computed: tasks, encoders with their proofs, and the jobs they make."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from prostate_mim.errors import ManifestError, ProstateMimError
from prostate_mim.study.arms import EncoderPlan, Planned, Planner, Weights, make_encoder, weights_of
from prostate_mim.study.cache import Places
from prostate_mim.study.cells import Cell, CellJob, EncoderAt, cell_config, cell_key, encoder_of
from prostate_mim.study.config import LESIONS, ArmConfig, StudyConfig, TaskConfig
from prostate_mim.study.features import FeatureJob
from prostate_mim.study.grid import cells_of, is_chosen
from prostate_mim.study.guard import check_task
from prostate_mim.study.tasks import OpenTask, open_task

Combination = tuple[str, str, str, int]
"""Task, arm, architecture, seed of the weights: the cells that share an encoder."""


@dataclass(frozen=True)
class EncoderJob:
    """Makes one encoder."""

    plan: EncoderPlan
    places: Places

    @property
    def key(self) -> str:
        """The encoder's."""
        return self.plan.key

    @property
    def title(self) -> str:
        """The arm's name and architecture."""
        return self.plan.title

    @property
    def has_bar(self) -> bool:
        """A pretraining has its own."""
        return self.plan.pretraining is not None

    def run(self) -> None:
        """Make it, or find it."""
        make_encoder(self.plan, self.places)


@dataclass(frozen=True)
class Place:
    """A cell with the task and the arm that it is of, and whether this call is to compute it."""

    cell: Cell
    task: TaskConfig
    arm: ArmConfig
    chosen: bool


@dataclass
class Plan:
    """What a call of ``run_study`` knows.

    Attributes:
        config, places: of the study.
        grid: every cell, in order.
        tasks: those that could be opened, by name.
        encoders: for each combination that could be planned.
        reasons: why a task or a combination could not.
        allowed: task name -> overlap within the task that it allows.
        weights: key of a finished encoder -> what is known of it.
    """

    config: StudyConfig
    places: Places
    grid: list[Place]
    tasks: dict[str, OpenTask] = field(default_factory=dict)
    encoders: dict[Combination, list[Planned]] = field(default_factory=dict)
    reasons: dict[Combination, str] = field(default_factory=dict)
    allowed: dict[str, tuple[str, ...]] = field(default_factory=dict)
    weights: dict[str, Weights] = field(default_factory=dict)

    def combination(self, place: Place) -> Combination:
        """What a cell shares its encoder with."""
        seeds = place.arm.pretraining_seeds
        seed = seeds[self.config.seeds.index(place.cell.seed) % len(seeds)]
        return place.task.name, place.arm.name, place.cell.architecture, seed

    def encoder_jobs(self) -> tuple[list[EncoderJob], list[EncoderJob]]:
        """Of the chosen cells that are not computed yet, each encoder once; then those that are made from others."""
        first: dict[str, EncoderJob] = {}
        then: dict[str, EncoderJob] = {}
        for place in self.grid:
            if place.chosen and not self.is_computed(place):
                for planned in self.encoders.get(self.combination(place), []):
                    plan = planned.plan
                    wave = then if plan.pretrained else first
                    wave[plan.key] = EncoderJob(plan, self.places)
                    first |= {before.key: EncoderJob(before, self.places) for before in plan.pretrained}
        return list(first.values()), list(then.values())

    def find_weights(self) -> None:
        """Look which encoders are finished. One that is made a second time may have other weights."""
        plans = {one.plan.key: one.plan for every in self.encoders.values() for one in every}
        known = {key: weights_of(plan, self.places) for key, plan in plans.items()}
        self.weights = {key: found for key, found in known.items() if found is not None}

    def is_computed(self, place: Place) -> bool:
        """Whether a cell's result is there, by the weights that are known."""
        job = self.cell_job(place)
        return job is not None and job.path.is_file()

    def finished(self, place: Place) -> tuple[EncoderAt, ...]:
        """The encoders of a cell; none if one of them is missing."""
        planned = self.encoders.get(self.combination(place), [])
        if any(one.plan.key not in self.weights for one in planned):
            return ()
        return tuple(
            EncoderAt(one.fold, one.plan.release(self.places), self.weights[one.plan.key].sha256) for one in planned
        )  # fmt: skip

    def feature_jobs(self) -> list[FeatureJob]:
        """Of the chosen cells that are not computed yet, each set of features once."""
        jobs: dict[str, FeatureJob] = {}
        for place in self.grid:
            job = self.cell_job(place)
            if place.chosen and job is not None and not job.path.is_file():
                jobs |= {made.key: made for made in self.features_of(place, job)}
        return list(jobs.values())

    def features_of(self, place: Place, job: CellJob) -> Iterator[FeatureJob]:
        """What a cell reads, made or not."""
        if place.task.kind != LESIONS:
            return
        opened = self.tasks[place.task.name]
        title = f"{place.task.name} | {place.arm.name} | {place.cell.architecture}"
        for fold in opened.tested:
            release = encoder_of(job.encoders, fold).release
            for key, own, mirrored in job.feature_keys(opened.table, fold):
                yield FeatureJob(
                    key, title, place.task, self.config.seed, own, mirrored, release, self.places, self.config.device
                )

    def cell_job(self, place: Place) -> CellJob | None:
        """What computes a cell, or has computed it; None while its encoders are not finished."""
        encoders = self.finished(place)
        if place.task.name not in self.tasks or not encoders:
            return None
        table = self.tasks[place.task.name].table
        finetune = cell_config(self.config.finetune, place.cell, place.task, self.config.device)
        proofs = [one.proof for one in self.encoders[self.combination(place)]]
        lines = [line for proof in proofs for line in (proof.how, *proof.findings)]
        return CellJob(
            cell_key(place.cell, place.task, table, encoders, finetune, self.config.seed), place.cell, place.task,
            self.config.seed, encoders, finetune, tuple(lines), self.places, self.config.device,
        )  # fmt: skip


def make_plan(config: StudyConfig, places: Places, only: dict[str, set[str]], *, skip_bad: bool) -> Plan:
    """Open tasks, plan encoders and prove that none of them has seen what it is judged on.

    Args:
        only: part of the grid that is to be computed.
        skip_bad: go on without tasks and arms that cannot be used; they are in ``reasons``.

    Raises:
        ManifestError, VolumeError, NotFoundError, UsageError: a chosen task or arm cannot be used.
    """
    grid = [Place(cell, task, arm, is_chosen(cell, only)) for cell, task, arm in cells_of(config)]
    plan, planner = Plan(config, places, grid), Planner(config, places)
    refused: dict[str, str] = {}
    for place in sorted(grid, key=lambda place: not place.chosen):  # a chosen cell's refusal is the one that is told
        key = plan.combination(place)
        if key in plan.encoders or key in plan.reasons:
            continue
        try:
            if place.task.name in refused:
                raise ManifestError(refused[place.task.name])
            if place.task.name not in plan.tasks:
                plan.tasks[place.task.name] = _opened(plan, place.task, refused)
            plan.encoders[key] = planner.encoders(plan.tasks[place.task.name], place.arm, key[2], key[3])
        except ProstateMimError as error:
            if place.chosen and not skip_bad:
                raise
            plan.reasons[key] = " ".join(str(error).split())
    return plan


def _opened(plan: Plan, task: TaskConfig, refused: dict[str, str]) -> OpenTask:
    try:
        opened = open_task(task, plan.config.seed, plan.places.store)
        if task.kind == LESIONS:
            plan.allowed[task.name] = check_task(opened)
    except ProstateMimError as error:
        refused[task.name] = str(error)
        raise
    return opened

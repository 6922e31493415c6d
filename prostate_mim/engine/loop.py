"""The one training loop: draw, finish, step, look, log, save. Pretraining and fine-tuning both run it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from prostate_mim.engine import distributed
from prostate_mim.engine.augment import Augmentation
from prostate_mim.engine.average import WeightAverage
from prostate_mim.engine.batch import Batch, Items, finish_batch, finish_crops
from prostate_mim.engine.checkpoint import Checkpoint, load_newest, sweep, write_checkpoint
from prostate_mim.engine.cpu_kernels import use_cpu_kernels
from prostate_mim.engine.data import DrawDataset
from prostate_mim.engine.early import BestSoFar, EarlyStop
from prostate_mim.engine.groups import parameter_groups
from prostate_mim.engine.identity import check_same_run, with_loop
from prostate_mim.engine.loader import DrawLoader, usable_workers
from prostate_mim.engine.memory_format import choose_memory_format
from prostate_mim.engine.resident import fits_on, resident_bytes
from prostate_mim.engine.settings import LoopConfig
from prostate_mim.engine.signals import StopRequest
from prostate_mim.engine.step import LossFunction, Stepper
from prostate_mim.engine.tracker import Tracker, progress_bar
from prostate_mim.engine.worker import Finish
from prostate_mim.errors import BackendError, ProstateMimError, UsageError

# (bare model, steps done) -> numbers by name
Observer = Callable[[nn.Module, int], Mapping[str, float]]


@dataclass(frozen=True)
class Task:
    """What is trained, as the loop sees it.

    Attributes:
        loss: of a micro-batch.
        compile: compiles the model in place; the whole of it if None.
        begin: called once on rank 0 with the steps already done, when nothing is left to refuse.
        begin_step: called once before each step (a teacher that follows).
        observe: called every ``health_every`` steps and before the first, with the bare model in no particular
            mode; what it returns on rank 0 is logged. It must change neither model nor generators.
        report: called on rank 0 when what was observed has been logged (``running``), and when the run ends early
            (``stopped``).
        score: observed numbers -> what ``keep_best`` compares; lower is better, None is no score.
        depths: parameter name -> resolution (0 = at the input), for layer-wise decay; the rest is the head.
        early: ends the run before its last step, and keeps the best weights.
        label: what the progress bar calls it.
    """

    loss: LossFunction
    compile: Callable[[nn.Module], None] | None = None
    begin: Callable[[int], None] | None = None
    begin_step: Callable[[nn.Module, int], None] | None = None
    observe: Observer | None = None
    report: Callable[[str], object] | None = None
    score: Callable[[Mapping[str, float]], float | None] | None = None
    depths: Mapping[str, int] = dataclasses.field(default_factory=dict)
    early: EarlyStop | None = None
    label: str = "training"


def train(
    model: nn.Module,
    dataset: DrawDataset,
    task: Task,
    config: LoopConfig,
    run: Path,
    *,
    identity: dict[str, Any],
    augmentation: Augmentation | None = None,
    resume: bool = False,
    allow_change: Collection[str] | None = (),
) -> dict[str, Tensor]:
    """Train ``model`` and return its final weights.

    Args:
        model: changed in place, and perhaps sharded; load the returned weights into a fresh one.
        dataset: draws; its seed and crops.
        task: loss and what goes with it.
        run: folder of checkpoints and metrics.
        identity: everything else that defines the run; a resumed run must match it.
        augmentation: of batches on the device.
        resume: go on from the newest checkpoint in ``run``; start anew where there is none.
        allow_change: dotted keys that may differ from the resumed run's; None: see ``check_same_run``.

    Returns:
        Whole weights by name on the CPU, on every rank; the moving average where the configuration asks for one, and
        the best ones where the task stops early.

    Raises:
        TrainingError: a number is not finite, or a loader process died; no weight has been changed by it.
        UsageError: resuming with another configuration, or a batch that ranks cannot share.
        ResourceError: out of memory with one crop at a time, or the disk is full.
        SystemExit: a signal asked to stop; a checkpoint has been written (code 143 after SIGTERM).
    """
    accelerator = distributed.make_accelerator(config.device)
    if config.batch % accelerator.num_processes:
        raise UsageError(
            f"batch {config.batch} cannot be shared by {accelerator.num_processes} processes; use a multiple"
        )
    identity = with_loop(identity, config)
    if accelerator.is_main_process:
        sweep(run)
    checkpoint = load_newest(run) if resume else None
    if checkpoint is not None:
        check_same_run(run, checkpoint.state["config"], identity, allow_change)
    training = _Training(accelerator, model, dataset, task, config, augmentation, checkpoint, identity)
    if task.begin is not None and accelerator.is_main_process:
        task.begin(training.first)
    with StopRequest(quiet=not accelerator.is_main_process) as stop, training.reported():
        training.go(run, stop)
    return training.weights()


class _Training:
    """A model with its optimiser and everything that a checkpoint holds."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        dataset: DrawDataset,
        task: Task,
        config: LoopConfig,
        augmentation: Augmentation | None,
        checkpoint: Checkpoint | None,
        identity: dict[str, Any],
    ) -> None:
        self.accelerator, self.dataset, self.task, self.config = accelerator, dataset, task, config
        self.augmentation, self.identity = augmentation, identity
        self.settled: dict[str, Any] = dict(checkpoint.state["settled"]) if checkpoint else {}
        self.first = checkpoint.step if checkpoint else 0
        self.score: float | None = None
        if accelerator.device.type == "cpu":
            use_cpu_kernels(model, config.precision)
        self._lay_out(model)
        if config.compile:
            task.compile(model) if task.compile is not None else model.compile()
        if config.ema and distributed.is_sharded():
            raise UsageError("a moving average of weights (ema) needs whole parameters; use DDP instead of FSDP")

        def optimizer(found: nn.Module) -> torch.optim.Optimizer:
            groups = parameter_groups(found, config.weight_decay, config.layer_decay, task.depths)
            return torch.optim.AdamW(groups, lr=config.learning_rate)

        self.model, self.optimizer = distributed.distribute(accelerator, model, optimizer)
        self.average = WeightAverage(self.bare, config.ema) if config.ema else None
        if checkpoint is not None:
            distributed.put_state(
                self.model, self._own_optimizer, checkpoint.part("model"), checkpoint.part("optimizer")
            )
            if self.average is not None:
                self.average.put(checkpoint.part("average"))
        self.best = BestSoFar.of(task.early, checkpoint)
        # As many micro-batches as the run has come to need, unless it is now told another number.
        told = checkpoint is None or checkpoint.state["config"]["loop"]["accumulate"] != config.accumulate
        pieces = config.accumulate if told else int(self.settled.get("pieces", config.accumulate))
        self.stepper = Stepper(accelerator, self.model, self.optimizer, task.loss, self._finish, config, pieces)

    @property
    def bare(self) -> nn.Module:
        """The model within whatever distributes it."""
        model: nn.Module = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        return model

    @property
    def _own_optimizer(self) -> torch.optim.Optimizer:
        own: torch.optim.Optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        return own

    def _finish(self, items: Items) -> Batch:
        return finish_batch(items, self.accelerator.device, self.dataset.spec, self.augmentation, self.config.seed)

    def _finish_in_workers(self) -> Finish:
        """On CPUs the loader's processes normalise and augment; an accelerator does that faster itself."""
        spec, augmentation, seed = self.dataset.spec, self.augmentation, self.config.seed
        return partial(finish_crops, device="cpu", spec=spec, augmentation=augmentation, seed=seed)

    def _lay_out(self, model: nn.Module) -> None:
        """Channels last or not: as it was chosen before, as the configuration says, or as measured."""
        # Parameters that are to be sharded must be contiguous.
        sharded = "contiguous" if distributed.is_sharded() else None
        asked = sharded or self.settled.get("memory_format", self.config.memory_format)

        def call(candidate: nn.Module) -> Tensor:
            items = next(iter(DrawLoader(self.dataset, first_step=0, last_step=1, batch=2)))
            return self.task.loss(candidate, self._finish(items), 0).loss

        chosen = choose_memory_format(model, call, self.accelerator, asked)
        self.settled["memory_format"] = chosen
        model.to(self.accelerator.device)
        model.to(memory_format=torch.channels_last_3d if chosen == "channels_last" else torch.contiguous_format)  # type: ignore[call-overload]

    def _loader(self, first: int, last: int) -> DrawLoader:
        accelerator, device = self.accelerator, self.accelerator.device
        resident = device if device.type == "cuda" and fits_on(device, resident_bytes(self.dataset)) else None
        return DrawLoader(
            self.dataset,
            first_step=first,
            last_step=last,
            batch=self.config.batch,
            rank=accelerator.process_index,
            ranks=accelerator.num_processes,
            workers=usable_workers(self.config.workers),
            timeout_seconds=self.config.loader_timeout,
            resident_on=resident,
            finish=self._finish_in_workers() if device.type == "cpu" else None,
        )

    def go(self, run: Path, stop: StopRequest) -> None:
        """From the first step that is missing to the last, or until a signal asks to stop."""
        if self.best is not None and self.best.over:
            return
        config, quiet = self.config, not self.accelerator.is_main_process
        columns = ("loss {task.fields[loss]}", "{task.fields[rate]} studies/s")
        self.model.train()
        with (
            Tracker(run, self.first, config.trackers, self.identity, quiet=quiet) as tracker,
            progress_bar(*columns, quiet=quiet) as bar,
        ):
            shown = bar.add_task(self.task.label, total=config.steps, completed=self.first, loss="-", rate="-")
            self._describe: Callable[[str], None] = lambda text: bar.update(shown, description=text, refresh=True)
            if self.first == 0:
                self._look(tracker, 0)
            loader, last = self._loader(self.first, config.steps), time.monotonic()
            for step, items in enumerate(loader, self.first):
                if self.task.begin_step is not None:
                    self.task.begin_step(self.model, step)
                values = self._step(items, step)
                now = time.monotonic()
                rate, last = len(items["draw"]) * self.accelerator.num_processes / (now - last), now
                values |= {"studies_per_second": round(rate, 2), "wait_seconds": round(loader.last_wait_seconds, 4)}
                tracker.log(step + 1, **values)
                bar.update(shown, advance=1, loss=f"{values['loss']:.3f}", rate=f"{rate:.1f}")
                if self._after(tracker, run, step + 1, stop):
                    break
                last += time.monotonic() - now  # looking and saving is not training

    @contextmanager
    def reported(self) -> Iterator[None]:
        """Whatever ends the run early, the report says that it has ended, and the error is what one hears of."""
        try:
            yield
        except BaseException:
            with suppress(OSError, ProstateMimError):
                self._report("stopped")
            raise

    def _step(self, items: Items, step: int) -> dict[str, float]:
        try:
            values = self.stepper.step(items, step)
        except RuntimeError as error:
            if self.config.compile and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                text = " ".join(str(error).split())[:200]
                raise BackendError(f"torch.compile failed here ({text}); run without --compile") from error
            raise
        if self.average is not None:
            self.average.follow(self.bare, step)
        return values

    def _after(self, tracker: Tracker, run: Path, done: int, stop: StopRequest) -> bool:
        """Between two steps: look, save, stop. Whether the run ends here because nothing gets better."""
        config, best = self.config, self.best
        if config.health_every and (done % config.health_every == 0 or done == config.steps):
            self._look(tracker, done)
        # Ranks get the signal at different moments; one that stopped alone would leave the others waiting.
        asked = distributed.anywhere(self.accelerator, bool(stop.signal))
        if best is not None and best.due(done, config.steps):
            tracker.log(done, held_out_loss=best.look(self._last_weights()))
        over = best is not None and best.over
        if asked or over or done % config.checkpoint_every == 0 or done == config.steps:
            self._save(run, done)
        if asked and done < config.steps and not over:
            stop.leave(done)
        return over

    def _look(self, tracker: Tracker, done: int) -> None:
        if not self.config.health_every:
            return
        self._describe("measuring what was learnt")
        values: Mapping[str, float] = {}
        with distributed.whole_parameters(self.model):  # every rank has a part in that, whoever looks
            if self.task.observe is not None:
                values = self.task.observe(self.bare, done)
        if values:
            tracker.log(done, **values)
        self.score = self.task.score(values) if self.task.score is not None else None
        self._report("running")
        self._describe(self.task.label)

    def _report(self, state: str) -> None:
        if self.task.report is not None and self.accelerator.is_main_process:
            self.task.report(state)

    def _save(self, run: Path, done: int) -> None:
        tensors = distributed.whole_state(self.model, self._own_optimizer)
        if self.average is not None:
            tensors |= {f"average.{name}": value for name, value in self.average.values.items()}
        settled = {**self.settled, "pieces": self.stepper.pieces}
        if self.best is not None:
            self.best.write_into(tensors, settled)
        state = {"config": self.identity, "settled": settled}
        if self.accelerator.is_main_process:
            checkpoint = Checkpoint(done, tensors, state, self.score)
            write_checkpoint(run, checkpoint, keep_last=self.config.keep_last, keep_best=self.config.keep_best)
        self.score = None
        self.accelerator.wait_for_everyone()

    def weights(self) -> dict[str, Tensor]:
        """Whole weights on the CPU: the best ones if the task stops early, else the last."""
        return self.best.weights if self.best is not None and self.best.weights else self._last_weights()

    def _last_weights(self) -> dict[str, Tensor]:
        """With the moving average in the place of the last ones where there is one."""
        weights = distributed.whole_weights(self.model)
        if self.average is not None:
            weights |= {name: value.detach().cpu().clone() for name, value in self.average.values.items()}
        return weights

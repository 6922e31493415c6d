"""The actor: holds the model, takes one shard at a time, writes its part and answers with a few numbers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prostate_mim.archive.attempts import Attempts, begin_loading, end_loading
from prostate_mim.archive.job import Job
from prostate_mim.archive.parts import Outcome, check_part, write_part
from prostate_mim.errors import IntegrityError, ProstateMimError, UsageError
from prostate_mim.files import sha256_of
from prostate_mim.manifest import Manifest, ManifestRow, read_manifest
from prostate_mim.spec import InputSpec
from prostate_mim.studies import Study, open_all

CPUS = 1  # per actor, and so the threads it may use
Compute = Callable[[Study], dict[str, Any]]


class ShardWorker:
    """A callable for ``ray.data.Dataset.map_batches``: a batch of one shard number -> a batch of one summary.

    Errors of ours come back as values: Ray would wrap an exception, and treat it as its own concern.

    Args:
        job: plain values; the model and the manifest are read here, once per actor.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._refusal: ProstateMimError | None = None
        try:
            _limit_threads()
            loading = Path(job.journal) / "loading.log"
            begin_loading(loading, job.attempts * job.workers)
            self._compute = load_compute(job)
            self._manifest = _same_manifest(job)
            end_loading(loading)
        except ProstateMimError as error:
            self._refusal = error

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """``{"shard": (1,) int}`` -> shard, rows, failed, and error and message (empty if all went well)."""
        shard = int(batch["shard"][0])
        try:
            if self._refusal is not None:
                raise self._refusal
            rows, failed = self._make(shard)
            error = message = ""
        except ProstateMimError as refusal:
            rows = failed = 0
            error, message = type(refusal).__name__, str(refusal)
        return {"shard": [shard], "rows": [rows], "failed": [failed], "error": [error], "message": [message]}

    def _make(self, shard: int) -> tuple[int, int]:
        job = self._job
        rows = job.rows_of(self._manifest, shard)
        if job.part(shard).exists():  # a killed predecessor had just finished it
            return len(rows), check_part(job, shard, rows)
        where = f"rows {rows[0].number} to {rows[-1].number}"
        attempts = Attempts(Path(job.journal) / f"part-{shard:05d}.log", job.attempts, where, os.getpid())
        outcomes = list(outcomes_of(self._manifest.path, rows, self._compute, attempts))
        attempts.write()
        write_part(job, shard, outcomes)
        return len(rows), sum(outcome.result is None for outcome in outcomes)


def outcomes_of(manifest: Path, rows: Sequence[ManifestRow], compute: Compute, attempts: Attempts) -> Iterator[Outcome]:
    """One outcome per row, whatever becomes of it.

    A volume shared by consecutive rows is read once, as in the one-process path.
    """
    studies: Iterator[Study] | None = None
    for place, row in enumerate(rows):
        if attempts.exhausted(row.number):
            reason = f"row {row.number}: killed its worker {attempts.killed_by(row.number)} times; is it too large?"
            yield Outcome(row, reason, None)
            studies = None
            continue
        attempts.begin(row.number)
        try:
            studies = studies or open_all(Manifest(manifest, tuple(rows[place:])))
            yield Outcome(row, "", compute(next(studies)))
        except Exception as error:
            studies = None
            yield Outcome(row, _reason(error, manifest, row), None)


def load_compute(job: Job) -> Compute:
    """The model of a job as a function of a study -> the task's own columns; the very calls of the one-process path.

    Raises:
        IntegrityError: what is found here is not what the driver found.
        NotFoundError, NetworkError, UsageError: the model cannot be loaded here.
    """
    from prostate_mim.classifier import LesionClassifier
    from prostate_mim.loading import load_encoder
    from prostate_mim.prediction import embed_study, load_guard, predict_study

    source = job.folder if Path(job.folder).is_dir() else job.model
    if job.task == "predict":
        classifier = LesionClassifier.from_pretrained(source)
        _same_model(job, classifier.revision, classifier.spec)

        guard = load_guard()

        def predict(study: Study) -> dict[str, Any]:
            made = predict_study(classifier, study, guard)
            return {"probability": made.probability, "device": made.device, "flags": list(made.flags)}

        return predict
    encoder = load_encoder(source)
    _same_model(job, encoder.revision, encoder.spec)
    return lambda study: {"embedding": embed_study(encoder, study)}


def _same_model(job: Job, revision: str, spec: InputSpec) -> None:
    if (revision, spec.fingerprint) != (job.revision, job.spec):
        raise IntegrityError(
            f"model {job.name}: a worker found revision {revision}, the driver {job.revision}; "
            "name a revision, or a folder that every node has"
        )


def _same_manifest(job: Job) -> Manifest:
    path = Path(job.manifest)
    if path.is_file() and sha256_of(path) != job.digest:
        raise UsageError(f"{path}: changed since the command began; finished shards are of the earlier content")
    return read_manifest(path, level=job.level)


def _reason(error: Exception, manifest: Path, row: ManifestRow) -> str:
    """Why a row failed, in one line. Texts of foreign exceptions may hold paths, so they are left out."""
    if isinstance(error, ProstateMimError):
        text = " ".join(str(error).split()).replace(str(manifest), "").strip()
        return text if text.startswith("row ") else f"row {row.number}: {text}"
    if isinstance(error, MemoryError):
        return f"row {row.number}: out of memory"
    return f"row {row.number}: unexpected {type(error).__name__}; embed this study alone to see where"


def _limit_threads() -> None:
    """As many threads as CPUs asked for: Ray sets OMP_NUM_THREADS only where the user's environment does not."""
    import torch
    from threadpoolctl import threadpool_limits

    threadpool_limits(CPUS)
    torch.set_num_threads(CPUS)

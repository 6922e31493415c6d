"""What one archive is: task, model, manifest and how it is cut into shards; plain values that travel to workers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prostate_mim.errors import UsageError
from prostate_mim.files import sha256_of
from prostate_mim.hub import open_release
from prostate_mim.manifest import Manifest, ManifestRow, level_of, read_manifest

FORMAT = 2  # 2: column flags of predictions
TASKS = ("embed", "predict")


@dataclass(frozen=True)
class Job:
    """One call of ``run_archive``. Paths are absolute: a worker's current folder is another.

    Attributes:
        task: ``embed`` or ``predict``.
        model: as asked for; ``folder`` is where the driver found it.
        name, revision, spec: of the release, checked again by every worker.
        manifest: the CSV; it is read again by every worker, so that no path of a patient passes through Ray.
        digest: SHA-256 of the CSV's bytes.
        rows: in the manifest.
        shard_rows: manifest rows per shard; a shard is one parquet part.
        out: folder of the parts.
        attempts: how often a row (or loading the model) may cost a worker its life.
        workers: actors asked for.
        journal: folder of the attempts of this call.
        level: what the rows are to the model, ``lesion`` or ``study``; it follows from the revision.
    """

    task: str
    model: str
    folder: str
    name: str
    revision: str
    spec: str
    manifest: str
    digest: str
    rows: int
    shard_rows: int
    out: str
    attempts: int
    workers: int
    journal: str
    level: str = "lesion"

    @property
    def shards(self) -> int:
        """How many parts there are: all of ``shard_rows`` rows but the last."""
        return -(-self.rows // self.shard_rows)

    def rows_of(self, manifest: Manifest, shard: int) -> tuple[ManifestRow, ...]:
        """The manifest rows of one shard, in order."""
        return manifest.rows[shard * self.shard_rows : (shard + 1) * self.shard_rows]

    def part(self, shard: int) -> Path:
        """Where a shard's part lies."""
        return Path(self.out) / f"part-{shard:05d}.parquet"

    def identity(self, shard: int) -> dict[str, str | int]:
        """What a part says of itself, and what it must say to be used again."""
        first = shard * self.shard_rows + 1
        return {
            "format": FORMAT,
            "task": self.task,
            "model": self.name,
            "revision": self.revision,
            "spec": self.spec,
            "manifest": self.digest,
            "rows": self.rows,
            "shard_rows": self.shard_rows,
            "shards": self.shards,
            "shard": shard,
            "first": first,
            "last": min(first + self.shard_rows - 1, self.rows),
        }


def make_job(
    task: str, model: str, manifest: Path, out: Path, *, workers: int, shard_rows: int, attempts: int, journal: str
) -> tuple[Job, Manifest]:
    """Check the arguments, the release and the whole manifest before any work begins.

    Raises:
        UsageError: an argument is out of range, or the release cannot do the task.
        ManifestError, NotFoundError, IntegrityError, NetworkError: as ``read_manifest`` and ``read_release``.
    """
    if task not in TASKS:
        raise UsageError(f"task {task!r} is unknown; choose {' or '.join(TASKS)}")
    for name, value in (("workers", workers), ("shard_rows", shard_rows), ("attempts", attempts)):
        if value < 1:
            raise UsageError(f"{name} is {value}; it must be 1 or more")
    release = open_release(model, kind="classifier" if task == "predict" else None)
    digest = sha256_of(manifest) if manifest.is_file() else ""
    level = level_of(release.details) if task == "predict" else "lesion"
    listed = read_manifest(manifest, level=level)
    if not manifest.is_file() or sha256_of(manifest) != digest:
        raise UsageError(f"{manifest}: is no plain file, or changed while it was read; call again with a finished file")
    job = Job(
        task=task,
        model=model,
        folder=str(release.folder.absolute()),
        name=release.name,
        revision=release.revision,
        spec=release.spec.fingerprint,
        # absolute() and not resolve(): relative paths in it start where the caller sees it, behind a link too.
        manifest=str(manifest.absolute()),
        digest=digest,
        rows=len(listed.rows),
        shard_rows=shard_rows,
        out=str(out.absolute()),
        attempts=attempts,
        workers=workers,
        journal=str(out.absolute() / journal),
        level=level,
    )
    return job, listed

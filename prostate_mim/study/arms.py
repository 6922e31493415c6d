"""Encoders of the arms: planned in one place with their proofs, made once each, kept as release folders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from prostate_mim.engine.runs import prepare_rows
from prostate_mim.errors import IntegrityError
from prostate_mim.files import make_folder, sha256_of, write_text
from prostate_mim.hub import open_release, read_release, resolve
from prostate_mim.hub.release import SUMS, WEIGHTS, verify_sums
from prostate_mim.initialisations import initialise
from prostate_mim.manifest import Manifest, read_manifest
from prostate_mim.pretraining import PretrainConfig, pretrain
from prostate_mim.pretraining.averaging import average_with_beginning, check_average
from prostate_mim.spec import InputSpec
from prostate_mim.store import PreparedManifest
from prostate_mim.study.cache import Places, identity_of, key_of
from prostate_mim.study.config import PER_FOLD, PRETRAINED, RELEASE, ArmConfig, StudyConfig
from prostate_mim.study.guard import ELSEWHERE, UNKNOWN, Proof, manifest_of_rows, prove_data, prove_release, rows_beside
from prostate_mim.study.tasks import ALL_FOLDS, OpenTask

_NAMED = 12  # digits of its key that name a pretraining


@dataclass(frozen=True)
class EncoderPlan:
    """One encoder, and how it is made. Plain values: a worker makes it.

    Attributes:
        key: of everything that decides its weights.
        title: for the progress bar and failures.
        initialisation, architecture, seed, source: see ``ArmConfig``.
        pretraining: configuration, where it is pretrained by this study.
        manifest: the CSV to pretrain on.
        rows: numbers of its rows that are used; all if empty.
        spec: of an encoder that is not pretrained by this study.
        average: of a mean of pretrained weights and those that they began with: the share of the former.
        pretrained: of such a mean: the encoders that it is made from, which must be made before.
    """

    key: str
    title: str
    initialisation: str
    architecture: str
    seed: int
    source: str
    pretraining: PretrainConfig | None
    manifest: str
    spec: InputSpec
    rows: tuple[int, ...] = ()
    average: float = 1.0
    pretrained: tuple[EncoderPlan, ...] = ()

    def release(self, places: Places) -> Path:
        """Where its release lies, or will lie."""
        if self.initialisation == RELEASE:
            return resolve(self.source)
        kind = "pretraining" if self.pretraining is not None else "encoders"
        return places.folder(kind, self.key) / "release"


@dataclass(frozen=True)
class Planned:
    """An encoder for some folds of a task, and the proof that it has not seen them.

    Attributes:
        fold: that it is for; ``ALL_FOLDS`` if one encoder serves them all.
        plan: how it is made.
        proof: what is known before it is made.
    """

    fold: int
    plan: EncoderPlan
    proof: Proof


class Planner:
    """Plans encoders; a pretraining manifest that several arms share is read once.

    Args:
        config: of the study.
        places: its folders.
    """

    def __init__(self, config: StudyConfig, places: Places) -> None:
        self._config, self._places = config, places
        self._read: dict[tuple[str, InputSpec], tuple[Manifest, PreparedManifest]] = {}

    def encoders(self, task: OpenTask, arm: ArmConfig, architecture: str, seed: int) -> list[Planned]:
        """The encoders of an arm for a task: one, or one an outer fold.

        Args:
            seed: of the weights.

        Raises:
            ManifestError: a held-out patient would be in the pretraining data, and the task does not allow it.
            NotFoundError, VolumeError, UsageError: the pretraining data, or a release.
        """
        if arm.initialisation == PRETRAINED:
            return list(self._pretrained(task, arm, architecture, seed))
        plan = _elsewhere(arm, architecture, seed, task.config.spec)
        if arm.initialisation == RELEASE:
            seen = open_release(arm.source, kind="encoder").studies
            return [Planned(ALL_FOLDS, plan, prove_release(task, ALL_FOLDS, seen, silent=True))]
        return [Planned(ALL_FOLDS, plan, Proof(*ELSEWHERE.get(arm.initialisation, UNKNOWN)))]

    def _pretrained(self, task: OpenTask, arm: ArmConfig, architecture: str, seed: int) -> Iterator[Planned]:
        configs = arm.pretrain_configs(architecture, seed)
        source = self._config.pretraining_manifest_of(task.config, arm)
        listed, prepared = self._data(source, configs[0])
        per_fold = task.config.pretraining_scope == PER_FOLD
        for fold in task.tested if per_fold else [ALL_FOLDS]:
            kept = [row.number for row in listed.rows]
            if per_fold:
                kept = rows_beside(task, fold, listed, prepared)
            proof = prove_data(task, fold, listed, prepared, set(kept))
            data = {"contents": prepared.contents, "rows": _digest(kept)}
            title = f"{arm.name} {architecture}" + (f" fold {fold}" if per_fold else "")
            used = tuple(kept) if len(kept) < len(listed.rows) else ()
            plans = []
            for config in configs:
                key = key_of("pretraining", {"config": identity_of(config), "data": data})
                # Not the arm's name: another arm, or this one renamed, may go on with what was interrupted.
                own = replace(config, name=f"{architecture}.{key[:_NAMED]}")
                plans.append(EncoderPlan(key, title, PRETRAINED, architecture, seed, "", own, source, own.spec, used))
            yield Planned(fold, plans[0] if arm.average == 1.0 else _averaged(plans, configs[0], arm.average), proof)

    def _data(self, source: str, config: PretrainConfig) -> tuple[Manifest, PreparedManifest]:
        region = config.spec.with_size(config.region_zyx)
        if (source, region) not in self._read:
            listed = read_manifest(source)
            self._read[source, region] = listed, prepare_rows(listed, region, store=self._places.store)
        return self._read[source, region]


def _averaged(plans: list[EncoderPlan], config: PretrainConfig, share: float) -> EncoderPlan:
    check_average(config, share)
    key = key_of("average", {"of": [plan.key for plan in plans], "share": share})
    return replace(plans[0], key=key, pretraining=None, average=share, pretrained=tuple(plans))


def _elsewhere(arm: ArmConfig, architecture: str, seed: int, spec: InputSpec) -> EncoderPlan:
    values: dict[str, Any] = {"initialisation": arm.initialisation, "architecture": architecture}
    if arm.initialisation == "random":
        values["seed"] = seed
    elif arm.initialisation == RELEASE:
        values["weights"] = open_release(arm.source).sums[WEIGHTS]
    elif arm.source:
        values["source"] = sha256_of(arm.source)
    values["spec"] = spec.to_dict()
    title = f"{arm.name} {architecture}"
    return EncoderPlan(
        key_of("encoder", values), title, arm.initialisation, architecture, seed, arm.source, None, "", spec
    )  # fmt: skip


def make_encoder(plan: EncoderPlan, places: Places) -> Path:
    """Make a planned encoder, go on with an interrupted pretraining, or find the finished one.

    Returns:
        Its release folder.

    Raises:
        ProstateMimError: whatever keeps it from being made.
    """
    release = plan.release(places)
    if (release / SUMS).is_file():
        return release
    if plan.pretrained and (config := plan.pretrained[0].pretraining) is not None:
        before = [each.release(places) for each in plan.pretrained]
        return average_with_beginning(before, release, config, plan.average)
    if plan.pretraining is not None:
        with _manifest_of(plan, places) as manifest:
            return pretrain(manifest, release.parent, plan.pretraining, resume=True, store=places.store)
    made = initialise(
        plan.initialisation, plan.architecture, seed=plan.seed, source=plan.source or None, spec=plan.spec
    )  # fmt: skip
    make_folder(release.parent)
    return made.save_pretrained(release, name=f"{plan.architecture}.{plan.initialisation}")


@contextmanager
def _manifest_of(plan: EncoderPlan, places: Places) -> Iterator[Path]:
    """The CSV of the rows to pretrain on. One of some rows holds names of patients, so it does not stay."""
    if not plan.rows:
        yield Path(plan.manifest)
        return
    path = places.folder("pretraining", f"{plan.key}.csv")
    write_text(path, manifest_of_rows(Path(plan.manifest), plan.rows))
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Weights:
    """What is known of a finished encoder. A note of it stays when its folder is deleted to make room.

    Attributes:
        sha256: of its weights.
        details: of its initialisation, plain values.
    """

    sha256: str
    details: Any


def weights_of(plan: EncoderPlan, places: Places) -> Weights | None:
    """What is known of an encoder, from its release or the note of one that was there; None where neither is.

    Raises:
        IntegrityError: its release, or the note, is damaged.
    """
    release, note = plan.release(places), places.weights(plan.key)
    if (release / SUMS).is_file():
        found = Weights(verify_sums(release)[WEIGHTS], read_release(release).details.get("initialisation"))
        text = json.dumps(asdict(found))
        if not note.is_file() or note.read_text() != text:
            write_text(note, text)
        return found
    try:
        return Weights(**json.loads(note.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise IntegrityError(f"{note}: not a note of an encoder's weights; delete it: they are made again") from error


def _digest(rows: list[int]) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

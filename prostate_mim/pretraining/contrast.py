"""What ``pretrain`` needs for the contrastive objective: model, draws, loss, and what is looked at."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from prostate_mim.contrastive import ContrastiveModel, ContrastiveTask, FixedViews, PairDataset
from prostate_mim.engine.distributed import synchronise_norms
from prostate_mim.engine.launched import launched_ranks
from prostate_mim.engine.runs import region_of
from prostate_mim.engine.seeding import derive_seed
from prostate_mim.errors import UsageError
from prostate_mim.manifest import Manifest
from prostate_mim.pretraining.beginning import make_encoder
from prostate_mim.pretraining.config import PretrainConfig
from prostate_mim.store import PreparedRow


def make_contrastive(config: PretrainConfig) -> ContrastiveModel:
    """The untrained model of a configuration: the same weights for the same seed, the encoder's those of ``mim``."""
    torch.manual_seed(derive_seed(config.loop.seed, "weights"))
    encoder = make_encoder(config)
    return synchronise_norms(ContrastiveModel(encoder, config.contrastive, config.spec.spacing_mm_zyx))


def check_contrastive(config: PretrainConfig, manifest: Manifest) -> None:
    """Refuse what could not be told apart, or not be shared.

    Raises:
        UsageError: fewer than two patients, or a batch that processes cannot share by pairs.
    """
    ranks = launched_ranks()
    if config.loop.batch % (2 * ranks):
        raise UsageError(
            f"loop.batch is {config.loop.batch}; {ranks} processes share it by pairs of views, so use a multiple of "
            f"{2 * ranks}"
        )
    if len({row.patient_id for row in manifest.rows}) < 2:
        raise UsageError("objective simclr tells patients apart, and the manifest has one; add others")


def pairs_of(rows: Sequence[PreparedRow], config: PretrainConfig) -> PairDataset:
    """The draws, in pairs."""
    regions = [region_of(one) for one in rows]
    return PairDataset(regions, config.spec, config.jitter_zyx, config.loop.seed, config.contrastive.shift_mm)


def contrastive_task(rows: Sequence[PreparedRow], config: PretrainConfig) -> ContrastiveTask:
    """The loss; two lesions of a patient are not each other's counter-examples."""
    owners = dict(zip((one.row.number for one in rows), patients_of(rows), strict=True))
    return ContrastiveTask(config.contrastive.temperature, config.loop.batch // launched_ranks(), owners)


def fixed_views(rows: Sequence[PreparedRow], config: PretrainConfig) -> FixedViews:
    """What the run is watched by: half as many pairs as there are windows for the rank."""
    health = config.health
    return FixedViews(
        [region_of(one) for one in rows], patients_of(rows), config.spec, config.contrastive, config.jitter_zyx,
        pairs=max(2, len(rows) * health.windows // 2), batch=health.batch, seed=config.loop.seed,
    )  # fmt: skip


def patients_of(rows: Sequence[PreparedRow]) -> list[int]:
    """Patients as numbers, in order of appearance: their names stay in the manifest."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(one.row.patient_id, len(numbers)) for one in rows]

"""Where a pretraining begins: at random, or from weights that exist (ImageNet, MedicalNet, another release)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from prostate_mim.encoder import PreMIM
from prostate_mim.errors import UsageError
from prostate_mim.hub.studies import Studies, study_key
from prostate_mim.initialisations import initialise
from prostate_mim.leaks import StudyHashes
from prostate_mim.nets import Encoder, build_encoder
from prostate_mim.pretraining.config import RANDOM, PretrainConfig


def make_encoder(config: PretrainConfig) -> Encoder:
    """The encoder to train. Random weights are drawn from torch's global generator, which the caller has seeded.

    They are drawn in any case, so that what is made after the encoder is the same for every beginning.

    Raises:
        NotFoundError, UsageError, IntegrityError: as ``initialisations.initialise``.
    """
    if config.begin == RANDOM and config.begin_source:
        raise UsageError("begin_source is given, but random weights need none; choose another begin, or leave it out")
    encoder = build_encoder(config.architecture)
    if config.begin != RANDOM:
        encoder.load_state_dict(beginning_of(config).encoder.state_dict(), strict=True)
    return encoder


def studies_seen(config: PretrainConfig, hashes: Collection[str], weights: Mapping[str, Tensor]) -> Studies:
    """The studies of this run, and those that the weights had seen before it.

    Args:
        hashes: voxel hashes of this run's studies.
        weights: of the trained encoder; their key is used where there is none yet.

    Returns:
        Nothing known, if it is not known what the weights had seen: a list with gaps would be taken for complete.
    """
    if config.begin == RANDOM:
        return Studies(pretraining=StudyHashes.make(hashes, study_key(weights)))
    before = beginning_of(config).studies
    if before.pretraining is None:
        return Studies()
    return Studies(before.pretraining.extended(hashes), before.fine_tuning)


def beginning_of(config: PretrainConfig) -> PreMIM:
    """The weights that exist already, for a pretraining that does not begin at random ones.

    Raises:
        NotFoundError, UsageError, IntegrityError: as ``initialisations.initialise``.
    """
    return initialise(config.begin, config.architecture, source=config.begin_source or None, spec=config.spec)

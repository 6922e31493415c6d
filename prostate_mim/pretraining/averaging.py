"""average_with_beginning: finished pretrainings -> the mean of their weights and those that they began with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from prostate_mim.encoder import PreMIM
from prostate_mim.errors import UsageError
from prostate_mim.files import make_folder
from prostate_mim.pretraining.beginning import beginning_of
from prostate_mim.pretraining.config import RANDOM, PretrainConfig


def average_with_beginning(
    releases: Sequence[str | Path], out: str | Path, config: PretrainConfig, share: float
) -> Path:
    """Write the release of ``(1 - share) * before + share * after``, tensor by tensor, running moments included.

    A short pretraining stays near to the weights that it begins with, and on the line between the two lie weights that
    keep what the first knew (Wortsman et al. 2022, Robust fine-tuning of zero-shot models, CVPR, equation 1). ``after``
    is the mean of all pretrainings (Wortsman et al. 2022, Model soups, ICML, section 2).

    Args:
        releases: of the finished pretrainings, all of the same studies; the new release says what the first has seen.
        out: the new release folder; must not exist, or be empty.
        config: of one of them; it must have begun at weights that exist, and the others at the same.
        share: of the pretrained weights together, above 0 and below 1.

    Returns:
        ``out``.

    Raises:
        UsageError: the share is not between 0 and 1, the pretraining began at random weights, or ``out`` cannot be
            written.
        NotFoundError, IntegrityError: either set of weights.
    """
    check_average(config, share)
    after, *others = (PreMIM.from_pretrained(release) for release in releases)
    states = [other.encoder.state_dict() for other in others]
    before = beginning_of(config).encoder.state_dict()
    with torch.no_grad():
        for name, value in after.encoder.state_dict().items():
            if value.is_floating_point():
                for number, state in enumerate(states, start=2):
                    value.lerp_(state[name], 1 / number)
                value.lerp_(before[name].to(value.dtype), 1 - share)
    said = {"begin": config.begin, "share": share, "pretrainings": len(releases)}
    after.details = {**after.details, "averaged_with_beginning": said}
    make_folder(Path(out).parent)
    return after.save_pretrained(out, name=f"{after.name}-averaged")


def check_average(config: PretrainConfig, share: float) -> None:
    """Refuse an average that means nothing.

    Raises:
        UsageError: the share is not between 0 and 1, or the pretraining begins at random weights.
    """
    if not 0 < share < 1:
        raise UsageError(f"average is {share}; it is the share of the pretrained weights, above 0 and below 1")
    if config.begin == RANDOM:
        raise UsageError("average is a mean with the weights that pretraining began with; random ones know nothing")

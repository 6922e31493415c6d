"""When a network has collapsed: it gives the same for every study, and no loss curve says so."""

from __future__ import annotations

from collections.abc import Mapping

from prostate_mim.health.config import HealthConfig

_ADVICE = "lower the learning rate, lengthen the warm-up, or go back to an earlier checkpoint"


def collapse_warnings(values: Mapping[str, float], config: HealthConfig) -> list[str]:
    """One line for every sign of collapse.

    Args:
        values: what ``HealthMonitor.observe`` returned; what is missing in it is not judged.
        config: the thresholds.
    """
    return [text for text in (_rank(values, config), _variance(values, config), _output(values, config)) if text]


def _rank(values: Mapping[str, float], config: HealthConfig) -> str:
    rank = values.get("health/rank")
    if rank is not None and rank < config.least_rank:
        return f"COLLAPSE: embeddings have effective rank {rank:.2f}: all studies look alike to the encoder; {_ADVICE}"
    centred, first = values.get("health/rank_centred"), values.get("health/rank_centred_first", 0.0)
    if centred is not None and centred < config.least_rank_share * first:
        return (
            f"COLLAPSE: studies differ in {centred:.1f} directions of the embedding, at first in {first:.1f}: below "
            f"{config.least_rank_share:.0%} of it; {_ADVICE}"
        )
    return ""


def _variance(values: Mapping[str, float], config: HealthConfig) -> str:
    variance, first = values.get("health/variance"), values.get("health/variance_first", 0.0)
    if variance is None or variance >= max(config.least_variance, config.least_variance_share * first):
        return ""
    return (
        f"COLLAPSE: embeddings hardly vary between studies (variance {variance:.1e} per dimension, at first "
        f"{first:.1e}); {_ADVICE}"
    )


def _output(values: Mapping[str, float], config: HealthConfig) -> str:
    spread = values.get("health/output_spread")
    if spread is None or spread >= config.least_output_spread:
        return ""
    return (
        f"COLLAPSE: the decoder predicts the same everywhere (its output varies {spread:.2%} as much as its target); "
        f"{_ADVICE}"
    )

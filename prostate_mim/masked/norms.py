"""Normalisation with the moments of visible positions only: two passes, so that bfloat16 and large means are safe.

Samples with nothing visible contribute nothing and come out empty; a single visible position has variance 0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from prostate_mim.masked.context import Level
from prostate_mim.masked.dense_norm import normalise, over_batch, over_groups
from prostate_mim.masked.features import DenseFeatures, MaskedFeatures, RowFeatures
from prostate_mim.masked.over_ranks import AnyBatchNorm, ranks_of, sum_over_ranks


def group_norm(module: nn.GroupNorm, features: MaskedFeatures) -> MaskedFeatures:
    """Moments per sample and group of channels, over that sample's visible positions (Wu & He 2018, eq. 2)."""
    features.refuse_padding("group_norm")
    return _per_sample(features, module.num_groups, module.weight, module.bias, module.eps)


def instance_norm(module: nn.InstanceNorm3d, features: MaskedFeatures) -> MaskedFeatures:
    """Moments per sample and channel. Running moments, where kept, are means over samples that have any positions."""
    features.refuse_padding("instance_norm")
    if module.running_mean is None:
        return _per_sample(features, features.channels, module.weight, module.bias, module.eps)
    if not module.training:
        return _affine_of(features, module.running_mean, module.running_var, module)
    with torch.no_grad():
        mean, variance, count = sample_moments(features)
        known = count > 0
        unbiased = variance * (count / (count - 1).clamp(min=1))
        samples = known.sum().clamp(min=1)
        _move(module, (mean * known).sum(0) / samples, (unbiased * known).sum(0) / samples, known.any())
    return _per_sample(features, features.channels, module.weight, module.bias, module.eps)


def batch_norm(module: AnyBatchNorm, features: MaskedFeatures) -> MaskedFeatures:
    """Moments per channel over the visible positions of the batch; of all ranks where the module is synchronised.

    Running moments follow, the variance with n / (n - 1) as in Ioffe & Szegedy 2015, section 3.1.
    """
    features.refuse_padding("batch_norm")
    if not module.training and module.running_mean is not None:
        return _affine_of(features, module.running_mean, module.running_var, module)
    group = ranks_of(module)
    if isinstance(features, RowFeatures) and group is None and features.level.rows > 1:
        return features.with_values(_native_batch_norm(module, features.values))
    if isinstance(features, DenseFeatures) and group is None:
        normalised, means, variances = normalise(features, over_batch, module.weight, module.bias, module.eps)
        if module.training and module.running_mean is not None:
            _follow(module, means[0], variances[0], features.level.count_of_sample(means).sum())
        return normalised
    mean, variance, count = _batch_moments(features, group)
    if module.training and module.running_mean is not None:
        _follow(module, mean.detach(), variance.detach(), count)
    return _affine_of(features, mean, variance, module)


# ------------------------------------------------------------------------------------------------ moments


def sample_moments(features: MaskedFeatures) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance (N, C), and count (N, 1), over visible positions; zeros where there are none."""
    values = _at_least_float32(features.values)
    count = features.level.count_of_sample(values)
    if isinstance(features, DenseFeatures):
        visible = features.visible
        mean = torch.where(visible, values, 0.0).sum((2, 3, 4)) / count.clamp(min=1)
        centred = torch.where(visible, values - mean[:, :, None, None, None], 0.0)
        return mean, centred.square().sum((2, 3, 4)) / count.clamp(min=1), count
    mean = sample_sums(values, features.level) / count.clamp(min=1)
    centred = values - mean.index_select(0, features.level.sample_of)
    return mean, sample_sums(centred.square(), features.level) / count.clamp(min=1), count


def sample_sums(rows: Tensor, level: Level) -> Tensor:
    """(rows, C) -> (N, C), the sum of each sample's rows."""
    if level.uniform:
        return rows.view(len(level.counts), -1, rows.shape[1]).sum(1)
    return torch.stack([part.sum(0) for part in torch.split(rows, list(level.counts))])


def _batch_moments(features: MaskedFeatures, group: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance (C,), and count (), over the batch and, with a group, over its ranks."""
    values = _at_least_float32(features.values)
    count = sum_over_ranks(features.level.count_of_sample(values).sum(), group)
    total = sum_over_ranks(_total(features, values), group)
    mean = total / count.clamp(min=1)
    centred = values - (mean[:, None, None, None] if isinstance(features, DenseFeatures) else mean)
    variance = sum_over_ranks(_total(features, centred.square()), group) / count.clamp(min=1)
    return mean, variance, count


def _total(features: MaskedFeatures, values: Tensor) -> Tensor:
    """(C,) sum over visible positions of values laid out as the features'."""
    if isinstance(features, DenseFeatures):
        return torch.where(features.visible, values, 0.0).sum((0, 2, 3, 4))
    return values.sum(0)


# ------------------------------------------------------------------------------------------------ normalisation


def _per_sample(
    features: MaskedFeatures, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> MaskedFeatures:
    if isinstance(features, DenseFeatures):
        return normalise(features, over_groups(groups), weight, bias, eps)[0]
    counts, rows = features.level.counts, features.values
    if features.level.uniform:
        return features.with_values(_row_group_norm(rows, len(counts), groups, weight, bias, eps))
    parts = [
        _row_group_norm(part, 1, groups, weight, bias, eps) for part in torch.split(rows, list(counts)) if len(part)
    ]
    return features.with_values(torch.cat(parts) if parts else rows)


def _row_group_norm(
    rows: Tensor, samples: int, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Torch's own kernel on a channels-last view of (samples * n, C) rows."""
    image = rows.view(samples, -1, 1, rows.shape[1]).permute(0, 3, 1, 2)
    normalised = torch.group_norm(image, groups, weight, bias, eps)
    return normalised.permute(0, 2, 3, 1).reshape(rows.shape)


def _native_batch_norm(module: AnyBatchNorm, rows: Tensor) -> Tensor:
    """Torch's own kernel, which moves the running moments as well."""
    followed = module.training and module.running_mean is not None
    factor = _factor(module) if followed else 0.0
    if followed and module.num_batches_tracked is not None:
        module.num_batches_tracked.add_(1)
    return torch.batch_norm(
        rows, module.weight, module.bias, module.running_mean, module.running_var, True, factor, module.eps, False
    )


def _affine_of(features: MaskedFeatures, mean: Tensor, variance: Any, module: Any) -> MaskedFeatures:
    """Normalise every sample with the same (C,) moments, and apply the module's affine."""
    scale = (variance + module.eps).rsqrt()
    if module.weight is not None:
        scale = scale * module.weight
    if isinstance(features, DenseFeatures):
        mean, scale = mean[:, None, None, None], scale[:, None, None, None]
    out = (_at_least_float32(features.values) - mean) * scale
    if module.bias is not None:
        out = out + (module.bias[:, None, None, None] if isinstance(features, DenseFeatures) else module.bias)
    return features.with_values(out.to(features.dtype))


def _factor(module: Any) -> float:
    """The weight of this batch in the running moments."""
    if module.momentum is None:
        return 1.0 / (float(module.num_batches_tracked) + 1)
    return float(module.momentum)


def _follow(module: Any, mean: Tensor, variance: Tensor, count: Tensor) -> None:
    """Move the running moments towards a batch's, its variance made unbiased."""
    _move(module, mean, variance * (count / (count - 1).clamp(min=1)), count > 0)


def _move(module: Any, mean: Tensor, variance: Tensor, seen: Tensor) -> None:
    """Move the running moments towards those of a batch, unless nothing was ``seen`` (() bool) in it."""
    factor = _factor(module) * seen.to(module.running_mean.dtype)
    module.running_mean.lerp_(mean.to(module.running_mean.dtype), factor)
    module.running_var.lerp_(variance.to(module.running_var.dtype), factor)
    if module.num_batches_tracked is not None:
        module.num_batches_tracked.add_(seen)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values

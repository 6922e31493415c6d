"""The functions a network's own code may call on masked features: one literal table. All others are refused."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from prostate_mim.errors import UsageError
from prostate_mim.masked.features import MaskedFeatures, unknown_function
from prostate_mim.masked.pooling import (
    adaptive_average_pool,
    adaptive_max_pool,
    average_pool,
    global_average,
    global_norm,
    max_pool,
)

Handler = Callable[..., Any]


def _of_single_values(function: Callable[..., Tensor]) -> Handler:
    def handler(features: MaskedFeatures, *args: Any, **kwargs: Any) -> MaskedFeatures:
        kwargs.pop("inplace", None)  # values may be shared with another branch
        return features.map(lambda values: function(values, *args, **kwargs))

    return handler


def _arithmetic(function: Callable[[Any, Any], Tensor]) -> Handler:
    def handler(left: Any, right: Any, *rest: Any, **kwargs: Any) -> MaskedFeatures:
        if rest or kwargs:
            raise unknown_function(f"{function.__name__} with extra arguments")
        if isinstance(left, MaskedFeatures):
            return left.combine(function, right)
        features: MaskedFeatures = right
        return features.combine(lambda ours, theirs: function(theirs, ours), left)

    return handler


def cat(features: Sequence[MaskedFeatures], dim: int = 0) -> MaskedFeatures:
    """Join along channels.

    Raises:
        UsageError: another axis, or features of different batches or resolutions.
    """
    first = features[0]
    for other in features:
        same = type(other) is type(first) and other.level is first.level
        if dim not in (1, -4) or not same or any(other.padding):
            raise UsageError("torch.cat joins masked features of one batch and resolution along channels (dim=1) only")
    return first.with_values(torch.cat([other.values for other in features], 1))


def mean(features: MaskedFeatures, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    """The mean over all three axes of space, of visible positions."""
    return _over_space("mean", global_average, features, dim, keepdim, dtype)


def vector_norm(
    features: MaskedFeatures, ord: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Tensor:
    """The Euclidean norm over all three axes of space, of visible positions."""
    if ord != 2:
        raise unknown_function(f"norm of order {ord}")
    return _over_space("norm", global_norm, features, dim, keepdim, dtype)


def _over_space(
    name: str,
    function: Callable[[MaskedFeatures], Tensor],
    features: MaskedFeatures,
    dim: Any,
    keepdim: bool,
    dtype: Any,
) -> Tensor:
    if not isinstance(dim, tuple | list) or sorted(axis % 5 for axis in dim) != [2, 3, 4]:
        raise unknown_function(f"{name} over axes {dim}")
    pooled = function(features if dtype is None else features.map(lambda values: values.to(dtype)))
    return pooled if keepdim else pooled.flatten(1)


def norm(
    features: MaskedFeatures,
    p: Any = "fro",
    dim: Any = None,
    keepdim: bool = False,
    out: None = None,
    dtype: Any = None,
) -> Tensor:
    """``torch.norm``, as ``vector_norm``."""
    return vector_norm(features, 2 if p == "fro" else p, dim, keepdim, dtype)


def identity(features: MaskedFeatures, *args: Any, **kwargs: Any) -> MaskedFeatures:
    """Nothing to do."""
    return features


_SINGLE_VALUES = (
    functional.relu, functional.relu6, functional.leaky_relu, functional.elu, functional.selu, functional.celu,
    functional.gelu, functional.silu, functional.mish, functional.hardswish, functional.hardsigmoid,
    functional.hardtanh, functional.softplus, functional.softsign, functional.sigmoid, functional.tanh,
    functional.logsigmoid, torch.relu, torch.sigmoid, torch.tanh, torch.square, torch.abs,
)  # fmt: skip
_ARITHMETIC: dict[Callable[..., Any], Callable[[Any, Any], Tensor]] = {
    torch.add: torch.add, Tensor.add: torch.add, Tensor.__add__: torch.add, Tensor.__radd__: torch.add,
    Tensor.__iadd__: torch.add, operator.add: torch.add, torch.mul: torch.mul, Tensor.mul: torch.mul,
    Tensor.__mul__: torch.mul, Tensor.__rmul__: torch.mul, Tensor.__imul__: torch.mul, torch.sub: torch.sub,
    Tensor.__sub__: torch.sub, torch.div: torch.div, Tensor.__truediv__: torch.div,
}  # fmt: skip
FUNCTIONS: dict[Callable[..., Any], Handler] = {
    **{function: _of_single_values(function) for function in _SINGLE_VALUES},
    **{function: _arithmetic(plain) for function, plain in _ARITHMETIC.items()},
    torch.cat: cat,
    torch.concat: cat,
    torch.mean: mean,
    Tensor.mean: mean,
    torch.norm: norm,
    torch.linalg.vector_norm: vector_norm,
    functional.avg_pool3d: average_pool,
    functional.max_pool3d: max_pool,
    functional.adaptive_avg_pool3d: adaptive_average_pool,
    functional.adaptive_max_pool3d: adaptive_max_pool,
    Tensor.contiguous: identity,
}


def call(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """What ``function`` means for masked features.

    Raises:
        UsageError: it has no masked form.
    """
    handler = FUNCTIONS.get(function)
    if handler is None:
        raise unknown_function(getattr(function, "__qualname__", None) or repr(function))
    return handler(*args, **kwargs)

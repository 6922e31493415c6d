"""Features that know what is hidden: the value a masked network computes with.

``DenseFeatures`` keeps every position and masks again before anything looks at neighbours; ``RowFeatures`` keeps a
matrix with one row per visible position. Both carry their context, and both behave alike in a network's own code:
``+``, ``*``, ``torch.cat(..., 1)``, activations. Anything else is refused by name, not computed on hidden positions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from prostate_mim.errors import UsageError
from prostate_mim.masked.context import Level, MaskContext

_NO_PADDING = (0, 0, 0, 0, 0, 0)


class MaskedFeatures(ABC):
    """(N, C, d, h, w) features of which only visible positions exist.

    Attributes:
        values: as the path stores them; see the subclasses.
        context: what is hidden in this batch.
        level: the resolution.
        padding: zeros asked for around the features, (x, x, y, y, z, z) as in ``functional.pad``; the next
            convolution or pooling takes them into its own padding.
    """

    def __init__(
        self, values: Tensor, context: MaskContext, level: Level, padding: tuple[int, ...] = _NO_PADDING
    ) -> None:
        self.values, self.context, self.level, self.padding = values, context, level, padding

    @abstractmethod
    def dense(self) -> Tensor:
        """(N, C, d, h, w), exact zeros at hidden positions."""

    @abstractmethod
    def with_values(self, values: Tensor, level: Level | None = None) -> MaskedFeatures:
        """The same path with other values, at this level or another."""

    @abstractmethod
    def spread(self, values: Tensor) -> Tensor:
        """A tensor that broadcasts against (N, C, d, h, w) -> one that broadcasts against ``values``."""

    @abstractmethod
    def select(self, dense: Tensor) -> Tensor:
        """(N, C, d, h, w) -> laid out as ``values``."""

    @property
    def visible(self) -> Tensor:
        """(N, 1, d, h, w) bool."""
        return self.level.visible

    @property
    def channels(self) -> int:
        """C."""
        return self.values.shape[1]

    # ------------------------------------------------------------------ what networks ask of a tensor

    @property
    def shape(self) -> torch.Size:
        """(N, C, d, h, w), before pending padding."""
        return torch.Size((self.context.samples, self.channels, *self.level.size_zyx))

    @property
    def ndim(self) -> int:
        """5."""
        return 5

    @property
    def dtype(self) -> torch.dtype:
        """Of the values."""
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        """Of the values."""
        return self.values.device

    def size(self, axis: int | None = None) -> Any:
        """As ``Tensor.size``."""
        return self.shape if axis is None else self.shape[axis]

    def dim(self) -> int:
        """5."""
        return 5

    def contiguous(self, **_: Any) -> MaskedFeatures:
        """Itself: layout is the path's affair."""
        return self

    def mean(self, dim: Any = None, keepdim: bool = False) -> Tensor:
        """The mean over all three axes of space, of visible positions."""
        from prostate_mim.masked.functions import mean

        return mean(self, dim, keepdim)

    def new_empty(self, *shape: Any) -> Tensor:
        """An ordinary tensor of the values' type and device."""
        return self.values.new_empty(*shape)

    def __add__(self, other: Any) -> MaskedFeatures:
        return self.combine(torch.add, other)

    __radd__ = __add__
    __iadd__ = __add__

    def __mul__(self, other: Any) -> MaskedFeatures:
        return self.combine(torch.mul, other)

    __rmul__ = __mul__
    __imul__ = __mul__

    def __sub__(self, other: Any) -> MaskedFeatures:
        return self.combine(torch.sub, other)

    def __truediv__(self, other: Any) -> MaskedFeatures:
        return self.combine(torch.div, other)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise unknown_function(name)

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        from prostate_mim.masked.functions import call

        return call(function, args, dict(kwargs or {}))

    # ------------------------------------------------------------------ what masked operators use

    def map(self, function: Callable[[Tensor], Tensor]) -> MaskedFeatures:
        """Apply a function of single values (an activation)."""
        self.refuse_padding("an activation")
        return self.with_values(function(self.values))

    def combine(self, function: Callable[[Any, Any], Tensor], other: Any) -> MaskedFeatures:
        """Apply an arithmetic function with other features, a number, or a tensor constant over positions."""
        self.refuse_padding(function.__name__)
        if isinstance(other, MaskedFeatures):
            if type(other) is not type(self) or other.level is not self.level:
                raise UsageError(
                    f"{function.__name__}: features of {tuple(self.shape)} and {tuple(other.shape)} do not belong "
                    f"to one batch and one resolution"
                )
            return self.with_values(function(self.values, other.values))
        if isinstance(other, Tensor):
            other = self.spread(other)
        return self.with_values(function(self.values, other))

    def refuse_padding(self, where: str) -> None:
        """Zeros around features mean something to convolutions only.

        Raises:
            UsageError: padding is pending.
        """
        if any(self.padding):
            raise UsageError(f"{where} follows a padding module; padding must lead straight into a convolution or pool")

    def padded(self, padding: Sequence[int]) -> MaskedFeatures:
        """The same features with pending zeros around them."""
        grown = self.with_values(self.values)
        grown.padding = tuple(a + b for a, b in zip(self.padding, padding, strict=True))
        return grown

    def constant_over_positions(self, values: Tensor) -> Tensor:
        """Check that a tensor is one value per sample and channel: (N or 1, C or 1, 1, 1, 1).

        Raises:
            UsageError: it varies over positions, so that it would bring values in from outside the context.
        """
        full = values.reshape((1,) * (5 - values.ndim) + values.shape) if values.ndim < 5 else values
        if full.ndim != 5 or full.shape[2:] != (1, 1, 1):
            raise UsageError(
                f"a tensor of {tuple(values.shape)} meets masked features of {tuple(self.shape)}; only values constant "
                f"over positions, (N, C, 1, 1, 1), may"
            )
        return full


class DenseFeatures(MaskedFeatures):
    """Features at every position: ``values`` (N, C, d, h, w), meaningless where hidden unless ``clean``."""

    def __init__(
        self,
        values: Tensor,
        context: MaskContext,
        level: Level,
        padding: tuple[int, ...] = _NO_PADDING,
        *,
        clean: bool = False,
    ) -> None:
        super().__init__(values, context, level, padding)
        self.clean = clean

    def dense(self) -> Tensor:
        """(N, C, d, h, w), zeros at hidden positions: the one multiplication per convolution, norm and activation."""
        if self.clean:
            return self.values
        return torch.where(self.visible, self.values, 0.0)

    def with_values(self, values: Tensor, level: Level | None = None, *, clean: bool = False) -> DenseFeatures:
        """The same batch with other values."""
        return DenseFeatures(values, self.context, level or self.level, clean=clean)

    def padded(self, padding: Sequence[int]) -> DenseFeatures:
        """The same features with pending zeros around them."""
        total = tuple(a + b for a, b in zip(self.padding, padding, strict=True))
        return DenseFeatures(self.values, self.context, self.level, total, clean=self.clean)

    def select(self, dense: Tensor) -> Tensor:
        """As it is."""
        return dense

    def combine(self, function: Callable[[Any, Any], Tensor], other: Any) -> MaskedFeatures:
        """As in general; sums of masked features stay masked."""
        result = super().combine(function, other)
        if isinstance(result, DenseFeatures) and isinstance(other, DenseFeatures):
            result.clean = self.clean and other.clean and function in (torch.add, torch.sub, torch.mul)
        return result

    def spread(self, values: Tensor) -> Tensor:
        """(N or 1, C or 1, 1, 1, 1), which broadcasts as it is."""
        return self.constant_over_positions(values) if values.ndim else values


class RowFeatures(MaskedFeatures):
    """Visible positions only: ``values`` (rows, C), in the order of ``Level``."""

    def dense(self) -> Tensor:
        """(N, C, d, h, w), zeros at hidden positions."""
        n, c, d, h, w = self.shape
        flat = self.values.new_zeros(n * d * h * w, c).index_copy(0, self.level.flat, self.values)
        return flat.view(n, d, h, w, c).permute(0, 4, 1, 2, 3)

    def with_values(self, values: Tensor, level: Level | None = None) -> RowFeatures:
        """The same batch with other values."""
        return RowFeatures(values, self.context, level or self.level)

    def select(self, dense: Tensor) -> Tensor:
        """The rows of a dense tensor."""
        return rows_of(dense, self.level)

    def spread(self, values: Tensor) -> Tensor:
        """(N or 1, C or 1, 1, 1, 1) -> (rows or 1, C or 1)."""
        if not values.ndim:
            return values
        flat = self.constant_over_positions(values).flatten(1)
        return flat if len(flat) == 1 else flat.index_select(0, self.level.sample_of)


def rows_of(dense: Tensor, level: Level) -> Tensor:
    """(N, C, d, h, w) -> (rows, C), visible positions only."""
    c = dense.shape[1]
    return dense.permute(0, 2, 3, 4, 1).reshape(-1, c).index_select(0, level.flat)


def hide(context: MaskContext, voxels: Tensor, path: str) -> MaskedFeatures:
    """Voxels (N, C, D, H, W) -> features without the hidden ones, whatever they hold.

    Raises:
        UsageError: unknown path, or voxels of another size than the context's.
    """
    if tuple(voxels.shape[2:]) != context.size_zyx or len(voxels) != context.samples:
        raise UsageError(
            f"voxels {tuple(voxels.shape)} do not fit a context of {context.samples} crops of {context.size_zyx}"
        )
    level = context.level((1, 1, 1), context.size_zyx)
    if path == "dense":
        return DenseFeatures(torch.where(level.visible, voxels, 0.0), context, level, clean=True)
    if path == "rows":
        return RowFeatures(rows_of(voxels, level), context, level)
    raise UsageError(f"path {path!r} is unknown; choose dense or rows")


def unknown_function(name: str) -> UsageError:
    """The refusal of whatever is not known to be exact on visible positions."""
    return UsageError(
        f"function {name} has no masked form, so it would see hidden positions; use a module that prostate_mim.masked "
        f"knows, or apply it after global pooling"
    )

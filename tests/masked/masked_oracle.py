"""The judge: masked operators written from their definition, slowly, in Python loops over visible positions.

A ``Field`` holds one row of channels per visible position, and a dictionary from position to row. Every operator
asks, position by position, which of its inputs are visible. Nothing here is shared with the package. Work in
float64: autograd then gives the gradients too.

Definition: voxel i of a level with cumulative stride s lies in block (i * s) // block, per axis.

* convolution, plain or transposed: hidden inputs are zero, outputs exist at visible positions only;
* max pooling: maximum of the visible inputs of the window; average pooling: their mean (with
  ``count_include_pad``, cells of the zero border count as visible zeros, as they do where nothing is hidden);
* batch, instance and group norm: moments over visible positions of the batch, of the sample and channel, of the sample
  and group; layer norm per position; global response norm: L2 over the visible positions of the sample;
* global pooling: over visible positions, an ordinary tensor, zero where a sample has none.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Place = tuple[int, int, int, int]  # sample, z, y, x
Triple = tuple[int, int, int]


class World:
    """Which blocks are hidden. ``hidden``: (N, gz, gy, gx) bool, True = hidden."""

    def __init__(self, hidden: Tensor, block_zyx: Triple, size_zyx: Triple) -> None:
        self.hidden = hidden.tolist()
        self.blocks = hidden
        self.block_zyx = block_zyx
        self.size_zyx = size_zyx
        self.answers: dict[Any, Any] = {}  # see _lookup

    @property
    def samples(self) -> int:
        """Batch size."""
        return len(self.hidden)

    def sees(self, place: Place, stride: Triple) -> bool:
        """Whether a position of the level with this cumulative stride is visible."""
        n, *position = place
        z, y, x = ((i * s) // b for i, s, b in zip(position, stride, self.block_zyx, strict=True))
        return not self.hidden[n][z][y][x]

    def places(self, shape: Triple, stride: Triple) -> list[Place]:
        """Visible positions of a level, in order."""
        if (shape, stride) not in self.answers:
            everywhere = itertools.product(range(self.samples), *(range(length) for length in shape))
            self.answers[shape, stride] = [place for place in everywhere if self.sees(place, stride)]
        return list(self.answers[shape, stride])


class Field:
    """Features at visible positions: ``rows`` (P, C), one per place. ``shift``: width of a zero border before them."""

    def __init__(
        self,
        world: World,
        shape: Triple,
        stride: Triple,
        places: list[Place],
        rows: Tensor,
        shift: Triple = (0, 0, 0),
    ) -> None:
        self.shift = shift
        self.world = world
        self.size_zyx = shape
        self.stride = stride
        self.places = places
        self.rows = rows
        self.row_of = {place: row for row, place in enumerate(places)}

    @classmethod
    def hide(cls, world: World, voxels: Tensor) -> Field:
        """(N, C, D, H, W) -> the rows of its visible voxels."""
        places = world.places(world.size_zyx, (1, 1, 1))
        rows = [voxels[n, :, z, y, x] for n, z, y, x in places]
        return cls(world, world.size_zyx, (1, 1, 1), places, _stack(rows, voxels.shape[1], voxels))

    def with_rows(self, rows: Tensor) -> Field:
        """The same positions, other values."""
        return Field(self.world, self.size_zyx, self.stride, self.places, rows)

    def of_sample(self, sample: int) -> list[int]:
        """Numbers of the rows of one sample."""
        return [row for row, place in enumerate(self.places) if place[0] == sample]

    def dense(self) -> Tensor:
        """(N, C, d, h, w), zeros at hidden positions."""
        canvas = self.rows.new_zeros(self.world.samples, *self.size_zyx, self.rows.shape[1])
        if self.places:
            where = tuple(torch.tensor(axis) for axis in zip(*self.places, strict=True))
            canvas = canvas.index_put(where, self.rows)
        return canvas.permute(0, 4, 1, 2, 3)

    @property
    def visible(self) -> Tensor:
        """(N, 1, d, h, w) bool."""
        return self.with_rows(torch.ones(len(self.places), 1)).dense() > 0

    # What networks ask of a tensor between their modules.
    @property
    def shape(self) -> torch.Size:
        """Shape of the dense tensor."""
        return torch.Size((self.world.samples, self.rows.shape[1], *self.size_zyx))

    def size(self, axis: int) -> int:
        """One length of the dense tensor."""
        return self.shape[axis]

    ndim = 5
    dtype = property(lambda self: self.rows.dtype)
    device = property(lambda self: self.rows.device)

    def values_of(self, other: Any) -> Any:
        """Another operand, at these positions: the rows of a Field, or a broadcast plain tensor looked up."""
        if isinstance(other, Field):
            assert other.places == self.places
            return other.rows
        if isinstance(other, Tensor) and other.ndim > 0:
            full = other.expand(self.world.samples, -1, *([-1] * 3)) if other.ndim == 5 else other
            full = full.expand(*self.shape)
            return _stack([full[n, :, z, y, x] for n, z, y, x in self.places], self.rows.shape[1], self.rows)
        return other

    def _combine(self, operation: Callable[..., Tensor], other: Any, swapped: bool = False) -> Field:
        pair = (self.rows, self.values_of(other))
        return self.with_rows(operation(*(reversed(pair) if swapped else pair)))

    def __add__(self, other: Any) -> Field:
        return self._combine(torch.add, other)

    def __sub__(self, other: Any) -> Field:
        return self._combine(torch.sub, other)

    def __mul__(self, other: Any) -> Field:
        return self._combine(torch.mul, other)

    def __truediv__(self, other: Any) -> Field:
        return self._combine(torch.div, other)

    __radd__, __rmul__ = __add__, __mul__

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.__name__.strip("_").removeprefix("i").removeprefix("r")
        if name in {"add", "mul", "sub", "div", "truediv"}:
            operation = {"truediv": torch.div}.get(name) or getattr(torch, name)
            first, second = args[:2]
            return (
                first._combine(operation, second)
                if isinstance(first, Field)
                else second._combine(operation, first, swapped=True)
            )
        return _FUNCTIONS[function](*args, **(kwargs or {}))


def _stack(rows: Sequence[Tensor], channels: int, like: Tensor) -> Tensor:
    return torch.stack(list(rows)) if rows else like.new_zeros(0, channels)


def _concatenate(fields: Sequence[Field], dim: int = 0) -> Field:
    assert dim == 1
    assert all(field.places == fields[0].places for field in fields)
    return fields[0].with_rows(torch.cat([field.rows for field in fields], 1))


def _response(field: Field, p: int, dim: tuple[int, ...], keepdim: bool, **_: Any) -> Tensor:
    assert p == 2 and keepdim and {d % 5 for d in dim} == {2, 3, 4}
    norms = [_length(field.rows[field.of_sample(n)]) for n in range(field.world.samples)]
    return torch.stack(norms)[:, :, None, None, None]


def _length(rows: Tensor) -> Tensor:
    """(P, C) -> (C,): L2 over positions; zero for none."""
    return torch.linalg.vector_norm(rows, dim=0) if len(rows) else rows.new_zeros(rows.shape[1])


def _on_rows(function: Callable[..., Tensor]) -> Callable[..., Field]:
    def apply(field: Field, *args: Any, inplace: bool = False, **kwargs: Any) -> Field:
        return field.with_rows(function(field.rows, *args, **kwargs))

    return apply


_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    torch.cat: _concatenate,
    torch.norm: _response,
    **{f: _on_rows(f) for f in (F.relu, F.gelu, F.silu, F.leaky_relu, torch.sigmoid, torch.relu, torch.tanh)},
}


# ------------------------------------------------------------------------------------------------ windows


def _triple(value: Any) -> Triple:
    one = value if isinstance(value, tuple | list) else (value,) * 3
    return (int(one[0]), int(one[1]), int(one[2]))


def _borders(module: Any) -> tuple[Triple, Triple]:
    """Zero border before and after each axis."""
    if module.padding == "same":
        totals = [d * (k - 1) for d, k in zip(_triple(module.dilation), _triple(module.kernel_size), strict=True)]
        return _triple([t // 2 for t in totals]), _triple([t - t // 2 for t in totals])
    border = (0, 0, 0) if module.padding == "valid" else _triple(module.padding)
    return border, border


def _coarser(field: Field, step: Triple) -> Triple:
    return _triple([s * k for s, k in zip(field.stride, step, strict=True)])


def _lookup(
    field: Field, places: list[Place], sources: Callable[[Triple], list[Triple | None]], kind: tuple[Any, ...]
) -> list[list[int]]:
    """For each output place and kernel tap, the row of the input it reads; -1: hidden, or outside.

    Networks ask the same question many times: ``kind`` and the level are the question, the world remembers answers.
    """
    question = (kind, field.size_zyx, field.stride, field.shift)
    if question not in field.world.answers:
        table = []
        for n, *position in places:
            taps = sources(_triple(position))
            table.append([-1 if tap is None else field.row_of.get((n, *tap), -1) for tap in taps])
        field.world.answers[question] = table
    return field.world.answers[question]


def _contract(field: Field, table: list[list[int]], weights: Tensor) -> Tensor:
    """Rows of the outputs. ``weights``: (groups, K, I, O) of one group each."""
    groups, taps, width, _ = weights.shape
    zero = field.rows.new_zeros(1, field.rows.shape[1])
    rows = torch.cat([field.rows, zero])  # -1 reads the zero row
    window = rows[torch.tensor(table, dtype=torch.long).reshape(-1, taps)]
    return torch.einsum("pkgi,gkio->pgo", window.unflatten(2, (groups, width)), weights).flatten(1)


def convolution(module: nn.Conv3d, field: Field) -> Field:
    """Submanifold convolution."""
    kernel, step, dilation = _triple(module.kernel_size), _triple(module.stride), _triple(module.dilation)
    before, after = _borders(module)
    shape = _triple(
        [
            (field.size_zyx[a] + before[a] + after[a] - dilation[a] * (kernel[a] - 1) - 1) // step[a] + 1
            for a in range(3)
        ]
    )
    taps = list(itertools.product(*(range(k) for k in kernel)))

    def sources(out: Triple) -> list[Triple | None]:
        return [_triple([out[a] * step[a] - before[a] + tap[a] * dilation[a] for a in range(3)]) for tap in taps]

    stride = _coarser(field, step)
    places = field.world.places(shape, stride)
    weights = module.weight.flatten(2).unflatten(0, (module.groups, -1)).permute(0, 3, 2, 1)
    rows = _contract(field, _lookup(field, places, sources, ("plain", kernel, step, dilation, before)), weights)
    return Field(field.world, shape, stride, places, rows if module.bias is None else rows + module.bias)


def transposed_convolution(module: nn.ConvTranspose3d, field: Field) -> Field:
    """Output o reads input i through tap k where o = i * stride - padding + k * dilation."""
    kernel, step, dilation = _triple(module.kernel_size), _triple(module.stride), _triple(module.dilation)
    border, extra = _triple(module.padding), _triple(module.output_padding)
    shape = _triple(
        [
            (field.size_zyx[a] - 1) * step[a] - 2 * border[a] + dilation[a] * (kernel[a] - 1) + extra[a] + 1
            for a in range(3)
        ]
    )
    taps = list(itertools.product(*(range(k) for k in kernel)))

    def source(out: Triple, tap: tuple[int, ...]) -> Triple | None:
        reach = [out[a] + border[a] - tap[a] * dilation[a] for a in range(3)]
        return (
            None
            if any(r % s for r, s in zip(reach, step, strict=True))
            else _triple([r // s for r, s in zip(reach, step, strict=True)])
        )

    stride = _triple([s // k for s, k in zip(field.stride, step, strict=True)])
    places = field.world.places(shape, stride)
    weights = module.weight.flatten(2).unflatten(0, (module.groups, -1)).permute(0, 3, 1, 2)
    kind = ("transposed", shape, kernel, step, dilation, border)
    table = _lookup(field, places, lambda out: [source(out, tap) for tap in taps], kind)
    rows = _contract(field, table, weights)
    return Field(field.world, shape, stride, places, rows if module.bias is None else rows + module.bias)


def _pooled_length(length: int, kernel: int, step: int, border: int, dilation: int, ceil: bool) -> int:
    exact = (length + 2 * border - dilation * (kernel - 1) - 1) / step
    count = (math.ceil(exact) if ceil else math.floor(exact)) + 1
    return count - 1 if ceil and (count - 1) * step >= length + border else count


def pooling(module: nn.MaxPool3d | nn.AvgPool3d, field: Field) -> Field:
    """Maximum or mean of the visible inputs of each window."""
    kernel, border = _triple(module.kernel_size), _triple(module.padding)
    step = _triple(module.kernel_size if module.stride is None else module.stride)
    dilation = _triple(getattr(module, "dilation", 1))
    shape = _triple(
        [
            _pooled_length(field.size_zyx[a], kernel[a], step[a], border[a], dilation[a], module.ceil_mode)
            for a in range(3)
        ]
    )
    stride = _coarser(field, step)
    places = field.world.places(shape, stride)
    rows = []
    for n, *out in places:
        seen, zeros = [], 0
        for tap in itertools.product(*(range(k) for k in kernel)):
            at = [out[a] * step[a] - border[a] + tap[a] * dilation[a] for a in range(3)]
            if (n, *at) in field.row_of:
                seen.append(field.row_of[(n, at[0], at[1], at[2])])
            if isinstance(module, nn.MaxPool3d):
                continue
            inside = all(0 <= at[a] < field.size_zyx[a] for a in range(3))
            bordered = all(-border[a] <= at[a] < field.size_zyx[a] + border[a] for a in range(3))
            zeros += int(bordered and not inside)
        window = field.rows[seen]
        if isinstance(module, nn.MaxPool3d):
            rows.append(window.max(0).values if seen else field.rows.new_zeros(field.rows.shape[1]))
        else:
            rows.append(window.sum(0) / max(len(seen) + zeros * bool(module.count_include_pad), 1))
    return Field(field.world, shape, stride, places, _stack(rows, field.rows.shape[1], field.rows))


def border(module: nn.ConstantPad3d, field: Field) -> Field:
    """A zero border: positions move, the convolution that follows reads them where they are now."""
    assert module.value == 0
    x0, x1, y0, y1, z0, z1 = module.padding
    places = [(n, z + z0, y + y0, x + x0) for n, z, y, x in field.places]
    d, h, w = field.size_zyx
    shape = (d + z0 + z1, h + y0 + y1, w + x0 + x1)
    return Field(field.world, shape, field.stride, places, field.rows, (z0, y0, x0))


def global_pool(module: nn.Module, field: Field) -> Tensor:
    """(N, C, 1, 1, 1): maximum or mean over the visible positions of each sample."""
    pooled = []
    for n in range(field.world.samples):
        rows = field.rows[field.of_sample(n)]
        if not len(rows):
            pooled.append(rows.new_zeros(rows.shape[1]))
        else:
            pooled.append(rows.mean(0) if isinstance(module, nn.AdaptiveAvgPool3d) else rows.max(0).values)
    return torch.stack(pooled)[:, :, None, None, None]


# -------------------------------------------------------------------------------------------------- norms


def _standardise(values: Tensor, epsilon: float) -> Tensor:
    """All of ``values`` by their own mean and biased variance."""
    mean = values.sum() / values.numel()
    variance = ((values - mean) ** 2).sum() / values.numel()
    return (values - mean) / torch.sqrt(variance + epsilon)


def _affine(module: Any, rows: Tensor) -> Tensor:
    return rows if module.weight is None else rows * module.weight + module.bias


def batch_norm(module: nn.BatchNorm3d, field: Field) -> Field:
    """Moments over all visible positions of the batch; running variance with n / (n - 1)."""
    rows, count = field.rows, len(field.rows)
    if count == 0:
        return field
    if module.training or module.running_mean is None:
        mean = rows.sum(0) / count
        variance = ((rows - mean) ** 2).sum(0) / count
    else:
        mean, variance = module.running_mean, module.running_var
    if module.training and module.track_running_stats:
        with torch.no_grad():
            module.num_batches_tracked += 1
            share = 1 / float(module.num_batches_tracked) if module.momentum is None else module.momentum
            module.running_mean += share * (mean - module.running_mean)
            module.running_var += share * (variance * count / max(count - 1, 1) - module.running_var)
    return field.with_rows(_affine(module, (rows - mean) / torch.sqrt(variance + module.eps)))


def group_norm(module: Any, field: Field) -> Field:
    """Group norm, and instance norm as the one whose groups are single channels."""
    channels = field.rows.shape[1]
    groups = channels if isinstance(module, nn.InstanceNorm3d) else module.num_groups
    width = channels // groups
    pieces: list[Tensor] = [field.rows] * 0
    order: list[int] = []
    for n in range(field.world.samples):
        mine = field.of_sample(n)
        if mine:
            rows = field.rows[mine]
            parts = [_standardise(rows[:, g * width : (g + 1) * width], module.eps) for g in range(groups)]
            pieces.append(torch.cat(parts, 1))
            order += mine
    if not pieces:
        return field
    back = torch.tensor(order).argsort()
    return field.with_rows(_affine(module, torch.cat(pieces)[back]))


def layer_norm(module: Any, field: Field) -> Field:
    """Over the channels of each position."""
    rows = [_standardise(row, module.eps) for row in field.rows]
    return field.with_rows(_affine(module, _stack(rows, field.rows.shape[1], field.rows)))


def response_norm(module: Any, field: Field) -> Field:
    """X + gamma * x * g / mean(g) + beta, g: L2 of the channel over the sample's visible positions (ConvNeXt V2)."""
    gain = torch.zeros_like(field.rows)
    for n in range(field.world.samples):
        mine = field.of_sample(n)
        if mine:
            length = _length(field.rows[mine])
            gain = gain.index_put((torch.tensor(mine),), length / (length.mean() + module.eps))
    weight, bias = (parameter.flatten() for parameter in (module.weight, module.bias))
    return field.with_rows(field.rows + weight * (field.rows * gain) + bias)


def dropout(module: nn.Module, field: Field) -> Field:
    """The noise that the module draws for the dense tensor, looked up at visible positions."""
    return field * module(torch.ones(field.shape, dtype=field.dtype))


# ------------------------------------------------------------------------------------------------ networks

_POINTWISE = (
    nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.ELU, nn.PReLU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Mish,
    nn.Hardswish, nn.ReLU6,
)  # fmt: skip
_BY_TYPE: list[tuple[Any, Callable[[Any, Field], Any]]] = [
    (nn.Identity, lambda module, field: field),
    (nn.Conv3d, convolution),
    (nn.ConvTranspose3d, transposed_convolution),
    ((nn.MaxPool3d, nn.AvgPool3d), pooling),
    ((nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d), global_pool),
    (nn.ConstantPad3d, border),
    ((nn.BatchNorm3d, nn.SyncBatchNorm), batch_norm),
    ((nn.InstanceNorm3d, nn.GroupNorm), group_norm),
    ((nn.Dropout, nn.Dropout3d), dropout),
]
_BY_NAME: dict[str, Callable[[Any, Field], Any]] = {
    "ChannelLayerNorm": layer_norm,
    "GlobalResponseNorm": response_norm,
    **dict.fromkeys(
        ("Swish", "MemoryEfficientSwish"), lambda module, field: field.with_rows(module(field.rows.clone()))
    ),
}


def operator(module: nn.Module) -> Callable[[Any, Field], Any] | None:
    """The oracle's operator for a leaf module; None: the module's own forward calls leaves."""
    if isinstance(module, _POINTWISE):
        return lambda module, field: field.with_rows(module(field.rows.clone()))
    if type(module).__name__ in _BY_NAME:
        return _BY_NAME[type(module).__name__]
    return next((apply for kinds, apply in _BY_TYPE if isinstance(module, kinds)), None)


def judge(network: nn.Module) -> nn.Module:
    """A deep copy of a network whose leaves are the operators above: it takes a Field."""
    copy = deepcopy(network)

    def attach(leaf: nn.Module, apply: Callable[[Any, Field], Any]) -> None:
        plain = leaf.forward
        leaf.forward = lambda given: apply(leaf, given) if isinstance(given, Field) else plain(given)  # type: ignore

    def visit(module: nn.Module) -> None:
        apply = operator(module)
        if apply is not None:
            attach(module, apply)
            return
        for child in module.children():
            visit(child)

    visit(copy)
    return copy

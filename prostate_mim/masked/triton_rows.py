"""Convolution on rows as an implicit matrix product, for CUDA: what outputs see is gathered inside the kernel.

The im2col matrix (units, window * channels) of ``rows`` is never written: each program reads the index table and the
rows it names, tile by tile (implicit GEMM; Chetlur et al. 2014, cuDNN, section 3). No atomics, so that a chosen kernel
repeats bit for bit.

Import this module only where it is used: it needs Triton, which CUDA builds of torch bring and CPU builds do not.
"""

from __future__ import annotations

from typing import Any

import torch
import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]
from torch import Tensor

# Below this many channels a tile spans several window places; above, it lies within one and reads one index a row.
_NARROW = 16
_PROGRAMS = 512  # a few for each multiprocessor of a large GPU
_UNITS_PER_PART = 512  # at least: shorter sums cost more to add up than they bring


@triton.jit(do_not_specialize=["units", "sources"])  # type: ignore[untyped-decorator,unused-ignore]
def _product(
    rows: tl.tensor, table: tl.tensor, weight: tl.tensor, out: tl.tensor,
    units: tl.tensor, sources: tl.tensor, places: tl.tensor, inputs: tl.tensor, outputs: tl.tensor,
    by_output: tl.tensor, by_place: tl.tensor, by_input: tl.tensor,
    turned: tl.constexpr, narrow: tl.constexpr, precision: tl.constexpr,
    block_units: tl.constexpr, block_outputs: tl.constexpr, block_inputs: tl.constexpr,
) -> None:  # fmt: skip
    """One tile (block_units, block_outputs) of ``out``; the sum runs over window places and channels."""
    across = tl.cdiv(outputs, block_outputs)
    # Neighbouring programs share their rows, which are the larger operand.
    unit = (tl.program_id(0) // across).to(tl.int64) * block_units + tl.arange(0, block_units)
    output = (tl.program_id(0) % across) * block_outputs + tl.arange(0, block_outputs)
    lane = tl.arange(0, block_inputs)
    chunks = tl.cdiv(inputs, block_inputs)
    steps = tl.cdiv(places * inputs, block_inputs) if narrow else places * chunks
    total = tl.zeros((block_units, block_outputs), tl.float32)
    for step in range(0, steps):
        if narrow:
            place = (step * block_inputs + lane) // inputs
            channel = (step * block_inputs + lane) % inputs
            there = place < places
            at = table + unit[:, None] * places + place[None, :]
            source = tl.load(at, mask=(unit < units)[:, None] & there[None, :], other=sources)
        else:
            place = step // chunks
            channel = (step % chunks) * block_inputs + lane
            there = channel < inputs
            source = tl.load(table + unit * places + place, mask=unit < units, other=sources)[:, None]
        seen = tl.load(
            rows + source.to(tl.int64) * inputs + channel[None, :], mask=(source < sources) & there[None, :], other=0.0
        )
        if turned:
            place = places - 1 - place
        kernel = tl.load(
            weight + (place * by_place + channel * by_input)[:, None] + output[None, :] * by_output,
            mask=there[:, None] & (output < outputs)[None, :],
            other=0.0,
        )
        total = tl.dot(seen, kernel, total, input_precision=precision)
    at = out + unit[:, None] * outputs + output[None, :]
    tl.store(at, total.to(out.dtype.element_ty), mask=(unit < units)[:, None] & (output < outputs)[None, :])


@triton.jit(do_not_specialize=["units", "sources", "part"])  # type: ignore[untyped-decorator,unused-ignore]
def _weight_product(
    rows: tl.tensor, table: tl.tensor, gradient: tl.tensor, out: tl.tensor,
    units: tl.tensor, sources: tl.tensor, places: tl.tensor, inputs: tl.tensor, outputs: tl.tensor,
    part: tl.tensor,
    narrow: tl.constexpr, precision: tl.constexpr,
    block_units: tl.constexpr, block_outputs: tl.constexpr, block_inputs: tl.constexpr,
) -> None:  # fmt: skip
    """One tile (block_outputs, block_inputs) of one part of ``out``; the sum runs over ``part`` units."""
    across = tl.cdiv(outputs, block_outputs)
    output = (tl.program_id(0) % across) * block_outputs + tl.arange(0, block_outputs)
    tile = tl.program_id(0) // across
    lane = tl.arange(0, block_inputs)
    chunks = tl.cdiv(inputs, block_inputs)
    if narrow:
        place = (tile * block_inputs + lane) // inputs
        channel = (tile * block_inputs + lane) % inputs
        there = place < places
    else:
        place = tile // chunks
        channel = (tile % chunks) * block_inputs + lane
        there = channel < inputs
    first = tl.program_id(1).to(tl.int64) * part
    total = tl.zeros((block_outputs, block_inputs), tl.float32)
    for start in range(0, part, block_units):
        unit = first + start + tl.arange(0, block_units)
        if narrow:
            at = table + unit[:, None] * places + place[None, :]
            source = tl.load(at, mask=(unit < units)[:, None] & there[None, :], other=sources)
        else:
            source = tl.load(table + unit * places + place, mask=unit < units, other=sources)[:, None]
        seen = tl.load(
            rows + source.to(tl.int64) * inputs + channel[None, :], mask=(source < sources) & there[None, :], other=0.0
        )
        back = tl.load(
            gradient + unit[None, :] * outputs + output[:, None],
            mask=(unit < units)[None, :] & (output < outputs)[:, None],
            other=0.0,
        )
        total = tl.dot(back, seen, total, input_precision=precision)
    at = (tl.program_id(1).to(tl.int64) * outputs + output[:, None]) * places * inputs
    at += (place * inputs + channel)[None, :]
    tl.store(out + at, total, mask=(output < outputs)[:, None] & there[None, :])


def product(rows: Tensor, table: Tensor, weight: Tensor, turned: bool = False) -> Tensor:
    """The convolution: out[u, n] = sum over k, c of rows[table[u, k], c] * weight[n, k, c].

    Args:
        rows: (sources, Ci) float32, bfloat16 or float16; sums are in float32.
        table: (units, K) int32; a value of ``sources`` or more means that nothing is there.
        weight: (Co, K, Ci) in the type of ``rows``.
        turned: convolve with the kernel of the transposed convolution, weight[c, K - 1 - k, n]; ``weight`` is then
            (Ci, K, Co).

    Returns:
        (units, Co) in the type of ``rows``.
    """
    rows, table, weight = rows.contiguous(), table.contiguous(), weight.contiguous()
    (sources, inputs), (units, places) = rows.shape, table.shape
    outputs = weight.shape[2] if turned else weight.shape[0]
    by_output, by_place, by_input = weight.stride()
    if turned:
        by_output, by_input = by_input, by_output
    out = rows.new_empty(units, outputs)
    blocks = _blocks(inputs, outputs, rows.dtype)
    while blocks["block_units"] > 32 and _tiles(units, outputs, blocks) < _PROGRAMS // 2:
        blocks["block_units"] //= 2
    if out.numel():
        with torch.cuda.device_of(rows):  # type: ignore[no-untyped-call]
            _product[(_tiles(units, outputs, blocks),)](
                rows, table, weight, out, units, sources, places, inputs, outputs, by_output, by_place, by_input,
                turned=turned, **_settings(inputs, blocks, rows.dtype),
            )  # fmt: skip
    return out


def weight_gradient(rows: Tensor, table: Tensor, gradient: Tensor) -> Tensor:
    """Of ``product``: out[n, k, c] = sum over u of gradient[u, n] * rows[table[u, k], c].

    The units are split into parts, which are added up in order.

    Args:
        rows: (sources, Ci) float32, bfloat16 or float16.
        table: (units, K) int32, as for ``product``.
        gradient: (units, Co) in the type of ``rows``.

    Returns:
        (Co, K, Ci) float32.
    """
    rows, table, gradient = rows.contiguous(), table.contiguous(), gradient.contiguous()
    (sources, inputs), (units, places), outputs = rows.shape, table.shape, gradient.shape[1]
    blocks = _weight_blocks(inputs, outputs, rows.dtype)
    narrow, width = inputs < _NARROW, blocks["block_inputs"]
    tiles = triton.cdiv(outputs, blocks["block_outputs"])
    tiles *= triton.cdiv(places * inputs, width) if narrow else places * triton.cdiv(inputs, width)
    parts = max(1, min(triton.cdiv(_PROGRAMS, max(1, tiles)), triton.cdiv(units, _UNITS_PER_PART)))
    part = triton.cdiv(triton.cdiv(units, parts), blocks["block_units"]) * blocks["block_units"]
    out = torch.empty((parts, outputs, places, inputs), dtype=torch.float32, device=rows.device)
    if out.numel():
        with torch.cuda.device_of(rows):  # type: ignore[no-untyped-call]
            _weight_product[(tiles, parts)](
                rows, table, gradient, out, units, sources, places, inputs, outputs, part,
                **_settings(inputs, blocks, rows.dtype),
            )  # fmt: skip
    return out.sum(0) if parts > 1 else out[0]


def _blocks(inputs: int, outputs: int, kind: torch.dtype) -> dict[str, int]:
    """Tile sizes that keep operands in flight below 64 KiB of shared memory, which every GPU since 2018 has."""
    widest = 64 if kind == torch.float32 else 128
    return {
        "block_units": widest,
        "block_outputs": min(widest, _power_of_two(outputs)),
        "block_inputs": 32 if inputs < _NARROW else min(32, _power_of_two(inputs)),
    }


def _weight_blocks(inputs: int, outputs: int, kind: torch.dtype) -> dict[str, int]:
    """The roles differ: the long sum is over units, in steps as short as the product's over channels."""
    blocks = _blocks(inputs, outputs, kind)
    return blocks | {"block_units": 32, "block_inputs": max(blocks["block_inputs"], min(64, _power_of_two(inputs)))}


def _settings(inputs: int, blocks: dict[str, int], kind: torch.dtype) -> dict[str, Any]:
    single = kind == torch.float32
    # As torch's own products: tensor cores round float32 to 10 bits, which is done only where the user allows it.
    exact = torch.get_float32_matmul_precision() == "highest"
    return {
        **blocks,
        "narrow": inputs < _NARROW,
        "precision": "ieee" if single and exact else "tf32",
        "num_warps": 8 if blocks["block_units"] * blocks["block_outputs"] >= 128 * 128 else 4,
        "num_stages": 2 if single else 3,
    }


def _tiles(units: int, outputs: int, blocks: dict[str, int]) -> int:
    return int(triton.cdiv(units, blocks["block_units"]) * triton.cdiv(outputs, blocks["block_outputs"]))


def _power_of_two(number: int) -> int:
    """The next one, and no less than the 16 that matrix units take."""
    return max(16, int(triton.next_power_of_2(number)))

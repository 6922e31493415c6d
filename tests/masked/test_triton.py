"""The Triton kernels: in Triton's interpreter and its compiler, which need no GPU, and on one where there is one.

The interpreter must be on before Triton is imported, so those tests run in a process of their own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from masked_cases import context_of, world
from torch import Tensor

from prostate_mim.masked.choice import KernelChoice, symmetric
from prostate_mim.masked.context import Level
from prostate_mim.masked.rows import RowConvolution, convolve_rows
from prostate_mim.masked.windows import WindowKey

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
MISSING = find_spec("triton") is None
NEEDS_TRITON = "needs Triton, which CUDA builds of torch bring"
interpreted = pytest.mark.skipif(
    MISSING or not INTERPRETED, reason=NEEDS_TRITON if MISSING else "runs within test_in_the_interpreter"
)
compiled = pytest.mark.skipif(MISSING or INTERPRETED, reason=NEEDS_TRITON if MISSING else "compiles nothing")
NO_GPU = INTERPRETED or MISSING or not torch.cuda.is_available()

# Relative to the largest value. The interpreter has no product of bfloat16 values.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
# sources, units, places, inputs, outputs: ragged in every one, several parts, no row, no unit, nothing to read
SHAPES = [
    (50, 70, 27, 5, 7),
    (50, 70, 9, 40, 20),
    (40, 33, 3, 33, 70),
    (3, 200, 8, 1, 3),
    (30, 1300, 2, 16, 5),
    (20, 16_400, 1, 17, 2),  # tiles of the largest size
    (0, 10, 27, 4, 4),
    (10, 0, 27, 4, 4),
    (64, 64, 1, 32, 32),
]
# kernel, stride, dilation
GEOMETRIES = [
    ((3, 3, 3), (1, 1, 1), (1, 1, 1)),
    ((1, 3, 3), (1, 1, 1), (1, 1, 1)),
    ((3, 3, 3), (1, 1, 1), (1, 2, 2)),
    ((3, 3, 3), (1, 2, 2), (1, 1, 1)),
    ((1, 3, 3), (2, 2, 2), (1, 2, 1)),
]


def far(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    assert found.shape == expected.shape
    if not expected.numel():
        return 0.0
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max().clamp(min=1e-12))


def made(*shape: int, kind: torch.dtype, device: str) -> Tensor:
    """Random values, followed in memory by NaN: reading past the end is found out."""
    generator = torch.Generator().manual_seed(prod(shape))
    buffer = torch.full((prod(shape) + 4096,), torch.nan)
    buffer[: prod(shape)] = torch.randn(prod(shape), generator=generator)
    return buffer.to(device, kind)[: prod(shape)].view(shape)


def raw(shape: tuple[int, ...], kind: torch.dtype, device: str = "cpu", roll: int = 0) -> dict[str, float]:
    """How far the three kernels are from float64 products; ``roll`` makes their tables wrong."""
    from prostate_mim.masked import triton_rows

    sources, units, places, inputs, outputs = shape
    generator = torch.Generator().manual_seed(1)
    table = torch.randint(0, sources + 1, (units, places), generator=generator, dtype=torch.int32).to(device)
    rows = made(sources, inputs, kind=kind, device=device)
    weight = made(outputs, places, inputs, kind=kind, device=device)
    other = made(inputs, places, outputs, kind=kind, device=device)
    gradient = made(units, outputs, kind=kind, device=device)
    seen = torch.cat([rows, rows.new_zeros(1, inputs)]).double()[table.long()]
    read = table.roll(roll, 0)
    out = triton_rows.product(rows, read, weight)
    assert out.dtype == kind
    found = {
        "product": far(out, torch.einsum("ukc,nkc->un", seen, weight.double())),
        "turned": far(
            triton_rows.product(rows, read, other, turned=True),
            torch.einsum("ukc,ckn->un", seen, other.double().flip(1)),
        ),
    }
    for_weight = triton_rows.weight_gradient(rows, read, gradient)
    assert for_weight.dtype == torch.float32
    found["weight"] = far(for_weight, torch.einsum("un,ukc->nkc", gradient.double(), seen))
    return found


def layer(where: str, geometry: Any, device: str = "cpu") -> tuple[Level, Level, WindowKey]:
    """The levels and the geometry of a convolution with "same" padding."""
    kernel, stride, dilation = geometry
    context = context_of(world(where))
    size = context.size_zyx
    context = type(context)(context.hidden_blocks.to(device), context.block_zyx, size)
    smaller = tuple(-(-n // s) for n, s in zip(size, stride, strict=True))
    padding = tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))
    key = WindowKey(kernel, stride, dilation, padding, by_block=False)
    return context.level((1, 1, 1), size), context.level(stride, smaller), key


def convolved(
    where: str, geometry: Any, kernel: str, kind: torch.dtype, device: str = "cpu", roll: int = 0
) -> list[Tensor]:
    """Output, gradient of the rows, gradient of the weight, from values that float16 and bfloat16 hold too."""
    source, target, key = layer(where, geometry, device)
    windows = source.windows(target, key)
    if roll:
        windows.table.copy_(windows.table.roll(roll, 0))
    generator = torch.Generator().manual_seed(4)
    values = [
        torch.randint(-8, 9, shape, generator=generator).div(8)
        for shape in ((source.rows, 20), (18, 20, *key.kernel), (target.rows, 18))
    ]
    rows, weight, gradient = (value.to(device, kind) for value in values)
    given = [rows.requires_grad_(), weight.requires_grad_()]
    plan = RowConvolution(windows, 1, symmetric(key), kernel)
    out = convolve_rows(*given, None, plan)
    return [out.detach(), *torch.autograd.grad(out, given, gradient)]


def test_in_the_interpreter(tmp_path: Path) -> None:
    """Runs this file's interpreted tests: none fails, none but those for a GPU or the compiler is left out."""
    if MISSING:
        pytest.skip(NEEDS_TRITON)
    if INTERPRETED:
        pytest.skip("this is the interpreter")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", "interpreted"]
    ran = subprocess.run(
        [*command, __file__],
        env={**os.environ, "TRITON_INTERPRET": "1", "TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"\b[1-9]\d* passed", ran.stdout) and "skipped" not in ran.stdout, ran.stdout


@interpreted
@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_interpreted(shape: tuple[int, ...], kind: torch.dtype) -> None:
    """The three kernels against float64, at ragged sizes; nothing is read past the end."""
    assert {name: at for name, at in raw(shape, kind).items() if not at <= TOLERANCE[kind]} == {}


@interpreted
def test_wrong_table_interpreted() -> None:
    """The control: with the table of the neighbouring output, all three are far away."""
    assert min(raw(SHAPES[1], torch.float32, roll=1).values()) > 0.1


@interpreted
@pytest.mark.parametrize(
    ("where", "geometry"),
    [
        *(("odd-ragged", geometry) for geometry in GEOMETRIES),
        *((where, GEOMETRIES[3]) for where in ("even-random", "odd-nothing", "even-empty", "odd-everything")),
    ],
)
def test_convolutions_interpreted(where: str, geometry: Any) -> None:
    """Output and both gradients as the matrix product's, in float32."""
    triton, matrix = (convolved(where, geometry, kernel, torch.float32) for kernel in ("triton", "matrix"))
    assert len(triton) == 3
    for found, expected in zip(triton, matrix, strict=True):
        assert found.dtype == expected.dtype == torch.float32
        assert far(found, expected) <= 1e-5


@interpreted
def test_wrong_windows_interpreted() -> None:
    """The control of the convolutions."""
    matrix = convolved("odd-ragged", GEOMETRIES[1], "matrix", torch.float32)
    triton = convolved("odd-ragged", GEOMETRIES[1], "triton", torch.float32, roll=1)
    assert min(far(found, expected) for found, expected in zip(triton, matrix, strict=True)) > 0.1


@interpreted
def test_repeats_interpreted() -> None:
    """No atomics: twice the same, bit for bit."""
    twice = [convolved("odd-ragged", GEOMETRIES[1], "triton", torch.float32) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*twice, strict=True))


class WithTriton(KernelChoice):
    """Measures Triton on the CPU too, where the interpreter runs it."""

    def candidates(self, target: Level, device: torch.device, kind: torch.dtype) -> list[str]:
        """Triton last."""
        return [*super().candidates(target, device, kind), "triton"]


@interpreted
def test_measured_interpreted(caplog: pytest.LogCaptureFixture) -> None:
    """Triton is timed, agrees, and loses on a CPU; a corrupted table of bricks does not take it along."""
    caplog.set_level("INFO")
    source, target, key = layer("even-random", GEOMETRIES[1])
    rows, weight = torch.randn(source.rows, 20), torch.randn(18, 20, 1, 3, 3)
    bricks = source.windows(target, replace(key, by_block=True))
    bricks.table.copy_(bricks.table.roll(1, 0))
    assert WithTriton("measure").plan(source, target, key, rows, weight, 1).kernel == "matrix"
    warning, line = (record.getMessage() for record in caplog.records)
    assert "kernel bricks dropped" in warning
    assert re.search(r": matrix \d+\.\d\d ms, triton \d+\.\d\d ms; matrix$", line)


def compile_for(kernel: Any, types: dict[str, str], capability: int, settings: dict[str, Any]) -> tuple[str, int]:
    """(PTX, bytes of shared memory) for a GPU that need not be there."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    options = {name: settings.pop(name) for name in ("num_warps", "num_stages")}
    signature = {
        name: "constexpr" if name in settings else f"*{types[name]}" if name in types else "i32"
        for name in kernel.arg_names
    }
    constants = {(kernel.arg_names.index(name),): value for name, value in settings.items()}
    source = ASTSource(kernel, signature, constants)
    done = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return done.asm["ptx"], done.metadata.shared


@compiled
@pytest.mark.parametrize("kind", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("inputs", [1, 320])
@pytest.mark.parametrize("capability", [80, 90])
def test_compiles(capability: int, inputs: int, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For A100 and H100: products of 16-bit values on tensor cores, within 64 KiB of shared memory."""
    from prostate_mim.masked import triton_rows

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    torch_kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[kind]
    settings = triton_rows._settings(inputs, triton_rows._blocks(inputs, 128, torch_kind), torch_kind)
    values = dict.fromkeys(("rows", "weight", "out"), kind) | {"table": "i32"}
    ptx, shared = compile_for(triton_rows._product, values, capability, {**settings, "turned": True})
    assert shared <= 64 * 1024
    assert ("mma" in ptx) == (kind != "fp32")
    values = {"rows": kind, "gradient": kind, "out": "fp32", "table": "i32"}
    settings = triton_rows._settings(inputs, triton_rows._weight_blocks(inputs, 128, torch_kind), torch_kind)
    ptx, shared = compile_for(triton_rows._weight_product, values, capability, settings)
    assert shared <= 64 * 1024
    assert ("mma" in ptx) == (kind != "fp32")


@pytest.mark.gpu
@pytest.mark.skipif(NO_GPU, reason="needs an NVIDIA GPU and Triton")
@pytest.mark.parametrize("kind", list(TOLERANCE))
def test_on_a_gpu(kind: torch.dtype, caplog: pytest.LogCaptureFixture) -> None:
    """Compiled and run: the products, the convolutions, and the choice with Triton among those timed."""
    for shape in SHAPES:
        found = raw(shape, kind, "cuda")
        assert {name: at for name, at in found.items() if not at <= TOLERANCE[kind]} == {}, shape
    for geometry in GEOMETRIES:
        triton = convolved("odd-ragged", geometry, "triton", kind, "cuda")
        matrix = convolved("odd-ragged", geometry, "matrix", torch.float32, "cuda")
        assert max(far(a, b) for a, b in zip(triton, matrix, strict=True)) <= TOLERANCE[kind], geometry
    caplog.set_level("INFO")
    source, target, key = layer("even-random", GEOMETRIES[0], "cuda")
    rows = torch.randn(source.rows, 20, device="cuda", dtype=kind)
    KernelChoice().plan(source, target, key, rows, torch.randn(18, 20, 3, 3, 3, device="cuda", dtype=kind), 1)
    (line,) = (record.getMessage() for record in caplog.records)
    assert all(f" {kernel} " in line for kernel in ("matrix", "bricks", "triton"))

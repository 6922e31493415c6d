"""Which kernel a layer runs on: by rule on CPUs, measured once elsewhere; the result is the same either way."""

from __future__ import annotations

import logging
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from masked_cases import Chain, context_of, voxels_of, world
from torch import Tensor, nn

from prostate_mim.masked import MaskContext, depthwise, masked_twin
from prostate_mim.masked.choice import FEWEST_PER_BRICK, KernelChoice, _distance
from prostate_mim.masked.context import Level
from prostate_mim.masked.rows import RowConvolution, convolve_rows
from prostate_mim.masked.windows import WindowKey

KERNEL = WindowKey((3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1), by_block=False)
POINT = WindowKey((1, 1, 1), (1, 1, 1), (1, 1, 1), (0, 0, 0), by_block=False)


def level(block: tuple[int, int, int], size: tuple[int, int, int] = (4, 8, 8)) -> Level:
    """Every other block hidden."""
    grid = [-(-s // b) for s, b in zip(size, block, strict=True)]
    hidden = (torch.arange(2 * grid[0] * grid[1] * grid[2]) % 2 == 0).view(2, *grid)
    return MaskContext(hidden, block, size).level((1, 1, 1), size)


def operands(place: Level, kernel: tuple[int, int, int] = (3, 3, 3), groups: int = 1) -> tuple[Tensor, Tensor]:
    """Rows (rows, 4) and weight (6, 4 / groups, kernel), float64."""
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(place.rows, 4, generator=generator, dtype=torch.float64)
    return rows, torch.randn(6, 4 // groups, *kernel, generator=generator, dtype=torch.float64)


def planned(choice: KernelChoice, place: Level, key: WindowKey = KERNEL, groups: int = 1) -> RowConvolution:
    """The choice for one layer."""
    rows, weight = operands(place, key.kernel, groups)
    return choice.plan(place, place, key, rows, weight, groups)


def chosen(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the choices logged, beside warnings."""
    return [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]


def dropped(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings."""
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("how", ["rule", "auto"])
@pytest.mark.parametrize(
    ("block", "size", "key", "groups", "expected"),
    [
        ((2, 4, 4), (4, 8, 8), KERNEL, 1, ("bricks", True)),  # 32 outputs a block
        ((1, 2, 2), (4, 8, 8), KERNEL, 1, ("matrix", False)),  # 4 outputs a block
        ((2, 4, 4), (4, 8, 7), KERNEL, 1, ("matrix", False)),  # the last block is cut
        ((2, 4, 4), (4, 8, 8), POINT, 1, ("matrix", False)),  # nothing to gather
        ((1, 2, 2), (4, 8, 8), KERNEL, 2, ("bricks", True)),
        ((2, 4, 4), (4, 8, 7), KERNEL, 2, ("bricks", False)),  # a window is one output's
    ],
)
def test_rule(how: str, block: Any, size: Any, key: WindowKey, groups: int, expected: tuple[str, bool]) -> None:
    """On a CPU, by the number of outputs per block."""
    assert 4 < FEWEST_PER_BRICK < 32
    plan = planned(KernelChoice(how), level(block, size), key, groups)
    assert (plan.kernel, plan.windows.key.by_block) == expected


def test_measured_once_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """One measurement for a layer and size, with all timings; another size is another one."""
    caplog.set_level(logging.INFO)
    choice, place = KernelChoice("measure"), level((2, 4, 4))
    first = planned(choice, place).kernel
    assert [planned(choice, place).kernel for _ in range(3)] == [first] * 3
    assert dropped(caplog) == []
    (line,) = chosen(caplog)
    assert line.startswith(f"convolution (6, 4, 3, 3, 3), stride (1, 1, 1), {place.rows} rows: matrix ")
    assert ", bricks " in line and line.count(" ms") == 2 and line.endswith(f"; {first}")
    planned(choice, level((2, 4, 4), (8, 16, 16)))
    assert len(chosen(caplog)) == 2


def test_autocast_is_another_situation(caplog: pytest.LogCaptureFixture) -> None:
    """Kernels differ in speed by type, so autocast is measured as what it runs in."""
    caplog.set_level(logging.INFO)
    choice, place = KernelChoice("measure"), level((2, 4, 4))
    rows, weight = (values.float() for values in operands(place))
    choice.plan(place, place, KERNEL, rows, weight, 1)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            choice.plan(place, place, KERNEL, rows, weight, 1)
    assert (len(chosen(caplog)), dropped(caplog)) == (2, [])


@pytest.mark.parametrize("block", [(2, 4, 4), (1, 2, 2), (1, 1, 1)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_kernels_agree(block: tuple[int, int, int], dilation: int) -> None:
    """Output and both gradients: 1e-10 in float64."""
    place, found = level(block), []
    rows, weight = operands(place)
    spread = (dilation, dilation, dilation)
    for kernel in ("bricks", "matrix"):
        key = replace(KERNEL, dilation=spread, padding=spread, by_block=kernel == "bricks")
        given = [values.clone().requires_grad_() for values in (rows, weight)]
        out = convolve_rows(*given, None, RowConvolution(place.windows(place, key), 1, True, kernel))
        found.append([out, *torch.autograd.grad(out.square().sum(), given)])
    for bricks, matrix in zip(*found, strict=True):
        assert torch.allclose(bricks, matrix, rtol=1e-10, atol=1e-10)


DEPTHWISE = {
    "same": KERNEL,
    "dilated": replace(KERNEL, dilation=(1, 2, 2), padding=(1, 2, 2)),
    "in-plane 5": replace(KERNEL, kernel=(1, 5, 5), padding=(0, 2, 2)),
    "strided": replace(KERNEL, stride=(1, 2, 2)),
    "patches": WindowKey((1, 2, 2), (1, 2, 2), (1, 1, 1), (0, 0, 0), by_block=False),
    "single": POINT,
}


def depthwise_case(name: str, size: tuple[int, int, int]) -> tuple[Level, Level, WindowKey, Tensor, Tensor]:
    """Source and target levels, geometry, rows (rows, 5) and weight (5, 1, kernel), float64."""
    key = DEPTHWISE[name]
    grid = [-(-s // b) for s, b in zip(size, (2, 4, 4), strict=True)]
    hidden = (torch.arange(2 * grid[0] * grid[1] * grid[2]) % 3 == 0).view(2, *grid)
    context = MaskContext(hidden, (2, 4, 4), size)
    source = context.level((1, 1, 1), size)
    shape = tuple(-(-n // s) for n, s in zip(size, key.stride, strict=True))
    target = context.level(key.stride, (shape[0], shape[1], shape[2]))
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(source.rows, 5, generator=generator, dtype=torch.float64)
    return source, target, key, rows, torch.randn(5, 1, *key.kernel, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("size", [(4, 8, 8), (3, 7, 9)])
@pytest.mark.parametrize("name", DEPTHWISE)
def test_taps_agree_with_bricks(name: str, size: tuple[int, int, int]) -> None:
    """The rule's kernel for depthwise convolutions; output and both gradients: 1e-10 in float64, twice bit for bit."""
    source, target, key, rows, weight = depthwise_case(name, size)
    plan = KernelChoice().plan(source, target, key, rows, weight, 5)
    assert (plan.kernel, plan.windows.key.by_block) == ("taps", False)
    bricks = RowConvolution(plan.windows, 5, plan.symmetric, "bricks")
    again, found, expected = (_differentiated(rows, weight, each) for each in (plan, plan, bricks))
    assert all(torch.equal(a, b) for a, b in zip(again, found, strict=True))
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-10) for a, b in zip(found, expected, strict=True))
    # Control: the kernel turned round is another kernel.
    other = _differentiated(rows, weight.flip(2, 3, 4), plan)
    assert name == "single" or not torch.allclose(other[0], expected[0])


def _differentiated(rows: Tensor, weight: Tensor, plan: RowConvolution) -> list[Tensor]:
    given = [values.clone().requires_grad_() for values in (rows, weight)]
    out = convolve_rows(*given, None, plan)
    return [out, *torch.autograd.grad(out.sin().sum(), given)]


@pytest.mark.parametrize("name", DEPTHWISE)
def test_taps_pass_gradcheck(name: str) -> None:
    """Against finite differences, also in pieces of few rows."""
    source, target, key, rows, weight = depthwise_case(name, (2, 8, 4))
    plan = KernelChoice().plan(source, target, key, rows, weight, 5)
    given = (rows.requires_grad_(), weight.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: convolve_rows(a, b, None, plan), given)


@pytest.mark.parametrize("name", ["same", "strided"])
def test_taps_in_pieces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of a piece is a matter of speed."""
    source, target, key, rows, weight = depthwise_case(name, (4, 8, 8))
    plan = KernelChoice().plan(source, target, key, rows, weight, 5)
    whole = _differentiated(rows, weight, plan)
    monkeypatch.setattr(depthwise, "_PIECE", 1)
    monkeypatch.setattr(depthwise, "_FEWEST_ROWS", 7)
    for a, b in zip(_differentiated(rows, weight, plan), whole, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)


def test_taps_sum_in_single_precision() -> None:
    """In bfloat16 only operands and results are rounded. Two outputs of one channel are not for taps."""
    source, target, key, rows, weight = depthwise_case("same", (4, 8, 8))
    plan = KernelChoice().plan(source, target, key, rows, weight, 5)
    rows, weight = rows.bfloat16(), weight.bfloat16()
    found = _differentiated(rows, weight, plan)
    for a, b in zip(found, _differentiated(rows.double(), weight.double(), plan), strict=True):
        assert a.dtype == torch.bfloat16 and _distance([a.double()], [b]) < 0.02
    twice = weight.repeat_interleave(2, 0)
    assert KernelChoice().plan(source, target, key, rows, twice, 5).kernel == "bricks"


def trained(kernels: str) -> list[Tensor]:
    """Output and gradients of a small network."""
    torch.manual_seed(0)
    network = Chain(nn.BatchNorm3d).double()
    twin = masked_twin(network, kernels=kernels)
    out = twin(context_of(world("even-random")).hide(voxels_of(world("even-random")), path="rows")).dense()
    out.square().sum().backward()
    return [out.detach(), *(parameter.grad for parameter in network.parameters() if parameter.grad is not None)]


def test_networks_agree_and_the_rule_repeats() -> None:
    """Measured against the rule: 1e-10. Twice by the rule, and by default on a CPU: bit for bit."""
    rule = trained("rule")
    assert len(rule) > 5
    for kernels in ("rule", "auto"):
        assert all(torch.equal(a, b) for a, b in zip(trained(kernels), rule, strict=True))
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-10) for a, b in zip(trained("measure"), rule, strict=True))


def test_triton_is_a_candidate_on_cuda_only() -> None:
    """In the types that it computes, and where it is installed."""
    choice, whole, cut = KernelChoice(), level((2, 4, 4)), level((2, 4, 4), (4, 8, 7))
    assert choice.candidates(whole, torch.device("cpu"), torch.float32) == ["matrix", "bricks"]
    assert choice.candidates(cut, torch.device("cpu"), torch.float32) == ["matrix"]
    assert choice.candidates(whole, torch.device("cuda"), torch.float64) == ["matrix", "bricks"]
    installed = ["triton"] if find_spec("triton") else []
    assert choice.candidates(cut, torch.device("cuda"), torch.bfloat16) == ["matrix", *installed]


class Fixed(KernelChoice):
    """Measures the candidates that it is given."""

    def __init__(self, *names: str) -> None:
        super().__init__("measure")
        self.names = list(names)

    def candidates(self, target: Level, device: torch.device, kind: torch.dtype) -> list[str]:
        """The given ones."""
        return self.names


@pytest.mark.parametrize("names", [("matrix", "triton"), ("triton", "matrix")])
def test_a_failing_candidate_is_dropped(names: tuple[str, ...], caplog: pytest.LogCaptureFixture) -> None:
    """Triton does not run on CPU tensors, installed or not: a warning, and another kernel."""
    caplog.set_level(logging.INFO)
    assert planned(Fixed(*names), level((1, 2, 2))).kernel == "matrix"
    (warning,) = dropped(caplog)
    assert "kernel triton dropped: " in warning and "\n" not in warning
    assert "triton" not in chosen(caplog)[0]


def test_no_candidate_left() -> None:
    """The control of the above: with nothing else to run, the failure is not swallowed."""
    with pytest.raises(Exception, match=r".+"):
        planned(Fixed("triton", "triton"), level((1, 2, 2)))


def test_a_wrong_candidate_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """A kernel that computes something else is noticed, however fast: here bricks of another hidden pattern."""
    place = level((2, 4, 4))
    bricks = place.windows(place, replace(KERNEL, by_block=True))
    bricks.table.copy_(bricks.table.roll(1, 0))
    assert planned(KernelChoice("measure"), place).kernel == "matrix"
    (warning,) = dropped(caplog)
    assert "kernel bricks dropped" in warning and warning.endswith(" away from matrix")


def test_distance() -> None:
    """Relative to the largest value; empty tensors agree; NaN is never near, whatever comes after it."""
    ones = torch.ones(3)
    assert _distance([ones * 4, ones * 2], [ones * 4, torch.tensor([2.0, 2.0, 1.0])]) == 0.5
    assert _distance([ones[:0]], [ones[:0]]) == 0.0
    assert not _distance([ones * torch.nan, ones], [ones, ones]) <= 1e9
    assert not _distance([ones, ones * torch.nan], [ones, ones]) <= 1e9

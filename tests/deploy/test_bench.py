"""bench: every engine gives torch's numbers, what is not here says why, and the winner is one that is offered."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from prostate_mim.bench import engines, run
from prostate_mim.bench.engines import EAGER, ENGINES
from prostate_mim.bench.record import Bench, Measured
from prostate_mim.bench.rounds import IN_A_ROW, timed
from prostate_mim.bench.run import run_bench
from prostate_mim.encoder import PreMIM
from prostate_mim.errors import UsageError
from prostate_mim.spec import InputSpec


@pytest.fixture(scope="module")
def told() -> list[tuple[int, int, str]]:
    """What a bar is told while ``measured`` is made."""
    return []


@pytest.fixture(scope="module")
def measured(told: list[tuple[int, int, str]]) -> Bench:
    torch.manual_seed(0)
    encoder = PreMIM("resenc-s", InputSpec(size_zyx=(8, 32, 32)), name="resenc-s.small")
    return run_bench(encoder.eval(), batch=2, rounds=1, threads=1, progress=lambda *step: told.append(step))


def test_rows(measured: Bench) -> None:
    rows = {row.engine: row for row in measured.engines}
    assert list(rows) == [engine.name for engine in ENGINES]
    assert measured.shape == (2, 1, 8, 32, 32)
    for name in (EAGER, "torch channels_last", "ONNX Runtime CPU"):
        row = rows[name]
        assert row.median_ms > 0 and row.p90_ms >= row.median_ms and row.speedup > 0 and row.difference < 1e-4
        assert row.memory_mb is None or row.memory_mb > 20
    assert rows[EAGER].difference == 0 and rows[EAGER].speedup == 1
    if not torch.cuda.is_available():
        assert rows["torch CUDA"].median_ms is None and rows["torch CUDA"].note == "no GPU here"
    json.dumps(measured.to_dict(), allow_nan=False)


def test_a_bar_has_a_total_and_a_text_at_every_step(measured: Bench, told: list[tuple[int, int, str]]) -> None:
    """One step after another, named by engines, up to the total, which counts only the engines that are here."""
    assert [done for done, _, _ in told] == list(range(len(told)))
    here = [row.engine for row in measured.engines if row.median_ms is not None]
    assert told[0][2] == "exporting"
    for engine in here:
        assert {f"opening {engine}", f"timing {engine}", f"memory of {engine}"} <= {what for _, _, what in told}
    assert told[-1][0] == told[-1][1] == 2 + len(ENGINES) + 2 * len(here)


def test_memory_is_of_one_engine(measured: Bench) -> None:
    """A process that runs an exported file has no torch in it, and needs less for that."""
    rows = {row.engine: row.memory_mb for row in measured.engines}
    if rows[EAGER] is None:
        pytest.skip("this system does not say peak memory")
    assert rows["ONNX Runtime CPU"] < rows[EAGER]


def test_the_winner_is_offered_and_right(measured: Bench) -> None:
    rows = {row.engine: row for row in measured.engines}
    assert rows[measured.winner].how
    good = Measured("good", "--device x", 10.0, 11.0, 1.0, None, 1e-6)
    beside, wrong = dataclasses.replace(good, engine="beside", how="", median_ms=1.0), dataclasses.replace(
        good, engine="wrong", median_ms=2.0, difference=0.1
    )  # fmt: skip
    assert run._winner((good, beside, wrong, Measured("absent", "--device y", note="none"))) == "good"


def test_whole_study(measured: Bench) -> None:
    whole = measured.whole
    assert min(whole.reading, whole.network, whole.all) > 0
    assert whole.ratio == pytest.approx(whole.all / (whole.reading + whole.network))


def test_lines_fit_and_name_what_is_missing(measured: Bench) -> None:
    lines = measured.lines()
    assert lines[0].startswith("engine") and max(map(len, lines[: 1 + len(ENGINES)])) < 140
    assert any(measured.winner in line and "file to probability" in line for line in lines)
    if not torch.cuda.is_available():
        assert any(line.startswith("not measured: torch CUDA") and "(no GPU here)" in line for line in lines)


def test_an_encoder_is_measured_with_a_head_that_shows_differences() -> None:
    torch.manual_seed(1)
    model = run._classifier(PreMIM("resenc-s", InputSpec(size_zyx=(4, 16, 16))))
    batch = torch.randn(3, 1, 4, 16, 16)
    with torch.inference_mode():
        assert model(batch).std() > 1e-4


def test_turns_are_rotated_and_the_first_call_is_not_counted() -> None:
    order: list[str] = []
    found = timed({name: lambda name=name: order.append(name) for name in "abc"}, rounds=2)
    assert "".join(order[::IN_A_ROW]) == "abcbca"
    assert {name: len(values) for name, values in found.items()} == dict.fromkeys("abc", 2 * (IN_A_ROW - 1))


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(engines.shutil, "which", lambda _: None)
    with pytest.raises(Exception, match="needs a C\\+\\+ compiler"):
        engines._compiled(tmp_path, 1)


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"rounds": 0}, {"threads": -1}, {"size_zyx": (8, 30, 32)}])
def test_bad_requests(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        run_bench(PreMIM("resenc-s", InputSpec(size_zyx=(8, 32, 32))), **wrong)


def test_phantoms_fill_any_batch(measured: Bench) -> None:
    assert np.prod(measured.shape) == 2 * 8 * 32 * 32

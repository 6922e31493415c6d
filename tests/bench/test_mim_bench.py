"""The reference that the benchmark compares with computes the same thing; its output is well formed. No times here."""

from __future__ import annotations

import json
from pathlib import Path

import bench_memory
import mim
import pytest
import torch
from bench_arms import Arm, Case, build_model, require_same_features
from spark_style import spark_style
from torch import nn

from prostate_mim.mim import MaskedImageModel, random_hidden_blocks
from prostate_mim.nets.encoder import StageChain

SIZE_ZYX = (8, 32, 32)
FLAT_ZYX = (4, 32, 32)  # convolutions in float64 are slow


def features_and_gradients(model: MaskedImageModel, hidden: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Stages, and the gradient of their sum of squares with respect to the voxels and all weights of the encoder."""
    voxels = torch.randn(2, 1, *FLAT_ZYX, generator=torch.Generator().manual_seed(3)).to(torch.float64)
    stages = model.encoding(voxels.requires_grad_(), hidden, 4)
    weights = [voxels, *model.encoding.encoder.parameters()]
    gradients = torch.autograd.grad(sum(stage.square().sum() for stage in stages), weights)
    return [stage.detach() for stage in stages], torch.cat([gradient.flatten() for gradient in gradients])


def distance(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    """The largest difference, relative to the largest value."""
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("arch", mim.ARCHITECTURES)
def test_reference_is_our_dense_path(arch: str) -> None:
    """Features and every gradient, to 1e-8 in float64; not so with hidden and visible exchanged."""
    case = Case(arch, 0.5, crops=2, size_zyx=FLAT_ZYX)
    ours, reference = (build_model(path, case).double() for path in ("dense", "spark_style"))
    hidden = random_hidden_blocks(2, ours.grid.grid_zyx, 0.5, torch.Generator().manual_seed(3))
    features, gradients = features_and_gradients(ours, hidden)
    found, found_gradients = features_and_gradients(reference, hidden)
    assert distance(found, features) < 1e-8
    assert distance([found_gradients], [gradients]) < 1e-8
    with torch.no_grad():
        voxels = torch.randn(2, 1, *FLAT_ZYX, generator=torch.Generator().manual_seed(3)).to(torch.float64)
        assert distance(reference.encoding(voxels, ~hidden, 4), features) > 1e-2


def test_reference_has_instance_norm() -> None:
    """The ports' own norm, of which none of the three nets makes use: one sample's rows alone, by hand."""
    chain = StageChain([nn.Sequential(nn.InstanceNorm3d(1))], [(1, 1, 1)], [1])
    twin, seen = spark_style(chain)
    seen.coarsest = torch.tensor([True, False]).view(1, 1, 1, 1, 2)
    voxels = torch.tensor([1.0, 3.0, 50.0, 70.0]).view(1, 1, 1, 1, 4)
    torch.testing.assert_close(twin(voxels)[0].flatten(), torch.tensor([-1.0, 1.0, 0.0, 0.0]))


def test_reference_refuses_unknown_parts() -> None:
    """As a dense part would go unnoticed."""
    with pytest.raises(TypeError, match="Upsample"):
        spark_style(StageChain([nn.Upsample(scale_factor=2)], [(1, 1, 1)], [1]))


def test_different_features_are_not_timed() -> None:
    """The proof before timing passes for the paths, and finds a changed weight."""
    case = Case("resenc-s", 0.5, crops=1, size_zyx=SIZE_ZYX)
    arms = [Arm(path, case) for path in ("rows", "dense", "spark_style", "spark_style_channels_last", "plain")]
    require_same_features(arms)
    with torch.no_grad():
        arms[2].model.encoding.encoder.stages[0][0].norm1.bias.add_(0.1)
    with pytest.raises(AssertionError, match="spark_style and rows differ"):
        require_same_features(arms)


def test_output_is_json_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A header and a line per path, with times, ratios and the table; no judgement of the times."""
    out, table = tmp_path / "mim.jsonl", tmp_path / "mim.md"
    size = [str(length) for length in SIZE_ZYX]
    paths = ["rows", "dense", "spark_style"]
    settings = ["--quick", "--no-memory", "--crops", "1", "--threads", "1", "--size", *size, "--path", *paths]
    assert mim.main([*settings, "--out", str(out), "--table", str(table)]) == 0
    header, *lines = (json.loads(line) for line in out.read_text(encoding="utf-8").splitlines())
    assert header["kind"] == "header"
    assert {"processor", "cores", "versions", "threads"} <= set(header)
    assert [line["path"] for line in lines] == paths
    for line in lines:
        assert (line["arch"], line["ratio"], line["block"]) == ("resenc-s", 0.75, "12x8x8")
        assert 0 < line["step_seconds_min"] <= line["step_seconds"]
        assert line["spark_reference"] == "spark_style"
        assert line["peak_mb"] is None
    assert lines[2]["speed_vs_spark_style"] == lines[1]["speed_vs_dense"] == 1.0
    rows = table.read_text(encoding="utf-8").splitlines()
    assert len(rows) == 2 + len(paths)
    assert {row.count("|") for row in rows} == {len(mim._COLUMNS) + 1}
    assert table.read_text(encoding="utf-8") in capsys.readouterr().out


def test_ratios_by_hand() -> None:
    """Medians of the ratios within rounds; the faster layout of the reference is the one that counts."""
    times = {
        "rows": [[(1.0, 2.0), (1.0, 2.0)], [(2.0, 4.0), (2.0, 4.0)], [(9.0, 9.0), (9.0, 9.0)]],
        "spark_style": [[(2.0, 4.0), (4.0, 8.0)], [(4.0, 8.0), (6.0, 9.0)], [(9.0, 9.0), (9.0, 9.0)]],
        "spark_style_channels_last": [[(9.0, 9.0), (9.0, 9.0)]] * 3,
    }
    memory = {"rows": {"peak_mb": 50.0}, "spark_style": {"peak_mb": 200.0}, "spark_style_channels_last": {}}
    ours, _, slower = mim.summarise(Case("resenc-s", 0.75), times, memory)
    assert ours["spark_reference"] == "spark_style"
    assert ours["speed_vs_spark_style"] == 2.5  # the median of 3 / 1, 5 / 2 and 9 / 9
    assert ours["cpu_speed_vs_spark_style"] == 2.125  # of 6 / 2, 8.5 / 4 and 9 / 9
    assert ours["speed_of_minima_vs_spark_style"] == 2.0
    assert ours["memory_vs_spark_style"] == 0.25
    assert ours["step_seconds"] == 2.0
    assert (slower["memory_vs_spark_style"], slower["speed_vs_dense"]) == (None, None)


def test_faster_layout_is_found_within_rounds() -> None:
    """Faster in two rounds of three, in spite of the larger median."""
    seconds = {"spark_style": (2.0, 5.0, 6.0), "spark_style_channels_last": (9.0, 4.0, 5.5)}
    times = {path: [[(wall, wall)] for wall in walls] for path, walls in seconds.items()}
    first, second = mim.summarise(Case("resenc-s", 0.75), times, {path: {} for path in times})
    assert second["step_seconds"] > first["step_seconds"]
    assert first["spark_reference"] == "spark_style_channels_last"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_is_measured_in_its_own_process() -> None:
    """It is above nothing, and below all that the process has."""
    case = Case("resenc-s", 0.75, crops=1, size_zyx=SIZE_ZYX)
    found = bench_memory.peak_in_subprocess(case, "rows", threads=1)
    assert 0 < found["peak_mb"] < found["total_mb"]

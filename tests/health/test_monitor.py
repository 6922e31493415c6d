"""The monitor sees what it should, warns when it should, and leaves no trace in what it looks at."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from health_parts import SMALL, SPEC, make_model

from prostate_mim.errors import TrainingError, UsageError
from prostate_mim.health import HealthConfig, HealthMonitor, Watched
from prostate_mim.health.collapse import collapse_warnings
from prostate_mim.health.features import _cells
from prostate_mim.health.masked_error import hidden_windows, masked_errors
from prostate_mim.health.probes import linear_auroc
from prostate_mim.health.windows import central_windows, random_windows
from prostate_mim.manifest import read_manifest
from prostate_mim.mim import METHODS, MaskedImageModel, Method, expand_blocks
from prostate_mim.mim.layout import to_blocks
from prostate_mim.spec import InputSpec
from prostate_mim.store import PreparedStudy, prepare_study
from prostate_mim.studies import open_all
from prostate_mim.volume import Geometry


def snapshot(model: MaskedImageModel) -> dict[str, Any]:
    """Everything an observation must leave alone."""
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": repr(np.random.get_state()),
        "python": random.getstate(),
        "state": {name: value.numpy().tobytes() for name, value in model.state_dict().items()},
        "gradients": {name: None if p.grad is None else p.grad.numpy().tobytes() for name, p in _named(model)},
        "requires_grad": {name: p.requires_grad for name, p in _named(model)},
        "modes": {name: module.training for name, module in model.named_modules()},
        "path": model.encoding.path,
        "grad_mode": torch.is_grad_enabled(),
    }


def _named(model: MaskedImageModel) -> list[tuple[str, torch.nn.Parameter]]:
    return list(model.named_parameters())


@pytest.mark.parametrize("method", [METHODS["fcmae"], Method(target="features", strategy="hard")])
def test_observing_changes_nothing(method: Method, monitor: HealthMonitor, tmp_path: Path) -> None:
    """Weights, buffers, gradients, modes and generators are bit-identical; a frozen part stays in evaluation mode."""
    model = make_model(method).train()
    model.encoder.stages[0].eval().requires_grad_(False)  # type: ignore[operator]
    next(model.decoder.parameters()).grad = torch.ones_like(next(model.decoder.parameters()))
    before = snapshot(model)
    monitor.observe(model, 1, tmp_path)
    assert snapshot(model) == before


@pytest.mark.parametrize(
    "disturb",
    [
        lambda model: torch.rand(1),
        lambda model: np.random.rand(),
        lambda model: random.random(),
        lambda model: model.eval(),
        lambda model: model.decoder.requires_grad_(False),
        lambda model: next(model.parameters()).data.add_(1e-6),
    ],
)
def test_a_change_would_be_noticed(disturb: Callable[[MaskedImageModel], object]) -> None:
    """The control of the test above."""
    model = make_model().train()
    before = snapshot(model)
    disturb(model)
    assert snapshot(model) != before


def test_modes_are_restored_after_an_error(monitor: HealthMonitor, tmp_path: Path) -> None:
    """Features that are not finite are refused, and the model is in training mode again."""
    model = make_model().train()
    model.encoder.stages[3][1].norm2.bias.data.fill_(float("nan"))  # type: ignore[index, union-attr]
    with pytest.raises(TrainingError, match="not finite"):
        monitor.observe(model, 1, tmp_path)
    assert all(module.training for module in model.modules())


def test_the_same_model_gives_the_same_numbers(studies: list[Watched], monitor: HealthMonitor, tmp_path: Path) -> None:
    """Twice by one monitor, and by another of the same seed; not by one of another seed."""
    model = make_model()
    first = monitor.observe(model, 0, tmp_path / "a")
    assert monitor.observe(model, 0, tmp_path / "b") == first
    assert HealthMonitor(studies, studies, SPEC, SMALL, seed=1).observe(model, 0, tmp_path / "c") == first
    assert HealthMonitor(studies, studies, SPEC, SMALL, seed=2).observe(model, 0, tmp_path / "d") != first


def test_every_number_is_there(monitor: HealthMonitor, tmp_path: Path) -> None:
    """All that masks, labels and centres of the phantoms can answer, finite, within their ranges."""
    values = monitor.observe(make_model(), 0, tmp_path)
    regions = ("", "_gland", "_outside")
    wanted = {f"{name}{region}" for name in ("error", "block_mean", "interpolation") for region in regions}
    wanted |= {"rank", "rank_centred", "variance", "gland_auroc", "gland_position_auroc", "linear_auroc"}
    wanted |= {"neighbour_auroc", "centre_accuracy", "centre_chance", "output_spread", "rank_first"}
    assert {f"health/{name}" for name in wanted} <= set(values)
    assert all(np.isfinite(list(values.values())))
    assert all(0 <= value <= 1 for name, value in values.items() if name.endswith(("auroc", "accuracy", "chance")))
    assert values["health/rank_first"] == values["health/rank"]
    assert min(values["health/error_gland"], values["health/error_outside"]) <= values["health/error"]
    assert values["health/error"] <= max(values["health/error_gland"], values["health/error_outside"])


def test_what_is_not_known_is_left_out(studies: list[Watched], tmp_path: Path) -> None:
    """Without masks, labels and centres there are no such numbers, and no error."""
    bare = [dataclasses.replace(one.study, labels=None, masks=frozenset()) for one in studies[:3]]
    monitor = HealthMonitor([Watched(study) for study in bare], [], SPEC, SMALL)
    values = monitor.observe(make_model(), 0, tmp_path)
    assert "health/error" in values
    assert not [name for name in values if name.endswith(("_gland", "_outside", "auroc", "accuracy"))]


# ---------------------------------------------------------------------------------------------------- masked error


@pytest.mark.parametrize("name", ["random", "hard", "gland", "mixture:random=0.5,column=0.5"])
def test_hidden_blocks_are_fixed(name: str, studies: list[Watched]) -> None:
    """Another network, at any time, is asked about the same blocks; even where a teacher chooses them in training."""
    windows = central_windows(studies[:4], SPEC)
    method = dataclasses.replace(METHODS["zerofill"], strategy=name)
    one, other = (hidden_windows(make_model(method, seed), windows, 0, 5).hidden_blocks for seed in (0, 1))
    assert torch.equal(one, other)
    assert one.any()
    assert not torch.equal(one, hidden_windows(make_model(method), windows, 0, 6).hidden_blocks)


def test_places_are_asked_for_apart_from_the_middle(
    studies: list[Watched], monitor: HealthMonitor, tmp_path: Path
) -> None:
    """In the middle of every study a place is known without a look: windows lie elsewhere, and say how far."""
    model = make_model(METHODS["position"])
    apart, middle = (hidden_windows(model, windows, 0, 0).place for windows in (monitor._apart, monitor._central))
    assert apart is not None
    assert middle is not None
    assert middle[:, :, 3].abs().max() <= 0.5
    assert apart[:, :, 3].abs().max() > 2
    for window, place in zip(monitor._apart, apart, strict=True):
        study = monitor.watched[window.owner].study
        starts = zip(window.start_zyx, SPEC.size_zyx, study.shape_zyx, strict=True)
        assert place[:, 3].tolist() == pytest.approx([start + (size - whole) / 2 for start, size, whole in starts])
    values = monitor.observe(model, 0, tmp_path)
    size, spacing = monitor.config.batch, SPEC.spacing_mm_zyx
    wanted, easier = (
        masked_errors(model, windows, spacing, size, monitor.seed)[0]["loss"]
        for windows in (monitor._apart, monitor._central)
    )
    assert values["health/loss"] == pytest.approx(wanted)
    assert values["health/loss"] != pytest.approx(easier, rel=1e-3)  # control: the other windows are another question


def test_batch_size_changes_nothing(studies: list[Watched]) -> None:
    """Hidden blocks belong to a window's number, not to its place in a batch."""
    windows, model = central_windows(studies[:3], SPEC), make_model().eval()
    with torch.no_grad():
        whole, single = (masked_errors(model, windows, SPEC.spacing_mm_zyx, size, 0)[0] for size in (3, 1))
    assert {k: v for k, v in whole.items() if k != "output_spread"} == pytest.approx(
        {k: v for k, v in single.items() if k != "output_spread"}, rel=1e-4
    )


def test_a_constant_decoder_is_the_block_mean(studies: list[Watched]) -> None:
    """Block-normalised targets predicted as 0: the error is the block mean's, computed here once more by hand."""
    model, windows = constant_output(make_model()).eval(), central_windows(studies[:2], SPEC)
    with torch.no_grad():
        values, pictures = masked_errors(model, windows, SPEC.spacing_mm_zyx, 2, 0)
    batch = hidden_windows(model, windows, 0, 0)
    hidden = expand_blocks(batch.hidden_blocks, model.grid.block_zyx)
    truth = to_blocks(batch.voxels, model.grid.block_zyx).numpy()
    counted = to_blocks(hidden & batch.inside, model.grid.block_zyx).numpy()
    errors = (truth - truth.mean(2, keepdims=True)) ** 2 / (truth.var(2, keepdims=True) + 1e-3)
    assert values["block_mean"] == pytest.approx(errors[counted].mean(), rel=1e-4)
    assert values["error"] == pytest.approx(values["block_mean"], rel=1e-4)
    assert values["output_spread"] == 0
    assert pictures is not None
    assert np.array_equal(pictures.filled[~pictures.hidden], pictures.truth[~pictures.hidden])


@pytest.mark.parametrize(
    ("method", "there", "missing"),
    [
        (Method(target="features"), {"loss", "loss_gland", "loss_outside"}, {"error"}),
        (dataclasses.replace(METHODS["simmim"], strategy="frequency"), {"loss"}, {"error"}),
        (METHODS["genesis"], {"error", "unchanged", "block_mean"}, {"interpolation"}),
        (METHODS["simmim"], {"error", "interpolation"}, {"loss"}),
    ],
)
def test_every_kind_of_method_has_its_error(
    method: Method, there: set[str], missing: set[str], studies: list[Watched]
) -> None:
    """No image in the target, or frequencies hidden: the loss. Corruption: beside the corrupted input as it is."""
    model = make_model(method).eval()
    with torch.no_grad():
        values, pictures = masked_errors(model, central_windows(studies[:2], SPEC), SPEC.spacing_mm_zyx, 2, 0)
    assert there <= set(values)
    assert not missing & set(values)
    assert (pictures is None) == ("loss" in there)


# ------------------------------------------------------------------------------------------------------- collapse


def constant_output(model: MaskedImageModel) -> MaskedImageModel:
    """A decoder whose last layer has forgotten its input."""
    last = [m for m in model.decoder.modules() if isinstance(m, torch.nn.Conv3d | torch.nn.ConvTranspose3d)][-1]
    last.weight.data.zero_()
    if last.bias is not None:
        last.bias.data.zero_()
    return model


def constant_features(model: MaskedImageModel) -> MaskedImageModel:
    """An encoder whose last stage has the weights of all its norms at zero."""
    for name, parameter in model.encoder.stages[3].named_parameters():  # type: ignore[union-attr]
        if ".norm" in name and name.endswith("weight"):
            parameter.data.zero_()
        elif ".norm" in name:
            parameter.data.fill_(0.5)
    return model


@pytest.mark.parametrize("method", ["fcmae", "zerofill", "simmim"])
def test_a_healthy_network_is_not_warned_of(method: str, monitor: HealthMonitor, tmp_path: Path) -> None:
    """Neither untrained nor after a real step."""
    model = make_model(METHODS[method])
    assert monitor.warnings(monitor.observe(model, 0, tmp_path)) == []
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for step in range(3):
        model.train()(hidden_windows(model, monitor._central, 0, step)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert monitor.warnings(monitor.observe(model, 3, tmp_path)) == []


def test_collapsed_features_are_warned_of(monitor: HealthMonitor, tmp_path: Path) -> None:
    """Every window gives the same embedding: rank 1, no variance, two warnings."""
    monitor.observe(make_model(), 0, tmp_path)
    values = monitor.observe(constant_features(make_model()), 10, tmp_path)
    assert values["health/rank"] == pytest.approx(1, abs=1e-3)
    warnings = monitor.warnings(values)
    assert len(warnings) == 2
    assert all(text.startswith("COLLAPSE") and "\n" not in text for text in warnings)


def test_constant_output_is_warned_of(monitor: HealthMonitor, tmp_path: Path) -> None:
    """The encoder is well, the decoder says the same everywhere: one warning, about the decoder."""
    warnings = monitor.warnings(monitor.observe(constant_output(make_model()), 10, tmp_path))
    assert len(warnings) == 1
    assert "predicts the same everywhere" in warnings[0]


def test_thresholds_are_shares_of_the_first_look() -> None:
    """By hand: centred rank 40 at first; 10 is just allowed at a share of 0.25, 9.9 is not."""
    config = HealthConfig()
    at_first = {"health/rank": 2.0, "health/rank_centred_first": 40.0}
    assert collapse_warnings({**at_first, "health/rank_centred": 10.0}, config) == []
    assert len(collapse_warnings({**at_first, "health/rank_centred": 9.9}, config)) == 1
    assert len(collapse_warnings({"health/variance": 9e-5, "health/variance_first": 0.1}, config)) == 1
    assert collapse_warnings({}, config) == []


def test_the_first_look_survives_a_restart(studies: list[Watched], monitor: HealthMonitor, tmp_path: Path) -> None:
    """A resumed run compares with the first look of the run, not with its own first; a damaged one is made anew."""
    first = monitor.observe(make_model(seed=0), 0, tmp_path)
    resumed = HealthMonitor(studies, studies, SPEC, SMALL, seed=1)
    later = resumed.observe(make_model(seed=1), 50, tmp_path)
    assert later["health/rank_first"] == first["health/rank"] != later["health/rank"]
    (tmp_path / "health" / "first.json").write_text("{")
    anew = resumed.observe(make_model(seed=1), 50, tmp_path)
    assert anew["health/rank_first"] == anew["health/rank"]
    assert json.loads((tmp_path / "health" / "first.json").read_text())["studies"]["watched"] == 4


# ------------------------------------------------------------------------------------------------ windows and gland


def test_the_place_gives_little_away_at_random_offsets(cohort: Path) -> None:
    """The control of the gland probe: in centred windows the place alone tells gland from the rest, at offsets not."""
    spec = InputSpec(size_zyx=(8, 96, 96))
    region = spec.with_size((16, 224, 224))
    listed = read_manifest(cohort)
    watched = [Watched(prepare_study(study, region)) for study, _ in zip(open_all(listed), range(6), strict=False)]
    centred = [Watched(_recentred(one.study)) for one in watched]
    found = {}
    for name, windows in (
        ("centred", central_windows(centred, spec)),
        ("offset", random_windows(watched, spec, 6, seed=0)),
    ):
        parts = [
            _cells(np.zeros((1, 4, 12, 12)), window, (2, 8, 8), 200, np.random.default_rng(n))
            for n, window in enumerate(windows)
        ]
        places, gland, owners = (np.concatenate([getattr(p, k) for p in parts]) for k in ("places", "gland", "owners"))
        found[name] = linear_auroc(places, gland, owners, HealthConfig())
    assert found["centred"] > 0.9
    assert found["offset"] < 0.72


def _recentred(study: PreparedStudy) -> PreparedStudy:
    """The same study, rolled so that its gland lies in the middle, as in a crop around the gland."""
    gland = study.mask("gland")
    assert gland is not None
    shift = [round(n / 2 - c) for n, c in zip(gland.shape, np.argwhere(gland).mean(0), strict=True)]
    everything = (slice(None),) * 3
    assert study.labels is not None
    rolled = [np.roll(np.asarray(array[everything]), shift, (0, 1, 2)) for array in (study.voxels, study.labels)]
    box = tuple((0, n) for n in study.shape_zyx)
    return dataclasses.replace(study, voxels=rolled[0], labels=rolled[1], inside_zyx=box)  # type: ignore[arg-type]


def bordered(rng: np.random.Generator) -> Watched:
    """A study of noise with padding on all sides; its upper half is called gland."""
    box = ((2, 10), (16, 80), (16, 80))
    voxels = np.zeros((12, 96, 96), np.int16)
    voxels[2:10, 16:80, 16:80] = rng.integers(0, 1000, (8, 64, 64))
    labels = np.zeros(voxels.shape, np.uint8)
    labels[:6] = 1
    geometry = Geometry(SPEC.spacing_mm_zyx)
    return Watched(PreparedStudy(voxels, 1.0, 0.0, box, labels, frozenset({"gland"}), geometry))


def test_cells_in_padding_are_not_drawn(rng: np.random.Generator) -> None:
    """Cells of windows that reach into padding come from measured voxels only; some are always left out."""
    windows = random_windows([bordered(rng)], SPEC, 20, seed=0)
    assert any(not window.inside.all() for window in windows)
    for window in windows:
        marked = to_blocks(torch.from_numpy(window.inside)[None, None].float(), (2, 8, 8))[0].mean(1).view(1, 2, 4, 4)
        drawn = _cells(marked.double().numpy(), window, (2, 8, 8), 1000, np.random.default_rng(0))
        assert (drawn.features == 1).all()
        assert len(drawn.features) == int((marked == 1).sum())


def test_windows_are_half_measured_and_fixed(rng: np.random.Generator) -> None:
    """At least half of each lies in the study, places differ, and the same seed gives the same places."""
    watched = [bordered(rng)]
    windows = random_windows(watched, SPEC, 10, seed=3)
    assert all(window.inside.mean() >= 0.5 for window in windows)
    again, other = (random_windows(watched, SPEC, 10, seed=seed) for seed in (3, 4))
    assert all(np.array_equal(a.voxels, b.voxels) for a, b in zip(windows, again, strict=True))
    assert not all(np.array_equal(a.voxels, b.voxels) for a, b in zip(windows, other, strict=True))
    assert len({window.voxels.tobytes() for window in windows}) > 5


def test_a_region_smaller_than_the_window_is_refused(studies: list[Watched]) -> None:
    """Said when the monitor is made, with both sizes."""
    with pytest.raises(UsageError, match=r"\(12, 96, 96\).*\(16, 96, 96\)"):
        HealthMonitor(studies[:1], [], InputSpec(), SMALL)


def test_too_many_labelled_studies_are_thinned_the_same_way(studies: list[Watched]) -> None:
    """A fixed part of them: the same for one seed, another for another."""
    config = dataclasses.replace(SMALL, labelled=5)
    chosen = [[id(one) for one in HealthMonitor([], studies, SPEC, config, seed).labelled] for seed in (0, 0, 1)]
    assert len(chosen[0]) == 5
    assert chosen[0] == chosen[1] != chosen[2]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_model_on_a_gpu_is_observed_there(monitor: HealthMonitor, tmp_path: Path) -> None:
    """The same numbers to rounding, twice the same ones, and no generator moved."""
    model = make_model(METHODS["fcmae"])
    expected = monitor.observe(model, 0, tmp_path / "cpu")
    model.cuda()
    state = torch.cuda.get_rng_state()
    found = monitor.observe(model, 0, tmp_path / "gpu")
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert found["health/error"] == pytest.approx(expected["health/error"], rel=1e-2)
    assert found["health/rank"] == pytest.approx(expected["health/rank"], rel=1e-2)
    assert model.encoding.path == "auto"
    assert model.encoding._measured is None

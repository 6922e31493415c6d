"""Probes of frozen features: what they may learn from, what they may not, and what the pipeline itself gives away."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from prostate_mim.encoder import PreMIM
from prostate_mim.errors import ManifestError, UsageError
from prostate_mim.health.windows import Window
from prostate_mim.metrics import auroc
from prostate_mim.nets import StageInfo
from prostate_mim.probing import ProbeResult, ProbeTask, run_probe
from prostate_mim.probing.data import ask, shuffled
from prostate_mim.probing.features import _grid, _sample, voxel_features
from prostate_mim.probing.fit import best_threshold, choose_penalty, dice, fit
from prostate_mim.probing.location import location_features
from prostate_mim.spec import InputSpec

SPACING = (3.0, 1.0, 1.0)
SHAPE = (14, 80, 80)
PATIENTS = 6


def write_study(folder: Path, number: int, flip_labels: bool = False) -> str:
    """A bright gland with a brighter outer zone, somewhere off the middle, in noise; one manifest line."""
    rng = np.random.default_rng(number)
    z, y, x = np.ogrid[tuple(slice(n) for n in SHAPE)]
    cz, cy, cx = np.asarray(SHAPE) / 2 + rng.uniform(-1, 1, 3) * (1, 8, 8)
    radius = ((z - cz) / 5) ** 2 + ((y - cy) / 15) ** 2 + ((x - cx) / 17) ** 2
    gland = radius < 1
    zones = np.where(gland, np.where(radius < 0.5, 2, 1), 0)
    voxels = 200 + 300 * (zones == 2) + 600 * (zones == 1) + rng.normal(0, 40, SHAPE)
    if flip_labels:
        gland, zones = ~gland, np.where(zones == 2, 1, 2)
    affine = np.diag([*SPACING[::-1], 1.0]) @ np.diag([-1, -1, 1, 1.0])
    names = []
    for name, array in (("t2w", voxels.astype("i2")), ("gland", gland.astype("u1")), ("zones", zones.astype("u1"))):
        path = folder / f"{number}_{name}.nii.gz"
        nib.save(nib.Nifti1Image(array.transpose(2, 1, 0), affine), path)
        names.append(path.name)
    return f"s{number},p{number},{names[0]},{names[1]},{names[2]},{'AB'[number % 2]},{number % 3}"


def write_manifest(folder: Path, flipped: tuple[int, ...] = ()) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [write_study(folder, number, number in flipped) for number in range(PATIENTS)]
    path = folder / "studies.csv"
    path.write_text("\n".join(["study_id,patient_id,t2w,gland_mask,zone_mask,centre,fold", *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_manifest(tmp_path_factory.mktemp("probe"))


@pytest.fixture(scope="module")
def encoder() -> PreMIM:
    torch.manual_seed(0)
    return PreMIM("resenc-s", InputSpec(SPACING, (8, 32, 32))).eval()


@pytest.fixture(scope="module")
def plain(manifest: Path, encoder: PreMIM) -> ProbeResult:
    return run_probe(encoder, task(manifest))


def task(manifest: Path, kind: str = "gland", **changes: object) -> ProbeTask:
    made = ProbeTask(
        kind, str(manifest), SPACING, (8, 32, 32), (12, 64, 64), windows=2, voxels=60, penalties=(1e-2, 1.0),
        inner_folds=2,
    )  # fmt: skip
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["gland", "zone"])
def test_what_brightness_tells_is_found(manifest: Path, encoder: PreMIM, plain: ProbeResult, kind: str) -> None:
    found = plain if kind == "gland" else run_probe(encoder, task(manifest, kind))
    assert found.patients.tolist() == list(range(PATIENTS))
    assert np.nanmean(found.values["auroc"]) > 0.9
    assert np.nanmean(found.values["dice"]) > 0.6
    assert len(found.penalties) == 3  # one for each of the manifest's folds


def test_permuted_labels_leave_nothing(manifest: Path, encoder: PreMIM) -> None:
    values = run_probe(encoder, task(manifest), control="permuted").values["auroc"]
    error = values.std(ddof=1) / np.sqrt(len(values))
    assert abs(values.mean() - 0.5) < 3 * error + 0.02


def test_place_alone_knows_less_than_features(manifest: Path, encoder: PreMIM, plain: ProbeResult) -> None:
    place = run_probe(encoder, task(manifest), control="place").values["auroc"].mean()
    assert place < plain.values["auroc"].mean() - 0.1


def find(window: Window, scan: np.ndarray, near: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """Where a window's first voxel lies in its scan, by its noise: at most two voxels from ``near``."""
    at = [near + np.array(step) - 2 for step in np.ndindex(5, 5, 5)]
    wide = np.pad(scan, 8)  # a window's border may lie beyond the scan's
    parts = [tuple(slice(a + 8, a + 8 + n) for a, n in zip(s, window.voxels.shape, strict=True)) for s in at]
    alike = [np.corrcoef(wide[p][window.inside], window.voxels[window.inside])[0, 1] for p in parts]
    assert max(alike) > 0.99 and sorted(alike)[-2] < 0.98
    return at[int(np.argmax(alike))]


def test_location_is_measured_from_the_scan_and_of_zones_from_the_gland_too(manifest: Path) -> None:
    """By hand from the files: mm along z, y, x in units of 30, then their powers and products up to the fourth."""
    scans, glands = (
        [np.asarray(nib.load(manifest.parent / f"{n}_{name}.nii.gz").dataobj).T for n in range(PATIENTS)]
        for name in ("t2w", "gland")
    )
    for kind, columns in (("gland", 34), ("zone", 68)):
        asked_for = task(manifest, kind)
        asked = ask(asked_for, 0)
        found = location_features(asked, asked_for)
        for window, places, values in zip(asked.windows, asked.places, found, strict=True):
            assert values.shape == (len(places), columns)
            middle = np.argwhere(glands[window.owner]).mean(0)
            near = np.rint(middle).astype(int) - (6, 32, 32) + window.start_zyx
            voxels = places + find(window, scans[window.owner], near)
            mm = (voxels - (np.asarray(SHAPE) - 1) / 2) * SPACING / 30
            assert values[:, :3] == pytest.approx(mm, abs=1e-6)
            assert values[:, 3] == pytest.approx(mm[:, 0] ** 2) and values[:, 4] == pytest.approx(mm[:, 0] * mm[:, 1])
            assert values[:, 33] == pytest.approx(mm[:, 2] ** 4)
            if kind == "zone":
                assert values[:, 34:37] == pytest.approx((voxels - middle) * SPACING / 30, abs=1e-6)


def test_location_alone_tells_what_lies_in_its_usual_place(manifest: Path, encoder: PreMIM) -> None:
    """Glands lie within 8 mm of the scan's middle, zones are shells: places in the body tell more than in a window."""
    for kind in ("gland", "zone"):
        place, location = (
            run_probe(encoder, task(manifest, kind), control=control).values["auroc"].mean()
            for control in ("place", "location")
        )
        assert location > place + 0.1


def test_a_tested_patient_teaches_nobody_of_the_same_fold(tmp_path: Path, encoder: PreMIM, plain: ProbeResult) -> None:
    """Patients 0 and 3 are tested together: turning 0's masks round may not move 3, and must move the others."""
    turned = write_manifest(tmp_path / "turned", flipped=(0,))
    after = run_probe(encoder, task(turned))
    assert after.values["auroc"][3] == plain.values["auroc"][3]
    assert any(after.values["auroc"][other] != plain.values["auroc"][other] for other in (1, 2, 4, 5))


def test_only_named_folds_are_tested(manifest: Path, encoder: PreMIM, plain: ProbeResult) -> None:
    one = run_probe(encoder, task(manifest, test_folds=(1,)))
    assert one.patients.tolist() == [1, 4]
    assert one.values["auroc"].tolist() == plain.values["auroc"][[1, 4]].tolist()
    with pytest.raises(UsageError, match="test_folds names fold 7"):
        run_probe(encoder, task(manifest, test_folds=(7,)))


def test_the_same_seed_gives_the_same_numbers_and_leaves_the_encoder_alone(manifest: Path, encoder: PreMIM) -> None:
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    first, second = (run_probe(encoder, task(manifest, test_folds=(1,)), 5) for _ in range(2))
    assert first.values["auroc"].tolist() == second.values["auroc"].tolist()
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    other = run_probe(encoder, task(manifest, test_folds=(1,)), 6)
    assert other.values["auroc"].tolist() != first.values["auroc"].tolist()


def test_calibration_is_of_the_fitted_patients(manifest: Path) -> None:
    """A network with batch norm reads other features when its statistics follow the windows."""
    torch.manual_seed(0)
    network = PreMIM("effnet-lite0", InputSpec(SPACING, (8, 32, 32))).eval()
    asked = task(manifest, test_folds=(1,))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    own, calibrated = (run_probe(network, dataclasses.replace(asked, calibrate=on)) for on in (False, True))
    assert own.values["auroc"].tolist() != calibrated.values["auroc"].tolist()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_centres_are_guessed_per_patient(manifest: Path, encoder: PreMIM) -> None:
    found = run_probe(encoder, task(manifest, "centre"))
    assert set(found.values["correct"]) <= {0.0, 1.0}
    centres = np.arange(PATIENTS) % 2
    recalls = [found.values["correct"][centres == one].mean() for one in (0, 1)]
    assert found.values["balanced_accuracy"].mean() == pytest.approx(np.mean(recalls))
    for control in ("place", "location"):
        with pytest.raises(UsageError, match=f"control '{control}' is about voxels"):
            run_probe(encoder, task(manifest, "centre"), control=control)


def test_voxels_are_asked_about_where_the_kind_says(manifest: Path) -> None:
    for kind in ("gland", "zone"):
        asked = ask(task(manifest, kind), 0)
        assert sorted(set(asked.patients.tolist())) == list(range(PATIENTS))
        assert all(len(places) == len(labels) <= 60 for places, labels in zip(asked.places, asked.labels, strict=True))


def test_shuffled_labels_are_not_told_by_the_window(manifest: Path) -> None:
    """Shares of positives are a patient's, no longer a window's: which window a voxel is of says nothing any more."""
    asked = ask(task(manifest, "gland"), 0)
    mixed = shuffled(asked, 0)
    told = {"asked": [], "mixed": []}  # type: dict[str, list[float]]
    for patient in range(PATIENTS):
        own = np.flatnonzero(asked.patients == patient)
        before, after = (np.concatenate([which.labels[n] for n in own]) for which in (asked, mixed))
        assert before.sum() == after.sum() and (before != after).any()
        # The share of positives of a voxel's window, as it was: all that features might know of the window.
        share = np.concatenate([np.full(len(asked.labels[n]), asked.labels[n].mean()) for n in own])
        for name, labels in (("asked", before), ("mixed", after)):
            told[name].append(auroc(labels, share) or 0.5)
    assert np.mean(told["asked"]) > 0.55
    assert abs(np.mean(told["mixed"]) - 0.5) < 0.05
    for fold in set(asked.folds.tolist()):
        assert sorted(mixed.centres[mixed.folds == fold]) == sorted(asked.centres[asked.folds == fold])


def test_a_missing_mask_is_refused_by_row(tmp_path: Path, manifest: Path, encoder: PreMIM) -> None:
    lines = manifest.read_text().splitlines()
    cells = lines[2].split(",")
    cells[4] = ""
    bad = manifest.with_name("bad.csv")
    bad.write_text("\n".join([*lines[:2], ",".join(cells), *lines[3:]]) + "\n")
    with pytest.raises(ManifestError, match=r"row 2: a zone probe needs gland_mask and zone_mask"):
        run_probe(encoder, task(bad, "zone"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"kind": "galnd"}, "unknown"), ({"windows": 0}, "windows is 0"), ({"inner_folds": 1}, "inner_folds is 1"),
     ({"penalties": ()}, "penalties"), ({"region_zyx": (4, 64, 64)}, "smaller than the window")],
)  # fmt: skip
def test_tasks_that_make_no_sense_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        dataclasses.replace(task(Path("x.csv")), **changes)  # type: ignore[arg-type]


def test_features_are_read_where_the_cell_looks() -> None:
    """A stage that holds its own x position, stride 4, first cell at voxel 0: voxel 9 lies at cell 9 / 4 = 2.25.

    Were cells in the middle of their share (at voxels 1.5, 5.5, ...), it would be cell 1.875.
    """
    stage = torch.arange(4.0).view(1, 1, 1, 1, 4).expand(1, 1, 2, 4, 4)
    places = np.array([[3, 5, 9], [0, 0, 0], [0, 0, 15]])
    read = _sample(stage, _grid(places, StageInfo(1, (4, 4, 4)), (2, 4, 4)))
    assert read[:, 0] == pytest.approx([2.25, 0.0, 3.0])  # beyond the outermost cell its value is kept
    middle = _sample(stage, _grid(places, StageInfo(1, (4, 4, 4), (1.5, 1.5, 1.5)), (2, 4, 4)))
    assert middle[0, 0] == pytest.approx(1.875)


def drift(encoder: PreMIM) -> float:
    """How far the change that bright voxels make is read from them, in voxels along x."""
    rng = np.random.default_rng(0)
    line = np.array([[4, 32, x] for x in range(64)])
    found = []
    for _ in range(6):
        voxels = rng.normal(0, 1, (8, 64, 64)).astype("f4")
        bright = voxels.copy()
        bright[4, 32, 30:34] += 6
        windows = [Window(each, np.ones(each.shape, bool), None, None, 0) for each in (voxels, bright)]
        before, after = voxel_features(encoder, windows, [line, line], 1)
        change = np.square(after - before).sum(1) ** 2  # the peak, not the tails, which end at the window
        found.append((change * (np.arange(64) - 31.5)).sum() / change.sum())
    return abs(float(np.mean(found)))


@pytest.mark.parametrize("name", ["resenc-s", "effnet-lite0", "convnext-a"])
def test_a_bright_place_is_read_at_its_own_place(name: str) -> None:
    """The control: cells in the middle of their shares are read beside it, but for patches that do not overlap."""
    torch.manual_seed(0)
    encoder = PreMIM(name, InputSpec(SPACING, (8, 64, 64))).eval()
    own = drift(encoder)
    for number, info in enumerate(encoder.encoder.stage_info):
        z, y, x = ((n - 1) / 2 for n in info.stride_zyx)
        middle = dataclasses.replace(info, begin_zyx=(z, y, x))
        encoder.encoder.stage_info = (
            *encoder.encoder.stage_info[:number],
            middle,
            *encoder.encoder.stage_info[number + 1 :],
        )
    assert own < 2
    assert name == "convnext-a" or drift(encoder) > own + 1.5


def test_dice_and_threshold_by_hand() -> None:
    labels = np.array([1, 1, 0, 0])
    assert dice(np.array([True, False, True, False]), labels) == 0.5
    assert np.isnan(dice(np.zeros(2, bool), np.zeros(2, int)))
    assert 0.3 <= best_threshold(np.array([0.9, 0.4, 0.29, 0.1]), labels) < 0.4


def test_penalty_is_chosen_on_inner_patients() -> None:
    """A hundred noise columns beside one that tells: little regularisation fits the noise of few rows."""
    rng = np.random.default_rng(0)
    owners = np.repeat(np.arange(8), 6)
    labels = rng.integers(0, 2, len(owners))
    features = np.concatenate([2 * labels[:, None] + rng.normal(0, 1, (48, 1)), rng.normal(0, 1, (48, 100))], 1)
    assert choose_penalty(features, labels, owners, (1e-2, 1e4), 4, 0) == 1e-2
    assert choose_penalty(features, labels, owners, (3.0,), 4, 0) == 3.0
    fitted = fit(np.concatenate([features, np.ones((48, 1))], 1), labels, 1.0)  # a constant column breaks nothing
    assert np.isfinite(fitted.probabilities(np.concatenate([features, np.ones((48, 1))], 1))).all()


def test_penalty_of_several_centres_where_an_inner_part_knows_two() -> None:
    """Three centres in few patients: inner parts fitted to two of them only, or to 1 and 2, are scored all the same."""
    labels = np.array([0, 1, 2, 1, 2, 1, 2])
    features = np.eye(3)[labels] + np.random.default_rng(0).normal(0, 0.01, (7, 3))
    assert choose_penalty(features, labels, np.arange(7), (1e-6, 1.0), 3, 0) == 1.0

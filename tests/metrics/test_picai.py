"""Detection maps: one candidate each; the files are scored by the real picai_eval with numbers counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from prostate_mim.errors import UsageError
from prostate_mim.metrics import PicaiCase, auroc, detection_map, write_picai
from prostate_mim.volume import Geometry, Volume, read_volume

GEOMETRY = Geometry((3.0, 0.5, 0.5), (-20.0, 35.0, 10.0))
SHAPE = (10, 60, 60)
GRID = Volume(np.zeros(SHAPE, np.float32), GEOMETRY)
HERE, THERE = (4, 15, 15), (5, 45, 45)
TOUCHING = np.ones((3, 3, 3))
MISSING = "picai_eval is not installed; pip install picai_eval"


def place(index: tuple[float, float, float]) -> np.ndarray:
    """Position in mm of an index (z, y, x)."""
    return GEOMETRY.index_to_position(index)


def label(*indices: tuple[int, int, int]) -> Volume:
    """Lesions as balls of 5 mm."""
    drawn = detection_map(GRID, [(place(index), 1.0) for index in indices])
    return Volume((drawn.voxels > 0).astype(np.uint8), GEOMETRY)


def case(name: str, lesions: list, candidates: list) -> PicaiCase:
    """A study with lesions and scored candidates at indices."""
    return PicaiCase(name, detection_map(GRID, [(place(index), p) for index, p in candidates]), label(*lesions))


CASES = [
    case("1", [HERE], [(HERE, 0.9)]),  # found
    case("2", [HERE], [(HERE, 0.4), (THERE, 0.6)]),  # found, and a false alarm above it
    case("3", [], [(THERE, 0.5)]),  # benign with a false alarm
    case("4", [], []),  # benign, nothing said
    case("5", [THERE], []),  # missed
]


def test_picai_eval_reads_the_files(tmp_path):
    """Cases: 0.9, 0.6 and 0 against 0.5 and 0 win 4.5 of 6 pairs. Lesions: found at ranks 1 and 4 of 3: AP 1/2."""
    picai_eval = pytest.importorskip("picai_eval", reason=MISSING)
    written = write_picai(tmp_path / "out", CASES)
    assert [path.name for path in written[:2]] == ["1_detection_map.nii.gz", "1_label.nii.gz"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in written)
    found = picai_eval.evaluate_folder(tmp_path / "out", num_parallel_calls=1, verbose=0)
    assert found.num_cases == 5
    assert found.num_lesions == 3
    assert found.auroc == pytest.approx(4.5 / 6)
    assert found.auroc == pytest.approx(auroc([1, 1, 0, 0, 1], [0.9, 0.6, 0.5, 0.0, 0.0]))
    assert pytest.approx((1 + 2 / 4) / 3) == found.AP
    assert found.case_pred["2"] == pytest.approx(0.6)
    assert found.lesion_results["1"] == [(1, pytest.approx(0.9), pytest.approx(1.0))]  # drawn where it was labelled


def test_picai_eval_counts_neighbours_apart(tmp_path):
    """Two lesions 6 mm apart stay two candidates for picai_eval; drawn without a gap they are refused by it."""
    picai_eval = pytest.importorskip("picai_eval", reason=MISSING)
    near = (4, 15, 27)
    apart = case("1", [HERE], [(HERE, 0.9), (near, 0.3)])
    write_picai(tmp_path, [apart])
    found = picai_eval.evaluate_folder(tmp_path, num_parallel_calls=1, verbose=0)
    assert sorted(row[1] for row in found.lesion_results["1"]) == pytest.approx([0.3, 0.9])
    naive = np.zeros(SHAPE, np.float32)
    for index, probability in ((near, 0.3), (HERE, 0.9)):
        naive[detection_map(GRID, [(place(index), 1.0)]).voxels > 0] = probability
    with pytest.raises(ValueError, match="softmax"):
        picai_eval.evaluate([naive], [apart.label.voxels], num_parallel_calls=1)
    with pytest.raises(UsageError, match="case 1: a connected candidate"):
        write_picai(tmp_path / "naive", [PicaiCase("1", Volume(naive, GEOMETRY), apart.label)])
    assert list((tmp_path / "naive").iterdir()) == []


def test_files_keep_the_grid(tmp_path):
    """Both files have the volume's own grid; the map is float32 and the label uint8."""
    detection, marked = write_picai(tmp_path, CASES[:1])
    for path, stored in ((detection, CASES[0].detection), (marked, CASES[0].label)):
        read = read_volume(path)
        np.testing.assert_allclose(read.geometry.origin_mm_lps, GEOMETRY.origin_mm_lps, atol=1e-4)
        assert read.geometry.spacing_mm_zyx == pytest.approx(GEOMETRY.spacing_mm_zyx)
        np.testing.assert_array_equal(read.voxels, stored.voxels)


def ball_volume_mm3(drawn: Volume) -> float:
    """Volume of what is drawn."""
    return float((drawn.voxels > 0).sum() * np.prod(drawn.geometry.spacing_mm_zyx))


def test_a_position_becomes_a_ball():
    """A radius of 5 mm has about 524 mm3, around the position; smaller than a voxel, it is one voxel."""
    fine = Volume(np.zeros((40, 40, 40), np.float32), Geometry((0.5, 0.5, 0.5)))
    drawn = detection_map(fine, [((10.0, 10.0, 9.0), 0.25)])
    assert ball_volume_mm3(drawn) == pytest.approx(4 / 3 * np.pi * 125, rel=0.02)
    centre = fine.geometry.index_to_position(np.argwhere(drawn.voxels > 0).mean(0))
    np.testing.assert_allclose(centre, (10.0, 10.0, 9.0), atol=0.01)
    assert set(np.unique(drawn.voxels)) == {0, np.float32(0.25)}
    flat = np.argwhere(detection_map(GRID, [(place(HERE), 0.5)]).voxels > 0)  # slices 3 mm apart, voxels 0.5 mm
    assert (flat.min(0).tolist(), flat.max(0).tolist()) == ([3, 5, 5], [5, 25, 25])
    tiny = detection_map(GRID, [(place((4.4, 15.4, 15.4)), 0.5)], radius_mm=0.1)
    assert np.argwhere(tiny.voxels > 0).tolist() == [[4, 15, 15]]


def test_a_mask_keeps_its_shape():
    """A mask is drawn as it is, its largest piece; probability 0 is still a candidate."""
    voxels = np.zeros(SHAPE, np.uint8)
    voxels[3:5, 20:30, 20:25] = 1
    voxels[8, 50, 50] = 1
    drawn = detection_map(GRID, [(Volume(voxels, GEOMETRY), 0.0)])
    voxels[8, 50, 50] = 0
    np.testing.assert_array_equal(drawn.voxels > 0, voxels > 0)
    assert drawn.voxels.max() == np.float32(1e-6)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 6), st.integers(4, 36), st.integers(4, 36), st.floats(0, 1)), min_size=0, max_size=5
    )
)
def test_candidates_stay_apart(rows):
    """However close: as many components as candidates, each of its own probability, or a plain refusal."""
    grid = Volume(np.zeros((8, 40, 40), np.float32), Geometry((3.0, 0.6, 0.6)))
    candidates = [(grid.geometry.index_to_position(row[:3]), row[3]) for row in rows]
    try:
        drawn = detection_map(grid, candidates).voxels
    except UsageError as error:
        assert "lies within other candidates" in str(error)
        return
    names, count = ndimage.label(drawn, structure=TOUCHING)
    assert count == len(rows)
    values = sorted(float(drawn[names == index].max()) for index in range(1, count + 1))
    assert values == pytest.approx(sorted(max(row[3], 1e-6) for row in rows))
    assert all(len(np.unique(drawn[names == index])) == 1 for index in range(1, count + 1))


@pytest.mark.parametrize(
    ("candidates", "words"),
    [
        ([((0.0, 0.0, 900.0), 0.5)], "candidate 1: its position lies outside"),
        ([(place(HERE), 0.5), (place(THERE), 1.5)], "candidate 2: probability 1.5"),
        ([(place(HERE), float("nan"))], "candidate 1: probability nan"),
        ([(place(HERE), 0.5), (place(HERE), 0.4)], "candidate 2: lies within other candidates"),
        ([(Volume(np.zeros(SHAPE, np.uint8), GEOMETRY), 0.5)], "candidate 1: its mask is empty"),
        ([(Volume(np.ones((3, 3, 3), np.uint8), GEOMETRY), 0.5)], "candidate 1: its mask is on another grid"),
    ],
)
def test_wrong_candidates_are_refused(candidates, words):
    """Each by its number, without its position."""
    with pytest.raises(UsageError, match=words):
        detection_map(GRID, candidates)
    with pytest.raises(UsageError, match="radius"):
        detection_map(GRID, [], radius_mm=0)


def test_wrong_cases_are_refused(tmp_path):
    """What picai_eval would misread is refused by number before a file of that case exists."""
    good, shifted = CASES[0], Volume(GRID.voxels, Geometry((3.0, 0.5, 0.5), (0.0, 0.0, 0.0)))
    graded = Volume((good.label.voxels * 3).astype(np.uint8), GEOMETRY)
    above = Volume(good.detection.voxels * 2, GEOMETRY)
    wrong = [
        (PicaiCase("a/b", good.detection, good.label), "case 2: the case_id"),
        (PicaiCase("a_label", good.detection, good.label), "case 2: the case_id"),
        (PicaiCase("b", good.detection, shifted), "case 2: detection map and label are on different grids"),
        (PicaiCase("b", good.detection, graded), "case 2: the label holds other values"),
        (PicaiCase("b", above, good.label), "case 2: the detection map has values outside"),
        (PicaiCase("1", good.detection, good.label), "case 2: an earlier case has the same case_id"),
        (PicaiCase("b", good.detection, good.label.voxels), "case 2: its label is of type ndarray, and a Volume is"),
        (PicaiCase("b", "b.nii.gz", good.label), "case 2: its detection map is of type str, and a Volume is"),
        (PicaiCase("b", good.detection, None), "case 2: its label is of type NoneType"),
    ]
    for number, (bad, words) in enumerate(wrong):
        folder = tmp_path / str(number)
        with pytest.raises(UsageError, match=words):
            write_picai(folder, [good, bad])
        assert len(list(folder.iterdir())) == 2
    with pytest.raises(UsageError, match="holds detection maps already"):
        write_picai(tmp_path / "0", [good])

"""fastMRI prostate: real HDF5 files with an ISMRMRD header, and the CSV tables of scores."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from prostate_mim.datasets import ImportSummary, import_dataset
from prostate_mim.errors import ManifestError, NotFoundError
from prostate_mim.studies import Study
from prostate_mim.volume import read_volume

NAME = "fastmri-prostate"
Opened = Callable[[Path], list[Study]]
SHAPE = (4, 16, 12)  # slices, rows, columns


def header(columns: int = 12, rows: int = 16, *, x_mm: float = 9.0, y_mm: float = 8.0, z_mm: float = 3.0) -> str:
    """The parts of an ISMRMRD header that matter, and the encoded space, which is oversampled and comes first."""
    size, field_mm = "<x>{1}</x><y>{2}</y><z>1</z>", "<x>{3}</x><y>{4}</y><z>{5}</z>"
    space = f"<{{0}}><matrixSize>{size}</matrixSize><fieldOfView_mm>{field_mm}</fieldOfView_mm></{{0}}>"
    encoded = space.format("encodedSpace", 2 * columns, rows, 2 * x_mm, y_mm, z_mm)
    recon = space.format("reconSpace", columns, rows, x_mm, y_mm, z_mm)
    return (
        '<?xml version="1.0" encoding="utf-8"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">'
        "<measurementInformation><patientPosition>HFS</patientPosition></measurementInformation>"
        f"<encoding>{encoded}{recon}<trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"
    )


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(SHAPE).astype(np.float32) * 1e-3


def write_file(path: Path, number: int, *, head: str | bytes | None = None, voxels: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["kspace"] = np.zeros((3, 4, 2, 8, 6), np.complex64)
        file["calibration_data"] = np.zeros((4, 2, 8, 3), np.complex64)
        file["ismrmrd_header"] = header() if head is None else head
        file["reconstruction_rss"] = image(number) if voxels is None else voxels
        file.attrs.update({"max": 1e-3, "norm": 0.1, "patient_id": f"{number:064x}", "acquisition": "AXT2"})
    return path


def write_tables(folder: Path) -> None:
    """As published: an index without a name, slices from 1, and a diffusion table of the same columns."""
    folder.mkdir(parents=True, exist_ok=True)
    scores = ["1,1,1,1", "2,3,1,3", "3,4,5,5", "4,2,4,4", "5,5,5,5"]
    lines = [f"{i},{line}" for i, line in enumerate(scores)]
    text = ",fastmri_pt_id,t2_volume_level,dwi_volume_level,exam_level\n" + "\n".join(lines) + "\n"
    (folder / "volume_exam_labels.csv").write_text(text)
    for kind, stem in (("T2", "t2"), ("DIFF", "dwi")):
        rows = [
            f"{patient},{number},1,file_prostate_AX{kind}_{patient:03d}.h5,{split},folder"
            for patient, split in ((1, "training"), (2, "validation"), (3, "test"), (4, "training"))
            for number in (1, 2, 3, 4)
        ]
        columns = "fastmri_pt_id,slice,PIRADS,fastmri_rawfile,data_split,folder"
        (folder / f"{stem}_slice_level_labels.csv").write_text("\n".join([columns, *rows]) + "\n")


def write_tree(folder: Path) -> Path:
    """Five patients in two archives: four T2w files that can be used, one of a patient in no table; and four traps."""
    first, second = folder / "fastMRI_prostate_T2_IDS_001_020", folder / "fastMRI_prostate_T2_IDS_021_040"
    for number in (1, 2, 3):
        write_file(first / f"file_prostate_AXT2_{number:03d}.h5", number)
    write_file(second / "file_prostate_AXT2_031.h5", 31, head=header().encode())
    lost = write_file(first / "file_prostate_AXT2_004.h5", 4)
    with h5py.File(lost, "a") as file:
        del file["reconstruction_rss"]
    bomb = header().replace("<ismrmrdHeader", '<!DOCTYPE x [<!ENTITY a "aaaa">]><ismrmrdHeader', 1)
    write_file(first / "file_prostate_AXT2_005.h5", 5, head=bomb)
    (second / "file_prostate_AXT2_032.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(300))
    write_file(folder / "fastMRI_prostate_DIFF_IDS_001_020" / "file_prostate_AXDIFF_001.h5", 1)
    (first / "._file_prostate_AXT2_001.h5").write_bytes(b"a trace that macOS leaves")
    write_tables(folder / "labels")
    return folder


def rows_of(summary: ImportSummary) -> list[dict[str, str]]:
    with summary.manifest.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_counts_are_the_hand_counted_ones(tmp_path: Path, opened: Opened) -> None:
    """T2w scores 1, 3, 4 of patients 1 to 3: two are at least 3; patient 31 is in no table."""
    summary = import_dataset(NAME, write_tree(tmp_path / "set"), tmp_path / "m.csv")
    assert (summary.studies, summary.patients, summary.lesions) == (4, 4, 0)
    assert (summary.positives, summary.negatives) == (2, 1)
    assert summary.skipped == {
        "HDF5 file is damaged": 1,
        "diffusion, not T2w": 1,
        "header is not plain XML": 1,
        "no reconstruction_rss in the file": 1,
    }
    assert summary.label_source == "fastMRI prostate t2_volume_level: PI-RADS >= 3"
    rows = rows_of(summary)
    assert [row["label"] for row in rows] == ["0", "1", "1", ""]
    assert [row["patient_id"][-3:] for row in rows] == ["001", "002", "003", "031"]
    assert [row["data_split"] for row in rows] == ["training", "validation", "test", ""]
    assert [row["exam_level"] for row in rows] == ["1", "3", "5", ""]
    assert all("fold" not in row for row in rows)
    assert len(opened(summary.manifest)) == 4


@pytest.mark.parametrize(
    ("source", "labels"),
    [
        ("t2-pirads-3", ["0", "1", "1", ""]),
        ("t2-pirads-4", ["0", "0", "1", ""]),
        ("exam-pirads-3", ["0", "1", "1", ""]),
        ("exam-pirads-4", ["0", "0", "1", ""]),
    ],
)
def test_label_source_is_chosen_and_pinned(tmp_path: Path, source: str, labels: list[str]) -> None:
    summary = import_dataset(NAME, write_tree(tmp_path / "set"), tmp_path / "m.csv", label_source=source)
    rows = rows_of(summary)
    assert [row["label"] for row in rows] == labels
    level, least = ("t2_volume_level" if source.startswith("t2") else "exam_level"), source[-1]
    assert {row["label_source"] for row in rows} == {f"fastMRI prostate {level}: PI-RADS >= {least}"}


def test_t2_and_whole_examination_are_told_apart(tmp_path: Path) -> None:
    """Patient 4: T2w score 2, examination 4."""
    write_file(tmp_path / "set" / "file_prostate_AXT2_004.h5", 4)
    write_tables(tmp_path / "set")
    for source, label in (("t2-pirads-3", "0"), ("exam-pirads-4", "1")):
        summary = import_dataset(NAME, tmp_path / "set", tmp_path / f"{source}.csv", label_source=source)
        assert [row["label"] for row in rows_of(summary)] == [label]


def test_marked_voxel_keeps_its_place_and_spacing(tmp_path: Path) -> None:
    """Field of view 9 x 8 x 3 mm on 12 columns, 16 rows: 0.75 x 0.5 x 3 mm; slice 2, row 5, column 9 stays there."""
    voxels = image(1)
    voxels[2, 5, 9] = 7.0
    write_file(tmp_path / "set" / "file_prostate_AXT2_001.h5", 1, voxels=voxels)
    import_dataset(NAME, tmp_path / "set", tmp_path / "m.csv")
    volume = read_volume(tmp_path / "m-files" / "file_prostate_AXT2_001.nii.gz")
    assert volume.geometry.spacing_mm_zyx == pytest.approx((3.0, 0.5, 0.75))
    assert volume.voxels.dtype == np.float32
    assert np.array_equal(volume.voxels, voxels)
    place = volume.geometry.index_to_position((2, 5, 9)) - volume.geometry.index_to_position((0, 0, 0))
    assert place == pytest.approx((9 * 0.75, 5 * 0.5, 6.0))  # to the Left, to Posterior, to Superior


def test_derived_files_are_remade(tmp_path: Path) -> None:
    write_tree(tmp_path / "set")
    stale = tmp_path / "m-files" / "file_prostate_AXT2_001.nii.gz"
    stale.parent.mkdir()
    stale.write_bytes(b"of an earlier import")
    import_dataset(NAME, tmp_path / "set", tmp_path / "m.csv")
    assert np.array_equal(read_volume(stale).voxels, image(1))


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ("<a><b></a>", "header is no XML"),
        (b"\xff\xfe\xff", "header is no XML"),
        ("<ismrmrdHeader/>", "header states no field of view"),
        (header(columns=13), "header is of another image size"),
        (header(x_mm=900), "header states an impossible field of view"),
        (header(x_mm=float("nan")), "header states no field of view"),
        (header().encode("utf-16"), "header is no XML"),
        ("<!doctype x>" + header().partition("?>")[2], "header is not plain XML"),
        (header() + " " * (1 << 20), "header is not plain XML"),
    ],
)  # fmt: skip
def test_header_that_cannot_be_trusted_is_skipped(tmp_path: Path, head: str | bytes, reason: str) -> None:
    write_file(tmp_path / "set" / "file_prostate_AXT2_001.h5", 1)
    write_file(
        tmp_path / "set" / "file_prostate_AXT2_002.h5", 2, head=np.void(head) if isinstance(head, bytes) else head
    )
    summary = import_dataset(NAME, tmp_path / "set", tmp_path / "m.csv")
    assert (summary.studies, summary.skipped) == (1, {reason: 1})


@pytest.mark.parametrize(
    ("voxels", "reason"),
    [
        (np.full(SHAPE, 2.0, np.float32), "reconstruction_rss is constant or not finite"),
        (np.full(SHAPE, np.nan, np.float32), "reconstruction_rss is constant or not finite"),
        (np.zeros((4, 4), np.float32), "reconstruction_rss is no 3-D image"),
        (np.ones(SHAPE, np.complex64), "reconstruction_rss is no 3-D image"),
    ],
)
def test_image_that_is_none_is_skipped(tmp_path: Path, voxels: np.ndarray, reason: str) -> None:
    write_file(tmp_path / "set" / "file_prostate_AXT2_001.h5", 1)
    write_file(tmp_path / "set" / "file_prostate_AXT2_002.h5", 2, voxels=voxels)
    summary = import_dataset(NAME, tmp_path / "set", tmp_path / "m.csv")
    assert (summary.studies, summary.skipped) == (1, {reason: 1})


@pytest.mark.parametrize("kind", ["external link", "soft link", "external storage", "virtual"])
def test_image_kept_in_another_file_is_not_followed(tmp_path: Path, kind: str) -> None:
    """A file that was downloaded must not make us read others of the user's."""
    other = write_file(tmp_path / "other.h5", 9)
    write_file(tmp_path / "set" / "file_prostate_AXT2_001.h5", 1)
    path = write_file(tmp_path / "set" / "file_prostate_AXT2_002.h5", 2)
    with h5py.File(path, "a") as file:
        del file["reconstruction_rss"]
        if kind == "external link":
            file["reconstruction_rss"] = h5py.ExternalLink(str(other), "reconstruction_rss")
        elif kind == "soft link":
            file["reconstruction_rss"] = h5py.SoftLink("/kspace")
        elif kind == "external storage":
            storage = [(str(other), 0, 4 * 16 * 12 * 4)]
            file.create_dataset("reconstruction_rss", SHAPE, np.float32, external=storage)
        else:
            layout = h5py.VirtualLayout(SHAPE, np.float32)
            layout[:] = h5py.VirtualSource(str(other), "reconstruction_rss", SHAPE)
            file.create_virtual_dataset("reconstruction_rss", layout)
    summary = import_dataset(NAME, tmp_path / "set", tmp_path / "m.csv")
    assert (summary.studies, summary.skipped) == (1, {"no reconstruction_rss in the file": 1})


def test_without_tables_rows_have_no_label_and_a_note_says_so(tmp_path: Path, opened: Opened) -> None:
    write_file(tmp_path / "set" / "file_prostate_AXT2_001.h5", 1)
    (tmp_path / "set" / "other.csv").write_text("")
    summary = import_dataset(NAME, tmp_path / "set", tmp_path / "m.csv")
    assert (summary.studies, summary.positives, summary.negatives, summary.label_source) == (1, 0, 0, "")
    assert any("--labels" in note for note in summary.notes)
    assert len(opened(summary.manifest)) == 1


def test_source_without_tables_is_not_found(tmp_path: Path) -> None:
    write_file(tmp_path / "set" / "file_prostate_AXT2_001.h5", 1)
    with pytest.raises(NotFoundError, match="t2_volume_level"):
        import_dataset(NAME, tmp_path / "set", tmp_path / "m.csv", label_source="t2-pirads-4")
    assert not (tmp_path / "m.csv").exists()


def test_tables_of_another_folder_are_named_by_labels(tmp_path: Path) -> None:
    write_file(tmp_path / "set" / "file_prostate_AXT2_003.h5", 3)
    write_tables(tmp_path / "tables")
    for labels in (tmp_path / "tables", tmp_path / "tables" / "volume_exam_labels.csv"):
        summary = import_dataset(NAME, tmp_path / "set", tmp_path / f"{labels.name}.csv", labels=labels)
        assert summary.positives == 1


def test_tables_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    write_file(tmp_path / "set" / "file_prostate_AXT2_001.h5", 1)
    write_tables(tmp_path / "set" / "a")
    write_tables(tmp_path / "set" / "b")
    import_dataset(NAME, tmp_path / "set", tmp_path / "m.csv")  # equal ones are fine
    table = tmp_path / "set" / "b" / "volume_exam_labels.csv"
    table.write_text(table.read_text().replace("1,1,1,1", "1,5,5,5"))
    with pytest.raises(ManifestError, match="contradicts"):
        import_dataset(NAME, tmp_path / "set", tmp_path / "n.csv")


def test_damaged_files_are_skipped_and_never_stop_an_import(tmp_path: Path, opened: Opened) -> None:
    """Sixty damaged copies, cut short or with 8 bytes of the first 3,000 changed: each a row that opens, or skipped."""
    whole = write_file(tmp_path / "whole.h5", 1).read_bytes()
    generator = np.random.default_rng(5)
    folder = tmp_path / "set"
    write_file(folder / "file_prostate_AXT2_001.h5", 1)
    for number in range(2, 62):
        data = bytearray(whole)
        if number % 2:
            data = data[: int(generator.integers(len(data)))]
        else:
            for place in generator.integers(0, 3000, 8):
                data[place] = int(generator.integers(256))
        (folder / f"file_prostate_AXT2_{number:03d}.h5").write_bytes(bytes(data))
    summary = import_dataset(NAME, folder, tmp_path / "m.csv")
    assert summary.studies + sum(summary.skipped.values()) == 61
    assert sum(summary.skipped.values()) >= 30
    assert len(opened(summary.manifest)) == summary.studies

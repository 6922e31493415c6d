"""A DICOM tree's series, from headers: what is found, what is passed over, and that damage ends up visible."""

from __future__ import annotations

import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_series import uid, write_dicom_series
from small_volumes import CORONAL, SAGITTAL, t2w_volume

from prostate_mim.datasets.dicom_tree import crowded, find_series
from prostate_mim.errors import BackendError, NotFoundError


def test_one_entry_for_each_series_with_its_fields(tmp_path: Path) -> None:
    """Three folders, three series, in the order of the folders; every field as it was written."""
    study = tmp_path / "ProstateX-0000" / "07-07-2011"
    sagittal, coronal = t2w_volume(direction=SAGITTAL), t2w_volume(direction=CORONAL)
    write_dicom_series(study / "3.000000-t2tsesag", sagittal, series_number=3, description="t2_tse_sag")
    files = write_dicom_series(study / "4.000000-t2tsetra", t2w_volume(), patient_id="ProstateX-0000")
    write_dicom_series(study / "5.000000-t2tsecor", coronal, series_number=5)
    found = find_series(tmp_path)
    assert [item.stack for item in found] == ["sagittal", "axial", "coronal"]
    axial = found[1]
    assert (axial.folder, list(axial.files)) == (study / "4.000000-t2tsetra", files)
    assert (axial.patient_id, axial.study_uid, axial.series_uid) == ("ProstateX-0000", uid("study"), uid("study", 4))
    assert (axial.number, axial.description, axial.modality) == (4, "t2_tse_tra", "MR")
    assert (axial.slices, axial.study_date) == (6, "20110707")
    assert crowded(found) == frozenset()


def test_two_series_in_one_folder_are_two_entries_of_a_crowded_folder(tmp_path: Path) -> None:
    """A reader of whole folders would refuse it, so importers must see it; one series alone is not crowded."""
    write_dicom_series(tmp_path / "a", t2w_volume(), series_number=10)
    for file in write_dicom_series(tmp_path / "b", t2w_volume(1), series_number=9):
        shutil.move(file, tmp_path / "a" / f"second-{file.name}")
    write_dicom_series(tmp_path / "c", t2w_volume(2), series_number=9)
    found = find_series(tmp_path)
    assert [(item.folder.name, item.number, item.slices) for item in found] == [("a", 9, 6), ("a", 10, 6), ("c", 9, 6)]
    assert crowded(found) == {tmp_path / "a"}


def test_one_series_over_two_folders_is_an_entry_for_each(tmp_path: Path) -> None:
    """Half a series is what a folder holds, and what would be read."""
    files = write_dicom_series(tmp_path / "a", t2w_volume())
    (tmp_path / "b").mkdir()
    shutil.move(files[5], tmp_path / "b" / files[5].name)
    assert [(item.folder.name, item.slices) for item in find_series(tmp_path)] == [("a", 5), ("b", 1)]


def test_a_series_named_inside_a_reference_is_not_the_files_own(tmp_path: Path) -> None:
    """ReferencedSeriesSequence stands before the file's own identifier and holds one too."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    reference = Dataset()
    reference.SeriesInstanceUID = uid("another")
    write_dicom_series(tmp_path, t2w_volume(), tags={"ReferencedSeriesSequence": Sequence([reference])})
    assert [item.series_uid for item in find_series(tmp_path)] == [uid("study", 4)]


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    """Tables, licences, hidden files, empty files, and files shorter than a DICOM preamble."""
    write_dicom_series(tmp_path / "series", t2w_volume())
    for name in ("LICENSE", "metadata.csv", "series/readme.txt", "series/.1-01.dcm", "empty.dcm"):
        (tmp_path / name).write_text("" if name == "empty.dcm" else "no DICOM")
    assert [item.slices for item in find_series(tmp_path)] == [6]


def test_a_damaged_header_makes_its_folder_crowded(tmp_path: Path) -> None:
    """Not lost silently: the file stands as a series of its own without an identifier."""
    files = write_dicom_series(tmp_path, t2w_volume())
    content = files[2].read_bytes()
    files[2].write_bytes(content[:140] + b"\xff" * 60)
    found = find_series(tmp_path)
    assert [(item.series_uid, item.slices, item.stack) for item in found if not item.series_uid] == [("", 1, "")]
    assert crowded(found) == {tmp_path}


def test_an_odd_value_is_not_quoted_in_a_warning(tmp_path: Path) -> None:
    """A series number that is a name: pydicom would repeat it on the terminal."""
    files = write_dicom_series(tmp_path, t2w_volume(), series_number=17081708)
    for file in files:
        file.write_bytes(file.read_bytes().replace(b"17081708", b"Mr Smith"))
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert find_series(tmp_path)[0].number is None
        assert heard == []
        assert str(pydicom.dcmread(files[0]).SeriesNumber) == "Mr Smith"
        assert "Mr Smith" in str(heard[0].message), "control: pydicom does warn"


def test_no_damage_to_a_header_is_an_error(tmp_path: Path) -> None:
    """200 times a byte of a header is another: the file is found under some series, or is no DICOM; none is lost."""
    files = write_dicom_series(tmp_path / "series", t2w_volume(), patient_id="Surname^Forename")
    content = files[0].read_bytes()
    header = content.index(b"Surname") + 900
    random = np.random.default_rng(5)
    for place, value in zip(random.integers(128, header, 200), random.integers(0, 256, 200), strict=True):
        files[0].write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
        marked = files[0].read_bytes()[128:132] == b"DICM"
        assert sum(len(item.files) for item in find_series(tmp_path)) == len(files) - (not marked)


def test_a_header_cut_anywhere_is_seen(tmp_path: Path) -> None:
    """A file that ends before its series is named stands apart; one that ends later is for the reader to refuse."""
    files = write_dicom_series(tmp_path / "series", t2w_volume())
    content = files[0].read_bytes()
    named = content.index(uid("study", 4).encode()) + len(uid("study", 4))
    for length in range(132, len(content), 97):
        files[0].write_bytes(content[:length])
        assert len(find_series(tmp_path)) == (2 if length < named else 1), length


@pytest.mark.parametrize("value", [None, [1, 0, 0, 0, 1]])
def test_an_orientation_that_is_none_gives_no_stack(tmp_path: Path, value: list[int] | None) -> None:
    """Empty, or too short."""
    write_dicom_series(tmp_path, t2w_volume(), tags={"ImageOrientationPatient": value})
    assert [item.stack for item in find_series(tmp_path)] == [""]


def test_the_same_tree_gives_the_same_list(tmp_path: Path) -> None:
    """Whatever the order in which the files were written."""
    for name, numbers in (("one", (4, 10)), ("two", (10, 4))):
        for number in numbers:
            write_dicom_series(tmp_path / name / f"{number}.0-tra", t2w_volume(number), series_number=number)
    one, two = (
        [(item.folder.name, item.series_uid) for item in find_series(tmp_path / name)] for name in ("one", "two")
    )
    assert one == two


def test_no_such_folder_is_an_error(tmp_path: Path) -> None:
    """An empty folder is not: it holds no series."""
    with pytest.raises(NotFoundError, match="no such folder"):
        find_series(tmp_path / "missing")
    assert find_series(tmp_path) == []


def test_the_real_tree(real_data: Path) -> None:
    """Two patients of PROSTATEx: one with three stacks, one with two axial series."""
    found = find_series(real_data / "prostatex" / "dicom")
    assert sorted((item.patient_id, item.number, item.stack, item.slices) for item in found) == [
        ("ProstateX-0000", 3, "sagittal", 19),
        ("ProstateX-0000", 4, "axial", 19),
        ("ProstateX-0000", 5, "coronal", 15),
        ("ProstateX-0001", 6, "axial", 19),
        ("ProstateX-0001", 10, "axial", 19),
    ]
    assert crowded(found) == frozenset()


def test_without_pydicom_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where there is DICOM to read: a tree of other files needs no library."""
    monkeypatch.setitem(sys.modules, "pydicom.filereader", None)
    assert find_series(tmp_path) == []
    (tmp_path / "1-01.dcm").write_bytes(b"\0" * 128 + b"DICM")
    with pytest.raises(BackendError, match=r"pip install 'prostate-mim\[datasets\]'"):
        find_series(tmp_path)

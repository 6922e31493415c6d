"""Whatever a table holds: rows, a list of what was left out, or one of our errors; never another exception."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_volumes import ball, t2w_volume, write_csv

from prostate_mim.datasets import DATASETS, Found, ImportOptions
from prostate_mim.errors import ProstateMimError
from prostate_mim.volume import write_volume

# where each importer's table lies, which columns it may have, and cells that lead further than noise does
PLACES = {
    "picai": ("picai_labels/marksheet.csv", ["patient_id", "study_id", "case_csPCa", "lesion_ISUP", "center", "psa"]),
    "prostate158": ("train.csv", ["ID", "t2", "t2_tumor_reader1", "adc_tumor_reader1", "t2_anatomy_reader1"]),
    "bids": ("participants.tsv", ["participant_id", "age", "label", "site"]),
    "promise12": ("spacing.csv", ["case", "spacing_mm_zyx"]),
    "folder": (
        "labels.csv",
        [
            "t2w", "patient_id", "label", "fold", "lesion_mask", "gland_mask", "position_mm_lps", "spacing_mm_zyx",
            "zone_mask", "isup", "is_crop", "sha256",
        ],
    ),
}  # fmt: skip
CELLS = ["10000", "1000000", "YES", "2,N/A", "train/020/t2.nii.gz", "train", "..", "/", "a" * 300, "0", "1 2 3", "x\0y"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One study under the names of every set; its table is written by each example."""
    root = tmp_path_factory.mktemp("any")
    image = t2w_volume()
    names = [
        "picai_public_images_fold0/10000/10000_1000000_t2w.mha", "train/020/t2.nii.gz", "sub-01/anat/sub-01_T2w.nii.gz",
        "training_data/Case00.mha",
    ]  # fmt: skip
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_volume(image, root / name)
    write_volume(ball(image), root / "train/020/t2_tumor_reader1.nii.gz")
    (root / "picai_labels").mkdir()
    return root


def find(folder: Path, name: str, text: str) -> Found:
    place, _ = PLACES[name]
    for other, _ in PLACES.values():
        (folder / other).unlink(missing_ok=True)
    (folder / place).write_text(text, encoding="utf-8")
    labels = folder / place if name in ("promise12", "folder", "picai") else None
    return DATASETS[name].find(folder, ImportOptions(labels, None, folder / "made"))


@st.composite
def tables(draw: st.DrawFn, columns: list[str]) -> str:
    """A table with most of the columns, in any order, and any cells."""
    header = draw(st.permutations(columns + draw(st.lists(st.text("aé #", max_size=5), max_size=2))))
    cells = st.sampled_from(CELLS) | st.text(max_size=20)
    rows = draw(st.lists(st.lists(cells, min_size=1, max_size=len(header) + 1), max_size=4))
    stream = io.StringIO()
    csv.writer(stream, delimiter=draw(st.sampled_from(",\t;"))).writerows([header, *rows])
    return stream.getvalue()


def check(run: Callable[[], Found]) -> Found | None:
    try:
        found = run()
    except ProstateMimError as error:
        assert "\n" not in str(error)
        return None
    assert all("\n" not in reason for reason in found.skipped_counts())
    return found


@pytest.mark.parametrize("name", PLACES)
def test_any_table_is_read_or_refused(folder: Path, name: str) -> None:
    """Tables that nearly fit, and plain text."""

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.one_of(tables(PLACES[name][1]), st.text(st.characters(codec="utf-8", exclude_characters='"'), max_size=200))
    )
    def law(text: str) -> None:
        check(lambda: find(folder, name, text))

    law()


GOOD = {
    "picai": "patient_id,study_id,case_csPCa,lesion_ISUP\n10000,1000000,YES,2",
    "prostate158": "ID,t2,t2_tumor_reader1\n20,train/020/t2.nii.gz,train/020/t2_tumor_reader1.nii.gz",
    "bids": "participant_id\tage\nsub-01\t60",
    "promise12": "case,spacing_mm_zyx\n1,3 1 1",
    "folder": "t2w,label\ntrain/020/t2.nii.gz,1",
}


@pytest.mark.parametrize("name", PLACES)
def test_a_table_that_fits_gives_a_row(folder: Path, tmp_path: Path, name: str) -> None:
    """The control: the folder above is one that each importer reads, so the law is not about refusals alone."""
    text = write_csv(tmp_path / "table", GOOD[name]).read_text()
    found = check(lambda: find(folder, name, text))
    assert found is not None and len(found.rows) == 1

"""Every alarm goes off for its leak, and for nothing else; no message names a patient."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from leak_rows import found, rows_of

from prostate_mim.errors import ManifestError, NotFoundError
from prostate_mim.leaks import (
    MODEL_SAW,
    SAME_PERSON,
    SAME_VOXELS,
    TWO_FOLDS,
    StudyHashes,
    model_saw,
    overlap_between,
    read_aliases,
    refuse,
    same_person,
    same_voxels,
)

ONE, TWO, THREE = (digit * 64 for digit in "123")
KEY = "0" * 32


# ------------------------------------------------------------------------------------------------ same voxels


def test_one_image_under_two_ids():
    """Two patients, or two studies of a patient: one finding, with both rows. Two lesions of a study: none."""
    rows = rows_of(("SECRET-a", "SECRET-1"), ("SECRET-b", "SECRET-2"), ("SECRET-b", "SECRET-3"))
    assert found(same_voxels(rows, {1: ONE, 2: ONE, 3: TWO})) == [(SAME_VOXELS, (1, 2))]
    assert found(same_voxels(rows, {1: ONE, 2: TWO, 3: TWO})) == [(SAME_VOXELS, (2, 3))]
    assert "under 2 patient ids" in same_voxels(rows, {1: ONE, 2: ONE})[0].message
    assert "under 2 study ids of one patient" in same_voxels(rows, {2: ONE, 3: ONE})[0].message
    assert found(same_voxels(rows, {1: ONE, 2: TWO, 3: THREE})) == []
    lesions = rows_of(("SECRET-a", "SECRET-1"), ("SECRET-a", "SECRET-1"))
    assert found(same_voxels(lesions, {1: ONE, 2: ONE})) == []
    assert found(same_voxels(rows, {1: ONE})) == []  # the other rows could not be read


def test_long_lists_of_rows_are_cut():
    """Seven copies: five rows are shown, all are in ``rows``."""
    rows = rows_of(*((f"SECRET-{n}", f"SECRET-{n}") for n in range(7)))
    (leak,) = same_voxels(rows, dict.fromkeys(range(1, 8), ONE))
    assert leak.rows == (1, 2, 3, 4, 5, 6, 7)
    assert leak.message.startswith("rows 1, 2, 3, 4, 5 and 2 more: the same voxels under 7 patient ids")


# ------------------------------------------------------------------------------------------------ same person


def test_one_person_under_two_ids():
    """Joined by the table: a finding; with folds, only where they differ. Without the table: none."""
    rows = rows_of(("ProstateX-0000", "SECRET-1"), ("11373", "SECRET-2"), ("ProstateX-0001", "SECRET-3"))
    aliases = {"ProstateX-0000": "11373", "11373": "11373", "ProstateX-0001": "10795"}
    assert found(same_person(rows, aliases)) == [(SAME_PERSON, (1, 2))]
    assert found(same_person(rows, aliases, [0, 1, 0])) == [(SAME_PERSON, (1, 2))]
    assert found(same_person(rows, aliases, [1, 1, 0])) == []
    assert found(same_person(rows, {})) == []
    assert "ProstateX" not in same_person(rows, aliases)[0].message


@pytest.mark.parametrize("spelt", ["prostatex-0000", "ProstateX_0000", "PROSTATEX0000"])
def test_ids_are_compared_without_capitals_and_punctuation(spelt: str):
    """As importers and people write them."""
    rows = rows_of((spelt, "SECRET-1"), ("picai_11373", "SECRET-2"))
    aliases = {"ProstateX-0000": "11373", "picai-11373": "11373"}
    assert found(same_person(rows, aliases)) == [(SAME_PERSON, (1, 2))]
    assert found(same_person(rows_of((spelt, "s"), ("picai_11374", "t")), aliases)) == []


def test_a_person_is_not_a_patient_who_is_called_alike():
    """An id that nobody joined is not the name that the table gives to somebody."""
    rows = rows_of(("a", "SECRET-1"), ("b", "SECRET-2"))
    assert found(same_person(rows, {"a": "b"})) == []
    assert found(same_person(rows, {"a": "b", "b": "b"})) == [(SAME_PERSON, (1, 2))]


def test_one_patient_in_two_folds():
    """Without any table."""
    rows = rows_of(("SECRET-a", "SECRET-1"), ("SECRET-a", "SECRET-2"), ("SECRET-b", "SECRET-3"))
    assert found(same_person(rows, {}, [0, 1, 1])) == [(TWO_FOLDS, (1, 2))]
    assert found(same_person(rows, {}, [0, 0, 1])) == []


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), min_size=1, max_size=12))
def test_folds_are_a_partition_of_persons_or_somebody_is_found(drawn):
    """For any folds: an alarm exactly where some person has two."""
    rows = rows_of(*((f"p{patient}", f"s{n}") for n, (patient, _) in enumerate(drawn)))
    aliases = {"p0": "x", "p1": "x"}
    folds = [fold for _, fold in drawn]
    people: dict[str, set[int]] = {}
    for (patient, fold), _ in zip(drawn, rows, strict=True):
        people.setdefault("x" if patient < 2 else f"p{patient}", set()).add(fold)
    assert len(same_person(rows, aliases, folds)) == sum(len(used) > 1 for used in people.values())


# -------------------------------------------------------------------------------------------- model and others


def test_studies_that_a_model_saw():
    """One finding a study, with all of its rows; none for another model or another study."""
    rows = rows_of(("SECRET-a", "SECRET-1"), ("SECRET-a", "SECRET-1"), ("SECRET-b", "SECRET-2"))
    hashes = {1: ONE, 2: ONE, 3: TWO}
    assert found(model_saw(rows, hashes, StudyHashes.make([ONE], KEY))) == [(MODEL_SAW, (1, 2))]
    assert found(model_saw(rows, hashes, StudyHashes.make([THREE], KEY))) == []
    assert found(model_saw(rows, {}, StudyHashes.make([ONE], KEY))) == []
    # The control: digests under one key say nothing under another.
    assert found(model_saw(rows, hashes, StudyHashes("1" * 32, StudyHashes.make([ONE], KEY).digests))) == []


def test_two_manifests():
    """The same voxels, the same patient, the same person; rows of the first manifest are given."""
    rows = rows_of(("SECRET-a", "SECRET-1"), ("SECRET-b", "SECRET-2"), ("ProstateX-0000", "SECRET-3"))
    others = rows_of(("SECRET-c", "SECRET-4"), ("SECRET-b", "SECRET-5"), ("11373", "SECRET-6"))
    aliases = {"ProstateX-0000": "11373", "11373": "11373"}
    leaks = overlap_between(rows, {1: ONE, 2: TWO}, others, {1: ONE, 2: THREE}, aliases)
    assert found(leaks) == [(SAME_VOXELS, (1,)), (SAME_PERSON, (2,)), (SAME_PERSON, (3,))]
    assert "row 1 of the other manifest" in leaks[0].message
    assert found(overlap_between(rows[:1], {1: ONE}, others[:1], {1: TWO}, aliases)) == []


def test_refuse_or_take_along():
    """The first finding and their number, or all of their messages; nothing to refuse is nothing."""
    rows = rows_of(*((f"SECRET-{n}", f"SECRET-{n}") for n in range(4)))
    leaks = same_voxels(rows, {1: ONE, 2: ONE, 3: TWO, 4: TWO})
    with pytest.raises(ManifestError, match=r"list\.csv: rows 1, 2: .*the first of 2 findings.*--allow-overlap"):
        refuse(leaks, False, "list.csv")
    assert refuse(leaks, True, "list.csv") == tuple(leak.message for leak in leaks)
    assert refuse([], False, "list.csv") == ()


# ---------------------------------------------------------------------------------------------------- aliases


def mapping(folder: Path, values: object) -> Path:
    """A picai_labels folder with the table."""
    path = folder / "additional_resources" / "ProstateX-mapping.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(values))
    return folder


def test_mapping_of_328_studies(tmp_path: Path):
    """As many rows as the real table: patients are joined, whatever the dates and studies; every overlap is found."""
    table = {f"ProstateX-{n:04d}_07-{n % 28 + 1:02d}-2011": f"{10000 + n}_{1000000 + n}" for n in range(328)}
    aliases = read_aliases(mapping(tmp_path, table))
    assert len(aliases) == 3 * 328
    rows = rows_of(*((f"ProstateX-{n:04d}", f"a{n}") for n in range(400)))
    others = rows_of(*((str(10000 + n), f"b{n}") for n in range(400)))
    assert found(overlap_between(rows, {}, others, {}, aliases)) == [(SAME_PERSON, (n + 1,)) for n in range(328)]
    assert found(overlap_between(rows, {}, others, {}, {})) == []


def test_two_studies_of_a_person(tmp_path: Path):
    """A PROSTATEx patient under two PI-CAI numbers joins both, in either order."""
    for n, order in enumerate((1, -1)):
        pairs = [("ProstateX-0001_a", "10_1"), ("ProstateX-0002_a", "20_2"), ("ProstateX-0002_b", "10_3")][::order]
        aliases = read_aliases(mapping(tmp_path / str(n), dict(pairs)))
        assert len({aliases[name] for name in ("ProstateX-0001", "ProstateX-0002", "10", "20", "picai-10")}) == 1


def test_csv_of_the_table(tmp_path: Path):
    """Columns by name; beside the marksheet, or given itself."""
    table = tmp_path / "prostatex_to_picai.csv"
    table.write_text("picai_id,ProxID\n11373_1001396,ProstateX-0000\n")
    assert read_aliases(tmp_path) == read_aliases(table)
    assert read_aliases(tmp_path)["ProstateX-0000"] == "11373"


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"a": 1}', '{"ProstateX-0000_1": "x_1"}', '{"SECRET_1": "1_1"}', "\x00", "[" * 100_000]
)
def test_another_table_is_refused(tmp_path: Path, text: str):
    """Not JSON, not that table; no content is repeated."""
    path = mapping(tmp_path, {}) / "additional_resources" / "ProstateX-mapping.json"
    path.write_text(text)
    with pytest.raises(ManifestError) as caught:
        read_aliases(tmp_path)
    assert "SECRET" not in str(caught.value)


def test_no_table(tmp_path: Path):
    """A folder without one says which file was expected."""
    with pytest.raises(NotFoundError, match=r"ProstateX-mapping\.json"):
        read_aliases(tmp_path)
    (tmp_path / "prostatex_to_picai.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ManifestError, match="ProxID and picai_id"):
        read_aliases(tmp_path)

"""The journal of attempts: which row a killed worker was busy with."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prostate_mim.archive.attempts import Attempts, begin_loading, end_loading
from prostate_mim.errors import BackendError


def open_journal(path: Path, allowed: int = 2) -> Attempts:
    return Attempts(path, allowed, "rows 1 to 5", 17)


def test_a_row_is_blamed_only_for_being_the_last(tmp_path: Path) -> None:
    """By hand: killed at row 3, then at row 3 again: row 3 is exhausted, rows 1 and 2 are innocent."""
    for _ in range(2):
        journal = open_journal(tmp_path / "a.log")
        assert not journal.exhausted(3)
        for number in (1, 2, 3):
            journal.begin(number)
    journal = open_journal(tmp_path / "a.log")
    assert [journal.killed_by(number) for number in (1, 2, 3, 4)] == [0, 0, 2, 0]
    assert journal.exhausted(3)
    assert not journal.exhausted(2)


@given(st.lists(st.integers(1, 5), max_size=8))
def test_every_death_is_counted_once(tmp_path_factory: pytest.TempPathFactory, deaths: list[int]) -> None:
    """Law: after any sequence of deaths at rows, each row has as many as it caused."""
    path = tmp_path_factory.mktemp("journal") / "a.log"
    for last in deaths:
        journal = open_journal(path, allowed=99)
        for number in range(1, last + 1):
            journal.begin(number)
    journal = open_journal(path, allowed=99)
    assert {n: journal.killed_by(n) for n in range(1, 6)} == {n: Counter(deaths)[n] for n in range(1, 6)}


@pytest.mark.parametrize("where", ["start", "write"])
def test_deaths_outside_rows_end_too(tmp_path: Path, where: str) -> None:
    """A worker killed while it starts or writes blames no row; after ``allowed`` of them the shard is given up."""
    for _ in range(2):
        journal = open_journal(tmp_path / "a.log")
        if where == "write":
            journal.begin(5)
            journal.write()
    with pytest.raises(BackendError, match="rows 1 to 5: 2 workers were killed"):
        open_journal(tmp_path / "a.log")


def test_loading_is_limited(tmp_path: Path) -> None:
    """Two loads in a row without an end are allowed here, the third is not; one that ends begins the count anew."""
    path = tmp_path / "loading.log"
    begin_loading(path, 2)
    begin_loading(path, 2)
    end_loading(path)
    begin_loading(path, 2)
    begin_loading(path, 2)
    with pytest.raises(BackendError, match="2 workers in a row were killed while they loaded"):
        begin_loading(path, 2)

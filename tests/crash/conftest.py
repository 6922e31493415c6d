"""A nursery of processes to kill, and one thread: how many there are may change the last bit of a sum."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from nursery import Nursery


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with Nursery(tmp_path_factory.mktemp("nursery")) as made:
        yield made


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four phantom studies; the manifest's path."""
    from prostate_mim.phantom import write_cohort

    return write_cohort(tmp_path_factory.mktemp("phantoms"), 4, seed=3).parent / "studies.csv"


@pytest.fixture(scope="session")
def teaching() -> object:
    """The configuration of ``straight_pretrain``."""
    from pretrain_lives import TEACHING

    return TEACHING


@pytest.fixture(scope="session")
def straight_pretrain(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted pretraining with a teacher."""
    from pretrain_lives import TEACHING

    from prostate_mim.pretraining import pretrain

    run = tmp_path_factory.mktemp("pretrained") / "run"
    pretrain(studies, run, TEACHING)
    return run

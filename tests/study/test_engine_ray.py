"""The study on a private Ray cluster: the same bytes as in one process."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from prostate_mim.study import read_study, run_study
from prostate_mim.study.records import COMPARISONS, PREDICTIONS, RESULTS, table_path


@pytest.fixture
def needs_ray(needs_pyarrow: None) -> None:
    """Skip where there is no Ray; it is not imported here, for the package must be the first to do so."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed: pip install 'prostate-mim[ray]'")


def test_ray_equals_serial(needs_ray: None, variant: Callable[..., Path], store: Path, tmp_path: Path) -> None:
    """An encoder, features, cells and scores by two workers of a cluster, and one after the other here."""
    path = variant(("fractions = [0.5, 1.0]", "fractions = [1.0]"), ('\n[[arms]]\nname = "blocks"\n', ""))
    config = read_study(path)
    for engine in ("ray", "serial"):
        made = run_study(config, tmp_path / engine, engine=engine, workers=2, store=store)
        assert made.computed == 2
    for name in (PREDICTIONS, RESULTS, COMPARISONS):
        assert table_path(tmp_path / "ray", name).read_bytes() == table_path(tmp_path / "serial", name).read_bytes()

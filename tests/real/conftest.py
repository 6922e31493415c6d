"""Real data: never in the repository, so every test that needs it skips where it is absent."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # make_manifests and choose_heldout are scripts beside these tests


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real data."""
    folder = Path(os.environ.get("PROSTATE_MIM_REAL_DATA", HERE.parents[1].parent / "shared" / "data"))
    if not (folder / "promise12").is_dir():
        pytest.skip("real data not present: set PROSTATE_MIM_REAL_DATA to the folder with promise12/ and prostatex/")
    return folder

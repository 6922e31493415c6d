"""The modules of this folder and of docs/extensions, for the tests of them; the site, built once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parents[1] / "docs" / "extensions"))

from site_building import Built, build, checkout_copy  # noqa: E402


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The site of a copy of this checkout, so that nothing is made in the checkout itself."""
    folder = tmp_path_factory.mktemp("site")
    return build(checkout_copy(folder / "checkout"), folder / "out", folder / "doctrees")

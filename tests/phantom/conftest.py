"""A few whole synthetic studies, made once."""

from __future__ import annotations

import pytest

from prostate_mim.phantom import PhantomStudy, make_study


@pytest.fixture(scope="session")
def studies() -> list[PhantomStudy]:
    """Eight whole studies."""
    return [make_study(3, index) for index in range(8)]

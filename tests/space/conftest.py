"""A small classifier, the page served by a real process, and a browser behind a proxy that counts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # space_browser.py, space_parts.py
from space_parts import SPACE, Proxy, Served, listening_proxy, serving

sys.path.insert(0, str(SPACE))  # the kit is no package

if TYPE_CHECKING:
    from space_browser import Browser
    from space_interval import Heads

    from prostate_mim.classifier import LesionClassifier


@pytest.fixture(scope="session")
def run(cohort: Path, small_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linear probe on the small random encoder, from the phantom cohort."""
    from prostate_mim.classifier import LesionClassifier
    from prostate_mim.encoder import PreMIM
    from prostate_mim.finetuning import FinetuneConfig, finetune

    out = tmp_path_factory.mktemp("space") / "run"
    finetune(LesionClassifier(PreMIM.from_pretrained(small_encoder)), cohort, out, FinetuneConfig(folds=2))
    return out


@pytest.fixture(scope="module")
def classifier(run: Path) -> LesionClassifier:
    """The same, loaded."""
    from prostate_mim.classifier import LesionClassifier

    return LesionClassifier.from_pretrained(run)


@pytest.fixture(scope="module")
def heads(classifier: LesionClassifier, cohort: Path) -> Heads:
    """Its head, refitted to resampled patients."""
    from space_interval import bootstrap_heads

    return bootstrap_heads(classifier, cohort)


@pytest.fixture(scope="session")
def served(run: Path, cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The page of a user's own classifier, until the tests are over."""
    with serving(tmp_path_factory.mktemp("served"), "--model", run, "--manifest", cohort) as made:
        yield made


@pytest.fixture(scope="session")
def proxy() -> Iterator[Proxy]:
    """Hears what the browser would send elsewhere."""
    with listening_proxy() as made:
        yield made


@pytest.fixture(scope="session")
def browser(proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One Chromium for all tests."""
    from space_browser import running

    with running(tmp_path_factory.mktemp("chromium"), proxy.address) as made:
        yield made

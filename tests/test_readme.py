"""What the README and the other pages name is there; tests/docs runs their code."""

from __future__ import annotations

import re
from pathlib import Path

import prostate_mim

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "export/README.md")
] + sorted(path for path in ROOT.glob("docs/**/*.md") if not {"_build", "reference", "repository"} & {*path.parts})
CARDS = sorted(ROOT.glob("hub_cards/*/README.md"))


def test_every_data_set_is_on_the_page() -> None:
    """The page on data has a row for each importer, and for no other."""
    from prostate_mim.datasets import DATASETS

    page = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `([a-z0-9-]+)` \|", page, re.M)) == sorted(DATASETS)


def test_make_targets_exist() -> None:
    """The two commands, and the others that pages mention, are targets of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    assert {"demo", "test", "docs"} <= set(re.findall(r"(?:`|^ *)make ([a-z-]+)", text, re.M)) <= targets


def test_public_names_are_all_there() -> None:
    """Every name of ``__all__`` resolves, and functions are functions even after their modules were imported."""
    from prostate_mim import finetuning, pretraining

    assert all(getattr(prostate_mim, name) is not None for name in prostate_mim.__all__)
    assert prostate_mim.finetune is finetuning.finetune
    assert prostate_mim.pretrain is pretraining.pretrain


def test_links_and_pictures_exist() -> None:
    """Relative links of every page and card lead to files."""
    assert len(PAGES) > 20 and len(CARDS) > 4
    for page in PAGES + CARDS:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page}: {link}"

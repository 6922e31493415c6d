"""Cards: every section, every number from the file it came from, and models.json from their front matter."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from prostate_mim.hub.registry import read_registry
from prostate_mim.hub.release import CONFIG

ROOT = Path(__file__).resolve().parents[2]
CARDS = ROOT / "hub_cards"
NAMES = sorted(path.parent.name for path in CARDS.glob(f"*/{CONFIG}"))


@pytest.fixture(scope="module")
def zoo() -> Iterator[dict[str, ModuleType]]:
    """The scripts beside the cards, which are no package."""
    before = set(sys.modules)
    sys.path.insert(0, str(CARDS / "zoo"))
    import cards
    import make_registry
    import recipe

    yield {"cards": cards, "make_registry": make_registry, "recipe": recipe}
    sys.path.remove(str(CARDS / "zoo"))
    for name in {"cards", "make_registry", "recipe"} - before:
        del sys.modules[name]


@pytest.fixture
def card(zoo: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the default model's folder, without its weights, that may be edited."""
    name = "resenc-s.mim-t2w"
    folder = tmp_path / name
    shutil.copytree(CARDS / name, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    monkeypatch.setattr(zoo["recipe"], "CARDS", tmp_path)
    return folder


def test_there_are_cards() -> None:
    """Every published model has one, and every model in models.json is published."""
    assert sorted(read_registry()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_card_is_what_its_files_say(zoo: dict[str, ModuleType], name: str) -> None:
    """No section is missing, no number differs, every picture is there."""
    assert zoo["cards"].lint(CARDS / name) == []


@pytest.mark.parametrize("name", NAMES)
def test_models_json_is_what_the_card_says(zoo: dict[str, ModuleType], name: str) -> None:
    """Licences, data, parameters, contract and files; and the results are of these weights."""
    values = json.loads((ROOT / "prostate_mim" / "hub" / "models.json").read_text())["models"][name]
    assert values == zoo["make_registry"].entry(CARDS / name)
    results = json.loads((CARDS / name / "results.json").read_text())
    assert results["weights_sha256"] == values["files"]["model.safetensors"][1]


@pytest.mark.parametrize("name", NAMES)
def test_sizes(name: str) -> None:
    """40 MB a file of weights; 200 MB together."""
    assert read_registry()[name].files["model.safetensors"].size <= 40_000_000
    assert sum(entry.files["model.safetensors"].size for entry in read_registry().values()) <= 200_000_000


def test_the_copy_is_good(zoo: dict[str, ModuleType], card: Path) -> None:
    """The control of the tests below."""
    assert zoo["cards"].lint(card) == []


def test_a_missing_section_is_refused(zoo: dict[str, ModuleType], card: Path) -> None:
    """Whichever it is."""
    text = (card / "README.md").read_text()
    titles = zoo["cards"].sections()
    assert len(titles) == 13
    for title in titles:
        start = text.index(f"## {title}\n")
        end = text.find("\n## ", start + 1)
        (card / "README.md").write_text(text[:start] + (text[end + 1 :] if end > 0 else ""))
        assert f"section {title!r} is missing" in zoo["cards"].lint(card)


def test_a_number_that_differs_is_refused(zoo: dict[str, ModuleType], card: Path) -> None:
    """In the table, in the front matter, in the recipe; and where it is the result that was edited."""
    text = (card / "README.md").read_text()
    results = json.loads((card / "results.json").read_text())
    shown = f"{results['gland']['auroc'][0]:.3f}"
    for old, new in ((shown, "0.999"), ("value: 0.", "value: 1."), ("steps = ", "steps = 9")):
        assert old in text
        (card / "README.md").write_text(text.replace(old, new, 1))
        assert any("the files beside it say" in problem for problem in zoo["cards"].lint(card))
    (card / "README.md").write_text(text)
    results["lesions"]["auroc"][0] += 0.1
    (card / "results.json").write_text(json.dumps(results))
    assert any("the files beside it say" in problem for problem in zoo["cards"].lint(card))


def test_a_missing_picture_is_refused(zoo: dict[str, ModuleType], card: Path) -> None:
    """By its name."""
    (card / "saliency.png").unlink()
    assert zoo["cards"].lint(card) == ["picture saliency.png is missing"]

"""Versions, the citation and the models of this repository agree; each way in which they could not is noticed."""

from __future__ import annotations

import copy
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from release_agreement import citation, citation_problems, code_version, model_problems, version_problems

ROOT = Path(__file__).resolve().parents[2]


def test_the_citation_of_this_repository() -> None:
    """Valid, and of the version, title and licence of the package."""
    values = citation(ROOT)
    assert citation_problems(values) == []
    assert values["version"] == code_version(ROOT)
    assert (
        values["title"].startswith("prostate-mim")
        and f"license = {values['license']}" in (ROOT / "setup.cfg").read_text()
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"authors": None}, "authors is missing"), ({"message": ""}, "message is missing"),
        ({"cff-version": 1.2}, "cff-version is 1.2"), ({"authors": [{}]}, "neither a person nor an entity"),
        ({"authors": [{"email": "a@example.org"}]}, "has no name"), ({"licence": "MIT"}, "licence is no key"),
        ({"authors": [{"name": "a", "given-names": "b"}]}, "given-names is no key of an entity"),
        ({"authors": [{"family-names": "a", "name-first": "b"}]}, "name-first is no key of a person"),
        ({"version": 0.1}, "version is a number"), ({"date-released": "soon"}, "date-released is no date"),
        ({"type": "book"}, "type is 'book'"),
    ],
)  # fmt: skip
def test_an_invalid_citation(change: dict[str, Any], told: str) -> None:
    values = {**copy.deepcopy(citation(ROOT)), **change}
    assert any(told in line for line in citation_problems(values))
    assert citation_problems([values]) == ["CITATION.cff: is no mapping"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A source in which everything agrees."""
    (tmp_path / "prostate_mim").mkdir()
    (tmp_path / "prostate_mim" / "_version.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## [Unreleased]\n\n## [1.2.3] - 2026-01-02\n\n## [1.0.0] - 2025-01-01\n"
    )
    (tmp_path / "CITATION.cff").write_text("version: 1.2.3\ndate-released: 2026-01-02\n")
    return tmp_path


def _wheel(folder: Path, version: str) -> Path:
    path = folder / f"prostate_mim-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"prostate_mim-{version}.dist-info/METADATA", f"Name: prostate-mim\nVersion: {version}\n")
    return path


def test_one_version(tree: Path) -> None:
    assert version_problems(tree, wheel=_wheel(tree, "1.2.3"), tag="v1.2.3") == []


@pytest.mark.parametrize(
    ("file", "before", "after", "told"),
    [
        ("prostate_mim/_version.py", "1.2.3", "1.2.4", "its newest release is 1.2.3, _version.py says 1.2.4"),
        ("prostate_mim/_version.py", "1.2.3", "next", "'next' is no version"),
        ("CHANGELOG.md", "## [1.2.3] - 2026-01-02\n", "", "its newest release is 1.0.0"),
        ("CHANGELOG.md", "] - 20", "] of 20", "has no heading"), ("CITATION.cff", "1.2.3", "1.2.2", "version is 1.2.2"),
        ("CITATION.cff", "01-02", "01-03", "date-released is 2026-01-03, CHANGELOG.md has 2026-01-02"),
    ],
)  # fmt: skip
def test_another_version(tree: Path, file: str, before: str, after: str, told: str) -> None:
    text = (tree / file).read_text()
    assert before in text
    (tree / file).write_text(text.replace(before, after))
    assert any(told in line for line in version_problems(tree))


def test_another_wheel_or_tag(tree: Path) -> None:
    assert any("is of version 1.2.2" in line for line in version_problems(tree, wheel=_wheel(tree, "1.2.2")))
    assert any("so the tag is v1.2.3" in line for line in version_problems(tree, tag="1.2.3"))


def test_models_of_this_repository() -> None:
    """Every file of every published model is the one of the list."""
    problems, told = model_problems(ROOT)
    assert problems == [] and " models, " in told and not told.startswith("0")


def test_a_model_that_is_another(tmp_path: Path) -> None:
    """One bit, one byte less, one file less; bundled or beside the package."""
    models = json.loads((ROOT / "prostate_mim/hub/models.json").read_text())
    models["models"] = {name: models["models"][name] for name in ("resenc-s.mim-t2w", "resnet10.mim-t2w")}
    (tmp_path / "prostate_mim/hub").mkdir(parents=True)
    (tmp_path / "prostate_mim/hub/models.json").write_text(json.dumps(models))
    for folder in ("prostate_mim/weights/resenc-s.mim-t2w", "hub_cards/resnet10.mim-t2w"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    assert model_problems(tmp_path)[0] == []
    weights = tmp_path / "prostate_mim/weights/resenc-s.mim-t2w/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    (tmp_path / "hub_cards/resnet10.mim-t2w/config.json").unlink()
    golden = tmp_path / "hub_cards/resnet10.mim-t2w/golden.safetensors"
    golden.write_bytes(golden.read_bytes()[:-1])
    assert model_problems(tmp_path)[0] == [
        "resenc-s.mim-t2w: model.safetensors is not the published one", "resnet10.mim-t2w: config.json is missing",
        "resnet10.mim-t2w: golden.safetensors is not the published one",
    ]  # fmt: skip

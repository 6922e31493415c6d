"""What the README says is true: commands exist, names import, files it shows are there."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import typer.main

import prostate_mim
from prostate_mim.cli import app

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()
TRAINING = (ROOT / "docs/training.md").read_text()
DATA = (ROOT / "docs/data.md").read_text()
LESIONS = (ROOT / "docs/lesions.md").read_text()
STUDY = (ROOT / "docs/study.md").read_text()
HUB = (ROOT / "docs/hub.md").read_text()
MODELS = (ROOT / "docs/models.md").read_text()
PAGES = [
    "README.md", "docs/data.md", "docs/hub.md", "docs/lesions.md", "docs/masked-engine.md", "docs/modality.md",
    "docs/models.md",
    "docs/study.md", "docs/training.md", "CONTRIBUTING.md", "SECURITY.md", "export/README.md",
    "hub_cards/resenc-s.mim-t2w/README.md",
]  # fmt: skip


def blocks(language: str, text: str = TEXT) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def command_lines(text: str) -> list[list[str]]:
    """What follows ``prostate-mim`` or ``-m prostate_mim`` in each line of a page's shell blocks."""
    joined = "\n".join(blocks("bash", text)).replace("\\\n", " ")
    lines = [re.split(r"^prostate-mim |-m prostate_mim ", line.split("#")[0]) for line in joined.splitlines()]
    return [parts[1].split() for parts in lines if len(parts) == 2]


def test_commands_and_options_exist() -> None:
    """Every line names a command and options that it has."""
    commands = typer.main.get_command(app).commands
    lines, others = command_lines(TEXT), command_lines(TRAINING)
    assert len(lines) >= 7
    assert len(others) >= 6
    pages = [line for page in (DATA, LESIONS, STUDY, HUB, MODELS) for line in command_lines(page)]
    assert len(pages) >= 20
    for name, *rest in (*lines, *others, *pages):
        command = commands[name]
        while rest and rest[0] in getattr(command, "commands", {}):
            command = command.commands[rest.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= options, name


def test_every_data_set_is_on_the_page() -> None:
    """The page on data has a row for each importer, and for no other."""
    from prostate_mim.datasets import DATASETS

    assert sorted(re.findall(r"^\| `([a-z0-9-]+)` \|", DATA, re.M)) == sorted(DATASETS)


def test_training_configuration_is_read(tmp_path: Path) -> None:
    """The configuration file that the page on training shows has the keys and types of the real one."""
    from prostate_mim.config import read_config
    from prostate_mim.pretraining import PretrainConfig

    (found,) = blocks("toml", TRAINING)
    path = tmp_path / "run.toml"
    path.write_text(found)
    assert read_config(path, PretrainConfig).loop.steps == 20000


def test_study_configuration_is_read(tmp_path: Path) -> None:
    """The configuration file that the page on studies shows is one."""
    from prostate_mim.study import read_study

    (found,) = blocks("toml", STUDY)
    path = tmp_path / "study.toml"
    path.write_text(found)
    config = read_study(path)
    assert [arm.name for arm in config.arms] == ["random", "imagenet", "slabs"]
    assert config.arms[2].pretrain_configs("effnet-lite0", 0)[0].loop.steps == 2000


def test_make_targets_exist() -> None:
    """The two commands, and the others that pages mention, are targets of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    used = {t for page in PAGES for t in re.findall(r"(?:`|^ *)make ([a-z-]+)", (ROOT / page).read_text(), re.M)}
    assert {"demo", "test"} <= used <= targets


def test_python_examples_name_real_things() -> None:
    """Imports of the pages' Python work, and the code parses."""
    for block in (found for text in (TEXT, LESIONS, STUDY) for found in blocks("python", text)):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    assert getattr(module, alias.name) is not None


def test_the_engine_page_runs() -> None:
    """Every Python block of the page on the masked engine runs, one after the other."""
    found = re.findall(r"```python\n(.*?)```", (ROOT / "docs/masked-engine.md").read_text(), re.S)
    names: dict[str, object] = {}
    for block in found:
        exec(compile(block, "docs/masked-engine.md", "exec"), names)  # noqa: S102 - our own page
    assert names["logits"].shape == names["plain"].shape == (2, 2)


def test_the_models_page_runs() -> None:
    """Its Python block runs, and gives what the comments say."""
    (block,) = blocks("python", MODELS)
    names: dict[str, object] = {}
    exec(compile(block, "docs/models.md", "exec"), names)  # noqa: S102 - our own page
    assert names["three"].encoder.in_channels == 3  # type: ignore[attr-defined]


def test_public_names_are_all_there() -> None:
    """Every name of ``__all__`` resolves, and functions are functions even after their modules were imported."""
    from prostate_mim import finetuning, pretraining

    assert all(getattr(prostate_mim, name) is not None for name in prostate_mim.__all__)
    assert prostate_mim.finetune is finetuning.finetune
    assert prostate_mim.pretrain is pretraining.pretrain


def test_links_and_pictures_exist() -> None:
    """Relative links of every page lead to files."""
    for page in PAGES:
        folder = (ROOT / page).parent
        for link in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text()):
            assert (folder / link).exists(), f"{page}: {link}"

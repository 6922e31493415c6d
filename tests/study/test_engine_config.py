"""The study's TOML: lists of tables, what is common to all arms, what is refused; the grid and its parts."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest

from prostate_mim.config import check_key, config_from_dict, config_to_toml, keys_of
from prostate_mim.errors import UsageError
from prostate_mim.study import ArmConfig, StudyConfig, TaskConfig, read_study
from prostate_mim.study.cells import Cell, cell_config, cell_key
from prostate_mim.study.grid import cells_of, check_only, is_chosen, parse_only
from prostate_mim.study.tasks import TaskTable

LEAST = 'pretraining_manifest = "o.csv"\n[[tasks]]\nname = "a"\nmanifest = "m.csv"\n[[arms]]\nname = "b"\n'


def study(tmp_path: Path, text: str) -> StudyConfig:
    """A configuration from its text."""
    path = tmp_path / "study.toml"
    path.write_text(text)
    return read_study(path)


def test_written_and_read_again(tmp_path: Path) -> None:
    """A configuration with lists of tables is itself after a round trip through TOML."""
    config = study(tmp_path, LEAST + '[[arms]]\nname = "c"\nstrategy = "column"\npretraining_seeds = [3, 4]\n')
    again = config_from_dict(tomllib.loads(config_to_toml(config)), StudyConfig, "test")
    assert again == config and [arm.name for arm in again.arms] == ["b", "c"]


def test_arms_share_what_they_do_not_say(tmp_path: Path) -> None:
    """[pretraining] is every arm's; an arm's own table replaces single values of it, not whole sections."""
    common = "[pretraining]\nmasks_per_crop = 2\n[pretraining.loop]\nsteps = 7\nbatch = 3\n"
    own = '[arms.pretraining.loop]\nbatch = 5\n[[arms]]\nname = "c"\nmethod = "genesis"\nratio = "0.4"\n'
    config = study(tmp_path, LEAST + own + common)
    first, second = (arm.pretrain_configs("resenc-s", 9)[0] for arm in config.arms)
    assert (first.masks_per_crop, first.loop.steps, first.loop.batch) == (2, 7, 5)
    assert (second.masks_per_crop, second.loop.steps, second.loop.batch) == (2, 7, 3)
    assert (first.architecture, first.loop.seed, first.method.strategy) == ("resenc-s", 9, "random")
    assert (second.method.strategy, second.method.ratio, second.method.scores) == ("genesis", "0.4", "all")


def test_paths_start_at_the_file_or_at_data(tmp_path: Path) -> None:
    """Relative manifests lie beside the TOML file, or under ``data``."""
    config = study(tmp_path, LEAST)
    assert config.tasks[0].manifest == str(tmp_path / "m.csv")
    moved = read_study(tmp_path / "study.toml", tmp_path / "data")
    assert moved.pretraining_manifest == str(tmp_path / "data" / "o.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LEAST.replace("manifest = \"m", "manifets = \"m"), r"tasks\[1\].manifets is unknown; did you mean tasks\[\]"),
        (LEAST + "strateggy = 'a'\n", r"arms\[1\].strateggy is unknown; did you mean arms\[\].strategy"),
        (LEAST.replace("[[tasks]]", "[tasks]"), r"tasks is a section; expected a list \(each a section"),
        (LEAST + '[[arms]]\nname = "b"\n', "each must be there once"),
        (LEAST + 'initialisation = "imagnet"\n', "initialisation 'imagnet' is unknown; choose random, imagenet"),
        (LEAST + 'initialisation = "imagenet"\narchitectures = ["resenc-s"]\n', "no imagenet weights of resenc"),
        (LEAST + 'initialisation = "release"\n', "a release needs a source"),
        (LEAST + 'initialisation = "random"\nstrategy = "column"\n', "are for initialisation 'pretrained'"),
        (LEAST.replace('"o.csv"', '""'), "arm 'b' is to be pretrained, but no pretraining_manifest"),
        ("fractions = [0.5, 1.5]\n" + LEAST, "each must be over 0 and at most 1"),
        ('references = ["c"]\n' + LEAST, "reference 'c' is unknown; choose b"),
        (LEAST.replace('"b"', '"control:x"'), "is the beginning of the controls' names"),
        (LEAST.replace('"b"', '"a|b"'), "use letters, digits"),
        (LEAST + "[pretraining]\nleave_out_fold = 0\n", "pretraining: leave_out_fold is 0.*'per-fold'"),
        (LEAST + "[arms.pretraining]\nleave_out_fold = 0\n", "arm 'b': leave_out_fold is 0.*'per-fold'"),
        (LEAST + "[finetune]\ntest_fold = 1\n", "finetune.test_fold is 1; a study tests every fold"),
        (LEAST.replace('"a"', '"a"\nkind = "voxel"'), "kind 'voxel' is unknown; choose lesions, voxels, centres"),
    ],
)  # fmt: skip
def test_what_makes_no_study_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """One line that names the place; the text without the fault is read (the tests above)."""
    with pytest.raises(UsageError, match=message) as caught:
        study(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_keys_within_lists_cannot_be_set_by_name() -> None:
    """``keys_of`` goes into lists of tables only where it is asked to."""
    assert "tasks[].probe.windows" in set(keys_of(StudyConfig, lists=True))
    assert "tasks[].name" not in set(keys_of(StudyConfig)) and "pretraining.loop.steps" in set(keys_of(StudyConfig))
    with pytest.raises(UsageError, match="is unknown"):
        check_key("tasks[].name", StudyConfig, "--set")


def grid(**values: object) -> list[Cell]:
    """Cells of two tasks and two arms."""
    tasks = (TaskConfig("a", "m.csv"), TaskConfig("v", "m.csv", kind="voxels"))
    arms = (ArmConfig("random", "random"), ArmConfig("photo", "imagenet"))
    config = StudyConfig(tasks, arms, **{"seeds": (0, 1), "fractions": (0.1, 1.0), **values})  # type: ignore[arg-type]
    return [cell for cell, _, _ in cells_of(config)]


def test_the_grid_by_hand() -> None:
    """Lesions: 2 arms x 2 fractions x 2 seeds = 8; voxels: 2 arms x 2 seeds = 4; controls: 2 + 2 + 2 + 2."""
    assert len(grid()) == len(set(grid())) == 12
    with_controls = grid(controls=True)
    assert len(with_controls) == len(set(with_controls)) == 20
    controls = {(cell.task, cell.arm, cell.fraction) for cell in with_controls if cell.arm.startswith("control:")}
    assert controls == {
        ("a", "control:permuted:random", 1.0),
        ("v", "control:permuted:random", 1.0),
        ("v", "control:place:random", 1.0),
        ("v", "control:location:random", 1.0),
    }


def test_only_chooses_a_part() -> None:
    """Keys narrow, values of one key widen, fractions compare as numbers, controls go with their arm."""
    cells = grid(controls=True)
    chosen = [cell for cell in cells if is_chosen(cell, parse_only("arm=random, fraction=1.0,seed=0,seed=1,task=a"))]
    assert {(cell.arm, cell.seed) for cell in chosen} == {
        ("random", 0), ("random", 1), ("control:permuted:random", 0), ("control:permuted:random", 1),
    }  # fmt: skip
    assert all(is_chosen(cell, parse_only("")) for cell in cells)
    for text, message in (("arms=x", "did you mean arm"), ("arm", "expected key=value"), ("arm=", "expected key")):
        with pytest.raises(UsageError, match=message):
            parse_only(text)
    with pytest.raises(UsageError, match="chooses no cell; there are arm: control"):
        check_only(parse_only("arm=nobody"), cells)


TABLE = TaskTable((1, 2), (0, 1), (-1, -1), (0, 1), (0, 1), ("", ""), ("", ""), "f")


def key(arm: str = "a", *, seed: int = 0, fraction: float = 1.0, name: str = "t", table: TaskTable = TABLE) -> str:
    """A cell's key."""
    cell, task = Cell(name, arm, "resenc-s", "linear", fraction, seed), TaskConfig(name, f"{name}.csv")
    finetune = cell_config(StudyConfig((task,), (ArmConfig("a", "random"),)).finetune, cell, task, "cpu")
    return cell_key(cell, task, table, [], finetune, 0)


def test_a_key_is_of_what_decides_the_numbers() -> None:
    """Names do not count; seed, fraction, labels, folds and shuffling do."""
    assert key() == key("another arm") == key(name="another task")
    others = [
        key(seed=1), key(fraction=0.5), key("control:permuted:a"),
        key(table=TaskTable((1, 2), (1, 0), (-1, -1), (0, 1), (0, 1), ("", ""), ("", ""), "f")),
        key(table=TaskTable((1, 2), (0, 1), (-1, -1), (0, 1), (1, 0), ("", ""), ("", ""), "f")),
        key(table=TaskTable((1, 2), (0, 1), (-1, -1), (0, 1), (0, 1), ("", ""), ("", ""), "g")),
    ]  # fmt: skip
    assert len({key(), *others}) == 7


def test_one_finetune_section_serves_all_modes(tmp_path: Path) -> None:
    """What a linear head has not is left out of its cells; full cells keep it."""
    text = '[finetune]\nmode = "full"\nepochs = 4\npatience = 2\nfreeze_epochs = 1\nloss = "focal"\n'
    config = study(tmp_path, 'modes = ["linear", "full"]\n' + LEAST + text)
    made = {
        mode: cell_config(config.finetune, Cell("a", "b", "resenc-s", mode, 0.5, 3), config.tasks[0], "cpu")
        for mode in ("linear", "attentive", "full")
    }
    assert (made["linear"].patience, made["linear"].loss, made["linear"].freeze_epochs) == (0, "bce", 0)
    assert (made["attentive"].patience, made["attentive"].freeze_epochs) == (2, 0)
    assert (made["full"].patience, made["full"].freeze_epochs, made["full"].loss) == (2, 1, "focal")
    assert {(one.fraction, one.fraction_seed, one.loop.seed) for one in made.values()} == {(0.5, 3, 3)}


def test_help_names_the_options() -> None:
    """The command is there."""
    from typer.testing import CliRunner

    from prostate_mim.cli import app

    text = CliRunner().invoke(app, ["study", "--help"], env={"COLUMNS": "200"}).output
    assert all(option in text for option in ("--engine", "--only", "--skip-bad", "--report", "--store", "--data"))


def test_shuffled_labels_stay_in_their_folds() -> None:
    """Every fold keeps its share of positives; labels and grades move together, and the seed decides where to."""
    count = 40
    labels = tuple(int(place % 4 == 0 or place < 8) for place in range(count))
    grades = tuple(3 * label + place % 2 for place, label in enumerate(labels))
    folds = tuple(place % 3 for place in range(count))
    none = ("",) * count
    table = TaskTable(tuple(range(count)), labels, grades, tuple(range(count)), folds, none, none, "")
    kept, _ = table.targets()
    assert tuple(kept) == labels
    found, found_grades = table.targets(1)
    assert tuple(found) != labels
    assert all((grade >= 3) == bool(label) for grade, label in zip(found_grades, found, strict=True))
    for fold in range(3):
        own = [place for place in range(count) if folds[place] == fold]
        assert sorted(found_grades[own]) == sorted(np.asarray(grades)[own])
    assert [tuple(table.targets(seed)[0]) for seed in (1, 2)] == [tuple(found), tuple(table.targets(2)[0])]
    assert tuple(table.targets(2)[0]) != tuple(found)

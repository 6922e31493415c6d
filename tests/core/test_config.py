"""Configuration files: what is written is read back, and what is not in the schema is refused with the nearest name."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prostate_mim.config import (
    check_key,
    config_from_dict,
    config_to_dict,
    config_to_toml,
    keys_of,
    overlay,
    read_config,
    read_values,
    write_config,
)
from prostate_mim.errors import NotFoundError, ProstateMimError, UsageError
from prostate_mim.finetuning import FinetuneConfig
from prostate_mim.pretraining import PretrainConfig


@dataclass(frozen=True)
class Motor:
    power: float = 2.5
    turns: int = 3
    on: bool = False

    def __post_init__(self) -> None:
        if self.turns < 0:
            raise UsageError(f"turns is {self.turns}; it must not be negative")


@dataclass(frozen=True)
class Ship:
    name: str = "a ship"
    size_mm_zyx: tuple[float, float, float] = (1.0, 2.0, math.inf)
    motor: Motor = field(default_factory=lambda: Motor(power=9.0))
    flags: tuple[str, ...] = ("red",)
    terms: tuple[tuple[str, float], ...] = (("l2", 1.0),)
    draught: int | None = None


@dataclass(frozen=True)
class Fleet:
    flagship: Ship
    count: int


motors = st.builds(
    Motor, power=st.floats(allow_nan=False), turns=st.integers(0, 2**62), on=st.booleans()
)  # TOML numbers of 64 bits
numbers = st.floats(allow_nan=False)
ships = st.builds(
    Ship,
    name=st.text(),
    size_mm_zyx=st.tuples(numbers, numbers, numbers),
    motor=motors,
    flags=st.lists(st.text(), max_size=3).map(tuple),
    terms=st.lists(st.tuples(st.text(), numbers), max_size=3).map(tuple),
    draught=st.none() | st.integers(-5, 5),
)


# ---------------------------------------------------------------------------------------------------- round trip


def again(config: Any) -> Any:
    return config_from_dict(tomllib.loads(config_to_toml(config)), type(config), "test")


@given(config=ships)
def test_round_trip_of_any_values(config: Ship) -> None:
    """TOML holds every value: infinities, empty lists, any text, None."""
    assert again(config) == config
    assert config_from_dict(config_to_dict(config), Ship, "test") == config


def varied(config: Any, data: st.DataObject) -> Any:
    """A configuration in which some of all values, nested ones too, are others that its classes allow."""
    for name, hint in get_type_hints(type(config)).items():
        old = getattr(config, name)
        new = varied(old, data) if dataclasses.is_dataclass(old) else another(old, hint, data)
        try:
            config = dataclasses.replace(config, **{name: new})
        except ProstateMimError:
            continue  # the class allows no such value
    return config


def another(old: Any, hint: Any, data: st.DataObject) -> Any:
    if isinstance(old, bool):
        return data.draw(st.booleans())
    if isinstance(old, int):
        return old + data.draw(st.integers(0, 7))
    if isinstance(old, float):
        return old * data.draw(st.floats(0.25, 1))
    if isinstance(old, tuple):
        return tuple(another(part, None, data) for part in old)
    if old is None and "tuple[int" in str(hint):
        return data.draw(st.none() | st.tuples(*[st.integers(1, 300)] * 3))
    return old


@pytest.mark.parametrize("kind", [PretrainConfig, FinetuneConfig])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_round_trip_of_the_real_configurations(kind: type[Any], data: st.DataObject) -> None:
    """What a run writes into its folder is the configuration that it had, whatever that was."""
    config = varied(kind(), data)
    assert again(config) == config


def test_a_value_that_is_lost_is_noticed() -> None:
    """The control of the round trip: one key less, or a changed one, gives another configuration."""
    config = dataclasses.replace(Ship(), motor=Motor(turns=5, power=9.0))
    values = config_to_dict(config)
    assert config_from_dict(values, Ship, "test") == config
    assert config_from_dict(overlay(values, {"motor.turns": 6}), Ship, "test") != config
    del values["motor"]["turns"]
    assert config_from_dict(values, Ship, "test") != config


def test_written_text_by_hand(tmp_path: Path) -> None:
    """A whole crop's block is TOML's inf, None is left out, the file is complete and reads back."""
    path = tmp_path / "run.toml"
    write_config(path, PretrainConfig(block_mm_zyx=(math.inf, 8.0, 8.0)))
    values = tomllib.loads(path.read_text())
    assert values["block_mm_zyx"] == [math.inf, 8.0, 8.0]
    assert values["method"]["losses"] == [["l2", 1.0]]
    assert values["loop"]["steps"] == PretrainConfig().loop.steps
    assert "draught" not in config_to_dict(Ship())
    assert config_to_dict(Ship(draught=0))["draught"] == 0
    assert read_config(path, PretrainConfig) == PretrainConfig(block_mm_zyx=(math.inf, 8.0, 8.0))


def test_none_that_cannot_be_said_is_refused() -> None:
    """None where the default is something else would come back as the default."""

    @dataclass(frozen=True)
    class Odd:
        draught: int | None = 5

    assert config_to_dict(Odd(4)) == {"draught": 4}
    with pytest.raises(UsageError, match="draught is None"):
        config_to_dict(Odd(None))


# ------------------------------------------------------------------------------------------------------ defaults


def test_partial_sections_keep_the_parents_default() -> None:
    """A section's default stands in its parent: 9.0 here, not the 2.5 of the class."""
    assert config_from_dict({}, Ship, "test") == Ship()
    made = config_from_dict({"motor": {"turns": 4}}, Ship, "test")
    assert made.motor == Motor(power=9.0, turns=4)
    assert made.motor != Motor(turns=4)
    assert config_from_dict({"motor": {}}, Ship, "test") == Ship()


def test_what_has_no_default_must_be_there() -> None:
    """A missing key is named; given, it is read."""
    with pytest.raises(UsageError, match=r"^f.toml: count is missing; give a whole number$"):
        config_from_dict({"flagship": {}}, Fleet, "f.toml")
    assert config_from_dict({"flagship": {}, "count": 2}, Fleet, "f.toml") == Fleet(Ship(), 2)


# -------------------------------------------------------------------------------------------------------- refusals


def nested(key: str, value: object) -> dict[str, Any]:
    return overlay({}, {key: value})


@pytest.mark.parametrize("kind", [Ship, PretrainConfig, FinetuneConfig])
def test_every_misspelt_key_is_refused(kind: type[Any]) -> None:
    """Law: any known key with a letter more is refused with its full path, and the right one is suggested."""
    keys = list(keys_of(kind))
    assert len(keys) > 8
    for key in keys:
        with pytest.raises(UsageError) as refusal:
            config_from_dict(nested(f"{key}q", 1), kind, "run.toml")
        assert str(refusal.value) == f"run.toml: {key}q is unknown; did you mean {key}?"
        check_key(key, kind, "test")
        with pytest.raises(UsageError, match="did you mean"):
            check_key(f"{key}q", kind, "test")


def test_rightly_spelt_keys_are_accepted() -> None:
    """The control: every key of the written default is known, and nothing else is in it."""
    for config in (Ship(), PretrainConfig(), FinetuneConfig()):
        assert again(config) == config


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ({"turns": 1}, ("turns is unknown", "did you mean motor.turns?")),
        ({"motor": {"name": "x"}}, ("motor.name is unknown", "did you mean name?")),
        ({"motor": {"zzzz": 1}}, ("motor.zzzz is unknown", "did you mean motor.")),
        ({"a\nb": 1}, (r"'a\nb' is unknown",)),
        ({"motor": 3}, ("motor is 3 (a whole number)", "expected a section")),
        ({"motor": [1]}, ("motor is a list of 1", "expected a section")),
        ({"motor": {"turns": True}}, ("motor.turns is true (true or false)", "expected a whole number")),
        ({"motor": {"turns": 1.0}}, ("motor.turns is 1.0 (a number)", "expected a whole number")),
        ({"motor": {"turns": "3"}}, ("motor.turns is '3' (text)", "expected a whole number")),
        ({"motor": {"power": False}}, ("motor.power is false", "expected a number")),
        ({"motor": {"power": 10**400}}, ("motor.power is 1000", "expected a number")),
        ({"motor": {"on": 1}}, ("motor.on is 1", "expected true or false")),
        ({"motor": {"turns": -1}}, ("f.toml: [motor] turns is -1; it must not be negative",)),
        ({"name": 5}, ("name is 5", "expected text")),
        ({"name": {}}, ("name is a section", "expected text")),
        (
            {"size_mm_zyx": [1, 2]},
            ("size_mm_zyx is a list of 2", "expected a list of 3 (a number, a number, a number)"),
        ),
        ({"size_mm_zyx": [1, 2, "3"]}, ("size_mm_zyx[3] is '3'", "expected a number")),
        ({"size_mm_zyx": 5}, ("size_mm_zyx is 5", "expected a list of 3")),
        ({"flags": "red"}, ("flags is 'red'", "expected a list (each text)")),
        ({"flags": ["red", 1]}, ("flags[2] is 1", "expected text")),
        ({"terms": [["l1"]]}, ("terms[1] is a list of 1", "expected a list of 2 (text, a number)")),
        ({"draught": "deep"}, ("draught is 'deep'", "expected a whole number")),
        (7, ("the configuration is 7", "expected a section")),
    ],
)
def test_refusals_say_what_was_found_and_expected(values: object, texts: tuple[str, ...]) -> None:
    """One line: the source, the dotted key, what was found, what is expected."""
    with pytest.raises(UsageError) as refusal:
        config_from_dict(values, Ship, "f.toml")
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).startswith("f.toml: ")
    for text in texts:
        assert text in str(refusal.value)


def test_the_same_keys_with_right_values_are_accepted() -> None:
    """The control: a whole number is a number, a list is a tuple."""
    values = {
        "motor": {"turns": 1, "power": 3, "on": True},
        "name": "x",
        "size_mm_zyx": [1, 2, 3.5],
        "flags": [],
        "terms": [["l1", 2]],
        "draught": 4,
    }
    made = config_from_dict(values, Ship, "test")
    assert made == Ship("x", (1.0, 2.0, 3.5), Motor(3.0, 1, True), (), (("l1", 2.0),), 4)
    assert type(made.motor.power) is type(made.size_mm_zyx[0]) is type(made.terms[0][1]) is float


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ({"spec": {"orientation": "coronal"}}, ("[spec] InputSpec.orientation", "coronal")),
        ({"spec": {"size_zyx": [8, 32.0, 32]}}, ("spec.size_zyx[2] is 32.0", "expected a whole number")),
        ({"method": {"losses": []}}, ("[method] a method needs at least one loss",)),
        ({"method": "spark"}, ("method is 'spark' (text)", "expected a section")),
        ({"loop": {"steps": 0}}, ("[loop] steps is 0",)),
        ({"loop": {"learning_rate": math.nan}}, ("[loop] learning_rate is nan",)),
        ({"steps": 200}, ("steps is unknown", "did you mean loop.steps?")),
    ],
)
def test_real_sections_are_checked_too(values: dict[str, Any], texts: tuple[str, ...]) -> None:
    """Classes that have their own to_dict and from_dict are read by the same rules; their refusals name the section."""
    with pytest.raises(UsageError) as refusal:
        config_from_dict(values, PretrainConfig, "run.toml")
    for text in texts:
        assert text in str(refusal.value)


# ----------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        (b"a = 1\nb = = 2\n", ("line 2, column 5 is not TOML",)),
        (b"a = 1\nb = [1,\n", ("line 3 or before is not TOML",)),
        (b"a = 1\na = 2\n", ("line 2", "overwrite")),
        (b"a = 1\nb = '\xff'\n", ("line 2 is not UTF-8",)),
        (b"a = " + b"[" * 100_000, ("not a configuration",)),
        (b"a = " + b"9" * 5000, ("is not TOML",)),
    ],
)
def test_invalid_toml_names_the_line(tmp_path: Path, data: bytes, texts: tuple[str, ...]) -> None:
    """One line with the file and the line number."""
    path = tmp_path / "run.toml"
    path.write_bytes(data)
    with pytest.raises(UsageError) as refusal:
        read_values(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert "\n" not in str(refusal.value)
    for text in texts:
        assert text in str(refusal.value)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    """No file is exit code 3, a folder is 2, and a good file is read."""
    with pytest.raises(NotFoundError, match="no such configuration"):
        read_config(tmp_path / "no.toml", Ship)
    with pytest.raises(UsageError, match="cannot be read"):
        read_config(tmp_path, Ship)
    (tmp_path / "yes.toml").write_text("[motor]\nturns = 7\n")
    assert read_config(tmp_path / "yes.toml", Ship).motor.turns == 7


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=60) | st.text("[]{}=.\"'\n#ab1-:T\\", max_size=60).map(str.encode))
def test_garbage_is_refused_or_read(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Law: any bytes give values or one of our errors, never another exception."""
    path = tmp_path_factory.getbasetemp() / "garbage.toml"
    path.write_bytes(data)
    try:
        read_config(path, Ship)
    except UsageError as error:
        assert "\n" not in str(error)


# --------------------------------------------------------------------------------------------------------- overlay

keys = st.sampled_from(list(keys_of(Ship)))
trees = st.sampled_from([{}, {"name": "x"}, {"motor": {"turns": 1, "on": True}, "flags": ["a"]}])


@given(tree=trees, key=keys, first=st.integers(), second=st.integers())
def test_overlay_laws(tree: dict[str, Any], key: str, first: int, second: int) -> None:
    """Nothing given changes nothing; the last value counts; other keys and the input stay as they are."""
    before = config_like(tree)
    once = overlay(tree, {key: second})
    assert overlay(tree, {}) == tree
    assert overlay(overlay(tree, {key: first}), {key: second}) == once
    assert config_like(tree) == before
    *sections, name = key.split(".")
    found: Any = once
    for section in sections:
        found = found[section]
    assert found[name] == second
    assert {k: v for k, v in once.items() if k != key.split(".")[0]} == {
        k: v for k, v in tree.items() if k != key.split(".")[0]
    }


def config_like(tree: dict[str, Any]) -> str:
    return repr(tree)


def test_overlay_by_hand() -> None:
    """A table replaces its section, later changes go into it, and a value is no section."""
    tree = {"motor": {"turns": 1, "on": True}}
    assert overlay(tree, {"motor.turns": 2}) == {"motor": {"turns": 2, "on": True}}
    assert overlay(tree, {"motor": {"power": 1.0}, "motor.turns": 3}) == {"motor": {"power": 1.0, "turns": 3}}
    with pytest.raises(UsageError, match=r"^motor\.turns\.x: turns is 1"):
        overlay(tree, {"motor.turns.x": 2})

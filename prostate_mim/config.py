"""Configuration files: TOML to nested frozen dataclasses and back, against a closed schema.

The schema is the dataclass: its fields are the known keys, its annotations the types, its default instance the values
of keys that are left out. A nested dataclass is a table (section). Understood annotations are bool, int, float, str,
tuples and dataclasses, and each of these or None. A tuple of dataclasses is a list of tables (``[[tasks]]``).
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import tomli_w

from prostate_mim.errors import IntegrityError, NotFoundError, ProstateMimError, UsageError, nearest
from prostate_mim.files import write_text

Config = TypeVar("Config")

_NAMES: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_UNSET: Any = dataclasses.MISSING


def read_config(path: str | Path, kind: type[Config]) -> Config:
    """Read a TOML file as an instance of the dataclass ``kind``; keys that are left out keep their defaults.

    Raises:
        NotFoundError: no such file.
        UsageError: not TOML (names the line), an unknown key (names the nearest one), a wrong type, a wrong value.
    """
    return config_from_dict(read_values(path), kind, str(path))


def read_values(path: str | Path) -> dict[str, Any]:
    """The plain values of a TOML file, not yet compared with any schema.

    Raises:
        NotFoundError: no such file.
        UsageError: it cannot be read, or is not TOML; the message names the line.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise NotFoundError(f"{path}: no such configuration file; check the path") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); give a TOML file") from error
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}: line {line} is not UTF-8 text; save the file as UTF-8") from error
    except RecursionError as error:
        raise UsageError(f"{path}: not a configuration: its lists are nested too deeply") from error
    except ValueError as error:  # tomllib's own, and Python's for numbers of thousands of digits
        raise UsageError(f"{path}: {_explain(str(error), data)}; correct the file") from error


def _explain(text: str, data: bytes) -> str:
    """One line from tomllib's message, with the line number; at the end of the file it gives none."""
    place = re.search(r" \(at line (\d+), column (\d+)\)$", text)
    if place is not None:
        return f"line {place[1]}, column {place[2]} is not TOML: {text[: place.start()]}"
    last = data.count(b"\n") + 1
    return f"line {last} or before is not TOML: {text.removesuffix(' (at end of document)')}"


def config_from_dict(values: object, kind: type[Config], where: str) -> Config:
    """Plain values (as of TOML) as an instance of the dataclass ``kind``.

    Args:
        where: named at the beginning of every error: the file, or what else the values are from.

    Raises:
        UsageError: an unknown or missing key, a wrong type, or a value that the dataclass itself refuses.
    """
    made: Config = _Reader(where, kind).section(values, kind, _UNSET, "")
    return made


def check_key(key: str, kind: type[Any], where: str) -> None:
    """Refuse a dotted key (``loop.steps``, or a whole section ``loop``) that ``kind`` does not have.

    Raises:
        UsageError: naming the nearest key.
    """
    if key not in set(keys_of(kind)):
        section, _, name = key.rpartition(".")
        raise _Reader(where, kind).unknown(section, name)


def keys_of(kind: type[Any], prefix: str = "", *, lists: bool = False) -> Iterator[str]:
    """Every dotted key of a dataclass, sections included, in the order of its fields.

    Args:
        prefix: of every key.
        lists: go into lists of tables too: ``tasks[].name``. There is no changing such a key by its name alone.
    """
    for name, hint in _schema(kind).items():
        yield prefix + name
        if _is_section(hint):
            yield from keys_of(hint, f"{prefix}{name}.", lists=lists)
        elif lists and get_origin(hint) is tuple and _is_section(get_args(hint)[0]):
            yield from keys_of(get_args(hint)[0], f"{prefix}{name}[].", lists=lists)


def overlay(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested ``values`` in which each dotted key of ``changes`` has its new value, one after the other.

    A table as a new value replaces the whole section. Keys are not compared with any schema; that is done by
    ``config_from_dict``.

    Raises:
        UsageError: a part of a key is there and is not a section.
    """
    made = dict(values)
    for key, value in changes.items():
        *sections, name = key.split(".")
        place = made
        for section in sections:
            inner = place.get(section, {})
            if not isinstance(inner, Mapping):
                raise UsageError(f"{key}: {section} is {_shown(inner)}, not a section")
            place[section] = dict(inner)
            place = place[section]
        place[name] = value
    return made


def config_to_dict(config: Any) -> dict[str, Any]:
    """Plain values of a configuration: dataclasses as dicts, tuples as lists; None is left out.

    ``config_from_dict`` is the inverse.

    Raises:
        UsageError: a field is None although it is something else by default, which TOML has no way to say.
    """
    return _plain_section(config, _UNSET, "")


def config_to_toml(config: Any) -> str:
    """A configuration as TOML text, complete: defaults are written out. ``read_config`` reads it back."""
    return tomli_w.dumps(config_to_dict(config))


def write_config(path: str | Path, config: Any) -> None:
    """Write a configuration as TOML, atomically."""
    write_text(path, config_to_toml(config))


# ------------------------------------------------------------------------------------------------------- schema


def _schema(kind: type[Any]) -> dict[str, Any]:
    """Name -> annotation, without its None, of every field that the constructor takes."""
    hints = get_type_hints(kind)
    return {field.name: _bare(hints[field.name]) for field in dataclasses.fields(kind) if field.init}


def _defaults(kind: type[Any], instance: Any) -> dict[str, Any]:
    """Name -> default, from an instance of ``kind`` if there is one (a section's default stands in its parent)."""
    if isinstance(instance, kind):
        return {name: getattr(instance, name) for name in _schema(kind)}
    made = {}
    for field in dataclasses.fields(kind):
        if field.default is not dataclasses.MISSING:
            made[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            made[field.name] = field.default_factory()
    return made


def _bare(hint: Any) -> Any:
    """An annotation without its None: ``X | None`` -> ``X``."""
    if get_origin(hint) not in (Union, types.UnionType):
        return hint
    (only,) = (member for member in get_args(hint) if member is not types.NoneType)
    return only


def _is_section(hint: Any) -> bool:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


# ------------------------------------------------------------------------------------------------------ reading


@dataclass(frozen=True)
class _Reader:
    """Reads values of one source.

    Attributes:
        where: the source.
        root: the dataclass of the whole configuration.
    """

    where: str
    root: type[Any]

    def section(self, values: object, kind: type[Any], default: Any, key: str) -> Any:
        """An instance of ``kind``."""
        if not isinstance(values, Mapping):
            raise self.wrong(key or "the configuration", values, kind)
        schema, defaults = _schema(kind), _defaults(kind, default)
        for name in values:
            if name not in schema:
                raise self.unknown(key, str(name))
        made = {}
        for name, hint in schema.items():
            path, own = _join(key, name), defaults.get(name, _UNSET)
            if name in values:
                made[name] = self.value(values[name], hint, own, path)
            elif own is _UNSET:
                raise UsageError(f"{self.where}: {path} is missing; give {_expected(hint)}")
            else:
                made[name] = own
        try:
            return kind(**made)
        except ProstateMimError as error:
            # IntegrityError is for artefacts of this package; here a user has written the value.
            refusal = UsageError if isinstance(error, IntegrityError) else type(error)
            raise refusal(f"{self.where}: {f'[{key}] ' if key else ''}{error}") from error

    def value(self, found: object, hint: Any, default: Any, key: str) -> Any:
        """``found`` as what the annotation asks for."""
        if _is_section(hint):
            return self.section(found, hint, default, key)
        if get_origin(hint) is tuple:
            return self._list(found, hint, key)
        if hint is float:
            return self._number(found, key)
        if hint not in _NAMES:
            raise TypeError(f"{key}: a configuration cannot hold {hint}")
        if type(found) is not hint:  # exactly: to isinstance a bool is an int
            raise self.wrong(key, found, hint)
        return found

    def _number(self, found: object, key: str) -> float:
        if type(found) is not int and type(found) is not float:
            raise self.wrong(key, found, float)
        try:
            return float(found)
        except OverflowError:
            raise self.wrong(key, found, float) from None

    def _list(self, found: object, hint: Any, key: str) -> tuple[Any, ...]:
        inner = get_args(hint)
        if not isinstance(found, list | tuple):
            raise self.wrong(key, found, hint)
        if inner[-1] is Ellipsis:
            inner = inner[:1] * len(found)
        elif len(inner) != len(found):
            raise self.wrong(key, found, hint)
        pairs = enumerate(zip(found, inner, strict=True), 1)
        return tuple(self.value(part, own, _UNSET, f"{key}[{number}]") for number, (part, own) in pairs)

    def wrong(self, key: str, found: object, hint: Any) -> UsageError:
        """What to raise for a value of another type."""
        return UsageError(f"{self.where}: {key} is {_shown(found)}; expected {_expected(hint)}")

    def unknown(self, section: str, name: str) -> UsageError:
        """What to raise for an unknown key, suggesting the same name elsewhere, else a like one here, else there."""
        key, known = _join(section, name), list(keys_of(self.root, lists=True))
        place = re.sub(r"\[\d+\]", "[]", section)
        beside = {own.rpartition(".")[2]: own for own in known if own.rpartition(".")[0] == place}
        anywhere = {own.rpartition(".")[2]: own for own in reversed(known)}
        for names, cutoff in ((anywhere, 1.0), (beside, 0.6), (anywhere, 0.6), (beside or anywhere, 0.0)):
            near = nearest(name.lower(), names, cutoff)
            if near:
                return UsageError(f"{self.where}: {key} is unknown; did you mean {names[near]}?")
        return UsageError(f"{self.where}: {key} is unknown")  # pragma: no cover - a dataclass without fields


def _join(section: str, name: str) -> str:
    shown = name if re.fullmatch(r"[\w-]+", name) else repr(name)
    return f"{section}.{shown}" if section else shown


def _shown(value: object) -> str:
    """A value as an error shows it, one short line, with its type in words."""
    if isinstance(value, Mapping):
        return "a section"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    text = str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, str) else str(value)
    text = text if len(text) <= 60 else text[:57] + "..."
    return f"{text} ({_NAMES.get(type(value), type(value).__name__)})"


def _expected(hint: Any) -> str:
    """An annotation in words."""
    if _is_section(hint):
        return "a section (a TOML table)"
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        if inner[-1] is Ellipsis:
            return f"a list (each {_expected(inner[0])})"
        return f"a list of {len(inner)} ({', '.join(map(_expected, inner))})"
    return _NAMES[hint]


# ------------------------------------------------------------------------------------------------------ writing


def _plain_section(config: Any, default: Any, key: str) -> dict[str, Any]:
    kind = type(config)
    defaults = _defaults(kind, default)
    made = {}
    for name in _schema(kind):
        value, own, path = getattr(config, name), defaults.get(name, _UNSET), _join(key, name)
        if value is not None:
            made[name] = _plain(value, own, path)
        elif own is not None:
            raise UsageError(f"{path} is None, which a configuration file cannot say; give a value")
    return made


def _plain(value: Any, default: Any, key: str) -> Any:
    if dataclasses.is_dataclass(value):
        return _plain_section(value, default, key)
    return [_plain(part, _UNSET, key) for part in value] if isinstance(value, list | tuple) else value

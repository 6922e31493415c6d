"""models.json: every published model by name, with the size and SHA-256 of each of its files. One reader."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from prostate_mim.errors import IntegrityError
from prostate_mim.hub.names import COMMIT

REGISTRY = Path(__file__).resolve().parent / "models.json"
FORMAT = 1
UNSTATED = "unstated"
"""The licence of what nobody has stated one for."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9-]+\.[a-z0-9-]+")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_MODEL_KEYS = {
    "kind", "architecture", "recipe", "parameters", "spec_fingerprint", "license", "data", "repository", "revision",
    "files",
}  # fmt: skip


@dataclass(frozen=True)
class FileEntry:
    """One file of a model.

    Attributes:
        size: bytes.
        sha256: 64 hex digits.
    """

    size: int
    sha256: str


@dataclass(frozen=True)
class DataTerms:
    """Data that the weights were made of.

    Attributes:
        name: of the data set.
        license: SPDX identifier, or ``LicenseRef-...`` where there is none; the card says what it means.
    """

    name: str
    license: str


@dataclass(frozen=True)
class Entry:
    """A published model.

    Attributes:
        name: ``architecture.recipe``.
        kind: ``encoder`` or ``classifier``.
        parameters: of the network.
        spec_fingerprint: of its input contract.
        license: of the weights.
        data: what they were made of, with the terms of each.
        repository: ``org/name`` where it is hosted; empty where it is not.
        revision: the commit (40 hex digits) there; empty where it is not hosted.
        files: by name.
    """

    name: str
    kind: str
    architecture: str
    recipe: str
    parameters: int
    spec_fingerprint: str
    license: str
    data: tuple[DataTerms, ...]
    repository: str
    revision: str
    files: Mapping[str, FileEntry]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())


@cache
def read_registry(path: Path = REGISTRY) -> dict[str, Entry]:
    """Name -> entry, sorted by name.

    Raises:
        IntegrityError: the file is damaged; it is part of the installation.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if set(values) != {"format", "models"} or values["format"] != FORMAT:
            raise ValueError(f"not of format {FORMAT}")
        return {name: _entry(name, values["models"][name]) for name in sorted(values["models"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{path}: the list of models is damaged ({error}); reinstall the package") from error


def _entry(name: str, values: Any) -> Entry:
    if set(values) != _MODEL_KEYS:
        raise ValueError(f"{name}: keys are not those of this version")
    hosted = values["repository"], values["revision"]
    good = (
        _NAME.fullmatch(name) is not None
        and name == f"{values['architecture']}.{values['recipe']}"
        and values["kind"] in ("encoder", "classifier")
        and type(values["parameters"]) is int
        and (hosted == ("", "") or bool(_REPOSITORY.fullmatch(hosted[0]) and COMMIT.fullmatch(hosted[1])))
        and all(_DIGEST.fullmatch(sha) and type(size) is int for size, sha in values["files"].values())
    )
    if not good:
        raise ValueError(f"{name}: a value is not of its kind")
    data = tuple(DataTerms(str(one["name"]), str(one["license"])) for one in values["data"])
    files = {str(file): FileEntry(size, sha) for file, (size, sha) in values["files"].items()}
    return Entry(name=name, **{**{key: values[key] for key in _MODEL_KEYS}, "data": data, "files": files})


def terms_of(name: str, weights_sha256: str, kind: str) -> tuple[str, dict[str, str]]:
    """The licence of a model's weights and those of its data by name, as far as the list of models says them.

    Args:
        name: of the model; a classifier of a published encoder is named after it.
        weights_sha256: an encoder is the published one only with its very weights.
        kind: ``encoder`` or ``classifier``; of the latter's own data nothing is known here.
    """
    entry = read_registry().get(name.removesuffix(".classifier") if kind == "classifier" else name)
    if entry is None or (kind == "encoder" and entry.files["model.safetensors"].sha256 != weights_sha256):
        return UNSTATED, {}
    data = {one.name: one.license for one in entry.data}
    return entry.license, data if kind == "encoder" else {**data, "of fine-tuning": UNSTATED}


def select(filter: str = "", license: str | Sequence[str] = "", data_license: str | Sequence[str] = "") -> list[Entry]:
    """The entries that ``list_models`` names; see there."""
    wanted = filter if any(sign in filter for sign in "*?[") else f"*{filter}*"
    return [
        entry
        for entry in read_registry().values()
        if fnmatch.fnmatchcase(entry.name, wanted)
        and _matches(entry.license, license)
        and all(_matches(one.license, data_license) for one in entry.data)
    ]


def _matches(found: str, patterns: str | Sequence[str]) -> bool:
    asked = [patterns] if isinstance(patterns, str) else list(patterns)
    return asked in ([], [""]) or any(fnmatch.fnmatchcase(found.lower(), pattern.lower()) for pattern in asked)


def check_registered(entry: Entry, sums: Mapping[str, str], where: str) -> None:
    """Compare the (verified) checksums of a folder with those that were published.

    Args:
        sums: name -> SHA-256 of every file, SHA256SUMS left out.
        where: named in the error.

    Raises:
        IntegrityError: naming the first file that differs.
    """
    published = {name: file.sha256 for name, file in entry.files.items()}
    for name in sorted(published.keys() | sums.keys()):
        if published.get(name) != sums.get(name):
            how = "is another file" if name in sums and name in published else (
                "is missing" if name in published else "was never published"
            )  # fmt: skip
            raise IntegrityError(
                f"{where}: {name} {how} than {entry.name!r} was published with; fetch the release again, or load it by "
                "its folder as local-dir:PATH if it is one of your own"
            )

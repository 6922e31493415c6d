"""One version everywhere, a citation that is valid, and models that are those of the list."""

from __future__ import annotations

import datetime
import hashlib
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

_HEADING = re.compile(r"^## \[(\d[^\]]*)\] - (\d{4}-\d\d-\d\d)$", re.M)
_SEMANTIC = re.compile(r"\d+\.\d+\.\d+((a|b|rc)\d+)?")
_REQUIRED = ("cff-version", "message", "title", "authors")
# Of the Citation File Format 1.2.0; a key that it does not know is a typing mistake.
_KEYS = {
    "abstract", "authors", "cff-version", "commit", "contact", "date-released", "doi", "identifiers", "keywords",
    "license", "license-url", "message", "preferred-citation", "references", "repository", "repository-artifact",
    "repository-code", "title", "type", "url", "version",
}  # fmt: skip
_PERSON = {
    "address", "affiliation", "alias", "city", "country", "email", "family-names", "fax", "given-names",
    "name-particle", "name-suffix", "orcid", "post-code", "region", "tel", "website",
}  # fmt: skip
_ENTITY = {
    "address", "alias", "city", "country", "date-end", "date-start", "email", "fax", "location", "name", "orcid",
    "post-code", "region", "tel", "website",
}  # fmt: skip


def code_version(tree: Path) -> str:
    """``__version__`` of the package, read and not run."""
    text = (tree / "prostate_mim" / "_version.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.M)
    return found.group(1) if found else ""


def citation(tree: Path) -> Any:
    """CITATION.cff as plain values."""
    return yaml.safe_load((tree / "CITATION.cff").read_text(encoding="utf-8"))


def citation_problems(values: Any) -> list[str]:
    """What the Citation File Format 1.2.0 would refuse of a citation."""
    if not isinstance(values, dict):
        return ["CITATION.cff: is no mapping"]
    problems = [f"CITATION.cff: {key} is missing" for key in _REQUIRED if not values.get(key)]
    problems += [f"CITATION.cff: {key} is no key of the format" for key in sorted(set(values) - _KEYS)]
    if values.get("cff-version") != "1.2.0":
        problems.append(f"CITATION.cff: cff-version is {values.get('cff-version')!r}, not '1.2.0'")
    if values.get("type", "software") not in ("software", "dataset"):
        problems.append(f"CITATION.cff: type is {values['type']!r}; software or dataset")
    if not isinstance(values.get("version", ""), str):
        problems.append("CITATION.cff: version is a number; write it in quotes")
    if not isinstance(values.get("date-released", datetime.date.min), datetime.date):
        problems.append("CITATION.cff: date-released is no date")
    for number, author in enumerate(values.get("authors") or [], 1):
        problems += [f"CITATION.cff: author {number}: {why}" for why in _author_problems(author)]
    return problems


def _author_problems(author: Any) -> list[str]:
    if not isinstance(author, Mapping) or not author:
        return ["is neither a person nor an entity"]
    if "name" in author:
        return [f"{key} is no key of an entity" for key in sorted(set(author) - _ENTITY)]
    if not {"family-names", "given-names", "alias"} & set(author):
        return ["has no name"]
    return [f"{key} is no key of a person" for key in sorted(set(author) - _PERSON)]


def version_problems(tree: Path, *, wheel: Path | None = None, tag: str | None = None) -> list[str]:
    """Where another version is written than in ``_version.py``; nothing if all agree.

    Args:
        tree: the exported source.
        wheel: whose name and METADATA are looked at too.
        tag: of git, such as ``v0.1.0``.
    """
    version, cited = code_version(tree), citation(tree)
    problems = [] if _SEMANTIC.fullmatch(version) else [f"_version.py: {version!r} is no version"]
    heading = _HEADING.search((tree / "CHANGELOG.md").read_text(encoding="utf-8"))
    if heading is None:
        problems.append("CHANGELOG.md: has no heading '## [VERSION] - YYYY-MM-DD'")
    elif heading.group(1) != version:
        problems.append(f"CHANGELOG.md: its newest release is {heading.group(1)}, _version.py says {version}")
    if cited.get("version") != version:
        problems.append(f"CITATION.cff: version is {cited.get('version')}, _version.py says {version}")
    if heading is not None and str(cited.get("date-released")) != heading.group(2):
        problems.append(
            f"CITATION.cff: date-released is {cited.get('date-released')}, CHANGELOG.md has {heading.group(2)}"
        )
    if wheel is not None and _wheel_version(wheel) != version:
        problems.append(f"{wheel.name}: is of version {_wheel_version(wheel)}, _version.py says {version}")
    if tag is not None and tag != f"v{version}":
        problems.append(f"tag {tag}: _version.py says {version}, so the tag is v{version}")
    return problems


def _wheel_version(path: Path) -> str:
    with zipfile.ZipFile(path) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        found = re.search(r"^Version: (.+)$", wheel.read(name).decode(), re.M)
    return found.group(1).strip() if found else ""


def model_problems(tree: Path) -> tuple[list[str], str]:
    """Files of models that are not those of ``models.json``, and a line on what was compared."""
    models = json.loads((tree / "prostate_mim" / "hub" / "models.json").read_text(encoding="utf-8"))["models"]
    problems, files, size = [], 0, 0
    for name, entry in sorted(models.items()):
        bundled = tree / "prostate_mim" / "weights" / name
        folder = bundled if bundled.is_dir() else tree / "hub_cards" / name
        for file, (length, digest) in sorted(entry["files"].items()):
            path = folder / file
            files, size = files + 1, size + length
            if not path.is_file():
                problems.append(f"{name}: {file} is missing")
            elif path.stat().st_size != length or _sha256(path) != digest:
                problems.append(f"{name}: {file} is not the published one")
    return problems, f"{len(models)} models, {files} files, {size / 1e6:.0f} MB"


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

"""A repository's commits, branches and tags, and the record that keeps them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prostate_mim.errors import IntegrityError, NotFoundError, UsageError
from prostate_mim.files import write_text
from prostate_mim.hub.names import COMMIT, checked_path, checked_revision

RECORD, COMMITS, MAIN = "repository.json", "commits", "main"


class ConflictError(UsageError):
    """Somebody was there before: a name is taken, or a branch has moved on."""


@dataclass(frozen=True)
class File:
    """A file of a commit.

    Attributes:
        size: in bytes.
        sha256: of its bytes.
    """

    size: int
    sha256: str

    @property
    def oid(self) -> str:
        """Forty digits in place of git's own, which nobody compares with a file's bytes."""
        return self.sha256[:40]


@dataclass(frozen=True)
class Commit:
    """One state of a repository.

    Attributes:
        sha: 40 hex digits, of all that follows.
        folder: where its files lie.
        files: path -> what is known of it.
        title, author, date, parent: as given; date in ISO 8601, parent "" of the first.
    """

    sha: str
    folder: Path
    files: Mapping[str, File]
    title: str = ""
    author: str = ""
    date: str = ""
    parent: str = ""


@dataclass
class Repository:
    """Commits, and names of some of them.

    Attributes:
        name: ``org/name``.
        folder: of the repository.
        commits: by sha, oldest first.
        branches, tags: name -> sha.
    """

    name: str
    folder: Path
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def at(self, revision: str) -> Commit:
        """The commit of a branch, a tag or 40 digits.

        Raises:
            NotFoundError: no such revision.
            UsageError: not a name of one.
        """
        named = checked_revision(revision)
        sha = self.branches.get(named) or self.tags.get(named) or named
        if sha not in self.commits:
            raise NotFoundError(f"{self.name}: no revision {revision!r}")
        return self.commits[sha]

    def history(self, commit: Commit) -> Iterator[Commit]:
        """A commit and those before it, the newest first."""
        seen: Commit | None = commit
        while seen is not None:
            yield seen
            seen = self.commits.get(seen.parent)


def commit_sha(name: str, files: Mapping[str, File], parent: str, told: str) -> str:
    """40 hex digits of a commit's files, its parent, and what is told of it (title, author, date)."""
    values = [name, parent, told, [[path, file.size, file.sha256] for path, file in sorted(files.items())]]
    return hashlib.sha1(json.dumps(values).encode(), usedforsecurity=False).hexdigest()


def write_record(repository: Repository) -> None:
    """Write ``repository.json``, at once."""
    commits = [
        {"sha": one.sha, "title": one.title, "author": one.author, "date": one.date, "parent": one.parent,
         "files": {path: [file.size, file.sha256] for path, file in one.files.items()}}
        for one in repository.commits.values()
    ]  # fmt: skip
    values = {"format": 1, "commits": commits, "branches": repository.branches, "tags": repository.tags}
    write_text(repository.folder / RECORD, json.dumps(values) + "\n")


def read_record(name: str, folder: Path) -> Repository:
    """The repository that ``write_record`` wrote.

    Raises:
        IntegrityError: the record is damaged.
    """
    try:
        values = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        commits = {one["sha"]: _commit(folder, one) for one in values["commits"]}
        branches, tags = _refs(values["branches"], commits), _refs(values["tags"], commits)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError) as error:
        raise IntegrityError(f"{folder / RECORD}: damaged ({error}); restore it, or push the model again") from error
    return Repository(name, folder, commits, branches, tags)


def _commit(folder: Path, values: Mapping[str, Any]) -> Commit:
    sha = values["sha"]
    if not COMMIT.fullmatch(sha):
        raise ValueError("a commit's sha has 40 hex digits")
    files = {checked_path(path): File(int(size), str(digest)) for path, (size, digest) in values["files"].items()}
    texts = (str(values[key]) for key in ("title", "author", "date", "parent"))
    return Commit(sha, folder / COMMITS / sha, files, *texts)


def _refs(values: Mapping[str, str], commits: Mapping[str, Commit]) -> dict[str, str]:
    if any(sha not in commits for sha in values.values()):
        raise ValueError("a branch or tag is of no commit")
    return {checked_revision(name): sha for name, sha in values.items()}

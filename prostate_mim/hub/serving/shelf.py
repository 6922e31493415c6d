"""A folder of models as repositories with commits, branches and tags.

``ROOT/org/name`` is a plain folder of files, which has one commit made of their contents; or what was pushed:
``repository.json`` (commits, branches, tags) and ``commits/<40 hex>/`` with the files of each. Both are plain folders
that ``from_pretrained`` loads too.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

from prostate_mim.errors import NotFoundError, UsageError
from prostate_mim.files import explain_os_error, make_folder, sha256_of, write_bytes
from prostate_mim.hub.names import checked_id, checked_path, checked_revision
from prostate_mim.hub.serving.repository import (
    COMMITS,
    MAIN,
    RECORD,
    Commit,
    ConflictError,
    File,
    Repository,
    commit_sha,
    read_record,
    write_record,
)

UPLOADS = "uploads"
_EMPTY = "0" * 40


class Shelf:
    """All repositories below one folder. Safe for the threads of one server; one server writes to a shelf.

    Args:
        root: ``org/name`` folders lie in it.

    Raises:
        NotFoundError: no such folder.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).resolve()
        if not self.root.is_dir():
            raise NotFoundError(f"{root}: no such folder; 'prostate-mim pull NAME --to {root}' makes and fills it")
        self._lock = Lock()
        self._hashed: dict[Path, tuple[tuple[int, int], File]] = {}

    def names(self) -> list[str]:
        """Of all repositories, sorted."""
        found = (path for path in self.root.glob("*/*") if path.is_dir() and not path.is_symlink())
        return sorted(name for path in found if (name := _id_of(path)) is not None)

    def open(self, name: str) -> Repository:
        """A repository as it is now.

        Raises:
            NotFoundError: there is none of that name.
            UsageError: not a name of one.
            IntegrityError: its record is damaged.
        """
        with self._lock:
            return self._read(name)

    def create(self, name: str) -> Repository:
        """A new, empty repository.

        Raises:
            ConflictError: it exists.
            UsageError: not a name of one, or the shelf cannot be written.
        """
        folder = self.root / checked_id(name)
        with self._lock:
            if folder.exists():
                raise ConflictError(f"{name}: this repository exists already")
            make_folder(folder / COMMITS)
            made = Repository(name, folder)
            write_record(made)
        return made

    def commit(
        self,
        name: str,
        branch: str,
        changed: Mapping[str, bytes | Path | None],
        *,
        title: str,
        author: str,
        parent: str = "",
    ) -> Commit:
        """Add files to, replace files in, and remove files from a branch: one commit, or nothing.

        Args:
            changed: path -> its new bytes, a file that holds them (which is moved in), or None to remove it.
            branch: that moves to the commit; it must exist, but for the first commit.
            parent: what the branch must be at, where it is not "".

        Raises:
            ConflictError: another parent.
            UsageError: a path that is refused or cannot be removed.
            NotFoundError: no such repository or branch.
            ResourceError: the disk is full; the repository is as it was.
        """
        for path in changed:
            checked_path(path)
        with self._lock:
            repository = self._for_change(name)
            before = _tip(repository, branch)
            if parent and parent != (before.sha if before else ""):
                raise ConflictError(f"{name}: {branch} has moved on from {parent[:12]}; fetch it and commit again")
            made = _write_commit(repository, before, changed, title=title, author=author)
            repository.commits[made.sha] = made
            repository.branches[checked_revision(branch)] = made.sha
            write_record(repository)
        return made

    def name_commit(self, name: str, kind: str, label: str, sha: str | None) -> None:
        """Set or remove a tag or a branch.

        Args:
            kind: ``tags`` or ``branches``.
            sha: of the commit; None removes.

        Raises:
            ConflictError: it exists already.
            NotFoundError: no such name to remove, or it is the branch ``main`` that is to go.
        """
        with self._lock:
            repository = self._for_change(name)
            own: dict[str, str] = getattr(repository, kind)
            if sha is None:
                if label == MAIN or label not in own:
                    raise NotFoundError(f"{name}: {label!r} cannot be removed from its {kind}")
                del own[label]
            else:
                if label in own:
                    raise ConflictError(f"{name}: {label!r} exists already among its {kind}")
                own[checked_revision(label)] = sha
            write_record(repository)

    def upload_place(self, name: str, sha256: str) -> Path:
        """Where a large file lies between its upload and the commit that takes it in."""
        return make_folder(self.root / checked_id(name) / UPLOADS) / sha256

    def _read(self, name: str) -> Repository:
        folder = self.root / checked_id(name)
        if not folder.is_dir() or not folder.resolve().is_relative_to(self.root):
            raise NotFoundError(f"{name}: no such repository")
        return read_record(name, folder) if (folder / RECORD).is_file() else self._plain(name, folder)

    def _for_change(self, name: str) -> Repository:
        """As it is now, with the lock held; a plain folder's commit first gets a folder of its own."""
        found = self._read(name)
        return found if (found.folder / RECORD).is_file() else _adopted(found)

    def _plain(self, name: str, folder: Path) -> Repository:
        """A folder of files as a repository of one commit; hashes are kept while size and time of a file stay."""
        files = {}
        for path in sorted(folder.rglob("*")):
            relative = path.relative_to(folder).as_posix()
            if not path.is_file() or path.is_symlink() or not _is_allowed(relative):
                continue
            found = path.stat()
            key = (found.st_size, found.st_mtime_ns)
            if self._hashed.get(path, (None,))[0] != key:
                self._hashed[path] = key, File(found.st_size, sha256_of(path))
            files[relative] = self._hashed[path][1]
        sha = commit_sha(name, files, "", "")
        date = _said(datetime.fromtimestamp(folder.stat().st_mtime, UTC))
        commit = Commit(sha, folder, files, "the folder as it is", "", date)
        return Repository(name, folder, {sha: commit} if files else {}, {MAIN: sha} if files else {})


def _said(time: datetime) -> str:
    """As clients read it: ISO 8601 with milliseconds and Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond // 1000:03d}Z"


def _id_of(path: Path) -> str | None:
    try:
        return checked_id(f"{path.parent.name}/{path.name}")
    except UsageError:
        return None


def _is_allowed(path: str) -> bool:
    try:
        return bool(checked_path(path)) and path.split("/")[0] not in (RECORD, COMMITS, UPLOADS)
    except UsageError:
        return False


def _tip(repository: Repository, branch: str) -> Commit | None:
    """The commit that a branch is at; None of an empty repository's ``main``."""
    if branch == MAIN and not repository.branches:
        return None
    if branch not in repository.branches:
        raise NotFoundError(f"{repository.name}: no branch {branch!r}; commits go to branches")
    return repository.commits[repository.branches[branch]]


def _write_commit(
    repository: Repository,
    before: Commit | None,
    changed: Mapping[str, bytes | Path | None],
    *,
    title: str,
    author: str,
) -> Commit:
    """The new commit's folder, complete: written beside its place and renamed; unchanged files are hard links."""
    kept = {path: file for path, file in (before.files if before else {}).items() if path not in changed}
    gone = [path for path, new in changed.items() if new is None and path not in (before.files if before else {})]
    if gone:
        raise UsageError(f"{repository.name}: cannot remove {gone[0]!r}, which is not there")
    commits = make_folder(repository.folder / COMMITS)
    for left in commits.glob(".new.*"):  # of a process that was killed; nobody else writes here
        shutil.rmtree(left, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=".new.", dir=commits))
    try:
        for path in kept:
            _place(temporary / path, (before or repository).folder / path)
        files = dict(kept)
        for path, new in changed.items():
            if new is None:
                continue
            if isinstance(new, Path):
                _place(temporary / path, new)
            else:
                make_folder((temporary / path).parent)
                write_bytes(temporary / path, new)
            files[path] = File((temporary / path).stat().st_size, sha256_of(temporary / path))
        date = _said(datetime.now(UTC))
        sha = commit_sha(repository.name, files, before.sha if before else _EMPTY, f"{title}\n{author}\n{date}")
        temporary.chmod(0o755)
        temporary.rename(commits / sha)
    except OSError as error:
        raise explain_os_error(error, repository.folder) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Commit(sha, commits / sha, files, title, author, date, before.sha if before else "")


def _place(target: Path, source: Path) -> None:
    """A second name of a file that never changes; where the file system has none, a copy."""
    make_folder(target.parent)
    try:
        os.link(source, target)
    except OSError:
        write_bytes(target, source.read_bytes())


def _adopted(plain: Repository) -> Repository:
    """A plain folder's repository as it is before its first push: its one commit becomes a folder of its own.

    Of copies: who edits a file of the plain folder must not change a commit.
    """
    for sha, commit in list(plain.commits.items()):
        folder = plain.folder / COMMITS / sha
        for path in commit.files:
            make_folder((folder / path).parent)
            write_bytes(folder / path, (commit.folder / path).read_bytes())
        plain.commits[sha] = Commit(sha, folder, commit.files, commit.title, commit.author, commit.date)
    return plain

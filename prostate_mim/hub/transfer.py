"""Models from a hub into a folder that can be carried and served, and release folders onto a hub."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from prostate_mim.errors import IntegrityError, NetworkError, NotFoundError, UsageError
from prostate_mim.files import make_folder
from prostate_mim.hub.names import checked_id, checked_revision
from prostate_mim.hub.release import FILES, copy_release, read_release, verify_sums
from prostate_mim.hub.resolve import open_release

HOME = "prostate-mim"
"""Organisation of what has none: bundled models, and folders."""


@dataclass(frozen=True)
class Pulled:
    """A model in the folder.

    Attributes:
        name: that it is served under, ``org/name``.
        folder: where it lies.
        revision: first 16 digits of its weights' SHA-256.
        size_bytes: of all its files.
        was_there: the same release lay there before.
    """

    name: str
    folder: Path
    revision: str
    size_bytes: int
    was_there: bool


def pull(name: str, to: str | Path) -> Pulled:
    """Put a model, verified, into ``to/org/name``, from where it loads, and is served, without any network.

    Args:
        name: bundled name, release or run folder, or ``org/name@revision`` on a hub.
        to: made if need be.

    Raises:
        NotFoundError, NetworkError, IntegrityError: as ``open_release``.
        UsageError: another release of that name lies there, or the folder cannot be written.
        ResourceError: the disk is full; nothing is half-written.
    """
    release = open_release(name)
    source = release.folder
    theirs = release.source == "hub" and not release.published
    own = checked_id(name.partition("@")[0] if theirs else f"{HOME}/{release.name}")
    target = make_folder(to) / own
    was_there = target.is_dir() and any(target.iterdir())
    if was_there:
        if read_release(target).revision != release.revision or verify_sums(target) != verify_sums(source):
            raise UsageError(f"{target}: holds another release of that name; remove it, or choose another --to")
    else:
        copy_release(source, target)
    size = sum(path.stat().st_size for path in target.iterdir() if path.name in FILES)
    return Pulled(own, target, release.revision, size, was_there)


@dataclass(frozen=True)
class Pushed:
    """A release on a hub.

    Attributes:
        name: ``org/name@commit``: what ``from_pretrained`` loads for ever.
        url: of the repository.
    """

    name: str
    url: str


def push(model: str | Path, name: str, *, private: bool = False, tag: str = "") -> Pushed:
    """Put a release on the hub that HF_ENDPOINT names (huggingface.co if it names none), as one commit.

    The token is huggingface_hub's: HF_TOKEN, or what ``hf auth login`` kept.

    Args:
        model: release or run folder, or a bundled name.
        name: ``org/name``; made if need be.
        private: where it is made.
        tag: to give the commit, such as ``v1``; empty for none.

    Raises:
        NotFoundError, IntegrityError: the model.
        UsageError: the name or the tag, no token, or one that may not write.
        NetworkError: the hub did not answer, or not as one does.
    """
    release = open_release(model)
    checked_id(name)
    if tag:
        checked_revision(tag)
    files = [*verify_sums(release.folder), "SHA256SUMS"]
    try:
        url, commit = _upload(release.folder, files, name, f"{release.name} {release.revision}", private, tag)
    except MemoryError:
        raise
    except Exception as error:  # errors of its HTTP client (httpx or httpx2, by version) pass through it
        raise _explain(error, name) from error
    return Pushed(f"{name}@{commit}", url)


def _upload(folder: Path, files: Iterable[str], name: str, title: str, private: bool, tag: str) -> tuple[str, str]:
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi()
    url = api.create_repo(name, private=private, exist_ok=True)
    operations = [CommitOperationAdd(path_in_repo=file, path_or_fileobj=folder / file) for file in files]
    made = api.create_commit(name, operations, commit_message=title)
    found = api.list_repo_tree(name, revision=made.oid, recursive=True)
    sizes = {one.path: one.size for one in found if isinstance(one, RepoFile)}
    for file in files:
        if sizes.get(file) != (folder / file).stat().st_size:
            raise IntegrityError(f"{name}: {file} did not arrive whole; push again")
    if tag:
        api.create_tag(name, tag=tag, revision=made.oid)
    return str(url), made.oid


def _explain(error: Exception, name: str) -> Exception:
    """What a failed upload means to who asked for it."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    if isinstance(error, IntegrityError):
        return error
    if isinstance(error, LocalTokenNotFoundError):
        return UsageError(f"{name}: no token; set HF_TOKEN, or log in with 'hf auth login'")
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    if status in (401, 403):
        said = str(error.response.headers.get("X-Error-Message") or "") if isinstance(error, HfHubHTTPError) else ""
        reason = f" ({said})" if said else ""
        return UsageError(f"{name}: the hub does not let this token write there{reason}; check HF_TOKEN and the name")
    if status == 409:
        return UsageError(f"{name}: the hub has this tag or name already; choose another")
    if status == 404:
        return NotFoundError(f"{name}: the hub knows no such repository")
    return NetworkError(
        f"{name}: the hub did not answer as a hub does ({type(error).__name__}); check the network and HF_ENDPOINT"
    )

"""Answers that change nothing: what there is, and the files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from prostate_mim.errors import UsageError
from prostate_mim.hub.names import checked_path
from prostate_mim.hub.serving.answers import Answer, Refused, as_file, as_json
from prostate_mim.hub.serving.repository import Commit, File, Repository
from prostate_mim.hub.serving.request import Request

LARGE = 10 << 20
"""Bytes from which a file is listed as a large one. Uploads of them take the same way as small ones: see writing."""
_FORM = 1 << 20


def health(request: Request) -> Answer:
    """For whoever watches the server."""
    return as_json({"status": "ok", "models": len(request.shelf.names())})


def whoami(request: Request) -> Answer:
    """Whose token it is."""
    if request.user is None:
        raise Refused(401, "Invalid credentials in Authorization header")
    role = "write" if request.user.may_write else "read"
    return as_json({
        "type": "user", "name": request.user.name, "fullname": request.user.name, "orgs": [],
        "auth": {"type": "access_token", "accessToken": {"displayName": request.user.name, "role": role}},
    })  # fmt: skip


def models(request: Request) -> Answer:
    """All repositories that the user sees; ``search``, ``author`` and ``limit`` as the hub has them."""
    search, author = request.query.get("search", "").lower(), request.query.get("author", "")
    names = [
        name for name in request.shelf.names()
        if request.access.sees(request.user, name) and search in name.lower()
        and (not author or name.startswith(f"{author}/"))
    ]  # fmt: skip
    limit = request.query.get("limit", "")
    names = names[: int(limit)] if limit.isdigit() else names
    return as_json([{"id": name, "modelId": name, **_openness(request, name)} for name in names])


def model(request: Request) -> Answer:
    """A repository at a revision; an empty one has no commit."""
    repository = request.repository()
    if not repository.branches and not request.named.get("revision"):
        return as_json({"id": repository.name, "modelId": repository.name, "siblings": [], "tags": []})
    commit = request.commit(repository)
    siblings = [{"rfilename": path, **_sizes(file)} for path, file in sorted(commit.files.items())]
    return as_json({
        "_id": commit.sha[:24], "id": repository.name, "modelId": repository.name, "sha": commit.sha,
        "author": repository.name.partition("/")[0], "lastModified": commit.date or None, "disabled": False,
        "downloads": 0, "likes": 0, "tags": [], "siblings": siblings, **_openness(request, repository.name),
    })  # fmt: skip


def tree(request: Request) -> Answer:
    """Files of a folder at a revision; of all folders below it where ``recursive`` is true."""
    commit = request.commit(request.repository())
    within = request.named.get("path") or ""
    recursive = request.query.get("recursive", "").lower() in ("1", "true")
    found, prefix = {}, f"{within}/" if within else ""
    for path, file in sorted(commit.files.items()):
        if not path.startswith(prefix):
            continue
        below = path.removeprefix(prefix).split("/")
        for depth in range(1, len(below)):
            if depth == 1 or recursive:
                folder = prefix + "/".join(below[:depth])
                found[folder] = {"type": "directory", "path": folder, "size": 0, "oid": commit.sha}
        if len(below) == 1 or recursive:
            found[path] = _entry(path, file)
    if within and not found:
        raise Refused(404, f"no folder {within[:80]!r} at this revision", "EntryNotFound")
    return as_json(list(found.values()))


def paths_info(request: Request) -> Answer:
    """What is known of some paths; those that are not there are left out."""
    commit = request.commit(request.repository())
    if request.body.length > _FORM:
        raise Refused(413, "too many paths")
    body = b"".join(request.body.chunks()).decode("utf-8", "replace")
    if "json" in request.headers.get("content-type", ""):
        raise Refused(400, "paths are expected as a form")
    asked = parse_qs(body).get("paths", [])
    return as_json([_entry(path, commit.files[path]) for path in asked if path in commit.files])


def refs(request: Request) -> Answer:
    """Branches and tags."""
    found = request.repository()
    branches = [_ref("heads", name, sha) for name, sha in found.branches.items()]
    tags = [_ref("tags", name, sha) for name, sha in found.tags.items()]
    return as_json({"branches": branches, "converts": [], "tags": tags, "pullRequests": []})


def commits(request: Request) -> Answer:
    """A revision and those before it, the newest first."""
    repository = request.repository()
    return as_json([_told(commit) for commit in repository.history(request.commit(repository))])


def auth_check(request: Request) -> Answer:
    """Whether this user gets files."""
    _refuse_unless_open(request, request.repository())
    return as_json({})


def file(request: Request) -> Answer:
    """A file at a revision, or a part of it."""
    repository = request.repository()
    _refuse_unless_open(request, repository)
    commit = request.commit(repository)
    try:
        path = checked_path(request.named["path"])
    except UsageError:
        path = ""
    if path not in commit.files:
        raise Refused(404, f"{repository.name}: no file {request.named['path'][:80]!r}", "EntryNotFound")
    known = commit.files[path]
    return as_file(commit.folder / path, known.size, known.sha256, commit.sha, request.headers.get("range"))


def _refuse_unless_open(request: Request, repository: Repository) -> None:
    if not request.access.opens(request.user, repository.name):
        status = 401 if request.user is None else 403
        raise Refused(
            status, f"{repository.name}: its terms must be accepted first; ask who runs this hub", "GatedRepo"
        )


def _openness(request: Request, name: str) -> dict[str, Any]:
    return {"private": name in request.access.private, "gated": "manual" if name in request.access.gated else False}


def _entry(path: str, known: File) -> dict[str, Any]:
    return {"type": "file", "path": path, **_sizes(known), "oid": known.oid}


def _sizes(known: File) -> dict[str, Any]:
    large = {"oid": known.sha256, "sha256": known.sha256, "size": known.size, "pointerSize": 134}
    return {"size": known.size, "blobId": known.oid, **({"lfs": large} if known.size >= LARGE else {})}


def _ref(kind: str, name: str, sha: str) -> Mapping[str, str]:
    return {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha}


def _told(commit: Commit) -> dict[str, Any]:
    title, _, message = commit.title.partition("\n")
    authors = [{"user": commit.author}] if commit.author else []
    return {"id": commit.sha, "title": title, "message": message, "date": commit.date, "authors": authors}

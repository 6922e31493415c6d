"""Answers that change a shelf: repositories, commits, tags, branches, large files."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from prostate_mim.errors import NotFoundError, UsageError
from prostate_mim.files import atomic_path
from prostate_mim.hub.names import checked_id, checked_path
from prostate_mim.hub.serving.access import change_access
from prostate_mim.hub.serving.answers import Answer, Refused, as_json
from prostate_mim.hub.serving.repository import MAIN, ConflictError, Repository
from prostate_mim.hub.serving.request import Request, text_of


def validate_yaml(request: Request) -> Answer:
    """Cards are checked where they are made."""
    list(request.body.chunks())
    return as_json({"errors": [], "warnings": []})


def create(request: Request) -> Answer:
    """A new repository; private ones are seen by who may write, until access.json names others."""
    values = request.json()
    owner = values.get("organization") or request.writer
    name = f"{owner}/{text_of(values, 'name')}"
    if values.get("type") not in (None, "model"):
        raise Refused(400, "this hub holds models only")
    try:
        checked_id(name)
    except UsageError as error:
        raise Refused(400, str(error)) from None
    try:
        request.shelf.create(name)
    except ConflictError as error:
        raise Refused(409, str(error), url=f"{request.address}/{name}") from None
    if values.get("private") or values.get("visibility") == "private":
        # Until here its name was seen, and nothing is in it before this answer.
        change_access(request.shelf.root, lambda old: replace(old, private={**old.private, name: ()}))
    return as_json({"url": f"{request.address}/{name}", "name": name, "id": name})


def preupload(request: Request) -> Answer:
    """How each file is to come: nearly all within their commit.

    A client that has hf_xet sends what is called large to a service of the real hub, whatever endpoint it was given;
    HF_HUB_DISABLE_XET=1 keeps it from that.
    """
    request.repository()
    found = []
    for one in _objects(request.json().get("files")):
        path, size = text_of(one, "path"), one.get("size")
        large = isinstance(size, int) and size >= request.large_bytes
        found.append({"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": None})
    return as_json({"files": found, "commitOid": None})


def commit(request: Request) -> Answer:
    """One commit, of lines of JSON: a header, then files, large files that came before, and what is removed."""
    repository = request.repository()
    changed: dict[str, bytes | Path | None] = {}
    header: dict[str, Any] = {}
    for key, value in _lines(request):
        if key == "header":
            header = value
        else:
            changed |= _change(request, repository, key, value)
    title = "\n".join(filter(None, (text_of(header, "summary", ""), text_of(header, "description", ""))))
    try:
        made = request.shelf.commit(
            repository.name, request.named["revision"], changed, title=title, author=request.writer,
            parent=text_of(header, "parentCommit", ""),
        )  # fmt: skip
    except NotFoundError as error:
        raise Refused(404, str(error), "RevisionNotFound") from None
    except ConflictError as error:
        raise Refused(412, str(error)) from None
    except UsageError as error:
        raise Refused(400, str(error)) from None
    for new in changed.values():
        if isinstance(new, Path):
            new.unlink(missing_ok=True)
    url = f"{request.address}/{repository.name}/commit/{made.sha}"
    return as_json({"success": True, "commitOid": made.sha, "commitUrl": url, "hookOutput": ""})


def _change(
    request: Request, repository: Repository, key: str, value: dict[str, Any]
) -> dict[str, bytes | Path | None]:
    path = text_of(value, "path")
    if key == "deletedFolder":
        files = request.commit(repository).files
        return dict.fromkeys(own for own in files if own.startswith(f"{path.rstrip('/')}/"))
    try:
        checked_path(path)
    except UsageError as error:
        raise Refused(400, str(error)) from None
    if key == "file":
        return {path: _decoded(value)}
    if key == "lfsFile":
        return {path: _uploaded(request, text_of(value, "oid"))}
    if key == "deletedFile":
        return {path: None}
    raise Refused(400, f"{key[:40]!r}: this hub does not know such a change")


def tag(request: Request) -> Answer:
    """A tag on a revision."""
    return _set_name(request, "tags", text_of(request.json(), "tag"))


def branch(request: Request) -> Answer:
    """A branch that begins at a revision."""
    start = text_of(request.json(), "startingPoint", MAIN)
    repository = request.repository()
    try:
        sha = repository.at(start).sha
    except (NotFoundError, UsageError):
        raise Refused(404, f"{repository.name}: no revision {start[:80]!r}", "RevisionNotFound") from None
    return _set_name(request, "branches", request.named["label"], sha)


def remove_tag(request: Request) -> Answer:
    """Forget a tag; its commit stays."""
    return _remove_name(request, "tags")


def remove_branch(request: Request) -> Answer:
    """Forget a branch; its commits stay."""
    return _remove_name(request, "branches")


def large_files(request: Request) -> Answer:
    """Where to put large files (git LFS, basic transfer)."""
    repository, objects = request.repository(), []
    for one in _objects(request.json().get("objects")):
        oid, size = _oid(text_of(one, "oid")), one.get("size")
        href = f"{request.address}/{repository.name}.git/lfs"
        header = {"Authorization": request.headers.get("authorization", "")}
        actions = {
            "upload": {"href": f"{href}/{oid}?key={request.sign(upload_of(repository.name, oid))}"},
            "verify": {"href": f"{href}/verify", "header": header},
        }
        there = request.shelf.upload_place(repository.name, oid).is_file()
        objects.append({"oid": oid, "size": size, "authenticated": True, **({} if there else {"actions": actions})})
    return as_json({"transfer": "basic", "objects": objects})


def upload_of(name: str, oid: str) -> str:
    """What a key is of: one file of one repository."""
    return f"upload {name} {oid}"


def large_file(request: Request) -> Answer:
    """A large file, kept if its bytes have the SHA-256 that its address names, and the key is of them.

    Raises:
        Refused: another key, or other bytes.
    """
    key = request.sign(upload_of(request.named["id"], request.named["oid"]))
    if not hmac.compare_digest(key, request.query.get("key", "")):
        raise Refused(403, "this address was not given out by this server, or before it began")
    name, oid = request.named["id"], request.named["oid"]
    digest = hashlib.sha256()
    with atomic_path(request.shelf.upload_place(name, oid)) as place, place.open("wb") as stream:
        for chunk in request.body.chunks():
            digest.update(chunk)
            stream.write(chunk)
        if digest.hexdigest() != oid:
            raise Refused(400, f"the bytes have the SHA-256 {digest.hexdigest()[:16]}..., not {oid[:16]}...")
    return as_json({})


def verify_large_file(request: Request) -> Answer:
    """Whether a large file came whole."""
    values, repository = request.json(), request.repository()
    place = request.shelf.upload_place(repository.name, _oid(text_of(values, "oid")))
    if not place.is_file() or place.stat().st_size != values.get("size"):
        raise Refused(404, "this file did not come, or not whole")
    return as_json({})


def _set_name(request: Request, kind: str, label: str, sha: str | None = None) -> Answer:
    repository = request.repository()
    try:
        request.shelf.name_commit(repository.name, kind, label, sha or request.commit(repository).sha)
    except ConflictError as error:
        raise Refused(409, str(error)) from None
    except UsageError as error:
        raise Refused(400, str(error)) from None
    return as_json({})


def _remove_name(request: Request, kind: str) -> Answer:
    repository = request.repository()
    try:
        request.shelf.name_commit(repository.name, kind, request.named["label"], None)
    except NotFoundError as error:
        raise Refused(404, str(error), "RevisionNotFound") from None
    return as_json({})


def _lines(request: Request) -> Iterator[tuple[str, dict[str, Any]]]:
    """(key, value) of each line, read one after the other: a body of many files is never held twice."""
    begun: list[bytes] = []
    for chunk in request.body.chunks():
        first, *others = chunk.split(b"\n")
        begun.append(first)
        for part in others:
            line, begun = b"".join(begun), [part]
            if line.strip():
                yield _line(line)
    line = b"".join(begun)
    if line.strip():
        yield _line(line)


def _line(text: bytes) -> tuple[str, dict[str, Any]]:
    with suppress(ValueError, RecursionError):
        found = json.loads(text)
        if isinstance(found, dict) and isinstance(found.get("key"), str) and isinstance(found.get("value"), dict):
            return found["key"], found["value"]
    raise Refused(400, f"{text[:40]!r}: expected a line of JSON with key and value")


def _decoded(value: dict[str, Any]) -> bytes:
    try:
        if value.get("encoding", "base64") != "base64":
            raise Refused(400, "a file's content is expected in base64")
        return base64.b64decode(value.get("content", ""), validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise Refused(400, f"a file's content is not base64 ({error})") from None


def _uploaded(request: Request, oid: str) -> Path:
    place = request.shelf.upload_place(request.named["id"], _oid(oid))
    if not place.is_file():
        raise Refused(400, f"the large file {oid[:16]}... was not uploaded")
    return place


def _oid(text: str) -> str:
    if len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise Refused(400, "a large file is named by its SHA-256")
    return text


def _objects(values: Any) -> list[dict[str, Any]]:
    if not isinstance(values, list) or not all(isinstance(one, dict) for one in values):
        raise Refused(400, "a list of objects was expected")
    return values

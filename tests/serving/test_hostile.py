"""Whatever is sent: nothing outside the shelf is read or written, nothing grows without end, the server stays."""

from __future__ import annotations

import base64
import http.client
import json
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from hostile_names import HOSTILE

from prostate_mim.errors import UsageError
from prostate_mim.hub.names import checked_id, checked_path, checked_revision

SECRET = b"not of the shelf"


@pytest.fixture
def repository(place: Any) -> str:
    """``alice/m`` with one file, beside a secret that lies outside of the shelf."""
    (place.root.parent / "secret.txt").write_bytes(SECRET)
    place.shelf.create("alice/m")
    place.shelf.commit("alice/m", "main", {"config.json": b"{}"}, title="t", author="alice")
    return "alice/m"


def tree(root: Path) -> dict[str, bytes]:
    """Everything below a folder."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_hostile_names_are_refused() -> None:
    """Two hundred and more, each by the function for paths; ordinary names pass."""
    assert len(HOSTILE) > 200
    accepted = []
    for name in HOSTILE:
        for check in (checked_path, checked_id):
            with suppress(UsageError):
                accepted.append((check.__name__, check(name)))
    assert not [found for found in accepted if found[1] not in ("ok/-rf",)], accepted
    for revision in ("..", "a..b", "/a", "a//b", "a/", "", "a\0", "x" * 200, "a b"):
        with pytest.raises(UsageError):
            checked_revision(revision)
    for name in ("config.json", "a/b/c.txt", ".gitattributes", "README.md", "a b.txt", "x_1-2+3.safetensors"):
        assert checked_path(name) == name
    assert checked_id("org/resenc-s.mim-t2w") and checked_revision("refs/pr/1")


def test_hostile_addresses_give_nothing_away(place: Any, repository: str) -> None:
    """As they are and percent-encoded, in place of file, folder, revision and repository: refused, every time."""
    before = tree(place.root.parent)
    for name in HOSTILE:
        coded = quote(name.encode("utf-8", "surrogatepass"), safe="")
        for path in (
            f"/{repository}/resolve/main/{coded}", f"/{repository}/resolve/{coded}/config.json",
            f"/{coded}/resolve/main/config.json", f"/api/models/{coded}", f"/api/models/{repository}/tree/main/{coded}",
        ):  # fmt: skip
            status, _, body = place.ask("GET", path)
            assert SECRET not in body and status in (200, 401, 404), (path, status)
            assert status != 200 or (path.startswith("/api/models") and b"siblings" not in body), path
    assert tree(place.root.parent) == before


def test_hostile_commits_write_nothing(place: Any, repository: str) -> None:
    """A commit with one such path is no commit, whatever else is in it."""
    before = tree(place.root.parent)
    content = base64.b64encode(b"x").decode()
    for name in HOSTILE:
        lines = [
            {"key": "header", "value": {"summary": "s"}},
            {"key": "file", "value": {"path": "fine.txt", "content": content, "encoding": "base64"}},
            {"key": "file", "value": {"path": name, "content": content, "encoding": "base64"}},
        ]
        body = "\n".join(json.dumps(line) for line in lines).encode()
        token = {"Authorization": f"Bearer {place.writer}"}
        status, _, _ = place.ask("POST", f"/api/models/{repository}/commit/main", body, token)
        assert status == 400, (name, status)
    assert tree(place.root.parent) == before


@pytest.mark.parametrize("body", [
    b"", b"{", b"[]", b"null", b'{"key": 1}', b'{"key": "file"}', b'{"key": "file", "value": []}',
    b'{"key": "file", "value": {"path": "a.txt", "content": "not base64!"}}',
    b'{"key": "file", "value": {"path": "a.txt", "content": 5}}',
    b'{"key": "file", "value": {"path": "a.txt", "content": "eA==", "encoding": "gzip"}}',
    b'{"key": "lfsFile", "value": {"path": "a.txt", "oid": "../../x"}}',
    b'{"key": "lfsFile", "value": {"path": "a.txt", "oid": "%s"}}' % (b"0" * 64),
    b'{"key": "dance", "value": {"path": "a.txt"}}', b"[" * 100_000, b"\xff\xfe" * 50,
])  # fmt: skip
def test_bodies_that_are_no_commit(place: Any, repository: str, body: bytes) -> None:
    """400 with a reason, or for an empty body a commit of nothing; the branch holds what it held."""
    token = {"Authorization": f"Bearer {place.writer}"}
    status, _, answer = place.ask("POST", f"/api/models/{repository}/commit/main", body, token)
    assert status == (200 if not body else 400), answer
    assert list(place.shelf.open(repository).at("main").files) == ["config.json"]


def test_sizes_are_limited(place: Any, repository: str) -> None:
    """A body above the limit is refused unread; so is one without a length; a short one is no commit."""
    where = urlsplit(place.hub.url)
    for headers, expected in (({"Content-Length": "9000000"}, 413), ({"Transfer-Encoding": "chunked"}, 411)):
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=10)
        connection.putrequest("POST", f"/api/models/{repository}/commit/main")
        for key, value in {**headers, "Authorization": f"Bearer {place.writer}"}.items():
            connection.putheader(key, value)
        connection.endheaders()
        assert connection.getresponse().status == expected
        connection.close()
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=10) as raw:
        head = f"POST /api/models/{repository}/commit/main HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
        raw.sendall(f"{head}Authorization: Bearer {place.writer}\r\n\r\nshort".encode())
        raw.shutdown(socket.SHUT_WR)
        assert b" 400 " in raw.recv(200)
    status, _, _ = place.as_writer("POST", "/api/repos/create", {"name": "x", "fill": "x" * 5_000_000})
    assert status == 413
    assert place.ask("GET", "/health")[0] == 200


def test_wrong_large_files_are_not_kept(place: Any, repository: str) -> None:
    """Another key, none, and bytes of another hash."""
    oid = "a" * 64
    batch = {"operation": "upload", "objects": [{"oid": oid, "size": 3}]}
    _, _, body = place.as_writer("POST", f"/{repository}.git/info/lfs/objects/batch", batch)
    href = urlsplit(json.loads(body)["objects"][0]["actions"]["upload"]["href"])
    assert place.ask("PUT", href.path, b"xyz")[0] == 403
    assert place.ask("PUT", f"{href.path}?key={'0' * 64}", b"xyz")[0] == 403
    assert place.ask("PUT", f"{href.path.replace('a' * 64, 'b' * 64)}?{href.query}", b"xyz")[0] == 403
    assert place.ask("PUT", f"{href.path}?{href.query}", b"xyz")[0] == 400
    assert not list(place.root.rglob("uploads/*"))


@pytest.mark.parametrize(("asked", "status", "expected"), [
    ("bytes=0-0", 206, b"{"), ("bytes=1-", 206, b"}"), ("bytes=-1", 206, b"}"), ("bytes=0-99", 206, b"{}"),
    ("bytes=2-", 416, None), ("bytes=5-1", 416, None), ("bytes=-", 200, b"{}"), ("lines=0-1", 200, b"{}"),
])  # fmt: skip
def test_ranges(place: Any, repository: str, asked: str, status: int, expected: bytes | None) -> None:
    """Parts of a file of two bytes."""
    found, headers, body = place.ask("GET", f"/{repository}/resolve/main/config.json", headers={"Range": asked})
    assert found == status
    if expected is not None:
        assert body == expected and headers["content-length"] == str(len(body))


def test_a_damaged_record_tells_no_path(place: Any, repository: str) -> None:
    """The client learns that the hub is damaged, the log which file is, and the other repositories go on."""
    lines: list[str] = []
    place.hub.log = lines.append
    (place.root / repository / "repository.json").write_text("{}")
    status, _, body = place.ask("GET", f"/api/models/{repository}")
    assert status == 500 and str(place.root).encode() not in body
    assert any(line.startswith("error: ") and "repository.json" in line for line in lines)
    assert place.ask("GET", "/health")[0] == 200


def test_methods_and_routes_that_are_not_there(place: Any, repository: str) -> None:
    """404 or 501, and the connection goes on."""
    for method, path in (("GET", "/"), ("POST", f"/{repository}"), ("DELETE", "/api/models"), ("PATCH", "/health")):
        assert place.ask(method, path)[0] in (404, 501)
    assert place.ask("HEAD", "/health")[2] == b""

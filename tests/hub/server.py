"""A real hub on 127.0.0.1, read-only: the routes that huggingface_hub's ``snapshot_download`` asks for.

``repository@commit`` is a release folder. Faults are switched on per repository, so that one server serves them all
at once: ``corrupt`` (same length, other bytes), ``cut`` (the connection ends within a body), ``html`` (a proxy's
page with status 200).
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

_API = re.compile(r"/api/models/(?P<id>[^/]+/[^/]+)(?:/(?P<verb>tree|revision)/(?P<rev>[^/]+))?")
_FILE = re.compile(r"/(?P<id>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<path>[^/]+)")


@dataclass
class Repository:
    """Commits (40 hex -> folder) and the names of some of them."""

    commits: dict[str, Path] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    corrupt: str = ""
    cut: str = ""
    html: bool = False


class Hub:
    """Serve repositories until it is left.

    Attributes:
        repositories: by ``org/name``; add to it while it runs.
        requests: ``METHOD path`` of everything asked, in order.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Hub:
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def commit(self, name: str, folder: Path, *refs: str, **faults: str | bool) -> str:
        """Publish ``folder`` as a new commit of ``name``; ``refs`` move to it. Returns its 40 hex digits."""
        repository = self.repositories.setdefault(name, Repository())
        names = "".join(f"{path.name} {_etag(path)}" for path in sorted(folder.iterdir()))
        sha = hashlib.sha1(f"{name} {names}".encode(), usedforsecurity=False).hexdigest()
        repository.commits[sha] = folder
        repository.refs.update(dict.fromkeys(refs, sha))
        for fault, value in faults.items():
            setattr(repository, fault, value)
        return sha


def _etag(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.hub.requests.append(f"{self.command} {path}")
        api, file = _API.fullmatch(path), _FILE.fullmatch(path)
        found = api or file
        repository = self.hub.repositories.get(found["id"]) if found else None
        if found is None or repository is None:
            return self._refuse("RepoNotFound")
        if repository.html:
            return self._answer(b"<html>Please log in to the hospital network</html>", kind="text/html")
        sha = repository.refs.get(found["rev"] or "main", found["rev"])
        if sha not in repository.commits:
            return self._refuse("RevisionNotFound")
        folder = repository.commits[sha]
        if file:
            return self._file(repository, folder / file["path"], sha)
        files = [{"type": "file", "path": p.name, "size": p.stat().st_size, "oid": _etag(p)} for p in folder.iterdir()]
        model = {"id": found["id"], "sha": sha, "siblings": [{"rfilename": f["path"]} for f in files]}
        self._answer(json.dumps(files if found["verb"] == "tree" else model).encode(), kind="application/json")

    def _file(self, repository: Repository, path: Path, sha: str) -> None:
        if not path.is_file():
            return self._refuse("EntryNotFound")
        body, status = path.read_bytes(), 200
        headers = {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        if repository.corrupt == path.name:
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 0x01]) + body[middle + 1 :]
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            first, last = int(asked[1]), int(asked[2] or len(body) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
            body, status = body[first : last + 1], 206
        return self._answer(body, status, headers, cut=repository.cut == path.name)

    def _refuse(self, code: str) -> None:
        self._answer(json.dumps({"error": code}).encode(), 404, {"X-Error-Code": code}, "application/json")

    def _answer(
        self,
        body: bytes,
        status: int = 200,
        headers: dict[str, str] | None = None,
        kind: str = "application/octet-stream",
        *,
        cut: bool = False,
    ) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.close_connection = True

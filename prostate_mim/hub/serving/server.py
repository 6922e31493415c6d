"""The server: sockets, limits and tokens around the routes. Loopback by default; read only unless asked otherwise."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import BoundedSemaphore, Thread
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from prostate_mim.errors import ProstateMimError, ResourceError, UsageError
from prostate_mim.files import file_lock
from prostate_mim.hub.serving.access import Access, User, read_access
from prostate_mim.hub.serving.answers import Answer, Refused
from prostate_mim.hub.serving.request import Body, Request
from prostate_mim.hub.serving.routes import ROUTES, Route
from prostate_mim.hub.serving.shelf import Shelf

_DRAIN_BYTES, _DRAIN_S = 64 << 20, 2.0
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What one client may cost.

    Attributes:
        upload_bytes: of one request's body.
        idle_s: a connection that says nothing for so long is closed.
        connections: at once; others wait.
        large_bytes: see ``Request``.
    """

    upload_bytes: int = 1 << 30
    idle_s: float = 60.0
    connections: int = 128
    large_bytes: int = 256 << 20


class HubServer:
    """Serves a shelf from a thread until it is left.

    Attributes:
        url: what ``HF_ENDPOINT`` is set to.

    Args:
        shelf: what is served.
        host, port: to listen at; port 0 takes a free one.
        writable: users whose token may write do so; else every change is refused.
        limits: of one client and of all.
        log: called with one line a request, without tokens; None is silent.

    Raises:
        UsageError: the address cannot be had; for writing, nobody has a token that may, or another server writes there.
    """

    def __init__(
        self,
        shelf: Shelf,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        writable: bool = False,
        limits: Limits | None = None,
        log: Callable[[str], None] | None = None,
    ) -> None:
        self.shelf, self.writable, self.limits, self.log = shelf, writable, limits or Limits(), log
        self._secret = secrets.token_bytes(32)
        if writable and not any(user.may_write for user in read_access(shelf.root).users):
            raise UsageError(
                f"{shelf.root}: nobody may write to it; 'prostate-mim hub token FOLDER NAME --write' makes a token"
            )
        try:
            self._server = _Server((host, port), type("Handler", (_Handler,), {"hub": self}), self.limits.connections)
        except (OSError, OverflowError) as error:
            raise UsageError(
                f"cannot listen at {host} port {port} ({error}); choose another --host or --port"
            ) from error
        self._lock = ExitStack()
        if writable and not self._lock.enter_context(file_lock(shelf.root / ".hub.lock")):
            self._server.server_close()
            raise UsageError(f"{shelf.root}: another server writes there; end it, or serve read only")
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._server.server_address[1]}"

    def __enter__(self) -> HubServer:
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._close()

    def sign(self, text: str) -> str:
        """A key that nobody else can make, and that ends with this server."""
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()

    def serve(self) -> None:
        """Serve in this thread, until it is interrupted."""
        try:
            self._server.serve_forever(poll_interval=0.5)
        finally:
            self._close()

    def _close(self) -> None:
        self._server.server_close()
        self._lock.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], connections: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._free = BoundedSemaphore(connections)
        super().__init__(address, handler)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        with self._free:
            super().process_request_thread(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""
        _LOG.debug("a connection ended early", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "prostate-mim-hub", ""
    hub: HubServer

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.hub.limits.idle_s)

    def log_message(self, *_: object) -> None:
        """The request's own line is written when it is answered."""

    def do_GET(self) -> None:
        self._handle("GET")

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

    def do_POST(self) -> None:
        self._handle("POST")

    def do_PUT(self) -> None:
        self._handle("PUT")

    def do_DELETE(self) -> None:
        self._handle("DELETE")

    def _handle(self, method: str) -> None:
        body = self._body()
        try:
            answer = self._answer(method, body)
        except Refused as refused:
            answer = refused.answer
        except ResourceError as error:
            answer = self._failed(507, "this hub's disk is full", error)
        except ProstateMimError as error:
            answer = self._failed(500, "this hub's folder is damaged, or cannot be written; its log says more", error)
        except TimeoutError:
            answer = Refused(408, "the body did not come in time").answer
        self._send(answer, unread=body.length > self._read)

    def _failed(self, status: int, told: str, error: ProstateMimError) -> Answer:
        """What a client is told; the reason, which names folders of this machine, goes into the log."""
        if self.hub.log is not None:
            self.hub.log(f"error: {error}")
        return Refused(status, told).answer

    def _answer(self, method: str, body: Body) -> Answer:
        path, access, limits = urlsplit(self.path), read_access(self.hub.shelf.root), self.hub.limits
        if self.headers.get("Transfer-Encoding") or not self.headers.get("Content-Length", "0").isdigit():
            raise Refused(411, "the length of a body must be said beforehand")
        if body.length > limits.upload_bytes:
            raise Refused(413, f"{body.length} bytes; this hub takes at most {limits.upload_bytes} at once")
        user = self._user(access.user_of)
        for route in ROUTES:
            found = route.path.fullmatch(path.path)
            if found and route.method == method:
                if route.writes:
                    self._refuse_unless_writable(user, route)
                named = {key: unquote(value or "", errors="replace") for key, value in found.groupdict().items()}
                return route.answer(self._request(named, access, user, body))
        raise Refused(404, f"{method} {path.path[:80]}: this hub has no such route")

    def _request(self, named: dict[str, str], access: Access, user: User | None, body: Body) -> Request:
        return Request(
            self.hub.shelf, access, user, named,
            query=dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True)),
            headers={key.lower(): value for key, value in self.headers.items()},
            body=body,
            address=f"http://{self.headers.get('Host') or self.hub.url.removeprefix('http://')}",
            sign=self.hub.sign,
            large_bytes=self.hub.limits.large_bytes,
        )  # fmt: skip

    def _user(self, of_token: Callable[[str], User | None]) -> User | None:
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        if not kind:
            return None
        user = of_token(token.strip()) if kind.lower() == "bearer" else None
        if user is None:
            raise Refused(401, "Invalid credentials in Authorization header")
        return user

    def _refuse_unless_writable(self, user: User | None, route: Route) -> None:
        if not self.hub.writable:
            raise Refused(403, "this hub is read only")
        if user is None:
            raise Refused(401, "Invalid credentials in Authorization header")
        if not user.may_write:
            raise Refused(403, f"{user.name} may read here, not write")

    def _body(self) -> Body:
        self._read = 0
        said = self.headers.get("Content-Length", "0")

        def read(size: int) -> bytes:
            found = self.rfile.read(size)
            self._read += len(found)
            return found

        return Body(int(said) if said.isdigit() else 0, read)

    def _drain(self) -> None:
        """Take in some of what nobody wants: a client that is cut off while it sends never reads why."""
        self.wfile.flush()
        self.connection.settimeout(_DRAIN_S)
        left = _DRAIN_BYTES
        with suppress(OSError):
            while left > 0 and (chunk := self.rfile.read1(min(left, 1 << 16))):
                left -= len(chunk)

    def _send(self, answer: Answer, *, unread: bool) -> None:
        """An answer; where a part of the body was not read, the connection ends with it."""
        self.send_response(answer.status)
        for key, value in answer.headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(answer.length))
        if unread:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            for chunk in answer.chunks():
                self.wfile.write(chunk)
        if unread:
            self._drain()
        if self.hub.log is not None:
            self.hub.log(f"{self.client_address[0]} {self.command} {urlsplit(self.path).path[:200]!r} {answer.status}")

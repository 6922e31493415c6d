"""A request as the routes see it: who asks for what, with a body that is read within its limit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from prostate_mim.errors import NotFoundError, UsageError
from prostate_mim.hub.serving.access import Access, User
from prostate_mim.hub.serving.answers import Refused
from prostate_mim.hub.serving.repository import MAIN, Commit, Repository
from prostate_mim.hub.serving.shelf import Shelf

_MOST_JSON = 4 << 20
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Body:
    """The bytes that a request brings.

    Attributes:
        length: in bytes, as the client says.
        read: gives at most so many of them.
    """

    length: int
    read: Callable[[int], bytes]

    def chunks(self) -> Iterator[bytes]:
        """All of them.

        Raises:
            Refused: the connection ended before.
        """
        left = self.length
        while left:
            chunk = self.read(min(left, _CHUNK))
            if not chunk:
                raise Refused(400, f"the body ended {left} bytes early")
            left -= len(chunk)
            yield chunk


@dataclass(frozen=True)
class Request:
    """A request.

    Attributes:
        shelf, access: of the server.
        user: who asks; None without a token.
        named: what the route's pattern found, decoded.
        query: of the address; the last value of each name.
        headers: by lower-case name.
        body: what it brings.
        address: ``http://host:port`` as the client reached us.
        sign: gives the key that lets the bearer of an address put one large file, without a token: clients send none.
        large_bytes: a file from this size on is uploaded by itself, not within its commit.
    """

    shelf: Shelf
    access: Access
    user: User | None
    named: Mapping[str, str]
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body = field(default_factory=lambda: Body(0, lambda _: b""))
    address: str = ""
    sign: Callable[[str], str] = lambda _: ""
    large_bytes: int = 256 << 20

    @property
    def writer(self) -> str:
        """Name of who asks for a change.

        Raises:
            Refused: nobody is named.
        """
        if self.user is None:
            raise Refused(401, "Invalid credentials in Authorization header")
        return self.user.name

    def repository(self) -> Repository:
        """The one that the route names.

        Raises:
            Refused: there is none that this user may see; private ones are told from absent ones by nobody.
        """
        name = self.named["id"]
        try:
            found = self.shelf.open(name)
        except (NotFoundError, UsageError):
            found = None
        if found is None or not self.access.sees(self.user, name):
            status = 401 if self.user is None else 404
            raise Refused(status, f"{name}: no such repository here, or it is private", "RepoNotFound")
        return found

    def commit(self, repository: Repository) -> Commit:
        """The one that the route names, else that of ``main``.

        Raises:
            Refused: no such revision.
        """
        revision = self.named.get("revision") or MAIN
        try:
            return repository.at(revision)
        except (NotFoundError, UsageError):
            raise Refused(404, f"{repository.name}: no revision {revision[:80]!r}", "RevisionNotFound") from None

    def json(self) -> dict[str, Any]:
        """The body as a JSON object.

        Raises:
            Refused: too large, or none.
        """
        if self.body.length > _MOST_JSON:
            raise Refused(413, f"a request of {self.body.length} bytes; at most {_MOST_JSON} are read here")
        try:
            values = json.loads(b"".join(self.body.chunks()) or b"{}")
        except (ValueError, RecursionError) as error:
            raise Refused(400, f"the body is not JSON ({error})") from None
        if not isinstance(values, dict):
            raise Refused(400, "the body is no JSON object")
        return values


def text_of(values: Mapping[str, Any], name: str, default: str | None = None) -> str:
    """A text of a JSON object.

    Raises:
        Refused: it is missing, or something else.
    """
    found = values.get(name, default)
    if not isinstance(found, str) or re.search(r"[\x00-\x1f]", found.replace("\n", "")):
        raise Refused(400, f"{name}: a text was expected")
    return found

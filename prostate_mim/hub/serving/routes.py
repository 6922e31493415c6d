"""The routes of the hub's protocol that clients of models use, as one literal table.

Which routes, headers and error codes: observed from the clients huggingface_hub 0.36, 1.x and 2.x.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prostate_mim.hub.serving import reading, writing
from prostate_mim.hub.serving.answers import Answer

if TYPE_CHECKING:
    from prostate_mim.hub.serving.request import Request

_ID = r"(?P<id>[^/]+/[^/]+)"
_API = rf"/api/models/{_ID}"


@dataclass(frozen=True)
class Route:
    """A route.

    Attributes:
        method: GET also answers HEAD.
        path: a pattern of the whole path; its groups are the request's ``named``, percent signs decoded.
        answer: gives the answer.
        writes: refused on a shelf that is read only, and for who may not write. A large file has a key instead, which
            only who may write is given.
    """

    method: str
    path: re.Pattern[str]
    answer: Callable[[Request], Answer]
    writes: bool = False


def _route(method: str, path: str, answer: Callable[[Request], Answer], *, writes: bool = False) -> Route:
    return Route(method, re.compile(path), answer, writes)


ROUTES = (
    _route("GET", "/health", reading.health),
    _route("GET", "/api/whoami-v2", reading.whoami),
    _route("GET", "/api/models", reading.models),
    _route("GET", _API, reading.model),
    _route("GET", rf"{_API}/revision/(?P<revision>[^/]+)", reading.model),
    _route("GET", rf"{_API}/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?", reading.tree),
    _route("POST", rf"{_API}/paths-info/(?P<revision>[^/]+)", reading.paths_info),
    _route("GET", rf"{_API}/refs", reading.refs),
    _route("GET", rf"{_API}/commits/(?P<revision>[^/]+)", reading.commits),
    _route("GET", rf"{_API}/auth-check", reading.auth_check),
    _route("GET", rf"/{_ID}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", reading.file),
    _route("POST", "/api/validate-yaml", writing.validate_yaml),
    _route("POST", "/api/repos/create", writing.create, writes=True),
    _route("POST", rf"{_API}/preupload/(?P<revision>[^/]+)", writing.preupload, writes=True),
    _route("POST", rf"{_API}/commit/(?P<revision>[^/]+)", writing.commit, writes=True),
    _route("POST", rf"{_API}/tag/(?P<revision>[^/]+)", writing.tag, writes=True),
    _route("DELETE", rf"{_API}/tag/(?P<label>[^/]+)", writing.remove_tag, writes=True),
    _route("POST", rf"{_API}/branch/(?P<label>[^/]+)", writing.branch, writes=True),
    _route("DELETE", rf"{_API}/branch/(?P<label>[^/]+)", writing.remove_branch, writes=True),
    _route("POST", rf"/{_ID}\.git/info/lfs/objects/batch", writing.large_files, writes=True),
    _route("PUT", rf"/{_ID}\.git/lfs/(?P<oid>[0-9a-f]{{64}})", writing.large_file),
    _route("POST", rf"/{_ID}\.git/lfs/verify", writing.verify_large_file, writes=True),
)

"""No test talks to the network: an audit hook refuses what Python code would send, look up or listen on.

Unix sockets are always free (the loader's processes use them). Loopback is refused too, unless the environment says
that this test may use it (``LOOPBACK_USERS``, set by tests/conftest.py). Every refusal is also
written to a file, because libraries often swallow errors of the network, and a test then fails for the attempt.

What it cannot see: sockets of native code (gloo, gRPC) and of programs that are not Python (Chromium).
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from typing import Any

LOOPBACK = "PROSTATE_MIM_TESTS_LOOPBACK"
"""Environment variable: set (to anything) where loopback is allowed. Children inherit it."""
LOG = "PROSTATE_MIM_TESTS_REFUSED"
"""Environment variable: the file that refusals are added to, one line each."""
LOOPBACK_USERS = {
    "serving/": "a hub that is served, and real clients of it",
    "deploy/test_service.py": "the kit's service and its clients, on 127.0.0.1",
    "docs/test_blocks.py": "the hub and the service that pages start, and their clients, on 127.0.0.1",
    "docs/test_notebooks.py": "the kit's service and its client, on 127.0.0.1",
    "docs/test_recipe_hospital.py": "the kit's service and curl, on 127.0.0.1",
    "doctor/test_mirror.py": "a hub that HF_ENDPOINT names, one that answers and several that do not, on 127.0.0.1",
    "hub/": "a hub that the tests themselves serve, on 127.0.0.1",
    "privacy/test_archive_identifiers.py": "Ray, as below",
    "space/": "the page to try a classifier on, a browser, and a proxy that hears what leaves",
    "study/test_engine_ray.py": "Ray, as below",
    "archive/test_cluster.py": "Ray's processes find and talk to each other on 127.0.0.1",
    "engine/test_distributed.py": "torchrun's two processes meet on a port of 127.0.0.1",
    "engine/test_tracker.py": "a listening proxy must catch what trackers send, and one that is careless must try",
}
"""Beginning of a path in ``tests/`` -> why it needs loopback. Nobody may use anything else."""

# urllib3, which much else imports, finds out in this way whether there is IPv6: it binds, and never listens.
_PROBED = ("::1", 0)
# Ray's dashboard process, which runs in every cluster, asks where it is, and has no switch that stops it (2.60). It is
# refused like anybody, but no test fails for it.
_RAY, _RAYS_QUESTIONS = "/ray/dashboard/", ("169.254.169.254", "metadata.google.internal")
_ADDRESSED = {"socket.connect": 1, "socket.bind": 1, "socket.sendto": 1, "socket.sendmsg": 1}
_NAMED = {
    "socket.getaddrinfo": 0, "socket.gethostbyname": 0, "socket.gethostbyaddr": 0, "socket.getnameinfo": 0,
}  # fmt: skip


class NetworkRefusedError(OSError):
    """A test reached for the network. An OSError, as if the cable had been pulled."""


def install() -> None:
    """Watch this process from now on; there is no way back."""
    sys.addaudithook(_watch)


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if not event.startswith("socket."):
        return
    if event in _ADDRESSED:
        address = arguments[_ADDRESSED[event]]
        # A path is a Unix socket, None a socket that is connected already, an integer pair one of the kernel's own.
        host = address[0] if isinstance(address, tuple) and address else None
        if not isinstance(host, str) or arguments[0].family not in (socket.AF_INET, socket.AF_INET6):
            return
        if event == "socket.bind" and address == _PROBED:
            return
    elif event in _NAMED:
        host = arguments[_NAMED[event]]
        host = host[0] if isinstance(host, tuple) else host
    else:
        return
    host = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host or "")
    if not (LOOPBACK in os.environ and is_local(host, wildcard=event in ("socket.bind", "socket.getaddrinfo"))):
        expected = host in _RAYS_QUESTIONS and any(_RAY in word for word in sys.argv[:1])
        _refuse(f"{event} {host}", None if expected else os.environ.get(LOG))


def is_local(host: str, *, wildcard: bool = False) -> bool:
    """Whether a host is this machine by a loopback address or its own name; ``wildcard``: also an unnamed one."""
    if host in ("", "0.0.0.0", "::"):  # noqa: S104 - compared with, not listened on
        return wildcard
    if host in ("localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _refuse(what: str, log: str | None) -> None:
    if log:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(handle, f"{what} by {' '.join(sys.argv)[:200]!r}\n".encode())
        os.close(handle)
    raise NetworkRefusedError(f"{what}: tests have no network; socket_guard.py lists who may use loopback")

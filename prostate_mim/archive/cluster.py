"""A Ray cluster to work on: the caller's, the one RAY_ADDRESS names, or a private one on this machine."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from prostate_mim.errors import BackendError

LOOPBACK = "127.0.0.1"
_STORE_BYTES = 100_000_000  # shard numbers and summaries: /dev/shm is small in containers
# The name speaks of other systems; 0 makes any node call itself 127.0.0.1, and Ray then binds nothing else.
_LOOPBACK_SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


def import_ray() -> Any:
    """The ``ray`` module, with ``ray.data``.

    Raises:
        BackendError: not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise BackendError(f"--engine ray needs Ray Data ({error}); pip install 'prostate-mim[ray]'") from error
    return ray


@contextmanager
def cluster(workers: int) -> Iterator[Any]:
    """Connect, and disconnect afterwards; yields the ``ray`` module.

    An existing connection is used and left alone. With RAY_ADDRESS set, that cluster is used. Otherwise one is started
    on this machine: every server of it listens on 127.0.0.1 only and asks for a token that only its own processes
    know (without, every user of a shared machine could run code in it), nothing is reported to anybody, and it is
    shut down at the end.

    Raises:
        BackendError: Ray is not installed, cannot start, cannot be reached, or has fewer CPUs than workers.
    """
    local = not os.environ.get("RAY_ADDRESS")
    own = "ray" not in sys.modules or not import_ray().is_initialized()
    if own:
        _prepare(local)
    # Ray tells of killed workers on stdout, from a thread of its own: a command's stdout is for its results.
    with redirect_stdout(sys.stderr):
        ray = import_ray()
        try:
            if own:
                _connect(ray, workers, local)
            _check_cpus(ray, workers)
            yield ray
        finally:
            if own:
                ray.shutdown()


def _prepare(local: bool) -> None:
    """Set what Ray reads from the environment: some of it once, when it is imported, so it stays set.

    Raises:
        BackendError: it was imported already, without this.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if not local:
        return
    if "ray" in sys.modules and os.environ.get(_LOOPBACK_SWITCH) != "0":
        raise BackendError(
            "Ray was imported before it could be bound to 127.0.0.1 and a token; "
            "call ray.init() yourself first, or import ray only after this"
        )
    os.environ[_LOOPBACK_SWITCH] = "0"
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _connect(ray: Any, workers: int, local: bool) -> None:
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if local:
        settings |= {
            "address": "local",
            "num_cpus": workers,
            "include_dashboard": False,
            "object_store_memory": _STORE_BYTES,
            "_node_ip_address": LOOPBACK,
        }
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**settings)
    except Exception as error:  # Ray raises whatever its parts raise
        what = "start" if local else "reach the cluster that RAY_ADDRESS names"
        raise BackendError(f"Ray could not {what} ({type(error).__name__}: {_line(error)})") from error
    finally:
        if main and handler is not None:  # Ray puts its own in place
            signal.signal(signal.SIGTERM, handler)
    if local and ray.util.get_node_ip_address() != LOOPBACK:
        raise BackendError(f"this version of Ray ({ray.__version__}) does not bind to 127.0.0.1; use Ray 2.60")


def _check_cpus(ray: Any, workers: int) -> None:
    found = ray.cluster_resources().get("CPU", 0)
    if found < workers:
        raise BackendError(f"the Ray cluster has {found:g} CPUs for {workers} workers; ask for fewer workers")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]

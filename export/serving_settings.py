"""How the service is told what to do: options, or environment variables of the same names for containers."""

from __future__ import annotations

import argparse
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from run_study import OneLineParser

from prostate_mim.errors import NotFoundError, UsageError
from prostate_mim.volume import MAX_VOXELS

ENVIRONMENT = "PROSTATE_MIM_"
SHORTEST_TOKEN = 16
_MEGABYTE = 1_000_000
_DEEPEST_VOXEL = 8  # bytes


@dataclass(frozen=True)
class Settings:
    """What the service is started with.

    Attributes:
        model: the classifier's .onnx.
        host, port: where to listen; port 0 takes a free one.
        token: that clients must give; None only on a loopback address.
        device: one of ``prostate_mim.deploy.runtime.DEVICES``.
        limit_mb: the largest request, in megabytes (10^6 bytes), on the wire and after decompression.
        timeout_s: for the upload, for a free worker, and for the computing: each.
        concurrency: worker processes; as many requests again may upload or wait.
    """

    model: Path
    host: str
    port: int
    token: str | None = field(repr=False)
    device: str
    limit_mb: int
    timeout_s: float
    concurrency: int

    @property
    def limit_bytes(self) -> int:
        """Of a request's body."""
        return self.limit_mb * _MEGABYTE

    @property
    def max_voxels(self) -> int:
        """Of a study: so many that even 8-byte voxels stay within the limit after decompression."""
        return min(MAX_VOXELS, self.limit_bytes // _DEEPEST_VOXEL)

    @property
    def room(self) -> int:
        """How many requests may upload, wait or be computed at once."""
        return 2 * self.concurrency


def read_settings(argv: Sequence[str] | None, devices: Sequence[str]) -> Settings:
    """Options first, then the environment, then defaults.

    Raises:
        SystemExit: with code 2, after one line, for anything that argparse refuses.
        UsageError, NotFoundError: no model; or an address that is open to others without a token.
    """
    given = _parser(devices).parse_args(argv)
    if given.device not in devices:
        raise UsageError(f"--device {given.device!r} is none of {', '.join(devices)}")
    if not given.model:
        raise UsageError(f"--model is missing; give the classifier's .onnx, or set {ENVIRONMENT}MODEL")
    token = _token(Path(given.token_file)) if given.token_file else None
    if token is None and not _is_loopback(given.host):
        raise UsageError(
            f"--host {given.host}: others could reach it, and there is no token; give --token-file, or listen on "
            "127.0.0.1"
        )
    return Settings(
        Path(given.model), given.host, given.port, token, given.device, given.limit_mb, given.timeout,
        given.concurrency,
    )  # fmt: skip


def _parser(devices: Sequence[str]) -> argparse.ArgumentParser:
    parser = OneLineParser(
        description="Probabilities of lesions over HTTP, from an .onnx that prostate-mim exported. Research use only.",
        epilog=f"Each option can be an environment variable: {ENVIRONMENT}MODEL, {ENVIRONMENT}TOKEN_FILE and so on.",
    )

    def add(name: str, default: str, kind: type | object, help_text: str, metavar: str) -> None:
        variable = ENVIRONMENT + name.upper().replace("-", "_")
        parser.add_argument(
            f"--{name}", default=os.environ.get(variable) or default, type=kind,  # type: ignore[arg-type]
            help=f"{help_text} (default: {default or 'none'})", metavar=metavar,
        )  # fmt: skip

    add("model", "", str, "classifier .onnx written by `prostate-mim export`", "FILE")
    add("host", "127.0.0.1", str, "address; one that others can reach needs a token", "ADDRESS")
    add("port", "8080", _within(0, 65535), "port; 0 takes a free one", "N")
    add("token-file", "", str, f"file with the token of clients, at least {SHORTEST_TOKEN} letters", "FILE")
    add("device", "auto", str, ", ".join(devices), "NAME")
    add("limit-mb", "256", _within(1, 4096), "largest request in MB, also after decompression", "N")
    add("timeout", "60", _within(1, 3600), "seconds for the upload, and as many for the computing", "S")
    add("concurrency", "2", _within(1, 64), "worker processes, each with a model of its own", "N")
    return parser


def _within(low: int, high: int) -> object:
    def whole(text: str) -> int:
        value = int(text) if text.strip().isdigit() else -1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is no whole number of {low} to {high}")
        return value

    return whole


def _token(path: Path) -> str:
    try:
        token = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise NotFoundError(f"--token-file {path}: no such file; write a long random token into it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--token-file {path}: cannot be read as plain letters ({type(error).__name__})") from None
    if len(token) < SHORTEST_TOKEN or len(token.split()) != 1 or not token.isprintable():
        raise UsageError(
            f"--token-file {path}: must hold one word of at least {SHORTEST_TOKEN} letters; make one with "
            "`python -c 'import secrets; print(secrets.token_urlsafe(32))'`"
        )
    return token


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

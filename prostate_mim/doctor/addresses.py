"""Addresses as people type them into environment variables: proxies and hubs. What is secret in them is never shown."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")  # those of huggingface_hub's HTTP client
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACEHUB_API_TOKEN")
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(%\w+)?")
_SHORTEST_SECRET = 4
"""Shorter ones would be blotted out of ordinary words."""


def proxy_fault(value: str) -> str:
    """What is wrong with a proxy's address, a few words; empty if nothing is."""
    if "://" not in value:
        if re.match(r"(https?|socks\w*):?/", value, re.IGNORECASE):
            return "'://' is mistyped after its scheme"
        value = f"http://{value}"
    return _fault(value, _PROXY_SCHEMES)


def endpoint_fault(value: str) -> str:
    """What is wrong with a hub's address, a few words; empty if nothing is."""
    if not value:
        return "it is set and empty"
    if "://" not in value:
        return "it needs http:// or https:// in front"
    return _fault(value, ("http", "https")) or ("it has a ? or # in it" if set("?#") & set(value) else "")


def _fault(value: str, schemes: tuple[str, ...]) -> str:
    if value != value.strip() or any(letter.isspace() or letter in "\"'<>`" for letter in value):
        return "blanks or quotes are in it"
    try:
        parts = urlsplit(value)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "its port is no number from 1 to 65535"
    if parts.scheme.lower() not in schemes:
        return f"its scheme is none of {', '.join(schemes)}"
    if not _HOST.fullmatch(host):
        return "it names no host"
    return "its port is no number from 1 to 65535" if port == 0 else ""


def shown(value: str) -> str:
    """An address without user, password and query."""
    scheme, mark, rest = value.partition("://") if "://" in value else ("", "", value)
    _, at, place = rest.rpartition("@")
    return repr(f"{scheme}{mark}{'***@' if at else ''}{place.split('?')[0].split('#')[0]}")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """Proxy variables that are set, small letters before capitals, as Python's own reading has it."""
    found = {}
    for name in PROXIES:
        for spelling in (name.lower(), name):
            if environ.get(spelling):
                found[spelling] = environ[spelling]
                break
    return found


def bypassed(host: str, environ: Mapping[str, str]) -> bool:
    """Whether NO_PROXY names a host, as huggingface_hub's client reads it: names, their ends, ``*``; no ranges."""
    for entry in (environ.get("no_proxy") or environ.get("NO_PROXY") or "").split(","):
        name = entry.strip().lower().strip("[]")
        if name == "*" or (name and (host == name or host.endswith("." + name.lstrip("*.")))):
            return True
    return False


def hidden(text: str, environ: Mapping[str, str]) -> str:
    """A text without the secrets that the environment holds, wherever they came into it from."""
    secrets = {environ[name] for name in _TOKENS if environ.get(name)}
    for name in (*PROXIES, *(name.lower() for name in PROXIES), "HF_ENDPOINT"):
        login, at, _ = environ.get(name, "").rpartition("@")
        if at:
            login = login.partition("://")[2] or login
            secrets |= {login, login.partition(":")[2]}
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return re.sub(r"//[^\s/@'\"]+@", "//***@", text)

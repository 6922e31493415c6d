"""Whether the hub can be reached as this machine is set up: proxies, certificates, HF_ENDPOINT, the offline switch."""

from __future__ import annotations

import importlib.util
import os
import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

from prostate_mim.doctor.addresses import (
    bypassed,
    endpoint_fault,
    is_loopback,
    proxies,
    proxy_fault,
    shown,
)
from prostate_mim.doctor.child import Answer
from prostate_mim.doctor.commands import either, install, set_variable, unset_variable
from prostate_mim.doctor.finding import Finding, one_line

PROXY, CERTIFICATES, HUB = "proxies", "certificates", "hub"
ENDPOINT, OFFLINE = "HF_ENDPOINT", "HF_HUB_OFFLINE"
_SWITCHES = (OFFLINE, "TRANSFORMERS_OFFLINE")
_ON = ("1", "ON", "YES", "TRUE")
_CA_FILE, _CA_FOLDER = "SSL_CERT_FILE", "SSL_CERT_DIR"
_CA_OF_OTHERS = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Read by trackers and pip, not by huggingface_hub 1.0 or newer."""
_SERVER_ERROR = 500
_PROXY_LOGIN = 407
_ELSE = "or check the address and the proxy"


def offline(environ: Mapping[str, str]) -> str:
    """The switch that keeps the hub from being asked, ``HF_HUB_OFFLINE=1``; empty if none is on."""
    for name in _SWITCHES:
        if environ.get(name):  # the first that is set decides, as huggingface_hub has it
            return f"{name}={environ[name]}" if environ[name].upper() in _ON else ""
    return ""


def question(environ: Mapping[str, str]) -> str:
    """The address that the probe ``hub`` asks; empty if nobody may be asked: only a hub that was named is."""
    endpoint = environ.get(ENDPOINT, "")
    return "" if offline(environ) or endpoint_fault(endpoint) else f"{endpoint.rstrip('/')}/api/models?limit=1"


def check_proxies(environ: Mapping[str, str]) -> Finding:
    """Mistyped addresses of proxies, and a hub on this machine that would be asked through one."""
    found = proxies(environ)
    if not found:
        return Finding(PROXY, "not applicable", "no proxy is set")
    for name, value in found.items():
        why = proxy_fault(value)
        if why:
            example = set_variable(name, "http://proxy.example.org:3128")
            return Finding(PROXY, "fault", f"{name} is {shown(value)}: {why}", either(example, "your own proxy there"))
        if value.lower().startswith("socks") and importlib.util.find_spec("socksio") is None:
            why = f"{name} is {shown(value)}, and the package for SOCKS is not installed"
            return Finding(PROXY, "fault", why, install("socksio"))
    endpoint = environ.get(ENDPOINT, "")
    if endpoint and not endpoint_fault(endpoint):
        parts = urlsplit(endpoint)
        host, used = parts.hostname or "", _taken(parts.scheme, found)
        if is_loopback(host) and used and not bypassed(host, environ):
            listed = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
            why = f"the hub {shown(endpoint)} is on this machine, and is asked through {used}: NO_PROXY is {listed!r}"
            name = "no_proxy" if environ.get("no_proxy") else "NO_PROXY"
            return Finding(PROXY, "fault", why, set_variable(name, ",".join(filter(None, [listed, host]))))
    text = ", ".join(f"{name} {shown(value)}" for name, value in found.items())
    if not _taken("https", found):
        why = f"{text}, and none for https, which hubs on the internet speak"
        return Finding(PROXY, "warning", why, set_variable("HTTPS_PROXY", _without_login(next(iter(found.values())))))
    return Finding(PROXY, "ok", text)


def _taken(scheme: str, found: Mapping[str, str]) -> str:
    """The variable whose proxy an address of that scheme goes through; empty if it goes straight."""
    return next((name for kind in (scheme, "all") for name in found if name.lower() == f"{kind}_proxy"), "")


def _without_login(value: str) -> str:
    """A proxy's address to be pasted; where it has a password, the person puts it in."""
    scheme, mark, rest = value.partition("://") if "://" in value else ("", "", value)
    return f"{scheme}{mark}USER:PASSWORD@{rest.rpartition('@')[2]}" if "@" in rest else value


def check_certificates(environ: Mapping[str, str]) -> Finding:
    """Variables that name certificates to trust: a file that is there and holds some."""
    file, folder = environ.get(_CA_FILE, ""), environ.get(_CA_FOLDER, "")
    if file:
        why = _unusable(file)
        if why:
            found = f"{_CA_FILE} is {file!r}, {why}; no hub can be reached by https"
            return Finding(CERTIFICATES, "fault", found, unset_variable(_CA_FILE))
    elif folder and not os.path.isdir(folder):
        found = f"{_CA_FOLDER} is {folder!r}, no such folder; no hub can be reached by https"
        return Finding(CERTIFICATES, "fault", found, unset_variable(_CA_FOLDER))
    for name in _CA_OF_OTHERS:
        other = environ.get(name, "")
        why = _unusable(other) if other and not os.path.isdir(other) else ""
        if why:
            found = f"{name} is {other!r}, {why}; trackers and pip read it"
            return Finding(CERTIFICATES, "warning", found, unset_variable(name))
        if other and not file and not folder:
            found = f"{name} is set, and huggingface_hub reads {_CA_FILE} only"
            return Finding(CERTIFICATES, "warning", found, set_variable(_CA_FILE, other))
    if file or folder:
        return Finding(CERTIFICATES, "ok", f"{_CA_FILE if file else _CA_FOLDER} is {file or folder!r}")
    return Finding(CERTIFICATES, "ok", "those of the system; no variable names others")


def _unusable(file: str) -> str:
    if os.path.isdir(file):
        return "a folder"
    try:
        context = ssl.create_default_context(cafile=file)
    except ssl.SSLError:
        return "a file without a certificate in PEM form"
    except OSError as error:
        return one_line(error.strerror or str(error)).lower()
    return "" if context.cert_store_stats()["x509"] else "a file without a certificate"


def check_hub(environ: Mapping[str, str], answer: Answer | None) -> Finding:
    """HF_ENDPOINT is an address; the hub that it names answers as a hub.

    Args:
        answer: of the probe ``hub``; None if it was not asked.
    """
    endpoint, switch = environ.get(ENDPOINT), offline(environ)
    if endpoint is not None and endpoint_fault(endpoint):
        found = f"{ENDPOINT} is {shown(endpoint)}: {endpoint_fault(endpoint)}"
        right = set_variable(ENDPOINT, "https://hub.example.org")
        return Finding(HUB, "fault", found, either(unset_variable(ENDPOINT), f"or your own hub: {right}"))
    if switch:
        return Finding(HUB, "ok", f"offline by {switch}: nothing is fetched, and nobody was asked")
    if endpoint is None or answer is None:
        return Finding(HUB, "ok", f"the public one, which was not asked; one that {ENDPOINT} names is")
    if answer.error:
        return _silent(endpoint, answer.error)
    status, kind = answer.values["status"], answer.values["type"].partition(";")[0]
    if status == _PROXY_LOGIN:
        found = f"{shown(endpoint)} is behind a proxy that wants a login (HTTP {status})"
        return Finding(HUB, "fault", found, set_variable("HTTPS_PROXY", "http://USER:PASSWORD@proxy.example.org:3128"))
    if status >= _SERVER_ERROR or (kind != "application/json" and not answer.values["code"]):
        found = f"{shown(endpoint)} answers, but not as a hub: HTTP {status}, {kind or 'no content type'}"
        return Finding(HUB, "fault", found, either(unset_variable(ENDPOINT), _ELSE))
    return Finding(HUB, "ok", f"{shown(endpoint)} answers")


def _silent(endpoint: str, error: str) -> Finding:
    found = f"{shown(endpoint)} does not answer: {error}"
    if "CERTIFICATE" in error.upper():
        fix = either(set_variable(_CA_FILE, "authority.pem"), "the certificate of who signs for the hub or the proxy")
    elif error.startswith(("ModuleNotFoundError", "ImportError")):
        fix = install("huggingface-hub>=1.18,<3")
    else:
        fix = either(set_variable(OFFLINE, "1"), _ELSE)
    return Finding(HUB, "fault", found, fix)

"""Settings of the network: proxies, certificates, HF_ENDPOINT. Nobody is asked here; test_mirror.py asks."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from throw_away import Environment

from prostate_mim.doctor.addresses import endpoint_fault, hidden, proxy_fault, shown
from prostate_mim.doctor.network import check_certificates, check_hub, check_proxies, offline, question

FINE = "http://proxy.example.org:3128"


@pytest.mark.parametrize(
    "value",
    [FINE, "proxy:3128", "https://u:p%40ss@proxy.example.org:443/", "http://[::1]:3128", "http://10.0.0.1:8080", "HTTP://p"],
)  # fmt: skip
def test_good_proxies(value: str) -> None:
    """As huggingface_hub's client takes them; one without a scheme is taken as http."""
    assert proxy_fault(value) == ""
    assert check_proxies({"HTTPS_PROXY": value}).state == "ok"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("http:/proxy:3128", "'://' is mistyped"),
        ("http//proxy:3128", "'://' is mistyped"),
        ("htp://proxy:3128", "its scheme is none of http"),
        ("socks4://proxy:1080", "its scheme is none of http"),
        ("http://proxy:31a8", "its port"),
        ("http://proxy:0", "its port"),
        ("http://proxy:99999", "its port"),
        ("http://:3128", "it names no host"),
        ("http://", "it names no host"),
        ("'http://proxy:3128'", "blanks or quotes"),
        ("http://proxy:3128 ", "blanks or quotes"),
        ("http://pro xy:3128", "blanks or quotes"),
        ("http://[::1:3128", "its port"),
    ],
)
def test_mistyped_proxies(value: str, why: str) -> None:
    """Each is a fault, by whichever variable, and the finding names it."""
    for name in ("HTTPS_PROXY", "http_proxy", "ALL_PROXY"):
        finding = check_proxies({name: value})
        assert finding.state == "fault" and finding.found.startswith(f"{name} is ") and why in finding.found
        assert finding.fix.startswith(f"export {name}=")


def test_other_settings_of_proxies() -> None:
    """None; only one for http; SOCKS without its package; small letters win over capitals."""
    assert check_proxies({}).state == check_proxies({"HTTPS_PROXY": ""}).state == "not applicable"
    only = check_proxies({"HTTP_PROXY": "http://me:secret@proxy:3128"})
    assert only.state == "warning" and only.fix == "export HTTPS_PROXY=http://USER:PASSWORD@proxy:3128"
    assert check_proxies({"HTTP_PROXY": FINE, "HTTPS_PROXY": FINE}).state == "ok"
    assert check_proxies({"https_proxy": FINE, "HTTPS_PROXY": "htp://x"}).state == "ok"
    socks = check_proxies({"ALL_PROXY": "socks5://proxy:1080"})
    assert socks.state == "fault" and "socksio" in socks.fix  # no package of ours brings it


@pytest.mark.parametrize(
    ("listed", "state"),
    [
        ("", "fault"), ("localhost", "fault"), ("127.0.0.0/8", "fault"), ("10.127.0.0.1", "fault"),
        ("127.0.0.1", "ok"), ("localhost, 127.0.0.1", "ok"), ("*", "ok"),
    ],
)  # fmt: skip
def test_hub_on_this_machine_behind_a_proxy(listed: str, state: str) -> None:
    """The address of the endpoint itself must be in NO_PROXY: a name is not its number, and ranges are not read."""
    environ = {"HTTPS_PROXY": FINE, "HTTP_PROXY": FINE, "HF_ENDPOINT": "http://127.0.0.1:8780", "NO_PROXY": listed}
    finding = check_proxies(environ)
    assert finding.state == state
    if state == "fault":
        assert finding.fix == f"export NO_PROXY={listed + ',' if listed else ''}127.0.0.1"
    away = environ | {"HF_ENDPOINT": "https://hub.example.org"}
    assert check_proxies(away).state == "ok"
    assert (
        check_proxies({"HTTPS_PROXY": FINE, "HF_ENDPOINT": "http://127.0.0.1:8780"}).state == "ok"
    )  # http goes straight


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("", "set and empty"), ("hub.example.org", "needs http:// or https://"), ("htps://hub", "scheme"),
        ("https://", "no host"), ("https://hub:x", "port"), ("https://hub/?a=1", "? or #"), ("https://hub ", "blanks"),
        ("http://127.0.0.1:8780", ""), ("https://hub.example.org/api/huggingface/", ""),
    ],
)  # fmt: skip
def test_endpoints(value: str, why: str) -> None:
    """A path is allowed, as proxies of repositories have it; a mistyped address is a fault and nobody is asked."""
    assert (why in endpoint_fault(value)) and bool(endpoint_fault(value)) == bool(why)
    if why:
        finding = check_hub({"HF_ENDPOINT": value}, None)
        assert finding.state == "fault" and "unset HF_ENDPOINT" in finding.fix
        assert question({"HF_ENDPOINT": value}) == ""


@pytest.mark.parametrize(
    ("environ", "off"),
    [
        ({}, ""), ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE=1"), ({"HF_HUB_OFFLINE": "true"}, "HF_HUB_OFFLINE=true"),
        ({"TRANSFORMERS_OFFLINE": "yes"}, "TRANSFORMERS_OFFLINE=yes"), ({"HF_HUB_OFFLINE": "0"}, ""),
        ({"HF_HUB_OFFLINE": "", "TRANSFORMERS_OFFLINE": "1"}, "TRANSFORMERS_OFFLINE=1"),
        ({"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "1"}, ""),
    ],
)  # fmt: skip
def test_offline_switch(bare: Environment, environ: dict[str, str], off: str) -> None:
    """As huggingface_hub itself reads it; then nobody is asked."""
    code = "from huggingface_hub import constants; raise SystemExit(7 if constants.HF_HUB_OFFLINE else 8)"
    assert subprocess.run([bare.python, "-c", code], env=environ, check=False).returncode == (7 if off else 8)
    assert offline(environ) == off
    asked = question(environ | {"HF_ENDPOINT": "http://127.0.0.1:1/"})
    assert asked == ("" if off else "http://127.0.0.1:1/api/models?limit=1")
    assert check_hub(environ | {"HF_ENDPOINT": "http://127.0.0.1:1/"}, None).state == "ok"


def certificate(folder: Path) -> Path:
    """A certificate signed by itself."""
    path = folder / "ca.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
               "-keyout", str(folder / "key.pem"), "-out", str(path), "-days", "2", "-subj", "/CN=test"]  # fmt: skip
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("no openssl program to make a certificate with")
    return path


def test_certificates(tmp_path: Path) -> None:
    """A file that is missing, a folder, no PEM, a key without certificate; the control is a certificate."""
    good = certificate(tmp_path)
    (tmp_path / "text.pem").write_text("-----BEGIN CERTIFICATE-----\nnonsense\n")
    (tmp_path / "empty.pem").write_text("")
    for path, why in (
        (tmp_path / "missing.pem", "no such file"), (tmp_path, "a folder"), (tmp_path / "text.pem", "in PEM form"),
        (tmp_path / "empty.pem", "certificate"), (tmp_path / "key.pem", "certificate"),
    ):  # fmt: skip
        finding = check_certificates({"SSL_CERT_FILE": str(path)})
        assert finding.state == "fault" and why in finding.found and finding.fix == "unset SSL_CERT_FILE", path
        other = check_certificates({"REQUESTS_CA_BUNDLE": str(path), "SSL_CERT_FILE": str(good)})
        assert other.state == ("ok" if path == tmp_path else "warning")  # a folder is allowed there
    assert check_certificates({"SSL_CERT_FILE": str(good)}).state == check_certificates({}).state == "ok"


def test_certificates_by_other_variables(tmp_path: Path) -> None:
    """A folder that is missing; a variable that huggingface_hub no longer reads."""
    good = certificate(tmp_path)
    assert check_certificates({"SSL_CERT_DIR": str(tmp_path / "none")}).state == "fault"
    assert check_certificates({"SSL_CERT_DIR": str(tmp_path)}).state == "ok"
    finding = check_certificates({"REQUESTS_CA_BUNDLE": str(good)})
    assert finding.state == "warning" and finding.fix == f"export SSL_CERT_FILE={good}"


def test_all_of_it_together(bare: Environment, tmp_path: Path) -> None:
    """The real command: a mistyped proxy with a password, a missing certificate, a mistyped hub with a token."""
    env = {
        "HTTPS_PROXY": "htp://me:Geheim?4711@proxy.example.org:3128", "SSL_CERT_FILE": str(tmp_path / "gone.pem"),
        "HF_ENDPOINT": "htps://hf_TOKEN4711@hub.example.org", "HF_TOKEN": "hf_TOKEN4711",
    }  # fmt: skip
    told = bare.doctor("--json", env=env)
    assert told.code == 6
    for name in ("proxies", "certificates", "hub"):
        assert told[name]["state"] == "fault" and told[name]["fix"]
    human = bare.doctor(env=env)
    for text in (told.out, told.err, human.out, human.err):
        assert "Geheim" not in text and "4711" not in text
    assert "***@proxy.example.org:3128" in told["proxies"]["found"]
    good = {"HTTPS_PROXY": FINE, "SSL_CERT_FILE": str(certificate(tmp_path)), "HF_HUB_OFFLINE": "1"}
    told = bare.doctor("--json", env=good)
    assert {told[name]["state"] for name in ("proxies", "certificates", "hub")} == {"ok"}


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (FINE, FINE),
        ("http://u:p@ss@proxy:1", "http://***@proxy:1"),
        ("u:p@proxy:1", "***@proxy:1"),
        ("http:/u:p@proxy", "***@proxy"),
        ("http://u:p?q@proxy:1/?token=x", "http://***@proxy:1/"),
        ("https://token@hub/a#b", "https://***@hub/a"),
    ],
)
def test_shown_addresses(value: str, seen: str) -> None:
    """Without user, password and query, however they are written."""
    assert shown(value) == repr(seen)


def test_hidden_secrets() -> None:
    """What an exception quotes is hidden too; without secrets a text stays as it is."""
    environ = {"HTTP_PROXY": "http://me:pa%40ss@proxy:1", "HF_TOKEN": "hf_abc"}
    text = "URL('http://me:pa%40ss@proxy:1') token hf_abc, pa%40ss; //other:x@host"
    assert hidden(text, environ) == "URL('http://***@proxy:1') token ***, ***; //***@host"
    assert hidden("nothing to hide, a@b", {}) == "nothing to hide, a@b"

"""The site builds without a warning, says everything, has no dead link, and loads nothing from elsewhere."""

from __future__ import annotations

import importlib
import inspect
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import typer.main
from html_pages import browse, complaints, needs_browser
from links import Page, Site
from public_names import MODULES, PACKAGE, names_of
from site_building import ROOT, Built, build

from prostate_mim import errors
from prostate_mim.cli import app

# Modules with ``__all__`` that have no page, and why.
WITHOUT_PAGE = {
    "prostate_mim.cli": "its commands have pages",
    "prostate_mim.engine.augment": "inside the training loop; set by the configuration",
}


def commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """("data", "import") and the command, of the app and everything below it."""
    yield words, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*words, name))


def text_of(html: str) -> str:
    """What is read on a page."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", "", html)))


def test_it_builds_without_a_warning(site: Built) -> None:
    """Also: no page is outside of the table of contents, no reference leads nowhere, all docstrings are valid."""
    assert site.said.strip() == ""
    assert site.code == 0


def test_every_link_is_live_and_nothing_is_loaded_from_elsewhere(site: Built) -> None:
    """Of pages, style sheets and scripts. Links that leave the site are there, and only listed."""
    whole = Site(site.out)
    checked = whole.check()
    assert checked.dead == []
    assert checked.foreign == []
    assert any(link.startswith("https://keepachangelog.com/") for link in checked.outward)
    assert len(whole.pages) > 80


def test_every_command_has_a_page_with_all_it_takes(site: Built) -> None:
    """Sections are found by the app that is run, not by what generates them."""
    listed = text_of(site.page("reference/cli/index"))
    for words, command in commands(typer.main.get_command(app)):
        page = site.page(f"reference/cli/{'-'.join(words) or 'index'}")
        anchors, text = Page(page).anchors, text_of(page)
        assert words[:1] == () or f"prostate-mim {words[0]}" in listed
        assert " ".join(("prostate-mim", *words)) in text
        for one in command.params:
            names = [*one.opts, *one.secondary_opts] if one.param_type_name == "option" else [f"arg-{one.opts[0]}"]
            for name in names:
                assert "-".join(("cmdoption-prostate-mim", *words, name.lstrip("-"))) in anchors, (words, name)
            assert not one.help or re.sub(r"\s+", " ", one.help) in text, (words, one.name)


def test_defaults_and_ranges_are_said(site: Built) -> None:
    """By hand: an integer with a least value, a default of the configuration, and text with spaces."""
    text = text_of(site.page("reference/cli/pretrain"))
    assert "Optimiser steps in all. Default: 1000. At least 1." in text
    assert "Default: 12.0 8.0 8.0." in text
    assert "CSV of studies. Required." in text
    assert "repeatable. Default: tensorboard. May be given several times." in text


def test_exit_codes_are_those_of_the_errors(site: Built) -> None:
    """Each error with its code, and what it means."""
    rows = re.findall(r"<tr.*?</tr>", site.page("reference/exit-codes"), re.S)
    for name, error in inspect.getmembers(errors, inspect.isclass):
        if issubclass(error, errors.ProstateMimError) and error is not errors.ProstateMimError:
            assert any(f">{error.exit_code}<" in row and name in row for row in rows), name
    assert {">0<", ">130<", ">143<"} <= set(re.findall(r">\d+<", "".join(rows)))


def test_every_public_name_has_a_section(site: Built) -> None:
    """Names as Python sees them; each has its place on its module's page, with its docstring."""
    for module in MODULES:
        found = importlib.import_module(module)
        page = site.page(f"reference/api/{module}")
        anchors, text = Page(page).anchors, text_of(page)
        for name in (one for one in getattr(found, "__all__", names_of(module)) if not one.startswith("_")):
            assert f"{module}.{name}" in anchors
            value = getattr(found, name)
            described = inspect.isroutine(value) or inspect.isclass(value)
            if described and not re.search(rf"The same as prostate_mim\.[\w.]*{name}\.", text):
                assert str(inspect.getdoc(value)).split()[0].strip("`") in text


def test_every_module_with_public_names_has_a_page() -> None:
    """A new ``__all__`` gets a page, or a reason in this file."""
    found = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in PACKAGE.rglob("*.py")
        if re.search(r"^__all__ =", path.read_text(encoding="utf-8"), re.M)
    }
    assert found - set(MODULES) == set(WITHOUT_PAGE)


def test_links_between_pages_and_the_repository(site: Built) -> None:
    """From docs to a page outside, from there to docs, from a page to code, to a folder, and from an included page."""
    assert 'href="repository/export/README.html"' in site.page("deploy")
    assert 'href="../docs/' not in site.page("repository/CHANGELOG")
    assert 'href="../modality.html"' in site.page("repository/CHANGELOG")
    assert 'href="repository/hub_cards/resenc-s.mim-t2w/README.html"' in site.page("index")
    assert 'href="repository/hub_cards/index.html"' in site.page("models")
    assert "_images/reconstruction" in site.page("index")


def test_types_lead_to_their_sections(site: Built) -> None:
    """By the name of their own module or a bare name, on the same page and on another; those of others lead nowhere."""
    page = site.page("reference/api/prostate_mim")
    assert re.search(r'href="#prostate_mim\.PreMIM"[^>]*><span class="pre">PreMIM<', page)
    assert 'href="prostate_mim.engine.settings.html#prostate_mim.engine.settings.LoopConfig"' in page
    assert 'href="prostate_mim.errors.html#prostate_mim.errors.IntegrityError"' in page
    assert "object at 0x" not in page


def test_no_path_of_this_machine(site: Built) -> None:
    """Defaults and pictures do not say where the site was built."""
    told = [str(ROOT), str(site.checkout), str(Path.home() / ".cache")]
    for path in site.out.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [one for one in told if one.encode() in content], path.name


def test_faults_are_found(site: Built, tmp_path: Path) -> None:
    """The control of the links: planted in a copy of two real pages, each is found, and nothing else."""
    for path in ("data.html", "modality.html"):
        shutil.copy(site.out / path, tmp_path)
    before = Site(tmp_path).check()
    planted = {
        "no such file": '<a href="gone.html">x</a>',
        "no such anchor": '<a href="modality.html#no-such-place">x</a>',
        "leaves the folder of the site": '<a href="../../etc/hosts">x</a>',
    }
    loaded = [
        '<script src="https://cdn.example/x.js"></script>', '<link rel="stylesheet" href="//fonts.example/a.css">',
        '<img src="a.png" srcset="http://pictures.example/b.png 2x">', '<p style="background: url(http://a.example/c)">',
        "<style>@import 'https://b.example/d.css';</style>", '<svg><image href="https://c.example/e.png"/></svg>',
        '<meta http-equiv="refresh" content="0; url=https://d.example/">',
    ]  # fmt: skip
    (tmp_path / "a.png").touch()
    page = tmp_path / "data.html"
    page.write_text(page.read_text() + "".join([*planted.values(), *loaded]))
    (tmp_path / "x.js").write_text('fetch("https://e.example/f.json"); // see https://comment.example/')
    (tmp_path / "x.css").write_text("@font-face { src: url('https://f.example/g.woff2') }")
    after = Site(tmp_path).check()
    assert len(after.dead) - len(before.dead) == len(planted)
    assert {one.rpartition(": ")[2] for one in after.dead} >= set(planted)
    assert len(after.foreign) == len(loaded) + 2
    assert not any("comment.example" in one for one in after.foreign)


def test_a_forgotten_page_and_dead_links_stop_the_build(site: Built, tmp_path: Path) -> None:
    """The control of the build: a page outside the table of contents, and four links that lead nowhere."""
    shutil.copytree(site.doctrees, tmp_path / "doctrees")
    forgotten = site.checkout / "docs" / "aside" / "forgotten.md"
    forgotten.parent.mkdir()
    try:
        forgotten.write_text(
            "# Forgotten\n\n[a](nowhere.md), [b](../../no-such-folder/x.py), [c](../data.md#no-such-heading)\n\n"
            "![d](../../hub_cards/none.png)\n\n[fine](../../export/README.md), [too](../data.md#public-data-sets)\n"
        )
        built = build(site.checkout, tmp_path / "out", tmp_path / "doctrees", "dummy")
    finally:
        shutil.rmtree(forgotten.parent)
    assert built.code != 0
    found = [line for line in built.said.splitlines() if "forgotten.md" in line]
    assert len(found) == 5, built.said
    for said in ("nowhere.md", "no-such-folder/x.py", "no-such-heading", "none.png", "toctree"):
        assert any(said in line for line in found), said


@dataclass(frozen=True)
class Address:
    """What ``browse`` opens: a page with a question."""

    uri: str

    def as_uri(self) -> str:
        """As a Path says it."""
        return self.uri


@needs_browser
def test_the_search_finds_a_name(site: Built, tmp_path: Path) -> None:
    """Opened as a file, without a network: results are listed, and the page complains of nothing."""
    page = Address((site.out / "search.html").as_uri() + "?q=masked_twin")
    done = browse(page, tmp_path, "--dump-dom")  # type: ignore[arg-type]
    assert "Search finished" in done.stdout
    assert 'href="reference/api/prostate_mim.masked.html#prostate_mim.masked.masked_twin"' in done.stdout
    assert complaints(done.stderr) == []


@needs_browser
def test_pages_fit_a_telephone(site: Built, tmp_path: Path) -> None:
    """Nothing makes a page wider than 390 pixels; a wide table scrolls by itself. The control is 500 pixels wide."""
    names = [
        "index", "data", "search", "reference/cli/pretrain", "reference/api/prostate_mim", "reference/exit-codes",
        "repository/CONTRIBUTING", "repository/hub_cards/STUDY",
    ]  # fmt: skip
    control = tmp_path / "wide.html"
    control.write_text("<!doctype html><body style='margin: 0'><div style='width: 500px'>wide</div>")
    addresses = [*((site.out / f"{name}.html").as_uri() for name in names), control.as_uri()]
    frames = "".join(f'<iframe width="390" height="800" src="{address}"></iframe>' for address in addresses)
    script = (
        "onload = () => { document.title = [...document.querySelectorAll('iframe')]"
        ".map(f => f.contentDocument.documentElement.scrollWidth).join(' ') }"
    )
    page = tmp_path / "frames.html"
    page.write_text(f"<!doctype html><title></title>{frames}<script>{script}</script>")
    done = browse(page, tmp_path, "--dump-dom", "--allow-file-access-from-files")
    widths = re.findall(r"<title>([\d ]+)</title>", done.stdout)[0].split()
    assert dict(zip([*names, "wide"], map(int, widths), strict=True)) == {**dict.fromkeys(names, 390), "wide": 500}

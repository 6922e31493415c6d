"""The report's HTML: one file, no script, nothing loaded from anywhere, readable without a network."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

STYLE = """
:root { --ink: #1f2328; --quiet: #667085; --line: #e3e6ea; --blue: #1d4e89; --ground: #f6f7f9; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.55 system-ui, "Segoe UI", sans-serif; }
main, header > div { max-width: 78rem; margin: 0 auto; padding: 0 1.5rem; }
header { background: #fff; border-bottom: 1px solid var(--line); padding: 1.6rem 0 1.2rem; }
h1 { font-size: 1.55rem; margin: 0 0 .2rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .1rem; }
h3 { font-size: 1rem; margin: 0; }
p { margin: .4rem 0; }
.quiet { color: var(--quiet); }
.badge { display: inline-block; vertical-align: .25rem; margin-left: .6rem; padding: .08rem .65rem; border-radius: 1rem;
  font-size: .8rem; font-weight: 600; color: #fff; background: var(--quiet); }
.running { background: #2a6fbb; } .finished { background: #2e7d4f; } .stopped { background: #b54708; }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; margin-top: 1rem; }
.tile { flex: 1 1 9rem; border: 1px solid var(--line); border-radius: .5rem; padding: .55rem .8rem; }
.tile b { display: block; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
.tile span { color: var(--quiet); font-size: .82rem; }
.bar { height: .4rem; border-radius: .2rem; background: var(--line); margin-top: .9rem; overflow: hidden; }
.bar svg { display: block; width: 100%; height: 100%; }
.warnings { margin: 1.2rem 0 0; padding: 0; list-style: none; }
.warnings li { padding: .6rem .9rem; margin-bottom: .5rem; border-radius: .4rem; border-left: .35rem solid #b54708;
  background: #fff4e5; }
.warnings li.collapse { border-color: #b42318; background: #fee4e2; font-weight: 600; }
.good { margin: 1.2rem 0 0; padding: .6rem .9rem; border-radius: .4rem; border-left: .35rem solid #2e7d4f;
  background: #ecf8f0; }
.open { margin: 1.2rem 0 0; padding: .6rem .9rem; border-radius: .4rem; border-left: .35rem solid #b54708;
  background: #fff4e5; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(24rem, 1fr)); gap: 1rem; margin-top: .7rem; }
.records { align-items: start; }
.card { background: #fff; border: 1px solid var(--line); border-radius: .6rem; padding: .9rem 1rem; }
.card img { width: 100%; display: block; margin: .3rem 0; }
.card p { font-size: .86rem; color: #475467; }
.head { display: flex; justify-content: space-between; align-items: baseline; gap: .6rem; }
.now { font-weight: 600; font-variant-numeric: tabular-nums; color: var(--blue); white-space: nowrap; }
.way { font-size: .8rem; color: var(--quiet); }
.wide img { max-width: 100%; width: auto; }
table { border-collapse: collapse; font-size: .88rem; width: 100%; }
td { padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; }
td:first-child { color: var(--quiet); width: 45%; }
details summary { cursor: pointer; font-weight: 600; }
details table { margin-top: .6rem; }
footer { padding: 2rem 0 3rem; font-size: .85rem; }
@media (max-width: 30rem) { .grid { grid-template-columns: 1fr; } }
@media print { .card, .tile { break-inside: avoid; } }
"""

# Tables that are open from the start; the others are a click away.
OPENED = 3


@dataclass(frozen=True)
class Card:
    """One picture with its words.

    Attributes:
        title: above it.
        image: source of the picture, a ``data:`` address.
        alt: what it shows, for readers who do not see it.
        text: below it.
        now: the latest figure; may be empty.
        way: which way is good; may be empty.
    """

    title: str
    image: str
    alt: str
    text: str
    now: str = ""
    way: str = ""


@dataclass(frozen=True)
class Page:
    """All that the report says. Every text is plain; it is escaped here.

    Attributes:
        title: of the run.
        state: ``running``, ``finished`` or ``stopped``.
        subtitle: one line about progress and time.
        progress: share of the steps that is done, 0 to 1; None where it is not known.
        tiles: (figure, what it is).
        warnings: worst first; those that begin with or hold COLLAPSE stand out.
        verdict: (one line, whether it is good) on what is restored; None where nothing of it was measured.
        looked: the run has been observed, so that no warning means something.
        sections: (heading, one line, cards).
        pictures: the card of the reconstructions, or None.
        tables: (heading, rows of (name, value)); all but the first three are folded.
    """

    title: str
    state: str
    subtitle: str
    progress: float | None
    tiles: Sequence[tuple[str, str]]
    verdict: tuple[str, bool] | None
    warnings: Sequence[str]
    looked: bool
    sections: Sequence[tuple[str, str, Sequence[Card]]]
    pictures: Card | None
    tables: Sequence[tuple[str, Mapping[str, str]]]


def inline(data: bytes, kind: str) -> str:
    """Bytes as a ``data:`` address; ``kind`` is ``png`` or ``svg+xml``."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def render(page: Page) -> str:
    """The whole file. Its policy lets a browser load nothing but the pictures in it, and run nothing."""
    style_hash = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{style_hash}'; base-uri 'none'; form-action 'none'"
    body = [_header(page)]
    body.append("<main>")
    body += [_section(*section) for section in page.sections[:1]]
    if page.pictures is not None:
        body.append(_wide(page.pictures))
    body += [_section(*section) for section in page.sections[1:]]
    body.append(_tables(page.tables))
    body.append("</main>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(page.title)}: {html.escape(page.state)}</title>\n"
        f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _header(page: Page) -> str:
    tiles = "".join(
        f'<div class="tile"><b>{html.escape(figure)}</b><span>{html.escape(name)}</span></div>'
        for figure, name in page.tiles
    )
    return (
        f'<header><div><h1>{html.escape(page.title)}<span class="badge {html.escape(page.state)}">'
        f'{html.escape(page.state)}</span></h1><p class="quiet">{html.escape(page.subtitle)}</p>'
        f'{_bar(page.progress)}{_verdict(page.verdict)}{_warnings(page)}<div class="tiles">{tiles}</div></div></header>'
    )


def _bar(progress: float | None) -> str:
    """A drawn bar: a width given in a style attribute would be refused by the page's own policy."""
    if progress is None:
        return ""
    width = 100 * min(1.0, max(0.0, progress))
    return (
        f'<div class="bar"><svg viewBox="0 0 100 1" preserveAspectRatio="none" role="img" aria-label="{width:.0f} % '
        f'done"><rect width="{width:.2f}" height="1" fill="#1d4e89"/></svg></div>'
    )


def _verdict(verdict: tuple[str, bool] | None) -> str:
    if verdict is None:
        return ""
    text, good = verdict
    return f'<p class="{"good" if good else "open"}">{html.escape(text)}</p>'


def _warnings(page: Page) -> str:
    if page.warnings:
        items = "".join(
            f'<li class="{"collapse" if "COLLAPSE" in text else "note"}">{html.escape(text)}</li>'
            for text in page.warnings
        )
        return f'<ul class="warnings" role="alert">{items}</ul>'
    if page.looked:
        return '<p class="good">No warning: embeddings and predictions show no sign of a collapse.</p>'
    return '<p class="quiet">Nothing has been measured on the watched studies yet.</p>'


def _section(heading: str, line: str, cards: Sequence[Card]) -> str:
    if not cards:
        return ""
    drawn = "".join(_card(card) for card in cards)
    return (
        f'<section><h2>{html.escape(heading)}</h2><p class="quiet">{html.escape(line)}</p>'
        f'<div class="grid">{drawn}</div></section>'
    )


def _card(card: Card) -> str:
    way = f'<div class="way">{html.escape(card.way)}</div>' if card.way else ""
    return (
        f'<article class="card"><div class="head"><h3>{html.escape(card.title)}</h3>'
        f'<span class="now">{html.escape(card.now)}</span></div>{way}'
        f'<img alt="{html.escape(card.alt)}" src="{card.image}"><p>{html.escape(card.text)}</p></article>'
    )


def _wide(card: Card) -> str:
    return (
        f'<section><h2>{html.escape(card.title)}</h2><p class="quiet">{html.escape(card.text)}</p>'
        f'<div class="card wide"><img alt="{html.escape(card.alt)}" src="{card.image}"></div></section>'
    )


def _tables(tables: Sequence[tuple[str, Mapping[str, str]]]) -> str:
    drawn = []
    for number, (heading, rows) in enumerate(tables):
        if not rows:
            continue
        cells = "".join(f"<tr><td>{html.escape(k)}</td><td>{html.escape(v)}</td></tr>" for k, v in rows.items())
        opened = " open" if number < OPENED else ""
        drawn.append(
            f'<details class="card"{opened}><summary>{html.escape(heading)}</summary><table>{cells}</table></details>'
        )
    return f'<section><h2>Records</h2><div class="grid records">{"".join(drawn)}</div></section>' if drawn else ""

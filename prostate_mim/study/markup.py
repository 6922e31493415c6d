"""Pieces of the report's HTML: document, figures, tables, thumbnails. Every text is plain and is escaped here."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Mapping, Sequence

from prostate_mim.health.page import STYLE, inline
from prostate_mim.study.charts import Drawing, svg
from prostate_mim.study.tables import Table

_SHADES = 10
_LONG_CELL = 48  # letters of a cell that goes on over several lines
_OWN_STYLE = (
    """
main section { margin-top: 2.4rem; }
h2 { font-size: 1.35rem; border-bottom: 2px solid var(--ink); padding-bottom: .25rem; }
h3 { font-size: 1.1rem; margin: 1.8rem 0 .3rem; }
h4 { font-size: .95rem; margin: 0 0 .4rem; }
nav { background: #fff; border-bottom: 1px solid var(--line); position: sticky; top: 0; z-index: 2; }
nav ul { max-width: 78rem; margin: 0 auto; padding: .5rem 1.5rem; list-style: none; display: flex; flex-wrap: wrap;
  gap: .2rem 1.2rem; font-size: .88rem; }
a { color: var(--blue); }
:target { scroll-margin-top: 3rem; }
section { scroll-margin-top: 3rem; }
figure { margin: 1rem 0; background: #fff; border: 1px solid var(--line); border-radius: .6rem; padding: .9rem 1rem; }
figure img { max-width: 100%; height: auto; display: block; margin: 0 auto; }
figcaption { font-size: .86rem; color: #475467; margin-top: .4rem; }
.glance { margin: .6rem 0; padding: .7rem 1rem .7rem 2rem; background: #fff; border-left: .3rem solid var(--blue); }
.glance li { margin: .25rem 0; }
.scroll { overflow-x: auto; background: #fff; border: 1px solid var(--line); border-radius: .6rem;
  padding: .4rem 1rem .7rem; margin-top: .7rem; }
details .scroll { border: 0; padding: 0; margin: 0; }
table.data { width: auto; min-width: 50%; font-variant-numeric: tabular-nums; }
table.data th { text-align: right; padding: .3rem .9rem .3rem 0; border-bottom: 1.5px solid var(--ink);
  vertical-align: bottom; font-size: .82rem; }
table.data td { text-align: right; white-space: nowrap; overflow-wrap: normal; }
table.data th.word, table.data td.word { text-align: left; }
table.data td.long { white-space: normal; min-width: 22rem; font-size: .82rem; }
table.data td:first-child { color: inherit; width: auto; }
table.data tr:last-child td { border-bottom: 1.5px solid var(--ink); }
table.data tbody tr:hover td { background: #eef3f9; }
details.card { margin: .7rem 0; }
details.card > div { margin-top: .6rem; }
table.cases td, table.cases th { padding: .15rem .4rem; border-bottom: 1px solid var(--line); text-align: center;
  width: auto; }
table.cases td:first-child { color: inherit; width: auto; }
table.cases thead th { position: sticky; top: 0; background: #fff; font-size: .78rem; vertical-align: bottom; }
table.cases td { font-variant-numeric: tabular-nums; vertical-align: middle; }
table.cases img { display: block; height: 72px; width: auto; }
.tall { max-height: 42rem; overflow: auto; }
td.positive { font-weight: 700; }
dl.read { display: grid; grid-template-columns: minmax(9rem, 14rem) 1fr; gap: .5rem 1.2rem; background: #fff;
  border: 1px solid var(--line); border-radius: .6rem; padding: 1rem 1.2rem; }
dl.read dt { font-weight: 600; } dl.read dd { margin: 0; }
.traps { background: #fff4e5; border-left: .35rem solid #b54708; padding: .7rem 1rem .7rem 2rem; }
.traps li { margin: .3rem 0; }
@media print { nav { position: static; } figure { break-inside: avoid; } .tall { max-height: none; } }
"""
    # From white to a blue on which dark ink is still read; the number is in the cell as well.
    + "\n".join(f"td.p{step} {{ background: hsl(211 45% {97 - 5 * step}%); }}" for step in range(_SHADES))
)


def document(title: str, body: Iterable[str]) -> str:
    """The whole file. Its policy lets a browser load nothing but the pictures in it, and run nothing."""
    style = STYLE + _OWN_STYLE
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def escape(text: str) -> str:
    """Plain text as HTML, quotation marks too."""
    return html.escape(text)


def anchor(text: str) -> str:
    """A text as the name of a place on the page."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def header(title: str, subtitle: str, tiles: Sequence[tuple[str, str]]) -> str:
    """Title, one line, and (figure, what it is) tiles."""
    drawn = "".join(f'<div class="tile"><b>{escape(a)}</b><span>{escape(b)}</span></div>' for a, b in tiles)
    return (
        f'<header><div><h1>{escape(title)}</h1><p class="quiet">{escape(subtitle)}</p>'
        f'<div class="tiles">{drawn}</div></div></header>'
    )


def navigation(headings: Iterable[str]) -> str:
    """Links to the sections of these headings."""
    links = "".join(f'<li><a href="#{anchor(each)}">{escape(each)}</a></li>' for each in headings)
    return f'<nav aria-label="Sections"><ul>{links}</ul></nav>'


def section(heading: str, line: str, inside: Iterable[str]) -> str:
    """A part of the page that the navigation leads to."""
    quiet = f'<p class="quiet">{escape(line)}</p>' if line else ""
    return f'<section id="{anchor(heading)}"><h2>{escape(heading)}</h2>{quiet}{"".join(inside)}</section>'


def figure(drawing: Drawing) -> str:
    """A drawing with its heading, its description and its caption."""
    return (
        f"<figure><h4>{escape(drawing.title)}</h4>"
        f'<img alt="{escape(drawing.alt)}" src="{inline(svg(drawing), "svg+xml")}">'
        f"<figcaption>{escape(drawing.text)}</figcaption></figure>"
    )


def table(given: Table) -> str:
    """A table with its note; words to the left, numbers to the right."""
    kinds = [' class="word"' if place < given.words else "" for place in range(len(given.header))]
    head = "".join(f'<th scope="col"{kind}>{escape(name)}</th>' for kind, name in zip(kinds, given.header, strict=True))
    rows = "".join(
        "<tr>" + "".join(_cell(cell, kind) for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in given.rows
    )
    return (
        f'<div class="scroll"><table class="data"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        f'<p class="quiet">{escape(given.note)}</p>'
    )


def _cell(text: str, kind: str) -> str:
    kind = ' class="word long"' if kind and len(text) > _LONG_CELL else kind
    return f"<td{kind}>{escape(text)}</td>"


def folded(summary: str, inside: str, *, opened: bool = False) -> str:
    """Something that is a click away."""
    return (
        f'<details class="card"{" open" if opened else ""}><summary>{escape(summary)}</summary>'
        f"<div>{inside}</div></details>"
    )


def name_value_table(rows: Mapping[str, str]) -> str:
    """One row a name, its value beside it."""
    cells = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows.items())
    return f"<table>{cells}</table>"


def listed(lines: Iterable[str], kind: str) -> str:
    """Lines as a list of the given class; nothing where there are none."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="{kind}">{items}</ul>' if items else ""


def probability_cell(value: float | None) -> str:
    """``0.73`` on a ground that is the darker the higher it is."""
    if value is None:
        return "<td>–</td>"
    return f'<td class="p{min(_SHADES - 1, int(value * _SHADES))}">{value:.2f}</td>'


def thumbnail(data: bytes | None, alt: str) -> str:
    """A PNG as a small picture in a cell; an empty cell without one."""
    return f'<td><img alt="{escape(alt)}" src="{inline(data, "png")}"></td>' if data else "<td></td>"

"""Fill in the tables of docs/performance.md: ``python docs/performance_tables.py --write``; without it, print the page.

Tables of models come from hub_cards/*/bench.json and results.json, as the scripts that measured wrote them. Tables that
another page publishes are copied from there, so that they stand here too and cannot differ. Nothing is measured here.
tests/docs/test_performance.py compares page and files.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prostate_mim.files import write_text

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
TABLE = re.compile(r"(<!-- table: (\w+) -->\n\n)(.*?)(\n<!-- /table -->)", re.DOTALL)
EAGER, OFFERED = "torch eager", ("ONNX Runtime CPU", "OpenVINO CPU")
# name of a table here -> page, and how the table's header line begins there
_STEP = "| arch | ratio | block | path | step, s | least, s | speed vs SparK-style | vs dense |"
COPIED = {
    "masked_step": ("docs/masked-engine.md", f"{_STEP}\n"),
    "masked_peak": ("docs/masked-engine.md", f"{_STEP} peak, MB |"),
    "loader": ("docs/training.md", "| workers | arm | crops/s |"),
    "preprocessing": ("docs/data.md", "| files | 1 process: monai |"),
    "load_test": ("export/README.md", "| time | good studies |"),
}


def benches() -> dict[str, dict[str, Any]]:
    """Model -> its bench.json, in the order of names."""
    found = {path.parent.name: json.loads(path.read_text()) for path in sorted(ROOT.glob("hub_cards/*/bench.json"))}
    if not found:
        raise FileNotFoundError("no hub_cards/*/bench.json; this needs a checkout of the repository")
    return found


def measured(bench: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Engine -> its row, of those that were there."""
    return {row["engine"]: row for row in bench["engines"] if row["median_ms"] is not None}


def _rows(cell: Callable[[dict[str, Any]], str], fastest: bool) -> str:
    """A Markdown table of models by engines."""
    found = benches()
    engines = list(dict.fromkeys(name for bench in found.values() for name in measured(bench)))
    lines = ["| model | " + " | ".join(engines) + " |", "|:--|" + "--:|" * len(engines)]
    for name, bench in found.items():
        rows = measured(bench)
        best = min(rows, key=lambda engine: rows[engine]["median_ms"]) if fastest else ""
        cells = [cell(rows[engine]) if engine in rows else "" for engine in engines]
        cells = [f"**{text}**" if engine == best else text for engine, text in zip(engines, cells, strict=True)]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def engines_table() -> str:
    """Median and 90th percentile in ms; the fastest engine in bold, offered or not."""
    return _rows(lambda row: f"{row['median_ms']:.1f} ({row['p90_ms']:.1f})", fastest=True)


def memory_table() -> str:
    """Resident memory of each engine, MB."""
    return _rows(lambda row: "" if row["memory_mb"] is None else f"{row['memory_mb']:.0f}", fastest=False)


def whole_table() -> str:
    """From a study's file to its probability with the engine that is taken, ms."""
    lines = ["| model | engine | reading | network | file to probability |", "|:--|:--|--:|--:|--:|"]
    for name, bench in benches().items():
        whole = bench["whole"]
        times = " | ".join(f"{whole[key]:.0f}" for key in ("reading", "network", "all"))
        lines.append(f"| `{name}` | {bench['winner']} | {times} |")
    return "\n".join(lines) + "\n"


def conditions() -> str:
    """Hardware, threads, versions and what could not be measured: a line for every different set of them."""
    groups: dict[str, list[str]] = {}
    for name, bench in benches().items():
        versions = ", ".join(f"{package} {version}" for package, version in bench["versions"].items())
        absent = sorted({row["engine"] for row in bench["engines"] if row["median_ms"] is None})
        shape = " x ".join(str(n) for n in bench["shape"])
        said = (
            f"{bench['hardware']}, {bench['threads']} threads, {versions}; input {shape}, {bench['rounds']} rounds in "
            f"turns; not measured: {', '.join(absent) or 'nothing'}"
        )  # fmt: skip
        groups.setdefault(said, []).append(f"`{name}`")
    return "\n".join(f"- {', '.join(names)}: {said}." for said, names in groups.items()) + "\n"


def unfavourable() -> str:
    """What speaks against the engines that are offered, found in the files."""
    lines = []
    for name, bench in benches().items():
        rows = measured(bench)
        best = min((rows[engine]["median_ms"], engine) for engine in OFFERED if engine in rows)
        for engine, row in rows.items():
            if engine not in OFFERED and row["median_ms"] < best[0]:
                lines.append(
                    f"- `{name}`: {engine} takes {row['median_ms']:.1f} ms, the fastest that is offered ({best[1]}) "
                    f"{best[0]:.1f} ms."
                )
        lines += [
            f"- `{name}`: {engine} is slower than torch eager ({rows[engine]['median_ms']:.1f} against "
            f"{rows[EAGER]['median_ms']:.1f} ms)."
            for engine in rows
            if rows[engine]["median_ms"] > rows[EAGER]["median_ms"]
        ]
    return "\n".join(lines) + "\n"


def cost_table() -> str:
    """What pretraining a published model cost."""
    lines = ["| model | steps | crops | core hours | on |", "|:--|--:|--:|--:|:--|"]
    for path in sorted(ROOT.glob("hub_cards/*/results.json")):
        cost = json.loads(path.read_text())["cost"]
        numbers = f"{cost['steps']:,} | {cost['crops']:,} | {cost['core_hours']:g}"
        lines.append(f"| `{path.parent.name}` | {numbers} | {cost['hardware']} |")
    return "\n".join(lines) + "\n"


def copied(page: str, header: str) -> str:
    """The table of another page whose header begins so.

    Raises:
        ValueError: it is not there exactly once.
    """
    text = (ROOT / page).read_text(encoding="utf-8")
    if text.count(header) != 1:
        raise ValueError(f"{page}: {text.count(header)} tables begin with {header!r}, expected one")
    return text[text.index(header) :].split("\n\n")[0].rstrip("\n") + "\n"


TABLES: dict[str, Callable[[], str]] = {
    "engines": engines_table,
    "memory": memory_table,
    "whole": whole_table,
    "conditions": conditions,
    "unfavourable": unfavourable,
    "cost": cost_table,
    **{name: lambda where=where: copied(*where) for name, where in COPIED.items()},
}


def filled_in(text: str) -> str:
    """The page with every table made anew."""
    return TABLE.sub(lambda found: found[1] + TABLES[found[2]]() + found[4], text)


def main() -> None:
    """Write the page, or print it."""
    made = filled_in(PAGE.read_text(encoding="utf-8"))
    if "--write" in sys.argv[1:]:
        write_text(PAGE, made)
    else:
        sys.stdout.write(made)


if __name__ == "__main__":
    main()

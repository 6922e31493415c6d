"""bench: which engine is fastest here, and whether all give the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from prostate_mim.cli import options
from prostate_mim.console import show, whole_numbers


def bench(
    model: options.NamedModel = options.DEFAULT_MODEL,
    batch: Annotated[int, typer.Option(help="Lesions at once.")] = 1,
    size: Annotated[str, typer.Option(help="Crop, voxels 'D,H,W'; the model's own if empty.")] = "",
    threads: Annotated[int, typer.Option(help="Of the CPU; all cores if 0.")] = 0,
    rounds: Annotated[int, typer.Option(help="Turns of each engine, of three counted calls.")] = 10,
    memory: Annotated[bool, typer.Option(help="Peak memory, each engine in a process of its own.")] = True,
    out: Annotated[Path | None, typer.Option("--out", help="Also write it as JSON.")] = None,
    as_json: options.Json = False,
) -> None:
    """Time a model on every engine of this machine, and pick the fastest that gives torch's numbers."""
    from prostate_mim.bench.run import run_bench
    from prostate_mim.engine.tracker import progress_bar
    from prostate_mim.files import make_folder, write_text
    from prostate_mim.loading import load_model

    if out is not None:
        make_folder(out.parent)
    asked = whole_numbers(size, "--size") if size else None
    loaded = load_model(model)
    with progress_bar() as bar:
        task = bar.add_task("measuring", total=None)
        found = run_bench(
            loaded, batch=batch, size_zyx=asked, threads=threads, rounds=rounds, memory=memory,
            progress=lambda done, total, what: bar.update(task, completed=done, total=total, description=what),
        )  # fmt: skip
    if out is not None:
        write_text(out, json.dumps(found.to_dict(), indent=2) + "\n")
    if as_json:
        show(found.to_dict(), True)
        return
    for line in found.lines():
        typer.echo(line)

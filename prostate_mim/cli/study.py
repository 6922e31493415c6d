"""The command study: a grid of initialisations, label fractions and seeds, from one TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prostate_mim.cli import options as o
from prostate_mim.console import show


def study_command(
    config: Annotated[Path, typer.Argument(help="TOML file of the study: tasks, arms, fractions, seeds.")],
    out: o.Out,
    data: Annotated[
        Path | None, o.option(help="Where relative paths of manifests start.", default="CONFIG's folder")
    ] = None,
    store: Annotated[Path | None, o.option("--store", help="Folder of prepared studies.", default="OUT/store")] = None,
    encoders: Annotated[
        Path | None,
        o.option("--encoders", help="Folder of encoders that studies share.", default="OUT"),
    ] = None,
    engine: Annotated[str, typer.Option(help="serial, process or ray; the numbers are the same.")] = "serial",
    workers: Annotated[int, typer.Option(min=1, help="Processes of --engine process and ray.")] = 2,
    only: Annotated[str, typer.Option(help="Compute a part: arm=random,task=lesions,seed=0.")] = "",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Go on without arms and cells that fail; failures.csv names them.")
    ] = False,
    report: Annotated[bool, typer.Option("--report", help="Write OUT/report.html and tables afterwards.")] = False,
    as_json: o.Json = False,
) -> None:
    """Compare initialisations: same network, same folds, same schedule; run again to go on after an interruption."""
    from prostate_mim.study import read_study, run_study

    resolved = read_study(config, data)
    made = run_study(
        resolved, out, engine=engine, workers=workers, only=only, store=store, encoders=encoders, skip_bad=skip_bad
    )
    values = {
        "out": str(made.out), "cells": made.cells, "done": made.done, "computed": made.computed,
        "missing": made.missing, "failures": len(made.failures),
        "controls_failed": [verdict["name"] for verdict in made.controls if verdict["passed"] is False],
    }  # fmt: skip
    if report:
        from prostate_mim.study.page import write_study_report
        from prostate_mim.study.tables import write_tables

        write_tables(made.out)
        values["report"] = str(write_study_report(made.out))
    show(values, as_json)

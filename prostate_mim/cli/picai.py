"""The command picai: a finetune run on whole studies, as the PI-CAI challenge's scorer reads and scores it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prostate_mim.cli import options
from prostate_mim.console import bar, plain, show
from prostate_mim.errors import VerificationError

if TYPE_CHECKING:
    from prostate_mim.metrics import PicaiFigures
    from prostate_mim.saliency.picai import PicaiRun

_NEAR = 1e-6


def picai(
    run: Annotated[Path, typer.Argument(help="Finetune run with --level study, and --ensemble or --test-fold.")],
    manifest: Annotated[Path, typer.Option("--manifest", help="CSV that the run was made from.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write for picai_eval; new or empty.")],
    device: options.Device = None,
    as_json: options.Json = False,
) -> None:
    """Write a run for picai_eval: each study's out-of-fold probability, at the hottest place of a saliency map.

    The map is drawn by the model that had not seen the patient. Where the package picai_eval is installed, its AUROC,
    average precision and score are printed beside this package's AUROC.
    """
    from prostate_mim.metrics import score_picai
    from prostate_mim.saliency.picai import write_run_picai

    with bar("drawing candidates") as advance:
        made = write_run_picai(run, manifest, out, device=device or "auto", progress=advance)
    figures = score_picai(made.folder)
    if figures is not None and not (abs(figures.auroc - made.auroc) <= _NEAR and figures.cases == made.studies):
        raise VerificationError(
            f"{out}: picai_eval finds AUROC {figures.auroc:.6f} in {figures.cases} studies, prostate-mim "
            f"{made.auroc:.6f} in {made.studies}; the files are not what was predicted, report it"
        )
    if as_json:
        show(plain(made) | {"picai_eval": None if figures is None else plain(figures)}, True)
        if figures is None:
            typer.echo(_missing(made.folder), err=True)
        return
    for line in _lines(made, figures):
        typer.echo(line)


def _lines(made: PicaiRun, figures: PicaiFigures | None) -> list[str]:
    """For a person."""
    lines = [
        f"{made.folder}: {made.studies} studies, {made.positives} of them positive; files are named by manifest row",
        f"left out, positive but without a delineation: {_rows(made.left_out)}",
    ]
    if made.moved:
        lines.append(f"{_rows(made.moved)}: delineation on another grid than the t2w, put there by place")
    if made.unplaced:
        lines.append(
            f"{_rows(made.unplaced)}: empty map, so that the candidate is at the middle of the crop (usual for a model "
            "that was trained little); the probability is unaffected, AP suffers"
        )
    lines.append(f"prostate-mim: AUROC {made.auroc:.4f}")
    if figures is None:
        return [*lines, _missing(made.folder)]
    return [
        *lines,
        f"picai_eval: AUROC {figures.auroc:.4f}, AP {figures.average_precision:.4f}, score {figures.score:.4f} "
        f"({figures.cases} studies, {figures.lesions} lesions)",
    ]


def _missing(folder: Path) -> str:
    """How to get what this package does not compute."""
    return f"for AP and score: pip install picai_eval, then in Python picai_eval.evaluate_folder({str(folder)!r})"


def _rows(numbers: tuple[int, ...]) -> str:
    """How many studies, and which rows the first of them are."""
    if not numbers:
        return "no study"
    shown = ", ".join(map(str, numbers[:3])) + (", ..." if len(numbers) > 3 else "")
    return f"{len(numbers)} {'study' if len(numbers) == 1 else 'studies'} (row {shown})"

"""Every case of a study as one line: what it is, its picture if there is one, and what each arm said of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from prostate_mim.study import markup
from prostate_mim.study.evidence import Evidence, Group, Scores

FOLDER = "cases"
_PNG = b"\x89PNG\r\n\x1a\n"
_MOST_BYTES = 200_000
_ABOUT_PICTURES = (
    " Left half of a picture: the crop's middle slice. Right half: what spoke for label 1, by a classifier that was "
    "not fitted on that patient; a map shows where a network looked, not why, nor whether it was right to."
)


def case_table(evidence: Evidence, group: Group, fraction: float, out: Path, *, pictures: bool) -> str:
    """A table with one line a row of the manifest, in its order: what it is, and each arm's mean probability.

    Args:
        group: whose predictions; "" is returned where it has none.
        fraction: share of the labels.
        out: the study's folder; ``cases/<task>/<row>.png`` are shown where they are there (``cases/<row>.png`` too,
            where the study has one task of lesions).
        pictures: show them.
    """
    scores = {arm: evidence.scores.get((group, fraction, arm)) for arm in evidence.spans[group].arms}
    known: dict[str, Scores] = {arm: one for arm, one in scores.items() if one is not None}
    if not known:
        return ""
    rows = sorted({int(row) for one in known.values() for row in one.rows})
    folder = case_folder(evidence, group.task, out)
    shown = {row: data for row in rows if pictures and (data := _picture(folder / f"{row}.png"))}
    names = ["row", *(["crop and saliency"] if shown else []), "zone", "label", "patient", *known]
    head = "".join(f'<th scope="col">{markup.escape(name)}</th>' for name in names)
    places = {arm: {int(row): at for at, row in enumerate(one.rows)} for arm, one in known.items()}
    lines = (_line(row, known, places, shown) for row in rows)
    seeds = min(one.seeds for one in known.values())
    return (
        f'<p class="quiet">Rows of the manifest, in its order. Probability of label 1, out of fold, averaged over '
        f"{seeds} seed{'s' if seeds != 1 else ''}; the darker, the higher. Label 1 is set in bold. Patients are "
        f"running numbers.{_ABOUT_PICTURES if shown else ''}</p>"
        f'<div class="tall"><table class="cases"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
        "</div>"
    )


def _line(
    row: int, known: Mapping[str, Scores], places: Mapping[str, Mapping[int, int]], shown: Mapping[int, bytes]
) -> str:
    arm, at = next((arm, places[arm][row]) for arm in known if row in places[arm])
    one = known[arm]
    label = int(one.labels[at])
    cells = [f"<td>{row}</td>"]
    if shown:
        cells.append(markup.thumbnail(shown.get(row), f"row {row}: middle slice of the crop, and its saliency map"))
    cells.append(f"<td>{markup.escape(one.zones[at]) or '–'}</td>")
    kind = ' class="positive"' if label else ""
    cells.append(f"<td{kind}>{label}</td><td>{one.patients[at]}</td>")
    for name, other in known.items():
        place = places[name].get(row)
        cells.append(markup.probability_cell(None if place is None else float(other.probabilities[place])))
    return f"<tr>{''.join(cells)}</tr>"


def case_folder(evidence: Evidence, task: str, out: Path) -> Path:
    """Where a task's pictures are: its own folder in ``cases``, or ``cases`` itself for the only task of lesions."""
    own = task_folder(out, task)
    lesions = {group.task for group, _, _ in evidence.scores}
    return own if own.is_dir() or len(lesions) > 1 else out / FOLDER


def task_folder(out: Path, task: str) -> Path:
    """The folder that ``write_cases`` fills."""
    return out / FOLDER / (markup.anchor(task) or "task")


def _picture(path: Path) -> bytes | None:
    """A PNG of a reasonable size, or None: the page shows nothing else."""
    if not path.is_file() or path.stat().st_size > _MOST_BYTES:
        return None
    data = path.read_bytes()
    return data if data.startswith(_PNG) else None

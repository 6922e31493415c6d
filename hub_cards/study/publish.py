"""Write STUDY.md, study/RESULTS.md and its figures: ``python hub_cards/study/publish.py --studies OUT --data DIR``.

OUT holds ``study``, ``finetune`` and ``recipe``: the folders of ``prostate-mim study`` with the configuration of that
name. DIR is that of ``make_data.py``.
Every number of the page is computed here from their tables, or by ``tabular.py`` from DIR. Which arm is best is seen on
the tested patients themselves, so the best one's interval is too narrow; the page says so, and shows every arm.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import tabular
from answer import IMAGENET, RANDOM, again, bars, kinds, landscape, missing, networks, places
from rows import is_estimate, rows_of, spanned

from prostate_mim.errors import ProstateMimError
from prostate_mim.files import make_folder, write_text
from prostate_mim.study.markdown import study_markdown
from prostate_mim.study.records import COMPARISONS, RESULTS, STUDY

HERE = Path(__file__).resolve().parent
PAGE, DETAILS, FIGURES = HERE.parent / "STUDY.md", HERE / "RESULTS.md", HERE / "figures"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=Path, required=True, help="holds study, finetune and recipe, all finished")
    parser.add_argument("--data", type=Path, required=True, help="folder of make_data.py")
    given = parser.parse_args()
    study, text = given.studies / "study", (HERE / "intro.md").read_text(encoding="utf-8")
    for name, made in (
        ("missing", missing(study)),
        ("landscape", landscape(study)),
        ("kinds", kinds(study)),
        ("bars", bars(study)),
        ("again", again(study)),
        ("places", places(study)),
        ("networks", networks(study)),
        ("finetune", finetuned(given.studies / "finetune")),
        ("recipe", recipe(given.studies / "recipe")),
        ("tabular", tabular.table(tabular.crops(given.data / "crops.csv"))),
        ("phantom-places", tabular.table(tabular.places(given.data / "phantoms.csv"))),
    ):
        text = text.replace(f"<!-- {name} -->", made)
    shutil.rmtree(FIGURES, ignore_errors=True)
    write_text(DETAILS, study_markdown(study, make_folder(FIGURES), prefix="figures/"))
    write_text(PAGE, text)
    write_text(HERE / STUDY, (study / STUDY).read_text(encoding="utf-8"))


def finetuned(out: Path) -> str:
    """Every arm of the fine-tuning study, and its paired difference from random weights of its network."""
    rows = [row for row in rows_of(out, RESULTS) if is_estimate(row)]
    pairs = [row for row in rows_of(out, COMPARISONS) if row["second"] == RANDOM]
    keys = ("task", "architecture", "mode", "metric")
    against = {(*(row[key] for key in keys), row["first"]): row for row in pairs}
    lines = [
        "| task | network | weights trained | arm | AUROC (95 % interval) | minus random | detectable |",
        "| :-- | :-- | :-- | :-- | --: | --: | --: |",
    ]
    for row in rows:
        if row["metric"] != "auroc" or row["level"] == "patient":
            continue
        found = against.get((*(row[key] for key in keys), row["arm"]))
        difference, least = (
            ("", "") if found is None else (spanned(found, "difference", "+"), f"{found['detectable']:.3f}")
        )
        trained = "all" if row["mode"] == "full" else "head only"
        cells = (row["task"], row["architecture"], trained, row["arm"], spanned(row, "value"), difference, least)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def recipe(out: Path) -> str:
    """The arms of the search, in its order, and their paired differences from ImageNet's weights."""
    kept = [row for row in rows_of(out, RESULTS) if is_estimate(row)]
    found = {(row["arm"], row["metric"]): row for row in kept}
    pairs = [row for row in rows_of(out, COMPARISONS) if row["second"] == IMAGENET[0] and row["metric"] == "auroc"]
    over = {row["first"]: spanned(row, "difference", "+") for row in pairs}
    lines = ["| arm | AUROC (95 % interval) | minus ImageNet | Dice |", "| :-- | --: | --: | --: |"]
    for arm in dict.fromkeys(row["arm"] for row in kept):
        own, dice = spanned(found[arm, "auroc"], "value"), found[arm, "dice"]["value"]
        lines.append(f"| {arm} | {own} | {over.get(arm, '')} | {dice:.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main()
    except ProstateMimError as error:
        raise SystemExit(f"error: {error}") from None

"""Publish a trained model: ``publish.py NAME --work DIR`` (after train.py).

Scores it (unless results.json is of these weights already), draws its pictures, writes its card and puts everything
into hub_cards/NAME, the default model also into the package, and models.json. ``--card-only`` writes the cards anew.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import make_registry
from cards import CARD, CARDS, RESULTS, render
from pictures import draw
from speed import is_of, measure

from prostate_mim.files import sha256_of, write_text
from prostate_mim.hub.release import FILES, WEIGHTS, read_release, write_sums
from prostate_mim.hub.resolve import BUNDLED, BUNDLED_DEFAULT

LARGEST = {"one": 40e6, "all": 200e6, "wheel": 12e6}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="*", help="all that are published, with --card-only")
    parser.add_argument("--work", type=Path, default=Path(), help="of train.py")
    parser.add_argument("--card-only", action="store_true")
    given = parser.parse_args()
    for name in given.name or sorted(path.parent.name for path in CARDS.glob(f"*/{RESULTS}")):
        if not given.card_only:
            take_over(name, given.work)
        if not is_of(CARDS / name, sha256_of(CARDS / name / WEIGHTS)):
            measure(CARDS / name, None if given.card_only else given.work / name / "release")
        write_card(name)
    make_registry.main()
    check_sizes()


def take_over(name: str, work: Path) -> None:
    """Weights, scores and pictures of a trained model."""
    release, folder = work / name / "release", CARDS / name
    scored = json.loads((folder / RESULTS).read_text()) if (folder / RESULTS).exists() else {}
    if scored.get("weights_sha256") != sha256_of(release / WEIGHTS):
        script = Path(__file__).with_name("evaluate.py")
        subprocess.run([sys.executable, str(script), name, "--work", str(work)], check=True)
    for file in FILES:
        if file != CARD and (release / file).exists():
            shutil.copyfile(release / file, folder / file)
    draw(release, folder, work)


def write_card(name: str) -> None:
    """The card, and the checksums that hold it too; the default model's folder goes into the package."""
    folder = CARDS / name
    write_text(folder / CARD, render(folder))
    write_sums(folder)
    read_release(folder)
    if name == BUNDLED_DEFAULT:
        for file in FILES:
            if (folder / file).exists():
                shutil.copyfile(folder / file, BUNDLED / name / file)


def check_sizes() -> None:
    """What fits: 40 MB a file, 200 MB together, 12 MB of the default in the wheel."""
    weights = {path.parent.name: path.stat().st_size for path in CARDS.glob(f"*/{WEIGHTS}")}
    wheel = sum(path.stat().st_size for path in (BUNDLED / BUNDLED_DEFAULT).iterdir())
    for title, size, most in (
        ("the largest file", max(weights.values()), LARGEST["one"]),
        ("all weights", sum(weights.values()), LARGEST["all"]),
        ("the default in the wheel", wheel, LARGEST["wheel"]),
    ):
        sys.stdout.write(f"{title}: {size / 1e6:.1f} MB of {most / 1e6:.0f}\n")
        if size > most:
            raise SystemExit(f"{title} is too large")


if __name__ == "__main__":
    main()

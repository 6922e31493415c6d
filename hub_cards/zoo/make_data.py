"""Manifests and phantoms of the zoo: ``python hub_cards/zoo/make_data.py --data ../shared/data --out DIR``.

Nobody in ``hub_cards/heldout.json`` is in what is trained on:

* ``real.csv``: every axial T2w volume that is not held out. The 2D lesion crops are not in it: a slice that is repeated
  to make a volume shows in its neighbours what is hidden in one of them.
* ``pretrain-N.csv``: those and N phantoms; ``mixture.toml`` compares them, ``training.toml`` of a model names one.
* ``development.csv``: the PROMISE12 cases among them in 3 folds, for choosing the mixture.
* ``gland.csv``, ``crops.csv``: every study with a gland mask, and every lesion crop; fold 1 is held out, fold 0 not.
* ``heldout.csv``: the held-out volumes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from prostate_mim.phantom import write_cohort

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "real"), str(ROOT / "hub_cards" / "study")]
import make_manifests as real  # noqa: E402
from choose_heldout import read_heldout  # noqa: E402
from make_data import UNLABELLED, moved, write  # noqa: E402

SEED = 20261129
MIXTURES = (44, 176)  # phantoms beside the 44 real volumes
DEVELOPMENT_FOLDS = 3
Row = dict[str, str]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data")
    parser.add_argument("--out", type=Path, required=True, help="where the manifests and phantoms go")
    given = parser.parse_args()
    data, out = given.data.resolve(), given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    known = real.pretrain_rows(data, out)
    write_unlabelled(out / "real.csv", known)
    phantoms = make_phantoms(out)
    for count in MIXTURES:
        write_unlabelled(out / f"pretrain-{count}.csv", known + phantoms[:count])
    write_tested(data, out, known)


def make_phantoms(out: Path) -> list[Row]:
    """As many as the largest mixture needs, made once."""
    if not (out / "phantoms" / "studies.csv").exists():
        write_cohort(out / "phantoms", max(MIXTURES), SEED)
    return moved(out / "phantoms" / "studies.csv", out)


def write_tested(data: Path, out: Path, known: list[Row]) -> None:
    """The manifests of probes and of held-out volumes."""
    cases = [row for row in known if row["study_id"].startswith("promise12")]
    write(
        out / "development.csv",
        [row | {"fold": str(n % DEVELOPMENT_FOLDS)} for n, row in enumerate(with_columns(cases))],
    )
    held_out = real.pretrain_rows(data, out, heldout=True)
    write(out / "heldout.csv", with_columns(held_out))
    # Patient 0001 has two series with one mask; the one that the findings lie on counts.
    twice = {f"{who}-series{series}" for who, series, _ in real.prostatex_series(data)} - {
        f"{who}-series{series}" for who, (series, _) in real.findings_series(data).items()
    }
    masked = [row for row in known + held_out if row.get("gland_mask") and row["study_id"] not in twice]
    apart = {row["patient_id"] for row in held_out}
    write(out / "gland.csv", [row | {"fold": str(int(row["patient_id"] in apart))} for row in with_columns(masked)])
    crops = real.crops_rows(data, out) + real.crops_rows(data, out, heldout=True)
    tested = read_heldout()["lesion_crops"]
    write(out / "crops.csv", [row | {"fold": str(int(row["patient_id"] in tested))} for row in crops])


def write_unlabelled(path: Path, rows: list[Row]) -> None:
    """Studies without any label; a gland mask only says where a study's middle is looked for."""
    write(path, [{name: row.get(name, "") for name in (*UNLABELLED, "gland_mask")} for row in rows])


def with_columns(rows: list[Row]) -> list[Row]:
    """Every row with every column of ``real.PRETRAIN_COLUMNS``."""
    return [{name: row.get(name, "") for name in real.PRETRAIN_COLUMNS} for row in rows]


if __name__ == "__main__":
    main()

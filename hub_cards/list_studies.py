"""Add ``studies.json`` to the bundled encoder, which was trained before releases had one.

    python hub_cards/list_studies.py --data ../shared/data

The real volumes are hashed as ``make_bundled.py`` gave them to training. The phantoms cannot be: their generator has
changed since. Weights, configuration and golden sample stay as they are, byte for byte; the card gets a section.
Releases that ``pretrain`` writes today have the file from the beginning.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from safetensors.torch import load_file

from prostate_mim.hub.release import CARD, WEIGHTS, write_sums
from prostate_mim.hub.resolve import BUNDLED
from prostate_mim.hub.studies import STUDIES, Studies, study_key
from prostate_mim.leaks import StudyHashes
from prostate_mim.manifest import read_manifest
from prostate_mim.studies import open_all
from prostate_mim.volume.voxel_hash import voxel_hash

NAME = "resenc-s.mim-t2w"
HERE = Path(__file__).parent
BEFORE, SECTION = "## How well it reconstructs", "## Which studies it saw"
NOTE = """These are the {count} real volumes as they were used, PROMISE12 downsampled in-plane: its original volumes are
not recognised. The 44 phantoms cannot be listed, because their generator has changed since.
"""


def hashes(data: Path) -> set[str]:
    """Voxel hashes of the real volumes that were trained on."""
    script = HERE.parent / "tests" / "real" / "make_manifests.py"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(script), "--data", str(data), "--out", folder, "--heldout"]
        subprocess.run(command, check=True)
        return {voxel_hash(study.volume) for study in open_all(read_manifest(Path(folder) / "pretrain.csv"))}


def with_section(card: str, section: str) -> str:
    """The card with the section, in place of an older one."""
    head, _, rest = card.partition(BEFORE)
    head = head.partition(SECTION)[0].rstrip("\n")
    return f"{head}\n\n{section}\n{BEFORE}{rest}"


def main() -> None:
    """Write the file, the card in both places, and the checksums."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    found = hashes(parser.parse_args().data)
    folder = BUNDLED / NAME
    key = study_key(load_file(folder / WEIGHTS))
    studies = Studies(pretraining=StudyHashes.make(found, key))
    (folder / STUDIES).write_text(studies.to_text())
    section = studies.describe() + NOTE.format(count=len(found))
    card = with_section((folder / CARD).read_text(), section)
    (folder / CARD).write_text(card)
    (HERE / NAME / CARD).write_text(card)
    write_sums(folder)
    print(f"{len(found)} studies listed")


if __name__ == "__main__":
    main()

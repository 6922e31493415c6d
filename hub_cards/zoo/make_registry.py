"""Write prostate_mim/hub/models.json from the published folders: ``python hub_cards/zoo/make_registry.py``.

What a model is, and under which terms, is read from its card's front matter; sizes and SHA-256 from its files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData, RepoCard

from prostate_mim.files import write_text
from prostate_mim.hub.registry import FORMAT, REGISTRY
from prostate_mim.hub.release import CARD, CONFIG, verify_sums

CARDS = Path(__file__).resolve().parents[1]
SECTION = "prostate_mim"  # of the front matter


def main() -> None:
    """Every folder of hub_cards that holds a release."""
    folders = sorted(path.parent for path in CARDS.glob(f"*/{CONFIG}"))
    values = {"format": FORMAT, "models": {folder.name: entry(folder) for folder in folders}}
    write_text(REGISTRY, json.dumps(values, indent=1, sort_keys=True) + "\n")


def entry(folder: Path) -> dict[str, Any]:
    """One model of the registry."""
    card = front_matter(folder / CARD)
    files = {
        name: [(folder / name).stat().st_size, digest] for name, digest in sorted(verify_sums(folder).items())
    }  # fmt: skip
    own = card[SECTION]
    names = ("kind", "architecture", "recipe", "parameters", "spec_fingerprint", "data", "repository", "revision")
    return {**{name: own[name] for name in names}, "license": card["license_name"], "files": files}


def front_matter(card: Path) -> dict[str, Any]:
    """The YAML at the head of a card, as plain values; read by huggingface_hub's own reader."""
    data: ModelCardData = RepoCard.load(card).data  # type: ignore[assignment]
    return data.to_dict()


if __name__ == "__main__":
    main()

"""Run in a process of its own, because huggingface_hub reads its environment when it is imported.

``client.py OUT ACTION NAME [ACTION NAME ...]`` performs every action and writes a JSON list to OUT:
``load`` (PreMIM.from_pretrained), ``open`` (no torch: ``open_release``), ``published``
(the same with another models.json), ``fetch`` (huggingface_hub alone).
"""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from pathlib import Path
from typing import Any

from prostate_mim.errors import ProstateMimError


def load(name: str) -> dict[str, Any]:
    """SHA-256 of all tensors, in order of their names."""
    from prostate_mim.encoder import PreMIM

    model = PreMIM.from_pretrained(name)
    return {"tensors": digest(model.encoder.state_dict()), "revision": model.revision}


def digest(tensors: Any) -> str:
    """SHA-256 over names and bytes."""
    total = hashlib.sha256()
    for key in sorted(tensors):
        total.update(key.encode() + tensors[key].numpy().tobytes())
    return total.hexdigest()


def open_verified(name: str) -> dict[str, Any]:
    """Revision of a verified release."""
    from prostate_mim.hub import open_release

    release = open_release(name)
    return {"revision": release.revision, "folder": str(release.folder), "commit": release.commit}


def published(name: str) -> dict[str, Any]:
    """``FILE NAME``: the same with another models.json."""
    from prostate_mim.hub import registry, resolve

    file, _, own = name.partition(" ")
    entries = registry.read_registry(Path(file))
    sys.modules[resolve.__module__].read_registry = lambda: entries  # type: ignore[attr-defined]
    return open_verified(own)


def fetch(name: str) -> dict[str, Any]:
    """What huggingface_hub gives for a name, with no check of ours."""
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    folder = Path(snapshot_download(repository, revision=revision or None))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def attempt(action: str, name: str) -> dict[str, Any]:
    """One action; an error of ours becomes its class and message, any other ends the process."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            made = {"load": load, "open": open_verified, "published": published, "fetch": fetch}[action](name)
        except ProstateMimError as error:
            made = {"error": type(error).__name__, "message": str(error)}
    return {
        **made,
        "warned": [str(one.message) for one in warned if one.category.__name__ == "UnpinnedRevisionWarning"],
    }


if __name__ == "__main__":
    out, *words = sys.argv[1:]
    Path(out).write_text(json.dumps([attempt(a, n) for a, n in zip(words[::2], words[1::2], strict=True)]))

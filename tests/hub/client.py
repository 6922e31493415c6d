"""Run in a process of its own, because huggingface_hub reads its environment when it is imported.

``client.py OUT ACTION NAME [ACTION NAME ...]`` performs every action and writes a JSON list to OUT:
``load`` (PreMIM.from_pretrained), ``open`` (no torch: resolve and read_release), ``fetch`` (huggingface_hub alone).
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
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


def open_release(name: str) -> dict[str, Any]:
    """Revision of a verified release."""
    from prostate_mim.hub import read_release, resolve

    release = read_release(resolve(name))
    return {"revision": release.revision, "folder": str(release.folder)}


def fetch(name: str) -> dict[str, Any]:
    """What huggingface_hub gives for a name, with no check of ours."""
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    folder = Path(snapshot_download(repository, revision=revision or None))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def attempt(action: str, name: str) -> dict[str, Any]:
    """One action; an error of ours becomes its class and message, any other ends the process."""
    started = time.monotonic()
    try:
        made = {"load": load, "open": open_release, "fetch": fetch}[action](name)
    except ProstateMimError as error:
        made = {"error": type(error).__name__, "message": str(error)}
    return {**made, "seconds": time.monotonic() - started}


if __name__ == "__main__":
    out, *words = sys.argv[1:]
    Path(out).write_text(json.dumps([attempt(a, n) for a, n in zip(words[::2], words[1::2], strict=True)]))

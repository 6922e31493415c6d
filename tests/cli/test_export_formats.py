"""``export --bundle`` and ``--monai``: real files from the bundled encoder; contradictions are one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open


def test_a_bundle_appears(run: Any, tmp_path: Path) -> None:
    """With configs, weights and a page; a second one does not overwrite it."""
    done = run("export", "--bundle", str(tmp_path / "bundle"), "--json")
    assert done.code == 0, done.err
    for name in ("configs/metadata.json", "configs/inference.json", "models/model.safetensors", "docs/README.md"):
        assert (tmp_path / "bundle" / name).is_file()
    again = run("export", "--bundle", str(tmp_path / "bundle"))
    assert again.code == 2 and "not empty" in again.err


def test_a_state_dict_names_its_class(run: Any, tmp_path: Path) -> None:
    """In the file's metadata."""
    path = tmp_path / "dynunet.safetensors"
    done = run("export", "--monai", str(path))
    assert done.code == 0, done.err
    with safe_open(path, "pt") as file:
        assert "monai.networks.nets.DynUNet" in "".join(file.metadata().values())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "one format is exported at a time"),
        (("--onnx", "--bundle", "b"), "one format is exported at a time"),
        (("--bundle", "b", "--monai", "m.safetensors"), "one format is exported at a time"),
        (("--bundle", "b", "--out", "c"), "leave --out away"),
    ],
)
def test_contradictions(run: Any, words: tuple[str, ...], says: str) -> None:
    """Each is a usage error."""
    done = run("export", *words)
    assert done.code == 2 and says in done.err

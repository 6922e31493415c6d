"""Files that a build makes: written whole or not at all, left alone where nothing changed, removed when stale."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path


class MadeFolder:
    """A folder that belongs to the build; its time stamps change only with its content, so rebuilds are short."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: set[Path] = set()

    def write(self, name: str, content: str | bytes) -> None:
        """Make one file; ``name`` is relative to the folder, with forward slashes."""
        path = self.folder / name
        self.made.add(path)
        given = content.encode("utf-8") if isinstance(content, str) else content
        if path.is_file() and path.read_bytes() == given:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".made-")
        with os.fdopen(handle, "wb") as stream:
            stream.write(given)
        os.replace(temporary, path)

    def finish(self) -> None:
        """Remove what was not made this time, and folders that this leaves empty."""
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if path.is_dir():
                if not any(path.iterdir()):
                    shutil.rmtree(path, ignore_errors=True)
            elif path not in self.made:
                path.unlink(missing_ok=True)

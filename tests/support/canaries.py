"""A pickle that shows whether it was unpickled."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class Canary:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))

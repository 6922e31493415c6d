"""The tests of the strategies share their grids and guides in ``strategy_cases.py``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

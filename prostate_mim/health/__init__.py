"""Is pretraining working? Numbers measured on fixed studies while it runs, warnings, and one page to read."""

from __future__ import annotations

from prostate_mim.health.config import HealthConfig
from prostate_mim.health.monitor import HealthMonitor
from prostate_mim.health.windows import Watched

__all__ = ["HealthConfig", "HealthMonitor", "Watched"]

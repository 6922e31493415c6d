"""What masking strategies hide of one study, and what a model makes of it: one picture, no training run needed."""

from __future__ import annotations

from prostate_mim.preview.compare import Preview, PreviewConfig, write_preview
from prostate_mim.preview.shown import Shown, open_shown

__all__ = ["Preview", "PreviewConfig", "Shown", "open_shown", "write_preview"]

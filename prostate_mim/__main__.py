"""``python -m prostate_mim`` is ``prostate-mim``; ``torchrun -m prostate_mim`` starts it on every device."""

from __future__ import annotations

from prostate_mim.cli import main

if __name__ == "__main__":
    main()

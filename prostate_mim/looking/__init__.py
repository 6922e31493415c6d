"""Look at what went in: a page that shows one study in a browser, and a sheet of pictures of a whole manifest."""

from __future__ import annotations

from prostate_mim.looking.heat import Heat
from prostate_mim.looking.opening import check_html, open_page, write_page
from prostate_mim.looking.page import Marker, study_page
from prostate_mim.looking.shown import Looked, open_looked
from prostate_mim.looking.tiles import SheetConfig, write_sheets

__all__ = [
    "Heat", "Looked", "Marker", "SheetConfig", "check_html", "open_looked", "open_page", "study_page",
    "write_page", "write_sheets",
]  # fmt: skip

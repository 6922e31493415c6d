"""Where a page goes: to a file that is asked for, or to a private folder and from there to the user's browser."""

from __future__ import annotations

import tempfile
import webbrowser
from pathlib import Path

from prostate_mim.errors import UsageError
from prostate_mim.files import make_folder, write_text
from prostate_mim.looking.shown import Looked


def check_html(out: Path) -> Path:
    """Make the folder of a page, before any work.

    Raises:
        UsageError: not HTML, or the folder cannot be written.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{out}: the page is HTML; choose a name that ends in .html")
    if out.is_dir():
        raise UsageError(f"{out}: is a folder; choose the name of a file")
    make_folder(out.parent)
    return out


def write_page(looked: Looked, out: Path | None = None) -> Path:
    """Write the page of a study.

    Args:
        looked: the study.
        out: the .html; a new folder for temporary files that only this user may read, if None.

    Returns:
        Where it is. A temporary page holds the study's voxels, and stays until it is deleted.

    Raises:
        UsageError: it cannot be written.
        VolumeError: as ``Looked.page``.
    """
    page = looked.page()
    target = Path(tempfile.mkdtemp(prefix="prostate-mim-")) / "study.html" if out is None else check_html(out)
    write_text(target, page)
    return target


def open_page(page: Path) -> bool:
    """Open a page in the user's browser, without waiting for it.

    Returns:
        Whether a browser was asked to; False where there is none, or only one that would take over the terminal.
    """
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return False
    in_terminal = isinstance(browser, webbrowser.GenericBrowser) and not isinstance(
        browser, webbrowser.BackgroundBrowser
    )
    return not in_terminal and browser.open(page.resolve().as_uri())

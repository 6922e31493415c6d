"""What the page says, as HTML, and the viewer's pages while somebody looks at them."""

from __future__ import annotations

import base64
import hashlib
import html
import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence

from space_interval import Interval
from space_model import Judged
from space_studies import Point, Shown

from prostate_mim._version import __version__
from prostate_mim.looking import Heat, Marker, study_page
from prostate_mim.modality import ModalityReport
from prostate_mim.saliency import Explanation

MOST_PAGE_BYTES = 80_000_000
_KEPT = 16
# Beside its picture the viewer has a panel; in a narrow frame that goes below.
_FITTED = (
    "h1 { white-space: nowrap; } "
    "@media (max-width: 46rem) { body { grid-template: auto 60vh auto / 1fr; height: auto; } "
    "header { grid-column: 1; flex-wrap: wrap; gap: .2rem 1rem; } #where { margin-left: 0; } "
    "aside { border-left: 0; border-top: 1px solid var(--line); } }"
)
BANNER = (
    '<div class="pm-banner" role="note"><strong>Research only. Not a medical device.</strong> '
    "<span>Nothing here may decide about a patient. {more}</span></div>"
)
DEMONSTRATION = (
    "The classifier is a <strong>demonstration trained on synthetic lesions</strong>: of a real image its probability "
    "means nothing."
)
OWN = "The classifier is the one that whoever started this page chose."


class Pages:
    """Viewer pages in memory under names that cannot be guessed; the oldest go when there are too many."""

    def __init__(self) -> None:
        self._pages: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, page: str) -> str:
        """Keep a page; returns its name."""
        name = secrets.token_urlsafe(24)
        with self._lock:
            self._pages[name] = page
            while len(self._pages) > _KEPT:
                self._pages.popitem(last=False)
        return name

    def get(self, name: str) -> str | None:
        """The page, or None where it has gone."""
        return self._pages.get(name)

    def drop(self, name: str) -> None:
        """Forget a page."""
        with self._lock:
            self._pages.pop(name, None)

    def __len__(self) -> int:
        return len(self._pages)


def viewer_page(shown: Shown, position: Point, made: Explanation | None = None) -> str:
    """The package's own page of a study (NiiVue inside), with a marker and, after a prediction, the map.

    Raises:
        VolumeError: the position is outside, or the volume is too large for a page.
    """
    heat = None if made is None else Heat(made.volume, _map_words(made))
    page = study_page(
        shown.volume, markers=[Marker(position, "mark", chosen=True)], title=shown.title,
        focus_mm_lps=position, heat=heat, most_bytes=MOST_PAGE_BYTES,
    )  # fmt: skip
    # The page's policy names each style by its hash; one more is let in the same way.
    digest = base64.b64encode(hashlib.sha256(_FITTED.encode()).digest()).decode()
    page = page.replace("style-src ", f"style-src 'sha256-{digest}' ", 1)
    return page.replace("</head>", f"<style>{_FITTED}</style></head>", 1)


def _map_words(made: Explanation) -> str:
    if made.empty:
        return "Nothing in the crop speaks for label 1."
    cell = " × ".join(f"{mm:g}" for mm in made.cell_mm_zyx[::-1])
    how = "boxes" if made.method == "occlusion" else "cells"
    return f"What speaks for label 1, in {how} of {cell} mm. Not an outline of a lesion."


def frame(name: str, title: str) -> str:
    """The viewer on the page."""
    words = html.escape(f"Viewer: {title} in three planes, with a circle around the marked place", quote=True)
    return f'<iframe class="pm-viewer" id="viewer" src="view/{name}" title="{words}"></iframe>'


def message(text: str, *, bad: bool = False) -> str:
    """One line for the person: what is shown, or what went wrong."""
    role = "alert" if bad else "status"
    return f'<p class="pm-message{" pm-bad" * bad}" role="{role}">{html.escape(text)}</p>'


def waiting() -> str:
    """In place of results, while there are none."""
    return '<p class="pm-message">No result yet. Mark the lesion and press “Judge the marked place”.</p>'


def results(judged: Judged, figures: Sequence[tuple[str, str]]) -> str:
    """Probability with interval, what the guard says, and where it all came from.

    Args:
        judged: of one place.
        figures: further lines of the table, such as how good the classifier was.
    """
    made = judged.made
    x, y, z = made.centre_mm_lps
    rows = [
        ("place", f"{x:.1f} {y:.1f} {z:.1f} mm, LPS"), ("model", made.prediction.model),
        ("revision", made.prediction.revision), ("input spec", made.prediction.spec),
        ("device", made.prediction.device), ("saliency", _map_line(made)), *figures,
        ("prostate-mim", __version__),
    ]  # fmt: skip
    table = "".join(
        f"<tr><th scope='row' class='pm-k'>{html.escape(k)}</th><td class='pm-v'>{html.escape(v)}</td></tr>"
        for k, v in rows
    )
    return (
        '<div class="pm-results" role="region" aria-label="Result" aria-live="polite"><div class="pm-cards">'
        f"{_probability(made.prediction.probability, judged.interval)}<div>{_verdict(judged.report)}"
        f"<details><summary>Where it comes from</summary><table>{table}</table></details></div></div></div>"
    )


def _probability(value: float, interval: Interval | None) -> str:
    band, said = "", f"probability {value:.2f}"
    if interval is None:
        name = "No interval: nothing here tells what other trainings would have made of it."
        more = ""
    else:
        said += f", interval {interval.low:.2f} to {interval.high:.2f}"
        left, width = 100 * interval.low, 100 * (interval.high - interval.low)
        band = f'<span class="pm-band" style="left:{left:.2f}%;width:{width:.2f}%"></span>'
        name = f'<b id="interval">{interval.low:.2f} to {interval.high:.2f}</b>: {html.escape(interval.name)}'
        more = f"<details><summary>What the interval says</summary><p>{html.escape(interval.words)}</p></details>"
    return (
        '<section class="pm-card"><h3>Probability of label 1</h3>'
        f'<p class="pm-number" id="probability">{value:.4f}</p>'
        f'<div class="pm-bar" role="img" aria-label="{said}, on a scale from 0 to 1">{band}'
        f'<span class="pm-tick" style="left:{100 * value:.2f}%"></span></div>'
        f'<div class="pm-ends" aria-hidden="true"><span>0</span><span>1</span></div><p>{name}</p>{more}</section>'
    )


def _verdict(report: ModalityReport) -> str:
    score = (
        report.note if report.outlier_score is None or report.outlier_limit is None else
        f"Outlier score {report.outlier_score:.2f}, allowed at most {report.outlier_limit:.2f}."
    )  # fmt: skip
    if report.ok:
        kind, title, lines = "pm-good", "✓ Looks like axial T2w of a prostate", [score]
    else:
        kind, title, lines = "pm-check", "! Does not look like the images the model knows", [*report.flags]
    body = "".join(f"<li>{html.escape(line)}</li>" for line in lines if line)
    return f'<section class="pm-card {kind}" id="verdict"><h3>{title}</h3><ul>{body}</ul></section>'


def _map_line(made: Explanation) -> str:
    cell = " × ".join(f"{mm:g}" for mm in made.cell_mm_zyx[::-1])
    if made.hottest_mm_lps is None:
        return f"{made.method}, told apart {cell} mm (x y z); empty"
    x, y, z = made.hottest_mm_lps
    return f"{made.method}, told apart {cell} mm (x y z); hottest at {x:.1f} {y:.1f} {z:.1f} mm"

"""The page: fields on the left, viewer and results on the right; and the web application that gives it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from space_model import Judge
from space_page import BANNER, DEMONSTRATION, OWN, Pages, frame, message, results, viewer_page, waiting
from space_studies import FIRST, MOST_MB, PHANTOMS, SUFFIXES, Shown, make_phantom, place_of, read_upload
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prostate_mim.errors import ProstateMimError

STYLE = Path(__file__).with_name("space.css")
METHODS = [("Grad-CAM", "gradcam"), ("Occlusion (slow)", "occlusion")]
# Nothing is loaded from, or sent to, any other host: the browser itself sees to it.
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'"
)
# The viewer comes from this very server, so that the page may read where its crosshair stands.
_CROSSHAIR = """(x, y, z) => {
  const told = document.getElementById("viewer")?.contentDocument?.getElementById("where")?.textContent ?? "";
  const found = told.match(/^LPS (-?[0-9.]+), (-?[0-9.]+), (-?[0-9.]+) mm/);
  return found ? found.slice(1).map(Number) : [x, y, z];
}"""
_KEPT_S = 3600  # a study in memory, after its last use
_NOTHING_OPEN = "No study is open any more: choose a phantom, or upload one again."
_OLD_UPLOADS_S = (600, 3600)  # how often to look for uploads that nobody read, and how old they are


@dataclass(frozen=True, eq=False)
class Open:
    """What one visitor has open.

    Attributes:
        shown: the study.
        page: name of its viewer page.
    """

    shown: Shown
    page: str


class Desk:
    """What the page's buttons do. Errors of the package become one line on the page; nothing is written down.

    Args:
        judge: the classifier.
        pages: where viewer pages are kept.
    """

    def __init__(self, judge: Judge, pages: Pages) -> None:
        self._judge, self._pages = judge, pages

    def phantom(self, name: str | None, before: Open | None) -> tuple[Any, ...]:
        """Show a synthetic study: (open, x, y, z, viewer, message, results)."""
        if name is None:
            return (before, *[gr.skip()] * 6)
        try:
            return self._show(make_phantom(name), before)
        except ProstateMimError as error:
            return _refused(before, error)

    def upload(self, path: str | None, before: Open | None) -> tuple[Any, ...]:
        """Show an uploaded study: as ``phantom``, then the list and the upload field, emptied."""
        if path is None:
            return (before, *[gr.skip()] * 8)
        try:
            return (*self._show(read_upload(Path(path)), before), None, None)
        except ProstateMimError as error:
            return (*_refused(before, error), gr.skip(), None)

    def judge(
        self, x: float | None, y: float | None, z: float | None, method: str, before: Open | None
    ) -> tuple[Any, ...]:
        """Judge the marked place: (open, viewer, message, results)."""
        if before is None:
            return before, gr.skip(), message(_NOTHING_OPEN, bad=True), gr.skip()
        try:
            place = place_of((x, y, z))
            judged = self._judge(before.shown.volume, place, method)
            made, viewer = self._opened(before.shown, before, viewer_page(before.shown, place, judged.made))
        except ProstateMimError as error:
            return before, gr.skip(), message(str(error), bad=True), waiting()
        return made, viewer, gr.skip(), results(judged, figures(self._judge.model.details))

    def forget(self, opened: Open | None) -> None:
        """A visitor has gone."""
        if opened is not None:
            self._pages.drop(opened.page)

    def _show(self, shown: Shown, before: Open | None) -> tuple[Any, ...]:
        made, viewer = self._opened(shown, before, viewer_page(shown, shown.position_mm_lps))
        return made, *shown.position_mm_lps, viewer, message(f"{shown.title}. {shown.words}"), waiting()

    def _opened(self, shown: Shown, before: Open | None, page: str) -> tuple[Open, str]:
        self.forget(before)
        name = self._pages.add(page)
        return Open(shown, name), frame(name, shown.title)


def _refused(before: Open | None, error: ProstateMimError) -> tuple[Any, ...]:
    return before, *[gr.skip()] * 4, message(str(error), bad=True), gr.skip()


def figures(details: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How good the classifier was on patients it had not seen, where its release says so."""
    made = details.get("finetuning")
    found = made.get("auroc_pooled") if isinstance(made, Mapping) else None
    if not isinstance(found, Mapping) or not isinstance(found.get("value"), float):
        return []
    shown = isinstance(found.get("low"), float) and found["low"] < found["high"]  # no width: too few patients
    interval = f" [{found['low']:.2f}, {found['high']:.2f}]" if shown else ""
    rows = f"{found.get('lesions')} lesions of {found.get('patients')} patients"
    return [("AUROC", f"{found['value']:.2f}{interval}, out of fold, {rows}")]


def build(desk: Desk, *, demonstration: bool) -> gr.Blocks:
    """The page's fields and what they are connected to."""
    with gr.Blocks(title="prostate-mim", analytics_enabled=False, fill_width=True, delete_cache=_OLD_UPLOADS_S) as page:
        gr.HTML(BANNER.format(more=DEMONSTRATION if demonstration else OWN), elem_id="banner")
        opened = gr.State(None, time_to_live=_KEPT_S, delete_callback=desk.forget)
        with gr.Row(elem_id="whole"):
            with gr.Column(scale=3, min_width=320):
                phantom = gr.Radio(list(PHANTOMS), value=FIRST, label="Synthetic study", elem_id="phantom")
                upload = gr.File(
                    label=f"Or upload {' '.join(SUFFIXES)}, up to {MOST_MB} MB",
                    file_types=[".nii", ".gz", ".mha", ".nrrd"], height=130, elem_id="upload",
                )  # fmt: skip
                with gr.Row(elem_id="place"):
                    fields = [gr.Number(label=f"{axis}, mm", min_width=70, elem_id=f"place-{axis}") for axis in "xyz"]
                gr.HTML('<p class="pm-hint">The mark, LPS. Or click into the viewer, then:</p>')
                take = gr.Button("Take the viewer's crosshair", size="sm", elem_id="take")
                method = gr.Radio(METHODS, value="gradcam", label="Saliency", elem_id="method")
                press = gr.Button("Judge the marked place", variant="primary", elem_id="judge")
            with gr.Column(scale=9, min_width=340):
                said = gr.HTML(message("Making the first study."), elem_id="said")
                found = gr.HTML(waiting(), elem_id="found")
                viewer = gr.HTML("", elem_id="viewer-part")
        shown: list[Any] = [opened, *fields, viewer, said, found]
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
        page.load(desk.phantom, [phantom, opened], shown, **quiet)
        phantom.input(desk.phantom, [phantom, opened], shown, **quiet)
        upload.upload(desk.upload, [upload, opened], [*shown, phantom, upload], **quiet)
        take.click(None, fields, fields, js=_CROSSHAIR, **quiet)
        press.click(desk.judge, [*fields, method, opened], [opened, viewer, said, found], **quiet)
    made: gr.Blocks = page
    return made


class Headers:
    """Adds the policy to every answer. Plain ASGI: the page's events are streams, which must not be gathered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI calls it."""

        async def with_headers(event: Message) -> None:
            if event["type"] == "http.response.start":
                headers = MutableHeaders(scope=event)
                headers["Content-Security-Policy"] = POLICY
                headers["Referrer-Policy"] = "no-referrer"
                headers["X-Content-Type-Options"] = "nosniff"
            await send(event)

        await self._app(scope, receive, with_headers)


def application(judge: Judge) -> FastAPI:
    """The whole as one web application: the page at ``/``, viewer pages below ``/view/``."""
    pages = Pages()
    app = FastAPI(title="prostate-mim", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/view/{name}")
    def view(name: str) -> HTMLResponse:
        page = pages.get(name)
        if page is None:
            return HTMLResponse("<p>This view has gone. Choose the study again.</p>", 404)
        return HTMLResponse(page, headers={"Cache-Control": "no-store"})

    app.add_middleware(Headers)
    made = build(Desk(judge, pages), demonstration=judge.demonstration)
    fonts = ("system-ui", "sans-serif")
    theme = gr.themes.Default(primary_hue="blue", font=fonts, font_mono=("ui-monospace", "monospace"))
    mounted: FastAPI = gr.mount_gradio_app(
        app, made, path="/", theme=theme, css_paths=STYLE, footer_links=[], run_history=False, ssr_mode=False,
        show_error=False, enable_monitoring=False, mcp_server=False, pwa=False, max_file_size=f"{MOST_MB}mb",
    )  # fmt: skip
    return mounted

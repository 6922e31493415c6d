"""The application: what is answered to whom, and what is counted."""

from __future__ import annotations

import hmac
import logging
import tempfile
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from serving_pool import Pool
from serving_settings import Settings
from serving_upload import MOST_FILES, MOST_POSITIONS, RefusedError, Upload, no_space, receive, too_large
from serving_wire import log
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

ROUTES = ("/", "/predict", "/healthz", "/readyz", "/metrics")
_OPEN = ("/healthz", "/readyz")
_GONE = 499  # nobody hears the answer
_RETRY_S = "1"
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
_Message = MutableMapping[str, Any]


class Metrics:
    """What Prometheus reads: numbers and words of our own."""

    def __init__(self) -> None:
        disable_created_metrics()
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        name = "prostate_mim_"
        self.answers = Counter(f"{name}answers", "Answers.", ["route", "status"], registry=self.registry)
        self.refused = Counter(f"{name}refused", "Requests without a prediction.", ["kind"], registry=self.registry)
        self.predictions = Counter(f"{name}predictions", "Positions computed.", registry=self.registry)
        self.uploaded = Counter(f"{name}uploaded_bytes", "Bytes of bodies.", registry=self.registry)
        self.lost = Counter(f"{name}workers_lost", "Workers that ended.", ["why"], registry=self.registry)
        self.inside = Gauge(f"{name}requests_inside", "Uploading, waiting or computed.", registry=self.registry)
        self.workers = Gauge(f"{name}workers", "Workers that run.", registry=self.registry)
        self.seconds = Histogram(
            f"{name}seconds", "Time by stage.", ["stage"], buckets=_SECONDS, registry=self.registry
        )  # fmt: skip


class Service:
    """One pool behind the routes.

    Args:
        settings: of the service.
        pool: its workers.
        metrics: that are counted.
        root: private folder; a folder in it for each request, removed with its end.
    """

    def __init__(self, settings: Settings, pool: Pool, metrics: Metrics, root: Path) -> None:
        self._settings, self._pool, self._metrics, self._root = settings, pool, metrics, root
        self._inside = 0

    def application(self) -> Any:
        """As uvicorn runs it."""
        app = FastAPI(title="prostate-mim", docs_url=None, redoc_url=None, openapi_url=None)
        for path, answer in (("/", self.describe), ("/healthz", self.health), ("/readyz", self.ready)):
            app.add_api_route(path, answer, methods=["GET"])
        app.add_api_route("/metrics", self.measures, methods=["GET"])
        app.add_api_route("/predict", self.predict, methods=["POST"])
        app.add_exception_handler(RefusedError, _refused)
        app.add_exception_handler(HTTPException, _not_found)
        app.add_exception_handler(Exception, _failed)
        return _Counted(app, self._metrics, self._settings.token)

    async def describe(self) -> JSONResponse:
        """The model and the limits."""
        about, settings = self._pool.about, self._settings
        limits = {
            "request_mb": settings.limit_mb, "voxels": settings.max_voxels, "timeout_s": settings.timeout_s,
            "positions": MOST_POSITIONS, "files": MOST_FILES, "computed_at_once": settings.concurrency,
        }  # fmt: skip
        kept = ("model", "revision", "spec", "input", "masks", "device", "reason")
        notice = "Research use only. Not a medical device."
        return JSONResponse({key: about[key] for key in kept} | {"limits": limits, "notice": notice})

    async def health(self) -> JSONResponse:
        """The process answers."""
        return JSONResponse({"ok": True})

    async def ready(self) -> JSONResponse:
        """A worker runs, so its golden sample was replayed on this device."""
        alive = self._pool.alive
        values = {"ready": alive > 0, "workers": alive, "replay_difference": self._pool.about["replay_difference"]}
        return JSONResponse(values, 200 if alive else 503)

    async def measures(self) -> Response:
        """For Prometheus."""
        self._metrics.workers.set(self._pool.alive)
        self._metrics.inside.set(self._inside)
        return Response(generate_latest(self._metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def predict(self, request: Request) -> JSONResponse:
        """An upload -> one prediction a position."""
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > self._settings.limit_bytes:
            raise too_large(self._settings.limit_bytes)
        if self._inside >= self._settings.room or not self._pool.alive:
            raise RefusedError(503, "busy", "all workers are busy; try again")
        self._inside += 1
        try:
            with tempfile.TemporaryDirectory(dir=self._root, ignore_cleanup_errors=True) as folder:
                return await self._predicted(request, Upload(Path(folder)))
        except OSError as error:
            raise no_space(error) from None
        finally:
            self._inside -= 1

    async def _predicted(self, request: Request, upload: Upload) -> JSONResponse:
        start = time.perf_counter()
        request.state.upload = upload
        kind = request.headers.get("content-type", "")
        try:
            await receive(request.stream(), kind, upload, self._settings.limit_bytes, self._settings.timeout_s)
        except ClientDisconnect:
            raise RefusedError(_GONE, "gone", "the client went away") from None
        uploaded = time.perf_counter() - start
        job = {
            "folder": str(upload.folder), "study": upload.study, "masks": upload.masks, "positions": upload.positions
        }  # fmt: skip
        answer, waited = await self._pool.do(job)
        if "error" in answer:
            raise RefusedError(answer["status"], answer["kind"], answer["error"])
        stages = {"upload": uploaded, "wait": waited}
        stages |= {"read": answer["read_ms"] / 1e3, "predict": answer["predict_ms"] / 1e3}
        for stage, seconds in stages.items():
            self._metrics.seconds.labels(stage).observe(seconds)
        self._metrics.predictions.inc(len(answer["predictions"]))
        stages["total"] = time.perf_counter() - start
        timing = {stage: round(1e3 * seconds, 1) for stage, seconds in stages.items()}
        return JSONResponse({"predictions": answer["predictions"], "timing_ms": timing})


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RefusedError)  # noqa: S101 - registered for it
    request.state.kind = error.kind
    headers = {"Retry-After": _RETRY_S} if error.status == 503 else {}
    return JSONResponse({"error": str(error), "kind": error.kind}, error.status, headers)


async def _not_found(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    request.state.kind = "route"
    message = f"{error.detail}; there are GET {', '.join(path for path in ROUTES if path != '/predict')}, POST /predict"
    return JSONResponse({"error": message, "kind": "route"}, error.status_code, error.headers)


async def _failed(request: Request, error: Exception) -> JSONResponse:
    request.state.kind = type(error).__name__
    return JSONResponse({"error": "the service failed; tell the operator", "kind": "service"}, 500)


class _Counted:
    """Around the application: the token, one line of the log for each request, counts, and no traceback to anybody."""

    def __init__(self, app: Callable[..., Awaitable[None]], metrics: Metrics, token: str | None) -> None:
        self._app, self._metrics = app, metrics
        self._expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: _Message, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        start, told = time.perf_counter(), {"status": 500}
        scope["state"] = dict(scope.get("state") or {})

        async def counted(message: _Message) -> None:
            if message["type"] == "http.response.start":
                told["status"] = message["status"]
            await send(message)

        try:
            await self._answer(scope, receive, counted)
        except Exception as error:  # it was answered by _failed, and is raised again
            log(logging.ERROR, "failed", exception=type(error).__name__)
        finally:
            self._tell(scope, told["status"], time.perf_counter() - start)

    async def _answer(self, scope: _Message, receive: Any, send: Any) -> None:
        if self._expected is not None and scope["path"] not in _OPEN:
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                scope["state"]["kind"] = "token"
                values = {"error": "the token is missing or wrong; send Authorization: Bearer ...", "kind": "token"}
                await JSONResponse(values, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _tell(self, scope: _Message, status: int, seconds: float) -> None:
        route = scope["path"] if scope["path"] in ROUTES else "other"  # what else was typed may be a name
        state, upload = scope["state"], scope["state"].get("upload")
        self._metrics.answers.labels(route, str(status)).inc()
        values: dict[str, Any] = {"route": route, "status": status, "ms": round(1e3 * seconds, 1)}
        if "kind" in state:
            self._metrics.refused.labels(state["kind"]).inc()
            values["kind"] = state["kind"]
        if upload is not None:
            self._metrics.uploaded.inc(upload.size)
            values |= {"bytes": upload.size, "files": upload.files, "positions": len(upload.positions)}
        log(logging.INFO, "request", **values)

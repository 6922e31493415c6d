#!/usr/bin/env python3
"""Predictions over HTTP: POST /predict with a study as multipart/form-data -> JSON. No torch, no archives.

    python service.py --model classifier.onnx                                    # 127.0.0.1:8080
    python service.py --model classifier.onnx --host 0.0.0.0 --token-file token
    curl -F study=@study.nii.gz -F "position=-12.5 34.0 8.0" http://127.0.0.1:8080/predict

Exit codes: as run_study.py; 130 after Ctrl-C, 143 after SIGTERM, both once all requests are answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from run_study import missing

if TYPE_CHECKING:
    from serving_settings import Settings

_INSTALL = "pip install -r requirements-cpu.txt (or -cuda) -r requirements-service.txt, and the wheel"
_SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}


def main(argv: list[str] | None = None) -> int:
    """Serve until a signal; return the exit code."""
    try:
        return _main(argv)
    except KeyboardInterrupt:  # before there is a loop to take the signal
        return 130


def _main(argv: list[str] | None) -> int:
    try:
        import serving_app  # noqa: F401
        from serving_place import listening, private_root
        from serving_settings import read_settings

        from prostate_mim.deploy.runtime import DEVICES
        from prostate_mim.errors import ProstateMimError
    except ImportError as error:
        return missing(error, _INSTALL)
    try:
        settings = read_settings(argv, DEVICES)
        with listening(settings.host, settings.port) as listener, private_root() as root:
            return asyncio.run(_serve(settings, listener, root))
    except ProstateMimError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


class _Stop:
    """What a signal asks for, at whatever time."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.code = 0
        self.server: Any = None
        for number, code in _SIGNALS.items():
            asyncio.get_running_loop().add_signal_handler(number, self._signal, code)

    def _signal(self, code: int) -> None:
        if self.server is not None and self.asked.is_set():
            self.server.force_exit = True  # asked twice
        self.code = self.code or code
        self.asked.set()
        if self.server is not None:
            self.server.should_exit = True

    async def or_done(self, work: Any) -> bool:
        """Wait for work, or cancel it at a signal; whether it is done. Its exception is raised."""
        task, asked = asyncio.ensure_future(work), asyncio.ensure_future(self.asked.wait())
        await asyncio.wait({task, asked}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            return False
        await task
        return True


async def _serve(settings: Settings, listener: socket.socket, root: Path) -> int:
    """Open the workers, answer until a signal, end the workers; the exit code."""
    from serving_app import Metrics, Service
    from serving_pool import Pool
    from serving_wire import log, start_logs

    start_logs()
    stop, metrics = _Stop(), Metrics()

    def lost(why: str) -> None:
        metrics.lost.labels(why).inc()
        log(logging.WARNING, "worker", why=why)

    pool = Pool(settings, lost)
    try:
        if await stop.or_done(pool.start()):
            stop.server = _server(settings, Service(settings, pool, metrics, root).application(), pool.about)
            await stop.server.serve(sockets=[listener])
    finally:
        await pool.close()
    log(logging.INFO, "stopped", code=stop.code)
    return stop.code


def _server(settings: Settings, application: Any, about: dict[str, Any]) -> Any:
    """Uvicorn without its signals, its headers and its logs."""
    import uvicorn
    from serving_wire import guarded, log

    class Server(uvicorn.Server):
        def capture_signals(self) -> Any:
            return contextlib.nullcontext()

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            host, port = (sockets or self.servers[0].sockets)[0].getsockname()[:2]
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            log(
                logging.INFO, "listening", url=url, model=about["model"], revision=about["revision"],
                device=about["device"], reason=about["reason"], token=settings.token is not None,
            )  # fmt: skip

    return Server(
        uvicorn.Config(
            application, http=guarded(settings.timeout_s + 5), loop="asyncio", ws="none", lifespan="off",
            access_log=False, log_config=None, server_header=False, proxy_headers=False, backlog=128,
            timeout_keep_alive=10, timeout_graceful_shutdown=int(settings.timeout_s) + 5,
        )
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""A page to try a lesion classifier on: viewer, probability with interval, saliency, modality verdict. No network.

    python app.py                                  # a demonstration, trained on synthetic lesions at the first start
    python app.py --model runs/lesions --manifest lesions/manifest.csv

Exit codes: 0 ok, 2 usage, 3 not found, 5 integrity, 6 backend, 7 memory or disk, 9 input refused, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

# Before gradio is imported: it asks its maker's server for its newest version otherwise.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
BESIDE = Path(__file__).resolve().parent / "model"
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prostate-mim" / "space"


class _Parser(argparse.ArgumentParser):
    """One line instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = _Parser(description="A page to try a lesion classifier on. Research only, not a medical device.")
    parser.add_argument(
        "--model", type=Path,
        help="release or run folder of a classifier; else the folder 'model' beside this file; else a demonstration",
    )  # fmt: skip
    parser.add_argument(
        "--manifest", type=Path, help="the manifest that a linear --model was made from: gives its interval"
    )
    parser.add_argument("--cache", type=Path, default=_CACHE, help="where the demonstration is kept (%(default)s)")
    # A Space says in this variable that it must be reached from outside of its machine.
    host = os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
    parser.add_argument("--host", default=host, help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on; 0 is any free one (%(default)s)")
    return parser.parse_args(argv)


def _usage(message: str) -> Exception:
    from prostate_mim.errors import UsageError

    return UsageError(message)


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket, before any work.

    Raises:
        UsageError: the address cannot be had.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number and number > 0 else str(error)
        raise _usage(f"{host}:{port}: cannot listen ({reason}); choose another --port or --host") from None


def _serve(arguments: argparse.Namespace, folder: str) -> None:
    """Load or make the classifier, then answer until stopped.

    Args:
        folder: private, for uploads until they are read.

    Raises:
        ProstateMimError: the classifier, the manifest or the address.
    """
    os.environ["GRADIO_TEMP_DIR"] = folder
    model = arguments.model or (BESIDE if BESIDE.is_dir() else None)
    if model is None and arguments.manifest is not None:
        raise _usage("--manifest belongs to --model; name both, or neither for the demonstration")
    with _listen(arguments.host, arguments.port) as listening:
        import uvicorn
        from space_model import open_demonstration, open_judge
        from space_ui import application

        judge = open_demonstration(arguments.cache) if model is None else open_judge(model, arguments.manifest)
        host, port = listening.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"

        class Server(uvicorn.Server):
            """Says where it is once it answers, and not before it can be stopped properly."""

            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                print(address, flush=True)

        settings = uvicorn.Config(
            application(judge), log_level="warning", access_log=False, timeout_graceful_shutdown=2, server_header=False
        )
        Server(settings).run(sockets=[listening])


def _stop(*_: object) -> NoReturn:
    """SIGTERM: leave as Ctrl-C does, so that the folder for uploads goes too."""
    raise SystemExit(143)


def main(argv: list[str] | None = None) -> int:
    """Serve the page; return the exit code."""
    arguments = _arguments(argv)
    try:
        from prostate_mim.errors import ProstateMimError
    except ImportError as error:
        print(f"error: {error}; pip install 'prostate-mim[demo]'", file=sys.stderr)
        return 6
    signal.signal(signal.SIGTERM, _stop)
    try:
        with tempfile.TemporaryDirectory(prefix="prostate-mim-space-", ignore_cleanup_errors=True) as folder:
            _serve(arguments, folder)
    except ImportError as error:
        print(f"error: {error}; pip install 'prostate-mim[demo]'", file=sys.stderr)
        return 6
    except ProstateMimError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

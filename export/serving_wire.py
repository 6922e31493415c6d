"""Below the application: connections that send nothing in time are closed, and logs are lines of JSON without names."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_S = 10.0
MOST_CONNECTIONS = 256
LOG = logging.getLogger("prostate_mim.service")


class Guarded(H11Protocol):
    """HTTP/1.1 with deadlines for receiving a request, which uvicorn has none for: else the connection is cut.

    Attributes:
        body_s: seconds from a request's headers to its last byte; the headers have as many, ``HEADER_S`` at most.
    """

    body_s = 60.0
    _timer: asyncio.TimerHandle | None = None
    _phase = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connected; one too many is not listened to."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        else:
            self._arm("headers", min(HEADER_S, self.body_s))

    def data_received(self, data: bytes) -> None:
        """Bytes of a request, or of several."""
        super().data_received(data)
        state = self.conn.their_state
        if state is h11.IDLE:
            self._arm("headers", min(HEADER_S, self.body_s))
        elif state is h11.SEND_BODY:
            self._arm("body", self.body_s)
        else:
            self._disarm()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._disarm()
        super().connection_lost(exc)

    def _arm(self, phase: str, seconds: float) -> None:
        """Begin a deadline, unless that of this phase runs: more bytes do not move it."""
        if self._phase != phase:
            self._disarm()
            self._phase, self._timer = phase, self.loop.call_later(seconds, self._cut)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._phase = None, ""

    def _cut(self) -> None:
        log(logging.INFO, "cut", phase=self._phase)
        self.transport.abort()


def guarded(body_s: float) -> type[Guarded]:
    """The protocol with a deadline for bodies, in seconds."""
    return type("Guarded", (Guarded,), {"body_s": body_s})


def log(level: int, event: str, **values: Any) -> None:
    """One line. Values are numbers and words of our own, never a client's."""
    LOG.log(level, event, extra={"values": values})


class _Lines(logging.Formatter):
    """JSON; of others' records, the text and the type of an exception, not its message."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {"time": f"{stamp}.{int(record.msecs):03d}Z", "level": record.levelname.lower()}
        line["event"] = str(record.msg).strip().split("\n")[0]  # further lines of asyncio's repeat exceptions
        if record.exc_info and record.exc_info[0]:
            line["exception"] = record.exc_info[0].__name__
        return json.dumps(line | getattr(record, "values", {}))


def start_logs() -> None:
    """Everything to stderr, as lines of JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    LOG.setLevel(logging.INFO)

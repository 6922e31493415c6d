"""A headless Chromium that a test can click in: Chrome's DevTools protocol over two pipes, no port and no driver."""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from html_pages import BROWSER
from PIL import Image

PATIENCE_S = 60.0
_FLAGS = (
    "--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-default-apps", "--disable-extensions", "--no-pings", "--disable-domain-reliability",
    "--disable-features=NetworkTimeServiceQuerying,AutofillServerCommunication,OptimizationHints,MediaRouter,Translate",
    "--hide-scrollbars", "--window-size=1280,800",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)  # fmt: skip
# Chromium reads commands from its file 3 and answers on its file 4. Only bash can copy files of two digits there.
_AS_3_AND_4 = 'read=$1; write=$2; shift 2; exec "$@" 3<&"$read" 4>&"$write"'

_AT_REST = """async (selector, inside) => {
  const frame = inside && document.querySelector(inside);
  const one = (frame ? frame.contentDocument : document).querySelector(selector);
  (frame || one).scrollIntoView({ block: "center", behavior: "instant" });
  for (let last = "";;) {
    const box = one.getBoundingClientRect(), at = frame ? frame.getBoundingClientRect() : { left: 0, top: 0 };
    const now = [box.left + at.left, box.top + at.top, box.width, box.height];
    if (last === String(now)) return now;
    last = String(now);
    await new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)));
  }
}"""


class Browser:
    """One Chromium. Use ``running``.

    Attributes:
        events: (session, method, parameters) in the order in which they came.
    """

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._numbers, self._lock = itertools.count(1), threading.Lock()
        self._waiting: dict[int, queue.Queue[dict[str, Any]]] = {}
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        kept = b""
        while chunk := os.read(self._answers, 1 << 16):
            *whole, kept = (kept + chunk).split(b"\0")
            for text in whole:
                said = json.loads(text)
                if "id" in said:
                    self._waiting.pop(said["id"]).put(said)
                else:
                    self.events.append((said.get("sessionId", ""), said["method"], said["params"]))

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """One command; its result."""
        number, answer = next(self._numbers), queue.Queue[dict[str, Any]]()
        self._waiting[number] = answer
        said = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        data = json.dumps(said).encode() + b"\0"
        with self._lock:
            while data:
                data = data[os.write(self._commands, data) :]
        found = answer.get(timeout=PATIENCE_S)
        assert "error" not in found, f"{method}: {found['error']}"
        return found["result"]

    def open(self, address: str, width: int = 1280, height: int = 800) -> Page:
        """A page of its own, without cookies of others, that keeps a list of what it asks for."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, target)
        for part in ("Page", "Runtime", "Network", "Log", "DOM"):
            page.call(f"{part}.enable")
        page.resize(width, height)
        page.call("Page.navigate", url=address)
        return page


class Page:
    """One page of a browser."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._browser, self._session, self._target = browser, session, target

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command to this page."""
        return self._browser.call(method, self._session, **parameters)

    def close(self) -> None:
        """The visitor leaves."""
        self._browser.call("Target.closeTarget", targetId=self._target)

    def resize(self, width: int, height: int) -> None:
        """The size of the window's inside, CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def _said(self, method: str) -> list[dict[str, Any]]:
        return [params for session, name, params in self._browser.events if (session, name) == (self._session, method)]

    @property
    def requests(self) -> list[str]:
        """Addresses that the page or its frames asked for, whatever came of it."""
        return [one["request"]["url"] for one in self._said("Network.requestWillBeSent")]

    @property
    def complaints(self) -> list[str]:
        """Errors that scripts threw or logged, and what the browser refused."""
        thrown = [one["exceptionDetails"]["text"] for one in self._said("Runtime.exceptionThrown")]
        logged = [one["entry"]["text"] for one in self._said("Log.entryAdded") if one["entry"]["level"] == "error"]
        spoken = [one["args"] for one in self._said("Runtime.consoleAPICalled") if one["type"] == "error"]
        return thrown + logged + [str(args[0].get("value", args[0].get("description"))) for args in spoken]

    def value(self, expression: str) -> Any:
        """What an expression gives; promises are awaited."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, f"{expression}: {found['exceptionDetails']}"
        return found["result"].get("value")

    def wait(self, expression: str) -> Any:
        """Until an expression gives something that counts as true; what it gave."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            if found := self.value(expression):
                return found
            time.sleep(0.05)
        raise AssertionError(f"never true: {expression}; the page says {self.text('body')[-600:]!r}")

    def text(self, selector: str) -> str:
        """What a person reads there; empty where there is no such thing."""
        return str(self.value(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def box(self, selector: str, inside: str = "") -> tuple[float, float, float, float]:
        """(left, top, width, height) in the window, scrolled into view, when it has come to rest.

        Args:
            selector: what.
            inside: a frame, if it is in that frame's document.
        """
        left, top, width, height = self.value(f"({_AT_REST})({json.dumps(selector)}, {json.dumps(inside)})")
        return left, top, width, height

    def click(self, selector: str, inside: str = "", at: tuple[float, float] = (0.5, 0.5)) -> None:
        """Press and release the left button, at a fraction of the thing's width and height."""
        left, top, width, height = self.box(selector, inside)
        place = {"x": left + at[0] * width, "y": top + at[1] * height, "button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=place["x"], y=place["y"])
        self.call("Input.dispatchMouseEvent", type="mousePressed", **place)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", **place)

    def press(self, key: str, code: int, text: str = "") -> None:
        """A key, to whatever has the focus; ``code`` is the Windows virtual key code."""
        one = {"key": key, "code": key, "windowsVirtualKeyCode": code} | ({"text": text} if text else {})
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **one)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)

    def fill(self, selector: str, text: str) -> None:
        """Type over what a field holds."""
        self.value(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)}); one.focus(); one.select(); }})()"
        )
        self.call("Input.insertText", text=text)

    def give(self, selector: str, path: Path) -> None:
        """Choose a file in a file field."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def picture(self, selector: str = "", path: Path | None = None) -> npt.NDArray[np.int_]:
        """(height, width, 3) as the person sees it: the window, or one thing in it."""
        clip = {}
        if selector:
            left, top, width, height = self.box(selector)
            right, down = self.value("[window.scrollX, window.scrollY]")  # clips are of the document
            clip = {"clip": {"x": left + right, "y": top + down, "width": width, "height": height, "scale": 1}}
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png", **clip)["data"])
        if path is not None:
            path.write_bytes(data)
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


@contextmanager
def running(folder: Path, proxy: str) -> Iterator[Browser]:
    """Chromium with a profile of its own, which sends all but loopback to a proxy.

    Args:
        folder: for the profile.
        proxy: ``127.0.0.1:port``.
    """
    assert BROWSER is not None
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    flags = [*_FLAGS, f"--user-data-dir={folder / 'profile'}", f"--proxy-server=http://{proxy}", "about:blank"]
    command = ["bash", "-c", _AS_3_AND_4, "bash", str(theirs_in), str(theirs_out), BROWSER, *flags]
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(command, pass_fds=(theirs_in, theirs_out), stdout=log, stderr=log)
    os.close(theirs_in)
    os.close(theirs_out)
    browser = Browser(ours_out, ours_in)
    try:
        yield browser
        browser.call("Browser.close")
    finally:
        os.close(ours_out)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(ours_in)

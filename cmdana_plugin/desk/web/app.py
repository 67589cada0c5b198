"""The live page's addresses, and its server: on loopback, read only unless asked, one process, few connections."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from cmdana_plugin.config import Config
from cmdana_plugin.desk.decide import learned
from cmdana_plugin.desk.queue import Wanted, entry_object
from cmdana_plugin.desk.store import CLOSED, OPEN, STATES, Store
from cmdana_plugin.desk.web.guard import Guard
from cmdana_plugin.desk.web.index import Index
from cmdana_plugin.desk.web.pages import Pages
from feature_extractors import CmdanaError, RecordError
from feature_extractors.readers import PassedOver

if TYPE_CHECKING:
    import uvicorn

_MOST_STREAMS: Final = 16  # browsers' windows that are told of news at once
_NEWS_SECONDS: Final = 1.0
_MOST_EXPLAINING: Final = 2  # connections that are looked up in the logs at once
_MOST_CONNECTIONS: Final = 64
_KINDS: Final = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


class Desk:
    """The page's handlers over one index."""

    def __init__(
        self, index: Index, config: Config, *, write: bool, labels: Path, token: str, hosts: frozenset[str]
    ):
        self._index = index
        self._write = write
        self._labels = labels
        self._streams = 0
        self._explaining = asyncio.Semaphore(_MOST_EXPLAINING)
        routes = [
            Route("/", self.queue),
            Route("/queue.json", self.queue_object),
            Route("/incident/{mark:path}/decide", self.decide, methods=["POST"]),
            Route("/incident/{mark:path}", self.incident),
            Route("/host/{host:path}", self.host),
            Route("/connection/{uid:path}", self.connection),
            Route("/model", self.model),
            Route("/news", self.news),
            Route("/static/{name}", self.static),
        ]
        inner = Starlette(routes=routes, exception_handlers={404: self._not_found, CmdanaError: self._fault})
        self.guard = Guard(inner, token, hosts, write=write)
        self._pages = Pages(index, config, self.guard.form_token if write else "")

    def queue(self, request: Request) -> Response:
        return HTMLResponse(self._pages.queue(dict(request.query_params)))

    def queue_object(self, request: Request) -> Response:
        entries, fault = self._index.entries()
        wanted = Wanted.parse(state=request.query_params.get("state", ""))
        return JSONResponse({
            "incidents": [entry_object(e) for e in entries if wanted.takes(e)][:1000], "fault": fault or None,
            "reading": self._index.doing or None,
        })  # fmt: skip

    def incident(self, request: Request) -> Response:
        return self._page(self._pages.incident(request.path_params["mark"], dict(request.query_params)))

    def host(self, request: Request) -> Response:
        return self._page(self._pages.host(request.path_params["host"], dict(request.query_params)))

    async def connection(self, request: Request) -> Response:
        async with self._explaining:
            try:
                page = await asyncio.to_thread(self._pages.connection, request.path_params["uid"])
            except RecordError as error:
                return HTMLResponse(self._pages.fault(str(error)), 404)
        return HTMLResponse(page)

    def model(self, _request: Request) -> Response:
        return HTMLResponse(self._pages.model())

    def decide(self, request: Request) -> Response:
        """Writes a decision; labels follow as with `cmdana decide`. The allow-list is left to the command line."""
        form: dict[str, str] = request.scope["cmdana.form"]
        entries, fault = self._index.entries()
        entry = next((e for e in entries if e.incident.id == request.path_params["mark"]), None)
        state = next((s for s in STATES if s == form.get("state")), None)
        if entry is None or state is None or fault:
            return HTMLResponse(
                self._pages.fault(fault or "there is no such incident, or no such state"), 400
            )
        i = entry.incident
        before = self._index.store.decisions().get(i.id, OPEN)
        if state in CLOSED or (state == "open" and before.closed):
            learned(i, state, self._index.folder, self._labels, PassedOver())
        self._index.store.decide(i.id, state, form.get("note", ""), i.connections)
        self._index.version += 1
        return RedirectResponse(f"/incident/{quote(i.id, safe='', errors='replace')}", 303)

    async def news(self, request: Request) -> Response:
        """Server-sent events: a line each time that something has changed."""
        if self._streams >= _MOST_STREAMS:
            return Response("too many windows\n", 503, media_type="text/plain")

        async def told() -> AsyncIterator[str]:
            self._streams += 1
            try:
                last: object = None
                silent = 0.0
                while not await request.is_disconnected():
                    now = (self._index.version, self._index.store.version(), self._index.doing)
                    if now != last:
                        last, silent = now, 0.0
                        yield f"event: changed\ndata: {self._index.version}\n\n"
                    elif silent >= 15.0:
                        silent = 0.0
                        yield ": still there\n\n"
                    await asyncio.sleep(_NEWS_SECONDS)
                    silent += _NEWS_SECONDS
            finally:
                self._streams -= 1

        return StreamingResponse(told(), media_type="text/event-stream")

    def static(self, request: Request) -> Response:
        found = _STATIC.get(request.path_params["name"])
        if found is None:
            return Response("no such file\n", 404, media_type="text/plain")
        room, folder = found
        name = request.path_params["name"]
        content = (resources.files(room) / folder / name).read_bytes()
        return Response(content, media_type=_KINDS[name.rpartition(".")[2]])

    def _page(self, page: str | None) -> Response:
        return (
            HTMLResponse(self._pages.fault("no such thing in these logs"), 404)
            if page is None
            else HTMLResponse(page)
        )

    def _not_found(self, _request: Request, _error: Exception) -> Response:
        return HTMLResponse(self._pages.fault("there is no such page"), 404)

    def _fault(self, _request: Request, error: Exception) -> Response:
        return HTMLResponse(self._pages.fault(str(error)), 400)


_STATIC: Final = {
    "report.css": ("cmdana_plugin.analyst", "templates"),
    "desk.css": ("cmdana_plugin.desk.web", "static"),
    "icon.svg": ("cmdana_plugin.desk.web", "static"),
    "desk.js": ("cmdana_plugin.desk.web", "static"),
}


def serve(
    folder: Path,
    config: Config,
    *,
    store: Path,
    labels: Path,
    host: str,
    port: int,
    names: Sequence[str],
    write: bool,
    rows: int,
    notify: Callable[[str], None],
    until: threading.Event | None = None,
) -> None:
    """Serves the page until it is interrupted, or `until` is set. Raises `CmdanaError` where it cannot listen."""
    import uvicorn

    listening = _listening(host, port)
    port = listening.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    own = {f"{name}:{port}" for name in (shown, "localhost", "127.0.0.1", "[::1]")}
    hosts = frozenset({name.lower() for name in (*own, *names)})
    token = secrets.token_urlsafe(32)
    index = Index(folder, Store(store), config.verdict.alerts_per_day, rows)
    desk = Desk(index, config, write=write, labels=labels, token=token, hosts=hosts)
    index.start()
    notify(f"http://{shown}:{port}/?token={token}")
    settings: dict[str, Any] = {
        "log_level": "warning", "access_log": False, "server_header": False, "proxy_headers": False, "ws": "none",
        "lifespan": "off", "limit_concurrency": _MOST_CONNECTIONS, "timeout_graceful_shutdown": 1,
        "timeout_keep_alive": 10, "h11_max_incomplete_event_size": 32_768, "http": "h11", "loop": "asyncio",
    }  # fmt: skip
    server = uvicorn.Server(uvicorn.Config(desk.guard, **settings))
    if until is not None:
        threading.Thread(target=_end, args=(server, until), daemon=True).start()
    if threading.current_thread() is threading.main_thread():
        # Before the server listens to signals itself, and when it raises again what had ended it.
        signal.signal(signal.SIGTERM, lambda *_: setattr(server, "should_exit", True))
    try:
        deciding = " and decides about incidents" if write else ""
        notify(f"anybody with this address sees these logs{deciding}; Ctrl-C ends it")
        if not ipaddress.ip_address(listening.getsockname()[0].partition("%")[0]).is_loopback:
            notify(
                "other machines can reach it, and what they send and see is not encrypted: better a tunnel to loopback"
            )
        server.run(sockets=[listening])
    except KeyboardInterrupt:
        pass  # what ended it, raised again by the server when it had ended
    finally:
        index.stop()
        listening.close()


def _end(server: uvicorn.Server, until: threading.Event) -> None:
    until.wait()
    server.should_exit = True


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(64)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise CmdanaError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; --port names another"
        ) from None
    return listening

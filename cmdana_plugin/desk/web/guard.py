"""Who may see the page: loopback's own names, a token, then a cookie; and what a browser may do with what it gets.

Every request passes here first. A page of another site cannot read ours (its name is another: DNS rebinding), cannot
use our cookie (SameSite=Strict), cannot send our forms (Origin, and a token in each), and cannot frame it.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import parse_qs

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

MOST_BODY: Final = 16_384  # bytes of a form
_POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = tuple(
    (name.encode(), value.encode())
    for name, value in (
        ("content-security-policy", _POLICY),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
        ("cache-control", "no-store"),
    )
)
_WITHOUT: Final = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>cmdana</title>
<meta name="viewport" content="width=device-width, initial-scale=1"></head><body><main><h1>cmdana</h1>
<p>Open the address that <code>cmdana serve</code> has printed, with its token: this browser is not known yet.</p>
</main></body></html>"""


class Guard:
    """An ASGI application before another: refuses what is not meant for it, and adds the headers of every answer."""

    def __init__(self, inner: Application, token: str, hosts: frozenset[str], *, write: bool) -> None:
        """`hosts` are the Host headers that are answered, such as 127.0.0.1:8765, in lower case."""
        self._inner = inner
        self._token = token.encode()
        self._hosts = hosts
        self._write = write
        self._session = secrets.token_urlsafe(32).encode()
        port = next(iter(sorted(hosts)), "").rpartition(":")[2]
        self._cookie = f"cmdana_{port if port.isdigit() else 'desk'}".encode()
        self.form_token = hmac.new(self._session, b"form", "sha256").hexdigest()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.lower(), []).append(value)

        async def answered(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message.get("headers", ())}
                message["headers"] = [
                    *message.get("headers", ()), *(pair for pair in _HEADERS if pair[0] not in given)
                ]  # fmt: skip
            await send(message)

        hosts = headers.get(b"host", [])
        if len(hosts) != 1 or hosts[0].decode("latin-1").lower() not in self._hosts:
            await _say(answered, 421, "this name is not one of cmdana's: use the address that it printed\n")
            return
        if scope["method"] not in ("GET", "HEAD", "POST"):
            await _say(answered, 405, "GET, HEAD and POST only\n")
            return
        if scope["method"] == "GET" and scope["path"] == "/" and b"token=" in scope["query_string"]:
            await self._enter(scope, answered)
            return
        if not self._known(headers):
            await _say(answered, 401, _WITHOUT, "text/html; charset=utf-8")
            return
        if scope["method"] == "POST":
            body = await self._form(scope, headers, receive, answered)
            if body is None:
                return
            scope["cmdana.form"] = body
        await self._inner(scope, receive, answered)

    async def _enter(self, scope: Message, send: Send) -> None:
        """Exchanges the token of the address for a cookie, so that it stays in no history and no Referer."""
        query = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=20)
        if not hmac.compare_digest(query.get("token", [""])[0].encode(), self._token):
            await _say(send, 401, _WITHOUT, "text/html; charset=utf-8")
            return
        cookie = self._cookie + b"=" + self._session + b"; Path=/; HttpOnly; SameSite=Strict"
        await send({"type": "http.response.start", "status": 303,
                    "headers": [(b"location", b"/"), (b"set-cookie", cookie), (b"content-length", b"0")]})  # fmt: skip
        await send({"type": "http.response.body", "body": b""})

    def _known(self, headers: dict[bytes, list[bytes]]) -> bool:
        for line in headers.get(b"cookie", ()):
            for pair in line.split(b";")[:50]:
                name, _, value = pair.strip().partition(b"=")
                if name == self._cookie and hmac.compare_digest(value, self._session):
                    return True
        bearer = headers.get(b"authorization", [])
        return len(bearer) == 1 and hmac.compare_digest(bearer[0], b"Bearer " + self._token)

    async def _form(
        self, scope: Message, headers: dict[bytes, list[bytes]], receive: Receive, send: Send
    ) -> dict[str, str] | None:
        """The fields of a form of ours; None where it was refused."""
        if not self._write:
            await _say(send, 403, "read only: start it with `cmdana serve --write` to decide here\n")
            return None
        origins = [origin.decode("latin-1").lower() for origin in headers.get(b"origin", [])]
        own = len(origins) == 1 and origins[0].partition("://")[2] in self._hosts
        if (
            not own
            or headers.get(b"content-type", [b""])[0].partition(b";")[0]
            != b"application/x-www-form-urlencoded"
        ):
            await _say(send, 403, "this form comes from elsewhere\n")
            return None
        body = b""
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return None
            body += message.get("body", b"")
            if len(body) > MOST_BODY:
                await _say(send, 413, "too much for a form of ours\n")
                return None
            if not message.get("more_body"):
                break
        try:
            fields = parse_qs(body.decode("utf-8"), keep_blank_values=True, max_num_fields=40)
        except ValueError:
            await _say(send, 400, "no form of ours\n")
            return None
        form = {name: values[0] for name, values in fields.items()}
        if not hmac.compare_digest(form.get("form", "").encode(), self.form_token.encode()):
            await _say(send, 403, "this form is of another start of cmdana: load the page again\n")
            return None
        return form


async def _say(send: Send, status: int, words: str, kind: str = "text/plain; charset=utf-8") -> None:
    body = words.encode()
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

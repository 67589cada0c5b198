"""Who may see the page, and what may be sent to it: nobody by another name, without the token, or from elsewhere."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from cmdana_plugin.desk.web.guard import MOST_BODY, Guard

HOST = "127.0.0.1:8765"
TOKEN = "a-token"


class Inner:
    """What is behind the guard: it counts who comes through."""

    def __init__(self) -> None:
        self.came: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.came.append(scope.get("cmdana.form"))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"inside"})


def ask(
    guard: Guard,
    method: str = "GET",
    target: str = "/",
    headers: Sequence[tuple[str, str]] = (),
    body: bytes = b"",
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the guard's answer."""
    path, _, query = target.partition("?")
    scope = {
        "type": "http", "method": method, "path": path, "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
    }  # fmt: skip
    said: list[Any] = []
    pieces = [body[i : i + 1000] for i in range(0, len(body), 1000)] or [b""]

    async def receive() -> Any:
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message: Any) -> None:
        said.append(message)

    asyncio.run(guard(scope, receive, send))
    found = {name.decode(): value.decode() for name, value in said[0]["headers"]}
    return said[0]["status"], found, b"".join(m.get("body", b"") for m in said[1:])


def guarded(write: bool = True) -> tuple[Guard, Inner, str]:
    """A guard, what is behind it, and the cookie of somebody who came with the token."""
    inner = Inner()
    guard = Guard(inner, TOKEN, frozenset({HOST, "localhost:8765"}), write=write)
    status, headers, _ = ask(guard, target=f"/?token={TOKEN}", headers=[("Host", HOST)])
    assert (status, headers["location"]) == (303, "/")
    assert "HttpOnly; SameSite=Strict" in headers["set-cookie"]
    return guard, inner, headers["set-cookie"].partition(";")[0]


@pytest.mark.parametrize(("headers", "status"), [
    ([("Host", HOST)], 401),
    ([], 421),
    ([("Host", "evil.example:8765")], 421),
    ([("Host", "127.0.0.1")], 421),
    ([("Host", HOST), ("Host", HOST)], 421),
    ([("Host", "LOCALHOST:8765"), ("Authorization", f"Bearer {TOKEN}")], 200),
    ([("Host", HOST), ("Authorization", "Bearer wrong")], 401),
    ([("Host", HOST), ("Authorization", f"Bearer {TOKEN}"), ("Authorization", "Bearer x")], 401),
    ([("Host", HOST), ("Cookie", "cmdana_8765=guess")], 401),
    ([("Host", HOST), ("Cookie", "cmdana_8765=\xff\xfe; " * 60)], 401),
])  # fmt: skip
def test_only_who_has_the_token_comes_in_and_by_our_name(headers: list[tuple[str, str]], status: int) -> None:
    guard, inner, _ = guarded()
    found, given, _ = ask(guard, headers=headers)
    assert found == status
    assert len(inner.came) == (status == 200)
    assert "default-src 'none'" in given["content-security-policy"]
    assert "unsafe" not in given["content-security-policy"]
    assert given["cache-control"] == "no-store"


def test_a_wrong_token_gets_no_cookie_and_the_cookie_lets_in() -> None:
    guard, inner, cookie = guarded()
    for wrong in ("token=", "token=wrong", "token=a-token%00", "x=1&token=b"):
        status, headers, _ = ask(guard, target=f"/?{wrong}", headers=[("Host", HOST)])
        assert status == 401
        assert "set-cookie" not in headers
    assert TOKEN not in cookie
    status, _, body = ask(guard, headers=[("Host", HOST), ("Cookie", f"other=1; {cookie}")])
    assert (status, body, len(inner.came)) == (200, b"inside", 1)


FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(("changed", "status"), [
    ({}, 200),
    ({"write": False}, 403),
    ({"Origin": None}, 403),
    ({"Origin": "http://evil.example"}, 403),
    ({"Origin": "null"}, 403),
    ({"Content-Type": "text/plain"}, 403),
    ({"Content-Type": "multipart/form-data"}, 403),
    ({"Cookie": None}, 401),
    ({"Host": "evil.example"}, 421),
    ({"form": "form=guess&state=benign"}, 403),
    ({"form": "state=benign"}, 403),
    ({"form": "\xff" * 10}, 400),
    ({"form": "a=" + "x" * (MOST_BODY + 10)}, 413),
    ({"form": "&".join(f"a{i}=1" for i in range(100))}, 400),
])  # fmt: skip
def test_a_form_is_taken_from_our_own_page_alone(changed: dict[str, Any], status: int) -> None:
    guard, inner, cookie = guarded(changed.get("write", True))
    form = changed.get("form", f"form={guard.form_token}&state=benign&note=it%27s+ours")
    headers = {"Host": HOST, "Cookie": cookie, "Origin": f"http://{HOST}", "Content-Type": FORM}
    headers |= {name: value for name, value in changed.items() if name in headers}
    sent = [(name, value) for name, value in headers.items() if value is not None]
    found, _, _ = ask(guard, "POST", "/incident/a/decide", sent, form.encode("latin-1"))
    assert found == status
    assert len(inner.came) == (status == 200)
    if status == 200:
        assert inner.came[0]["note"] == "it's ours"


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH"])
def test_other_methods_are_refused(method: str) -> None:
    guard, inner, cookie = guarded()
    assert ask(guard, method, headers=[("Host", HOST), ("Cookie", cookie)])[0] == 405
    assert inner.came == []

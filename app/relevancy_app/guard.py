"""What every request passes before Gradio sees it: who may ask, how much, how often, and what a browser may do."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse

_SAFE = ("GET", "HEAD", "OPTIONS")
_OWN_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_MOST_ADDRESSES = 10_000  # whose wrong passwords are remembered
_LONGEST_WAIT = 16  # times the first wait after a wrong password

_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",  # Gradio's page is made of both
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "media-src 'self' blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self' https://huggingface.co",  # a Space is shown inside a frame there
    )
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
}


class Guard:
    """ASGI middleware: refuses other sites' requests, and marks every answer with what a browser may do with it.

    local: whether the app has no password and so speaks to this machine alone. Then it answers to this machine's own
    names only: a page whose name was led to 127.0.0.1 (DNS rebinding) is refused.
    """

    def __init__(self, app: Any, local: bool) -> None:
        self.app, self.local = app, local

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on, or answer 403."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope.get("method", "GET"), headers)
        if refusal and scope["type"] == "http":
            await _line(refusal, 403)(scope, receive, send)
        elif not refusal:
            await self.app(scope, receive, _marking(send))

    def _refusal(self, method: str, headers: Mapping[str, str]) -> str:
        host = headers.get("host", "").lower()
        if self.local and urlsplit(f"//{host}").hostname not in _OWN_NAMES:
            return "This app answers to this machine only."
        origin = headers.get("origin")
        own = {host, headers.get("x-forwarded-host", host).lower()}
        if method not in _SAFE and origin is not None and urlsplit(origin).netloc.lower() not in own:
            return "Requests from other sites are not taken."
        return ""


def _marking(send: Any) -> Any:
    async def marked(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": list(message["headers"])}
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return marked


class BodyLimit:
    """ASGI middleware: refuses request bodies beyond `most` bytes, uploads excepted, which Gradio limits itself."""

    def __init__(self, app: Any, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on, or answer 413."""
        if scope["type"] != "http" or scope["path"].rstrip("/").endswith("/upload"):
            await self.app(scope, receive, send)
            return
        stated = dict(scope["headers"]).get(b"content-length", b"0")
        if not stated.isdigit() or int(stated) > self.most:
            await _line("The request is too large.", 413)(scope, receive, send)
            return
        count = 0

        async def counted() -> Any:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            return {"type": "http.disconnect"} if count > self.most else message

        await self.app(scope, counted, send)


class Patience:
    """ASGI middleware: of one address, passwords are tried one after the other, and each wrong one is answered later.

    first_wait: seconds after the first wrong password, twice as many after each further one, up to 16 times as many.
    """

    def __init__(self, app: Any, first_wait: float) -> None:
        self.app, self.first_wait = app, first_wait
        self.wrong: OrderedDict[str, int] = OrderedDict()
        self.turns: OrderedDict[str, asyncio.Lock] = OrderedDict()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on; what Gradio answers to a wrong password waits."""
        if not asks_for(scope, "POST", "/login"):
            await self.app(scope, receive, send)
            return
        address = (scope.get("client") or ("",))[0]
        async with self.turns.setdefault(address, asyncio.Lock()):
            await self.app(scope, receive, self._delaying(address, send))
        self._forget_oldest()

    def _delaying(self, address: str, send: Any) -> Any:
        async def delayed(message: Any) -> None:
            if message["type"] == "http.response.start":
                if message["status"] < 400:
                    self.wrong.pop(address, None)
                else:
                    count = self.wrong[address] = self.wrong.pop(address, 0) + 1
                    await asyncio.sleep(self.first_wait * min(2 ** (count - 1), _LONGEST_WAIT))
            await send(message)

        return delayed

    def _forget_oldest(self) -> None:
        while len(self.wrong) > _MOST_ADDRESSES:
            self.wrong.popitem(last=False)
        for address in [one for one, turn in self.turns.items() if not turn.locked()][:-_MOST_ADDRESSES]:
            del self.turns[address]


class Leaving:
    """ASGI middleware: `POST /closed?visit=...` drops what is kept of a visit, as a page asks for when it is closed.

    Gradio's own way is an event stream that each open page holds; a browser has six connections for all its tabs.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on unless it says that a page was closed."""
        if not asks_for(scope, "POST", "/closed"):
            await self.app(scope, receive, send)
            return
        holder = scope["app"].state_holder
        for visit in parse_qs(scope["query_string"].decode("latin-1")).get("visit", []):
            holder.delete_state(visit)
            holder.session_data.pop(visit, None)
            holder.time_last_used.pop(visit, None)
        await _line("")(scope, receive, send)


def asks_for(scope: Any, method: str, path: str) -> bool:
    """Whether a request is for this path, by this method."""
    return bool(scope["type"] == "http" and scope["method"] == method and scope["path"].rstrip("/") == path)


def _line(detail: str, status: int = 200) -> JSONResponse:
    """A whole answer of one line."""
    return JSONResponse({"detail": detail}, status, headers=_HEADERS)

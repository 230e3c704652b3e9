"""Who may ask: the right host, the right token; and the headers that keep a page to itself."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from balancer.core.loopback import is_loopback

LEAST_TOKEN = 16  # characters
SECURITY_HEADERS: Mapping[str, str] = {
    # The page uses its own files alone; pictures come as data URLs, and the upload is shown from memory.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:;"
    " connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",  # what a shared computer keeps of a patient
}


class Guard:
    """ASGI middleware that refuses strangers before a byte of the body is read."""

    def __init__(self, app: ASGIApp, token: str | None, loopback_only: bool) -> None:
        """Ask for ``token`` on every path below /api/; on loopback take requests to this machine's names alone."""
        self.app, self.token, self.loopback_only = app, token, loopback_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403 or 401, or pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        begun = False

        async def with_headers(message: Message) -> None:
            nonlocal begun
            begun = True
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        status, line = self._refusal(scope["path"], Headers(scope=scope))
        if line:
            await _refuse(with_headers, status, line)
            return
        try:
            await self.app(scope, receive, with_headers)
        except asyncio.CancelledError:  # by uvicorn, which was told to end and has waited for some seconds
            if not begun:
                await _refuse(with_headers, 503, "the service is ending; ask again once it is back")

    def _refusal(self, path: str, headers: Headers) -> tuple[int, str]:
        """Return status and line of a refusal; an empty line lets the request pass."""
        # Another site could let its own name point at this machine (DNS rebinding) and read what the page can read.
        if self.loopback_only and not is_loopback(_host(headers.get("host", ""))):
            return 403, "this service answers on this machine alone; open it as http://127.0.0.1"
        if path.startswith("/api/") and self._is_foreign(headers):
            return 403, "another site sent this request; open the page of this service"
        if self.token is not None and path.startswith("/api/"):
            sent = headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(sent.encode(), self.token.encode()):
                return 401, "the token is missing or wrong; send the header Authorization: Bearer TOKEN"
        return 0, ""

    def _is_foreign(self, headers: Headers) -> bool:
        """Return whether a browser sent the request for a page of another origin, such as another port's.

        Browsers say so in Sec-Fetch-Site; old ones only name the page's origin. The rule is that of Go's
        CrossOriginProtection. A token does without the second part: no other page can send it.
        """
        if site := headers.get("sec-fetch-site"):
            return site not in ("same-origin", "none")
        origin = headers.get("origin")
        return self.token is None and origin is not None and origin.partition("://")[2] != headers.get("host")


def _host(header: str) -> str:
    """Return the name in a Host header, without the port.

    >>> _host("127.0.0.1:8000"), _host("[::1]:8000"), _host("localhost")
    ('127.0.0.1', '::1', 'localhost')
    """
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


async def _refuse(send: Send, status: int, line: str) -> None:
    body = json.dumps({"detail": line}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(b"www-authenticate", b"Bearer")] if status == 401 else []
    headers += [(b"connection", b"close")]  # the body was not read
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

"""Connections as uvicorn keeps them, with two limits more: how many there are, and how long a request's head may take.

uvicorn waits for the head of a request for ever, so some hundred silent clients would take all places.
"""

from __future__ import annotations

import asyncio
import http
import json
import logging

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST = 512  # at the same time; a process may open about a thousand files
HEAD_SECONDS = 10.0  # for the head of a request, which is a few hundred bytes


class Connection(H11Protocol):
    """A connection that is ended when no request comes, and that answers what is no HTTP in JSON too."""

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Wait for the head of the first request; refuse a connection too many."""
        super().connection_made(transport)
        if len(self.connections) > MOST:
            self._refuse(503, f"{MOST} connections are open already; try again in a moment")
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        """Go on with the request, or wait for the rest of its head."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._stop_watching()
        super().connection_lost(exc)

    def send_400_response(self, _msg: str) -> None:
        """Refuse what is no HTTP; an answer that has begun is cut."""
        if self.cycle is None or not self.cycle.response_started:
            self._refuse(400, "this is no HTTP request that can be read")
        else:
            self.transport.close()

    def _refuse(self, status: int, line: str) -> None:
        body = json.dumps({"detail": line}).encode()
        head = f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
        self.transport.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        self.transport.close()

    def _watch(self) -> None:
        """End the connection after some seconds, unless a request is under way by then."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_watching()
        elif self._head is None and not self.transport.is_closing():
            self._head = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _stop_watching(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None


def server_config(app: FastAPI) -> uvicorn.Config:
    """Return how uvicorn serves the app: nothing of a request is logged, neither its path nor its bytes."""
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL + 1)  # a traceback may hold bytes of an upload
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        log_config=None,
        access_log=False,  # paths and names of uploads do not belong in a log
        server_header=False,
        timeout_graceful_shutdown=5,
    )

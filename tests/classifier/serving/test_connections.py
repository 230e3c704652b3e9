"""Connections: what is no HTTP, clients that stay silent, and too many of them."""

import concurrent.futures
import contextlib
import json
import logging
import socket
import threading
import time

import httpx
import pytest
import uvicorn
from serving_helpers import Serve

from classifier.serving import connections
from classifier.serving.app import Options, create_app
from classifier.serving.models import ServedModel

HEAD = b"POST /api/predict HTTP/1.1\r\nHost: 127.0.0.1\r\n"


def connect(client: httpx.Client) -> socket.socket:
    return socket.create_connection((client.base_url.host, client.base_url.port), timeout=20)


def answer(connection: socket.socket) -> bytes:
    """One answer in JSON: its body may come in a segment of its own."""
    received = connection.recv(10_000)
    while not received.endswith(b"}"):
        received += connection.recv(10_000)
    return received


def everything(connection: socket.socket) -> bytes:
    """What arrives until the service closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(10_000):
            received += part
    return received


BROKEN = {
    "no HTTP": b"\x16\x03\x01\x02\x00 a TLS hello\r\n\r\n",
    "1 MB of head": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "a length that is none": HEAD + b"Content-Length: -1\r\n\r\n",
    "a length of 30 digits": HEAD + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n",
    "a chunk that is none": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzzz\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_http_is_one_line(name: str, client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with connect(client) as connection:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(BROKEN[name])
        received = everything(connection)
    assert received.startswith(b"HTTP/1.1 400 "), received
    assert "\n" not in json.loads(received.partition(b"\r\n\r\n")[2])["detail"]
    assert client.get("/healthz").status_code == 200
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_garbage_after_an_answer(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    """The request was refused before its body was read, and the rest of this body is no HTTP."""
    with connect(client) as connection:
        connection.sendall(
            b"POST /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
        )
        assert b" 404 " in answer(connection)
        connection.sendall(b"zzz\r\n")
        assert everything(connection) == b""
    assert client.get("/healthz").status_code == 200
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.parametrize("answered", [0, 1])
@pytest.mark.parametrize("sent", [b"P", HEAD])
def test_a_silent_client_is_sent_away(
    sent: bytes, answered: int, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Early and late in the head of a request, on a new connection and on one that was answered before."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    with connect(client) as connection:
        for _ in range(answered):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert b" 200 " in answer(connection)
        connection.sendall(sent)
        begin = time.perf_counter()
        assert everything(connection) == b""
        assert time.perf_counter() - begin < 4, "sooner than the time that uvicorn keeps a connection"


def test_a_client_that_sends_nothing_is_sent_away(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    with connect(client) as connection:
        assert everything(connection) == b""


def test_a_connection_too_many(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST", 3)
    with serve() as client:
        silent = [connect(client) for _ in range(3)]
        time.sleep(0.1)
        answer = client.get("/healthz")
        assert answer.status_code == 503
        assert "\n" not in answer.json()["detail"]
        for each in silent:
            each.close()
        time.sleep(0.1)
        assert client.get("/healthz").status_code == 200


def test_requests_under_way_at_the_end_are_told(
    models: list[ServedModel], picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that takes too long, and one that waits behind it; a signal ends the service all the same."""
    ended = threading.Event()
    monkeypatch.setattr("classifier.serving.app.answer", lambda *_: ended.wait(20))
    config = connections.server_config(create_app(models, Options()))
    config.port, config.timeout_graceful_shutdown = 0, 1
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/api/predict"
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(httpx.post, url, content=picture, timeout=20, trust_env=False) for _ in range(2)]
        time.sleep(0.3)
        server.should_exit = True
        answers = [each.result() for each in waiting]
    ended.set()
    thread.join(20)
    assert [answer.status_code for answer in answers] == [503, 503]
    assert all("\n" not in answer.json()["detail"] for answer in answers)

"""A web server on this machine, for the tests of downloads."""

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest import mock


@dataclass
class Site:
    """What the server answers, and the paths it was asked for."""

    content: bytes
    url: str = ""  # of a file
    status: int = 200
    sent: int | None = None  # bytes before the connection ends; None: all
    requests: list[str] = field(default_factory=list)


@contextlib.contextmanager
def serving(content: bytes, name: str = "set.npz") -> Iterator[Site]:
    """Serve ``content`` under any path of 127.0.0.1 as long as the context lasts."""
    site = Site(content)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.requests.append(self.path)
            if site.status != 200:
                self.send_error(site.status)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(site.content)))
            self.end_headers()
            self.wfile.write(site.content[: site.sent])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_address[1]}/files/{name}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        with mock.patch.dict(os.environ, no_proxy="127.0.0.1"):
            yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

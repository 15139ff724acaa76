"""A local HTTP server whose answers a test decides, address by address."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Host(ThreadingHTTPServer):
    """Answers with the bytes of `pages`, calls what is callable there, and else says 404."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.name = f"127.0.0.1:{self.server_port}"
        self.url = f"http://{self.name}"
        self.pages: dict[str, bytes | Callable[[Handler], None]] = {}
        self.asked: list[str] = []

    def handle_error(self, *_: object) -> None:
        """A client that went away in the middle is what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: Host

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        page = self.server.pages.get(self.path)
        if page is None:
            self.answer(404)
        elif isinstance(page, bytes):
            self.answer(200, page)
        else:
            page(self)

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """A whole answer; underscores in names of headers are hyphens."""
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """No noise."""


@contextmanager
def host() -> Iterator[Host]:
    """A server that runs meanwhile."""
    server = Host()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

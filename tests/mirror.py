"""A local server of weights that misbehaves in every way we have a sentence for."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Mirror(ThreadingHTTPServer):
    """Serves one file at every address, and may be told to do it badly."""

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = content
        self.status = 200
        self.break_after: list[int] = []  # bytes after which each of the next answers breaks off
        self.ranges = True
        self.etag = True
        self.seen: list[str | None] = []  # the ranges that were asked for
        self.paths: list[str] = []
        self.hold: threading.Event | None = None  # wait for it in the middle of the body
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        server = self.server
        etag = f'"{hashlib.sha1(server.content).hexdigest()}"'
        asked = self.headers.get("Range")
        server.seen.append(asked)
        server.paths.append(self.path)
        if self.headers.get("If-Range") != etag:
            asked = None
        if server.status != 200:
            self.send_error(server.status)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
        if start >= len(server.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            end = len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        self.send_header("Content-Length", str(len(body)))
        if server.etag:
            self.send_header("ETag", etag)
        self.end_headers()
        limit = server.break_after.pop(0) if server.break_after else len(body)
        if server.hold is not None:
            self.wfile.write(body[: limit // 2])
            self.wfile.flush()
            server.hold.wait(60)
            body, limit = body[limit // 2 :], limit - limit // 2
        self.wfile.write(body[:limit])

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def mirror(content: bytes) -> Iterator[Mirror]:
    """A mirror on loopback, until the end of the block."""
    server = Mirror(content)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        if server.hold is not None:
            server.hold.set()
        server.shutdown()
        thread.join()
        server.server_close()

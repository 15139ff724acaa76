"""The client of the commands, when a service is busy, breaks off, or is away."""

import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from ops.client import Away, Client
from ops.handing_in import hand_in
from ops.packing import found
from ops.result_files import write_results
from shared.errors import ServiceError
from tests.pictures_in_bulk import write_directory
from tests.services import free_port

REST = {"reference": None, "predictions": [], "error": None, "job": None, "metadata": {}}
LINES = [{"position": n, "name": f"{n}.png", "status": "succeeded"} | REST for n in range(6)]


class Troubled(BaseHTTPRequestHandler):
    """Breaks uploads and streams off, is busy once, then answers."""

    bodies: ClassVar[list[bytes]]
    keys: ClassVar[list[str]]
    asked: ClassVar[list[str]]
    cut_always = False

    def do_POST(self) -> None:
        """Take an upload, at the third attempt."""
        self.keys.append(self.headers["Idempotency-Key"])
        if len(self.keys) == 1:
            self.rfile.readline()
            self.close_connection = True
            return
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        self.bodies.append(body)
        busy = len(self.keys) == 2
        self.send_response(503 if busy else 202)
        self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(b'{"detail": "busy"}' if busy else b'{"id": "7"}')

    def do_GET(self) -> None:
        """Stream two lines and a half of what was asked for, then break off."""
        after = parse_qs(urlsplit(self.path).query).get("after", ["-1"])[0]
        self.asked.append(after)
        rest = "".join(json.dumps(line) + "\n" for line in LINES[int(after) + 1 :])
        cut = self.cut_always or len(rest.splitlines()) > 2
        keep = 0 if self.cut_always else rest.find("\n", rest.find("\n") + 1) + 9
        piece = (rest[:keep] if cut else rest).encode()
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" if piece else b"")
        self.wfile.write(b"" if cut else b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def troubled() -> Iterator[tuple[type[Troubled], Client]]:
    class Handler(Troubled):
        protocol_version = "HTTP/1.1"
        bodies: ClassVar[list[bytes]] = []
        keys: ClassVar[list[str]] = []
        asked: ClassVar[list[str]] = []

        def handle(self) -> None:
            self.close_connection = True
            self.handle_one_request()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield Handler, Client(f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)


def test_an_upload_that_breaks_off_is_sent_again_under_the_same_key(
    troubled: tuple[type[Troubled], Client], tmp_path: Path
) -> None:
    server, client = troubled
    folder = write_directory(tmp_path / "pictures", {"b/2.png": b"two", "1.png": b"one"})
    assert hand_in(client, (str(folder),), {"model": "digits"}, None) == {"id": "7"}
    assert len(server.keys) == 3
    assert len(set(server.keys)) == 1
    assert server.bodies[0] == server.bodies[1]


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_results_that_break_off_are_read_on_behind_the_last_whole_line(
    troubled: tuple[type[Troubled], Client], tmp_path: Path, suffix: str
) -> None:
    server, client = troubled
    path = tmp_path / f"results.{suffix}"
    write_results(client, {"id": "7", "top_k": 1}, str(path))
    assert server.asked == ["-1", "1", "3"]
    rows = path.read_text().splitlines()
    if suffix == "jsonl":
        assert [json.loads(row) for row in rows] == LINES
    else:
        assert [row.split(",")[:2] for row in rows[1:]] == [[str(n), f"{n}.png"] for n in range(6)]


def test_a_stream_that_always_breaks_off_ends_with_a_reason(
    troubled: tuple[type[Troubled], Client],
) -> None:
    server, client = troubled
    server.cut_always = True
    with pytest.raises(Away, match="cannot be read on"):
        list(client.lines("7"))


def test_who_is_away_for_long_is_given_up() -> None:
    client = Client(f"http://127.0.0.1:{free_port()}", patience_seconds=5)
    with pytest.raises(Away, match="connection refused"):
        client.json("GET", "/v1/ingestions")


class Full(BaseHTTPRequestHandler):
    """Has no room for the first attempts."""

    def do_POST(self) -> None:
        """Refuse, and take the fifth."""
        self.server.asked += 1  # type: ignore[attr-defined]
        full = self.server.asked < 5  # type: ignore[attr-defined]
        self.send_response(503 if full else 202)
        self.send_header("Retry-After", "40")
        self.end_headers()
        self.wfile.write(b'{"code": "backlog_full", "detail": "Full."}' if full else b'{"id": "7"}')

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_a_service_that_is_full_is_asked_again_when_it_says_however_long_it_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    with ThreadingHTTPServer(("127.0.0.1", 0), Full) as server:
        server.asked = 0  # type: ignore[attr-defined]
        thread = Thread(target=server.serve_forever)
        thread.start()
        client = Client(f"http://127.0.0.1:{server.server_port}", patience_seconds=60)
        assert client.json("POST", "/v1/ingestions", data=b"") == {"id": "7"}
        server.shutdown()
        thread.join()
    assert slept == [40] * 4
    assert capsys.readouterr().err.count("Full.") == 1


def test_names_are_relative_to_the_folder_that_holds_all(tmp_path: Path) -> None:
    write_directory(tmp_path, {"a/1.png": b"", "b/1.png": b"", "b/c/2.png": b"", "b/._c": b""})
    (tmp_path / "b" / "link").symlink_to(tmp_path / "a")

    def names(*paths: str) -> list[str]:
        return [each.name for each in found([tmp_path / path for path in paths])]

    assert names("b") == ["1.png", "c/2.png"]
    assert names("b", "a") == ["b/1.png", "b/c/2.png", "a/1.png"]
    assert names("b/1.png") == ["1.png"]
    assert names("a/1.png", "b/c/2.png") == ["a/1.png", "b/c/2.png"]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"gone\.png cannot be read"):
        list(found([tmp_path / "gone.png"]))

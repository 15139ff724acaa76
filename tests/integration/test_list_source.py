"""A list as a source: what its lines lead to, and how hosts fail."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from shared.errors import Unavailable
from shared.settings import Settings
from tests.host import Handler, Host, host
from tests.services import S3Server
from worker.sources import fetching
from worker.sources.lists import ListSource
from worker.sources.patience import IN_A_ROW
from worker.sources.protocol import Entry, EntryError, SourceEnded

MOST = 6 * 2**20  # more than one image's share of what is fetched ahead


@pytest.fixture
def server() -> Iterator[Host]:
    with host() as running:
        yield running


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between tries: how often it is tried is the point, not how long it takes."""
    monkeypatch.setattr(fetching, "_PAUSES_SECONDS", (0.02, 0.05))


def source(directory: Path, lines: list[str], base: str | None = None, **values: Any) -> ListSource:
    path = directory / "list"
    path.write_text("\n".join(lines), encoding="utf-8")
    given = {"max_image_bytes": MOST, "source_timeout_seconds": 5, **values}
    return ListSource(Settings(_env_file=None, **given), path, base)


def errors(entries: list[Entry]) -> dict[str, str]:
    return {entry.name: entry.error[0] for entry in entries if entry.error is not None}


def test_lines_come_in_order_and_go_on_at_every_checkpoint(server: Host, tmp_path: Path) -> None:
    server.pages = {f"/{number}": b"image %d" % number for number in range(40)}
    lines = [
        f'{{"url": "{server.url}/{number}", "reference": "r{number}"}}' for number in range(40)
    ]
    asked = source(tmp_path, [*lines, "no JSON"], source_hosts=server.name)
    whole = list(asked.entries(None))
    assert [entry.data for entry in whole[:40]] == list(server.pages.values())
    assert [entry.reference for entry in whole[:40]] == [f"r{number}" for number in range(40)]
    assert errors(whole) == {"no JSON": "invalid_value"}
    for number in (0, 1, 20, 38, 39, 40):
        assert list(asked.entries(whole[number].checkpoint)) == whole[number + 1 :]
    assert asked.fetch(whole[7].name) == whole[7].data


def test_an_address_that_comes_again_is_fetched_once(server: Host, tmp_path: Path) -> None:
    server.pages = {f"/{number}": b"%d" % number for number in range(3)}
    lines = [f"{server.url}/{number % 4}" for number in range(4000)]
    entries = source(tmp_path, lines, source_hosts=server.name).entries(None)
    for number, entry in enumerate(entries):
        assert entry.data == (None if number % 4 == 3 else b"%d" % (number % 4))
    assert number == 3999
    assert sorted(server.asked) == ["/0", "/1", "/2", "/3"]


def test_large_images_take_turns_and_too_large_ones_are_not_read(
    server: Host, tmp_path: Path
) -> None:
    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b"x" * 2**16)

    large = bytes(5 * 2**20)
    server.pages = {f"/{number}": large for number in range(4)} | {
        "/said": lambda handler: handler.answer(200, Content_Length=str(MOST + 1)),
        "/endless": endless,
        "/small": b"small",
    }
    lines = [f"{server.url}{page}" for page in server.pages]
    whole = list(source(tmp_path, lines, source_hosts=server.name).entries(None))
    assert [entry.data for entry in whole] == [large] * 4 + [None, None, b"small"]
    assert set(errors(whole).values()) == {"image_too_large"}
    assert all(f"{MOST:,}" in entry.error[1] for entry in whole if entry.error is not None)


def test_lines_lead_only_where_the_operator_allows(
    server: Host, s3_server: S3Server, tmp_path: Path
) -> None:
    bucket, root = s3_server.url(), tmp_path / "root"
    root.mkdir()
    (root / "a b.png").write_bytes(b"of the disk")
    (root / "link.png").symlink_to("/etc/passwd")
    key = bucket.removeprefix("s3://")
    requests.put(f"{s3_server.endpoint}/{key}/a.png", data=b"of the bucket", timeout=5)
    lines = {
        f"{bucket}/a.png": b"of the bucket",
        f"{bucket}/gone.png": "source_missing",
        f"{bucket}-beside/a.png": "source_refused",
        f"{root.as_uri()}/a%20b.png": b"of the disk",
        f"{root.as_uri()}/gone.png": "source_missing",
        f"{root.as_uri()}/link.png": "source_refused",
        "file:///etc/passwd": "source_refused",
        "http://example.com/a.png": "source_refused",
        f"http://user:pass@{server.name}/": "source_refused",
        "data:image/png;base64,AAAA": "unsupported_source",
        "a.png": "invalid_value",
    }
    given = {
        **s3_server.settings,
        "source_prefixes": bucket,
        "source_roots": f"{root}",
        "source_hosts": server.name,
    }
    whole = list(source(tmp_path, list(lines), **given).entries(None))
    told = [entry.error[0] if entry.error is not None else entry.data for entry in whole]
    assert dict(zip(lines, told, strict=True)) == lines

    for base in (f"{bucket}/list.txt", f"{root.as_uri()}/list.txt", f"{root.as_uri()}/"):
        keys = source(tmp_path, ["a.png", "a b.png", "../x.png", "sub/../../x"], base, **given)
        first, second, *outside = keys.entries(None)
        assert b"of the" in (first.data or second.data or b"")
        assert {error for error in errors(outside).values()} <= {"source_refused", "invalid_value"}
        assert len(errors(outside)) == 2
        with pytest.raises(EntryError):
            keys.fetch("../x.png")
    absolute = source(tmp_path, [f"{root}/a b.png"], root.as_uri(), **given)
    assert [entry.data for entry in absolute.entries(None)] == [b"of the disk"]


def test_redirects_lead_only_where_the_operator_allows(server: Host, tmp_path: Path) -> None:
    def to(place: str, status: int = 302) -> Any:
        return lambda handler: handler.answer(status, Location=place)

    server.pages = {
        "/1": to("/2", 301),
        "/2": to(f"{server.url}/image?x=1", 307),
        "/image?x=1": b"image",
        "/loop": to("/loop"),
        "/other": to(f"http://localhost:{server.server_port}/image?x=1"),
        "/file": to(f"file://{tmp_path}/list"),
        "/password": to(f"http://u:p@{server.name}/image?x=1"),
    }
    lines = [f"{server.url}/{page}" for page in ("1", "loop", "other", "file", "password")]
    asked = source(tmp_path, lines, source_hosts=server.name, source_roots=f"{tmp_path}")
    first, *others = asked.entries(None)
    assert first.data == b"image"
    assert [entry.error[0] for entry in others if entry.error] == [
        "source_missing",
        *["source_refused"] * 3,
    ]


def test_what_fails_for_now_is_tried_again_soon(server: Host, tmp_path: Path) -> None:
    left = {"/busy": 2, "/cut": 1, "/broken": 9}

    def bad(handler: Handler) -> None:
        left[handler.path] -= 1
        if left[handler.path] < 0:
            handler.answer(200, b"image")
        elif handler.path == "/cut":
            handler.answer(200, b"ima", Content_Length="5")
            handler.close_connection = True
        else:
            handler.answer(503, Retry_After="0")

    server.pages = {
        **dict.fromkeys(left, bad),
        "/later": lambda handler: handler.answer(429, Retry_After="3600"),
        "/no": lambda handler: handler.answer(403),
    }
    lines = [f"{server.url}{page}" for page in (*server.pages, "/gone")]
    whole = list(source(tmp_path, lines, source_hosts=server.name).entries(None))
    assert {entry.name.rpartition("/")[2]: entry.data for entry in whole if entry.data} == {
        "busy": b"image",
        "cut": b"image",
    }
    assert [error for error in errors(whole).values()] == [
        *("source_unreachable", "source_unreachable", "source_missing", "source_missing")
    ]
    assert "answered 503" in whole[2].error[1]  # type: ignore[index]
    assert server.asked.count("/later") == 1
    assert server.asked.count("/gone") == 1


@pytest.mark.parametrize("part", ["nothing", "head", "body", "chunks"])
def test_a_host_that_drips_holds_nobody_for_long(server: Host, tmp_path: Path, part: str) -> None:
    ended = threading.Event()

    def drip(handler: Handler) -> None:
        begin = {
            "nothing": b"",
            "head": b"HTTP/1.1 200 OK\r\nX: ",
            "body": b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n",
            "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        }[part]
        handler.wfile.write(begin)
        while not ended.wait(0.05):
            if part != "nothing":
                handler.wfile.write(b"1\r\nx\r\n" if part == "chunks" else b"x")
                handler.wfile.flush()

    server.pages = {"/drip": drip, "/ok": b"image"}
    asked = source(
        *(tmp_path, [f"{server.url}/drip", f"{server.url}/ok"]),
        source_hosts=server.name,
        source_timeout_seconds=0.1,
    )
    try:
        drips, ok = asked.entries(None)
    finally:
        ended.set()
    assert drips.error is not None and drips.error[0] == "source_unreachable"
    assert ok.data == b"image"


def test_a_host_that_is_away_makes_the_source_wait_where_it_was(
    server: Host, tmp_path: Path
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        name = f"127.0.0.1:{closed.getsockname()[1]}"
        server.pages = {"/ok": b"image"}
        away = [f"http://{name}/{number}" for number in range(IN_A_ROW + 5)]
        given = {"source_hosts": f"{server.name},{name}"}
        few = source(tmp_path, [*away[:3], f"{server.url}/ok", *away[:3]], **given)
        assert set(errors(list(few.entries(None))).values()) == {"source_unreachable"}
        asked = source(tmp_path, [f"{server.url}/ok", *away], **given)
        taken: list[Entry] = []
        with pytest.raises(Unavailable, match="refused"):
            taken.extend(asked.entries(None))
        assert [entry.data for entry in taken] == [b"image"]
        with pytest.raises(Unavailable):
            next(asked.entries(taken[0].checkpoint))


def test_cookies_passwords_and_codings_of_this_machine_are_not_used(
    server: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", f"{netrc}")
    seen = []

    def page(handler: Handler) -> None:
        seen.append(dict(handler.headers))
        handler.answer(200, b"image", Set_Cookie="a=b; Path=/")

    server.pages = {"/1": page, "/2": page}
    asked = source(tmp_path, [f"{server.url}/1"], source_hosts=server.name)
    list(asked.entries(None))
    asked.fetch(f"{server.url}/1")
    asked.fetch(f"{server.url}/2")
    assert len(seen) == 3
    for headers in seen:
        assert not {"Cookie", "Authorization"} & headers.keys()
        assert headers["Accept-Encoding"] == "identity"


def test_whoever_has_enough_leaves_no_thread_behind(server: Host, tmp_path: Path) -> None:
    server.pages = {"/1": b"image", "/busy": lambda handler: handler.answer(503, Retry_After="5")}
    lines = [f"{server.url}/1", *[f"{server.url}/busy"] * 3]
    entries = source(tmp_path, lines, source_hosts=server.name).entries(None)
    assert next(entries).data == b"image"
    fetching_threads = [thread for thread in threading.enumerate() if "fetch" in thread.name]
    assert fetching_threads
    entries.close()  # type: ignore[attr-defined]
    for thread in fetching_threads:
        thread.join(timeout=20)
        assert not thread.is_alive()


def test_a_list_that_is_gone_ends_the_source_or_is_tried_later(tmp_path: Path) -> None:
    with pytest.raises(SourceEnded):
        next(ListSource(Settings(_env_file=None), None, None).entries(None))
    with pytest.raises(Unavailable):
        next(ListSource(Settings(_env_file=None), tmp_path / "gone", None).entries(None))

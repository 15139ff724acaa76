"""One file over HTTP: resumed where it broke off, with a reason people understand when it fails."""

import os
import queue
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import requests
from requests.utils import get_environ_proxies, select_proxy

from shared.errors import ServiceError

_CONNECT_SECONDS = 5.0
_READ_SECONDS = 30.0
_REACH_SECONDS = 8.0  # name, connection and all its addresses: an offline machine is told in 10 s
_BLOCK = 2**18
_BREAKS = 3  # in a row, without a byte in between
_PORTS = {"http": 80, "https": 443}

Progress = Callable[[int, int | None], None]


class FetchError(ServiceError):
    """The file could not be fetched; the message says why."""


class Interrupted(ServiceError):
    """The fetch was told to stop; what it has stays, to go on from there."""


class _Broken(Exception):
    """The connection broke within the body."""


def fetch(
    url: str, file: BinaryIO, mark: Path, *, on_bytes: Progress, stop: threading.Event
) -> None:
    """Append to `file` what is missing of the resource at `url`.

    `mark` is a small file beside it that says which state of the resource it is the beginning of:
    two halves of different files would make a whole that nobody has seen. Without one, and where
    the server has another state now, the file is begun anew.

    `on_bytes` is called with (bytes there, bytes in all or None), first when the server has
    answered and nothing was written yet; what it raises ends the fetch.

    Raises:
        FetchError: The server cannot be reached, refuses, or breaks off again and again.
        Interrupted: `stop` was set.
    """
    breaks = 0
    while True:
        before = file.seek(0, os.SEEK_END)
        try:
            _append(url, file, mark, on_bytes, stop)
            return
        except _Broken as error:
            breaks = 1 if file.tell() > before else breaks + 1
            if breaks >= _BREAKS:
                raise FetchError(
                    f"{_host(url)} broke the connection {_BREAKS} times ({error}); "
                    "the next try goes on from there"
                ) from error
            if stop.wait(2.0 ** (breaks - 1)):
                raise Interrupted("interrupted") from None


def _append(
    url: str, file: BinaryIO, mark: Path, on_bytes: Progress, stop: threading.Event
) -> None:
    _reach(url)
    with requests.Session() as session, _open(session, url, file, mark) as response:
        there = file.seek(0, os.SEEK_END)
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            on_bytes(there, there)  # all of it was there
            return
        length = response.headers.get("Content-Length", "")
        total = there + int(length) if length.isdigit() else None
        on_bytes(there, total)
        try:
            for block in response.iter_content(_BLOCK):
                file.write(block)
                there += len(block)
                on_bytes(there, total)
                if stop.is_set():
                    raise Interrupted("interrupted")
        except requests.RequestException as error:
            raise _Broken(_plain(error)) from error
        finally:
            file.flush()


def _open(session: requests.Session, url: str, file: BinaryIO, mark: Path) -> requests.Response:
    """The answer with the rest of the file; the file is emptied when the server sends all of it."""
    there = file.seek(0, os.SEEK_END)
    state = mark.read_text(encoding="latin-1") if mark.exists() else ""
    if there and not state:
        there = file.truncate(0)
    # Any content coding would make the positions those of other bytes.
    headers = {"Accept-Encoding": "identity"}
    if there:
        headers |= {"Range": f"bytes={there}-", "If-Range": state}
    try:
        response = session.get(
            url, headers=headers, stream=True, timeout=(_CONNECT_SECONDS, _READ_SECONDS)
        )
    except requests.RequestException as error:
        raise FetchError(f"{_host(url)} could not be reached ({_plain(error)})") from error
    status, range_ = response.status_code, response.headers.get("Content-Range", "")
    if status == requests.codes.ok:
        file.truncate(0)
        state = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        mark.write_text(state, encoding="latin-1")  # as headers are
        return response
    goes_on = {
        requests.codes.partial_content: range_.startswith(f"bytes {there}-"),
        requests.codes.requested_range_not_satisfiable: range_ == f"bytes */{there}",
    }
    if there and goes_on.get(status, False):
        return response
    response.close()
    if there and status in goes_on:
        file.truncate(0)  # what is here is no beginning of what is there
        return _open(session, url, file, mark)
    raise FetchError(f"{_host(url)} answered {status} {response.reason} for {url}")


def _reach(url: str) -> None:
    """See that the server, or the proxy before it, takes connections, within a fixed time.

    In a thread, since the time that resolving a name takes has no limit of ours, and a host with
    many addresses takes the connect timeout for each.
    """
    proxy = select_proxy(url, get_environ_proxies(url))
    target = urlsplit(proxy if proxy and "://" in proxy else f"http://{proxy}" if proxy else url)
    address = target.hostname or "", target.port or _PORTS.get(target.scheme, 80)
    outcome: queue.SimpleQueue[OSError | None] = queue.SimpleQueue()

    def connect() -> None:
        try:
            socket.create_connection(address, timeout=_CONNECT_SECONDS).close()
            outcome.put(None)
        except OSError as error:
            outcome.put(error)

    threading.Thread(target=connect, name="reach", daemon=True).start()
    try:
        error = outcome.get(timeout=_REACH_SECONDS)
    except queue.Empty:
        error = TimeoutError()
    if error is not None:
        where = f"the proxy {address[0]}" if proxy else address[0]
        raise FetchError(f"{where} could not be reached ({_plain(error)})") from error


def _host(url: str) -> str:
    return urlsplit(url).hostname or url


def _plain(error: Exception) -> str:
    """The reason in plain words."""
    for kind, words in (
        (socket.gaierror, "name could not be resolved"),
        (TimeoutError, "no answer"),
        (ConnectionRefusedError, "connection refused"),
        (requests.exceptions.SSLError, "its certificate was not accepted"),
        (requests.exceptions.ProxyError, "the proxy refused"),
        (requests.Timeout, "no answer"),
        (requests.exceptions.ChunkedEncodingError, "connection broken off"),
        (requests.ConnectionError, "connection broken off"),
    ):
        if isinstance(error, kind):
            return words
    return getattr(error, "strerror", None) or type(error).__name__

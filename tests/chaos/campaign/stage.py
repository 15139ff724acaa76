"""What the harm is done to: a whole service whose parts are started again when they die.

The campaign needs of a stage only its `url`, `parts`, `unasked`, `command` and `close`, and a deck
of faults. One with its parts on hosts of their own brings its own deck, with links to cut.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

from tests.chaos.hosts import Cut
from tests.functional.service import Part, Service
from tests.services import BrokerServer, PostgresServer, wait_until

LEASE_SECONDS = 6.0
RENEW_SECONDS = 1.5
ORPHAN_HOURS = 0.04  # far longer than any submit takes
STORAGE_BYTES = 192 * 2**20
_LOOK_SECONDS = 0.05
_SETTINGS = {
    # Short, so that a paused worker is a late writer within one seed.
    "lease_seconds": LEASE_SECONDS,
    "renew_seconds": RENEW_SECONDS,
    "unreachable_hours": 0.005,
    "sweep_seconds": 2,
    "orphan_hours": ORPHAN_HOURS,
}


class Member(Part):
    """A part that is started again, and whose children end with it."""

    own_session = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.plain_command = list(self._command)
        self.unasked: list[int] = []  # exit codes of deaths that no fault has asked for
        self._asked = False
        self._lock = threading.RLock()

    def start(self) -> None:
        """Start it, unless it runs."""
        with self._lock:
            if not self.running:
                self._asked = False
                super().start()

    def kill(self) -> None:
        """`kill -9`; what it has started ends when it is started again, as in the service."""
        with self._lock:
            self._asked = True
            super().kill()

    def terminate(self) -> None:
        """SIGTERM; does not wait."""
        with self._lock:
            self._asked = True
            if self.running:
                self.signal(signal.SIGTERM)

    def look_after(self) -> None:
        """Start it again if it has died, as the supervisor of `classify up` does."""
        with self._lock:
            if self._process is None or self.running:
                return
            code = self._process.returncode
            if not self._asked:
                self.unasked.append(code)
            self.end_group()
            self.start()

    def end_group(self) -> None:
        """End what it has started, too."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def change(self, command: list[str] | None = None) -> None:
        """Start it anew by another command, or by the one that it had at first."""
        with self._lock:
            self._command = command or self.plain_command
            self.kill()
            self.end_group()
            self.start()


class Stage(Service):
    """Web, two workers and a background worker on this machine, over servers of its own."""

    def __init__(
        self,
        directory: Path,
        database: str,
        url: str,
        broker: BrokerServer,
        postgres: PostgresServer | None,
        **settings: Any,
    ) -> None:
        self.database, self.database_url = database, url
        self.broker, self.postgres = broker, postgres
        self.mount = directory / "storage"
        self.storage = self.mount / "store"
        self.storage.mkdir(parents=True)
        self.limited = False  # whether the storage has a size of its own
        super().__init__(
            directory, url, broker.url, **_SETTINGS, storage_url=self.storage.as_uri(), **settings
        )
        self.second = self._member("worker-2", "worker")
        self._over = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)

    def _part(self, name: str) -> Member:
        return self._member(name, name)

    def _member(self, name: str, role: str) -> Member:
        return Member(name, [role], self.environment, self.directory / f"{name}.log")

    def cuts(self, _dice: Random) -> Sequence[tuple[str, Cut]]:
        """Links that can be cut, with what the table calls each."""
        return ()

    @property
    def parts(self) -> tuple[Member, ...]:
        """All of its parts."""
        return self.web, self.worker, self.second, self.background

    @property
    def workers(self) -> tuple[Member, ...]:
        """The parts that classify."""
        return self.worker, self.second

    @property
    def unasked(self) -> dict[str, list[int]]:
        """The exit codes of parts that ended by themselves."""
        return {part.name: part.unasked for part in self.parts if part.unasked}

    def start(self, *parts: Part) -> None:
        """Start all of it, and keep it running from now on."""
        super().start(*(parts or self.parts))
        self.wait_until_served("digits")
        wait_until(
            lambda: bool(self.second.events("model_loaded")), seconds=90, what="the second worker"
        )
        self._keeper.start()

    def _keep(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            for part in self.parts:
                part.look_after()

    def close(self) -> None:
        """End what still runs, without mercy."""
        self._over.set()
        if self._keeper.is_alive():
            self._keeper.join()
        for part in self.parts:
            if part.log.exists():
                part.kill()
                part.end_group()
        self._http.close()


@contextmanager
def staged(database: str, **settings: Any) -> Iterator[Stage]:
    """A stage on `sqlite` or `postgresql`, with a broker and a database of its own."""
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix=f"campaign-{database}-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        (directory / "storage").mkdir()
        limited = _mount(directory / "storage")
        if limited:
            stack.callback(_unmount, directory / "storage")
        broker = BrokerServer()
        stack.callback(broker.close)
        broker.start()
        postgres = None
        url = f"sqlite:///{directory / 'classifier.db'}"
        if database == "postgresql":
            postgres = PostgresServer()
            stack.callback(postgres.close)
            postgres.start()
            url = postgres.create_database()
        stage = Stage(directory, database, url, broker, postgres, **settings)
        stage.limited = limited
        stack.callback(stage.close)
        stage.start()
        yield stage


def _mount(place: Path) -> bool:
    """Give a directory a size of its own, where that is permitted."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={STORAGE_BYTES}", "campaign", str(place)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _unmount(place: Path) -> None:
    subprocess.run(["umount", "--lazy", str(place)], check=True)

"""The background worker: a Celery worker without TensorFlow.

Recovery, the sweep, result files, downloads and expanders, each in a thread of its own.
"""

import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol
from uuid import NAMESPACE_OID, uuid5

import structlog

from ops.catalogue import APPLICATIONS, DOWNLOADS
from ops.download import pull
from ops.fetch import Interrupted
from ops.lease import Busy
from shared import models
from shared.bell import Bell
from shared.consumer import Consumer
from shared.database import Database
from shared.errors import ServiceError, Unavailable
from shared.heartbeat import beat
from shared.ingestions.output import Output
from shared.jobs.recovery import Recovery
from shared.memory import share_arena
from shared.queue import EXPANDER_QUEUE, make_celery
from shared.settings import Settings
from shared.storage.opening import open_storage
from shared.storage.protocol import Storage
from shared.sweep import Sweep
from worker.expanders import Expanders
from worker.identity import take_slot
from worker.tasks import add_expander_bell
from worker.watchdog import end_with_any_thread

_LOOK_SECONDS = 5.0  # how often it looks whether somebody installed a model meanwhile
_STOP_SECONDS = 5.0
_SOCKET_TIMEOUT_SECONDS = 5.0
_OTHER_CONNECTIONS = 8  # of recovery, sweep, result files, downloads, leases

log = structlog.get_logger(__name__)


class _Timed(Protocol):
    def step(self) -> None: ...


def run_background(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code. Neither start nor stop needs a broker."""
    share_arena()
    app = make_celery(settings.broker, socket_timeout_seconds=_SOCKET_TIMEOUT_SECONDS)
    process = _Background(settings, Bell(app))
    add_expander_bell(app, process.woken.set)
    code = Consumer(app).run(process, [EXPANDER_QUEUE])
    if process.hangs:
        # Python would wait for threads that read from a source which does not answer.
        os._exit(code)
    return code


class _Background:
    """Every thread of the process; each goes its own way, over one database and one storage."""

    def __init__(self, settings: Settings, bell: Bell) -> None:
        self._bell = bell
        self.woken = threading.Event()
        self._settings = settings
        self._stopping = threading.Event()
        self._database = Database(
            settings.database,
            pool_size=settings.expanders + _OTHER_CONNECTIONS,
            timeout_seconds=settings.database_timeout_seconds,
        )
        self._storage = open_storage(settings)
        self._recovery = Recovery(self._database, settings)
        self._threads: list[threading.Thread] = []
        self._expanders: Expanders | None = None
        self.hangs = False

    def start(self) -> None:
        """Start all of them."""
        settings, stopping = self._settings, self._stopping
        sweep = Sweep(self._database, self._storage, settings)
        self._round(self._recovery, settings.recovery_seconds, heartbeat_dir=settings.heartbeat_dir)
        self._round(sweep, settings.sweep_seconds)
        # The same for all that were this process before: it goes on at once where they were killed.
        slot = take_slot(settings.data_dir / "background")
        output = Output(self._database, settings, uuid5(NAMESPACE_OID, f"{slot.slot}/output"))
        self._round(output, settings.recovery_seconds)
        # Each in a thread of its own: where no network answers, each says so within seconds.
        for name in _downloads(settings):
            target = partial(_download, self._database, self._storage, settings, name, stopping)
            self._threads.append(_thread(f"download-{name}", target))
        self._expanders = Expanders(
            self._database,
            self._storage,
            settings,
            slot,
            woken=self.woken,
            stopping=stopping,
            may_take_from_others=self._recovery.may_take_from_others,
            ring=self._bell.ring,
        )
        self._threads += self._expanders.threads()
        end_with_any_thread()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Have each stop after what it is at; whoever takes longer ends with the process."""
        self._stopping.set()
        self.woken.set()
        give_up = time.monotonic() + _STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, give_up - time.monotonic()))
        self.hangs = any(thread.is_alive() for thread in self._threads)
        if self.hangs and self._expanders is not None:
            self._expanders.let_go()

    def _round(self, timed: _Timed, seconds: float, *, heartbeat_dir: Path | None = None) -> None:
        target = partial(_repeat, timed, seconds, self._stopping, heartbeat_dir=heartbeat_dir)
        self._threads.append(_thread(type(timed).__name__.lower(), target))


def _thread(name: str, target: Callable[[], None]) -> threading.Thread:
    return threading.Thread(target=target, name=name, daemon=True)


def _repeat(
    timed: _Timed, seconds: float, stop: threading.Event, *, heartbeat_dir: Path | None = None
) -> None:
    """Call a step again and again; what goes wrong once may go well the next time."""
    name = type(timed).__name__.lower()
    while not stop.is_set():
        beat(heartbeat_dir, "background")
        try:
            timed.step()
        except Unavailable as error:
            log.warning("round_postponed", round=name, reason=str(error))
        except Exception:
            log.exception("round_failed", round=name)
        stop.wait(seconds)


def _downloads(settings: Settings) -> list[str]:
    """The wanted models that can be downloaded."""
    named = list(dict.fromkeys(settings.download))
    for name in named:
        if name not in DOWNLOADS:
            log.error("download_unknown", model=name, known=sorted(APPLICATIONS))
    return [name for name in named if name in DOWNLOADS]


def _download(
    database: Database, storage: Storage, settings: Settings, name: str, stop: threading.Event
) -> None:
    """Fetch the weights of a wanted model until it is installed, and whenever it is not."""
    while not stop.is_set():
        stop.wait(_try(database, storage, settings, name, stop))


def _try(
    database: Database, storage: Storage, settings: Settings, name: str, stop: threading.Event
) -> float:
    """Fetch the model; returns after how many seconds to look again."""
    try:
        if _is_installed(database, name):
            return _LOOK_SECONDS
        log.info("download_started", model=name)
        version = pull(
            database,
            storage,
            DOWNLOADS[name],
            settings.weights_url,
            settings.data_dir / "downloads",
            stop=stop,
        )
        log.info("model_installed", model=name, version=version)
        return _LOOK_SECONDS
    except (Busy, Interrupted):
        return _LOOK_SECONDS
    except Unavailable as error:
        log.warning("download_postponed", model=name, reason=str(error))
        return _LOOK_SECONDS
    except ServiceError as error:
        log.warning("download_failed", model=name, reason=str(error))
    except Exception:
        log.exception("download_failed", model=name)
    return settings.download_retry_seconds


def _is_installed(database: Database, name: str) -> bool:
    with database.read() as connection:
        return any(
            row.name == name and row.current_version is not None
            for row in models.states(connection)
        )

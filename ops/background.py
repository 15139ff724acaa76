"""The background worker: recovery, the sweep, result files and downloads, each in a thread.

A plain process: as yet nothing is sent to it by message, so it is no consumer of any queue.
"""

import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol
from uuid import NAMESPACE_OID, UUID, uuid5

import structlog

from ops.catalogue import APPLICATIONS, DOWNLOADS
from ops.download import pull
from ops.fetch import Interrupted
from ops.lease import Busy
from shared import models
from shared.database import Database
from shared.errors import ServiceError, Unavailable
from shared.heartbeat import beat
from shared.ingestions.output import Output
from shared.jobs.recovery import Recovery
from shared.settings import Settings
from shared.storage.opening import open_storage
from shared.storage.protocol import Storage
from shared.sweep import Sweep
from worker.identity import take_slot

_LOOK_SECONDS = 5.0  # how often it looks whether somebody installed a model meanwhile
_STOP_SECONDS = 1.5

log = structlog.get_logger(__name__)


class _Timed(Protocol):
    def step(self) -> None: ...


def run_background(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code."""
    endings = {signal.SIGTERM, signal.SIGINT}
    # Blocked before any thread is there, so that all of them leave these signals to sigwait.
    signal.pthread_sigmask(signal.SIG_BLOCK, endings)
    stop = threading.Event()
    database = Database(settings.database, pool_size=6)
    storage = open_storage(settings)
    rounds: list[tuple[str, Callable[[], None]]] = [
        (
            "recovery",
            lambda: _repeat(
                Recovery(database, settings),
                settings.recovery_seconds,
                stop,
                heartbeat_dir=settings.heartbeat_dir,
            ),
        ),
        (
            "sweep",
            lambda: _repeat(Sweep(database, storage, settings), settings.sweep_seconds, stop),
        ),
        (
            "output",
            lambda: _repeat(
                Output(database, settings, _output_token(settings)), settings.recovery_seconds, stop
            ),
        ),
    ]
    # Each in a thread of its own: where no network answers, each of them says so within seconds.
    for name in _downloads(settings):
        rounds.append(
            (f"download-{name}", partial(_download, database, storage, settings, name, stop))
        )
    threads = [threading.Thread(target=target, name=name, daemon=True) for name, target in rounds]
    for thread in threads:
        thread.start()
    number = signal.sigwait(endings)
    stop.set()
    give_up = time.monotonic() + _STOP_SECONDS
    for thread in threads:
        thread.join(max(0.0, give_up - time.monotonic()))
    return 130 if number == signal.SIGINT else 0


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


def _output_token(settings: Settings) -> UUID:
    """The same for all that were this process before: it goes on at once where they were killed."""
    return uuid5(NAMESPACE_OID, f"{take_slot(settings.data_dir / 'result-files').slot}/output")


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

"""The worker process: a Celery worker whose bootstep runs the resident loops."""

import time

import structlog

from shared.bell import Bell
from shared.consumer import Consumer
from shared.database import Database
from shared.errors import Unavailable
from shared.logging import configure_logging
from shared.migrations import is_new_enough
from shared.queue import make_celery, queue_name
from shared.settings import Settings
from shared.storage.opening import open_storage
from worker.identity import register, take_slot
from worker.process import WorkerProcess
from worker.runtime import Runtime
from worker.tasks import add_bell

_SOCKET_TIMEOUT_SECONDS = 5.0
_RETRY_SECONDS = 2.0

log = structlog.get_logger(__name__)


def run_worker(settings: Settings) -> int:
    """Work until SIGTERM; the exit code comes back. Neither start nor stop needs a broker."""
    configure_logging(settings, role="worker")
    database = Database(settings.database, timeout_seconds=settings.database_timeout_seconds)
    _wait_for_database(database)
    who = take_slot(settings.data_dir)
    taken_over = register(database, who, device="cpu", max_batch=settings.max_batch_size)
    log.info("worker_starts", worker=str(who.id), slot=who.slot, jobs_taken_over=taken_over)
    app = make_celery(settings.broker, socket_timeout_seconds=_SOCKET_TIMEOUT_SECONDS)
    consumer = Consumer(app)
    runtime = Runtime(settings, database, open_storage(settings), who, Bell(app))
    process = WorkerProcess(runtime, lambda model: consumer.hear(queue_name(model)))
    add_bell(app, process.wake)
    named = settings.models or (settings.default_model,)
    return consumer.run(process, [queue_name(name) for name in named])


def _wait_for_database(database: Database) -> None:
    """Wait until the database is there and migrated; said once, then quietly."""
    said = False
    while True:
        try:
            if is_new_enough(database):
                return
            reason = "the schema is not at this release's revision: run `classify db upgrade`"
        except Unavailable as error:
            reason = str(error)
        if not said:
            log.warning("waits_for_database", reason=reason)
            said = True
        time.sleep(_RETRY_SECONDS)

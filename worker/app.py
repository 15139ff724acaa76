"""The worker process: a Celery worker whose bootstep runs the resident loops."""

import logging
import os
import socket
import time
import warnings
from typing import Any

import structlog
from celery import Celery, bootsteps
from celery.platforms import SecurityWarning
from celery.signals import setup_logging

from shared.bell import Bell
from shared.database import Database
from shared.errors import Unavailable
from shared.logging import configure_logging
from shared.migrations import is_current
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
    database = Database(settings.database)
    _wait_for_database(database)
    who = take_slot(settings.data_dir)
    taken_over = register(database, who, device="cpu", max_batch=settings.max_batch_size)
    log.info("worker_starts", worker=str(who.id), slot=who.slot, jobs_taken_over=taken_over)
    app = make_celery(settings.broker, socket_timeout_seconds=_SOCKET_TIMEOUT_SECONDS)
    consumer = _Consumer(app)
    runtime = Runtime(settings, database, open_storage(settings), who, Bell(app))
    process = WorkerProcess(runtime, consumer.hear)
    add_bell(app, process.wake)
    return consumer.run(process, settings)


class _Consumer:
    """Celery's side: hears the bells of the models that are served."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._worker: Any = None

    def hear(self, model: str) -> None:
        """Consume the model's queue from now on, and after every reconnect."""
        name = queue_name(model)
        if name in self._app.amqp.queues.consume_from:
            return
        self._app.amqp.queues.select_add(name)
        consumer = self._worker.consumer
        if consumer.task_consumer is not None:  # else connecting: it will take the new queue too
            consumer.call_soon(consumer.add_task_queue, name)

    def run(self, process: WorkerProcess, settings: Settings) -> int:
        """Run the Celery worker with the process as its bootstep."""

        class Serve(bootsteps.StartStopStep):
            """Starts before the consumer, so that it works while there is no broker."""

            def start(self, _worker: Any) -> None:
                process.start()

            def stop(self, _worker: Any) -> None:
                process.stop()

        # It warns root of pickled messages; ours are JSON, and nothing else is accepted.
        warnings.simplefilter("ignore", SecurityWarning)
        # Two lines a bell, and a bell says nothing: the batches are in the log.
        for name in ("celery.worker.strategy", "celery.app.trace"):
            logging.getLogger(name).setLevel(logging.WARNING)
        # Celery would put its own handlers in place of ours.
        setup_logging.connect(_keep_our_logging)
        self._app.steps["worker"].add(Serve)
        self._worker = self._app.Worker(
            # Threads: prefork hangs after TensorFlow is initialised. One: a bell sets an event.
            pool="threads",
            concurrency=1,
            queues=[queue_name(name) for name in settings.models or (settings.default_model,)],
            hostname=f"{os.getpid()}@{socket.gethostname()}",
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            quiet=True,
        )
        self._worker.start()
        return int(self._worker.exitcode or 0)


def _keep_our_logging(**_: object) -> None:
    """Present, so that Celery leaves logging alone."""


def _wait_for_database(database: Database) -> None:
    """Wait until the database is there and migrated; said once, then quietly."""
    said = False
    while True:
        try:
            if is_current(database):
                return
            reason = "the schema is not at this release's revision: run `classify db upgrade`"
        except Unavailable as error:
            reason = str(error)
        if not said:
            log.warning("waits_for_database", reason=reason)
            said = True
        time.sleep(_RETRY_SECONDS)

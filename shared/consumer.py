"""A process's side of the queues: a Celery worker that hears bells and runs a resident process."""

import logging
import os
import socket
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

from celery import Celery, bootsteps
from celery.platforms import SecurityWarning
from celery.signals import setup_logging


class Process(Protocol):
    """What lives as long as the Celery worker does, and works without any broker."""

    def start(self) -> None:
        """Start every thread; does not wait."""

    def stop(self) -> None:
        """End in order; waits."""


class Consumer:
    """Hears the bells of the queues that it is told to, from now on and after every reconnect."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._worker: Any = None

    def hear(self, queue: str) -> None:
        """Consume one more queue."""
        if queue in self._app.amqp.queues.consume_from:
            return
        self._app.amqp.queues.select_add(queue)
        consumer = self._worker.consumer
        if consumer.task_consumer is not None:  # else connecting: it will take the new queue too
            consumer.call_soon(consumer.add_task_queue, queue)

    def run(self, process: Process, queues: Sequence[str]) -> int:
        """Run until SIGTERM or SIGINT, with the process as a bootstep; returns the exit code."""

        class Serve(bootsteps.StartStopStep):  # type: ignore[misc]
            """Starts before the consumer, so that it works while there is no broker."""

            def start(self, _worker: Any) -> None:
                process.start()

            def stop(self, _worker: Any) -> None:
                process.stop()

        # It warns root of pickled messages; ours are JSON, and nothing else is accepted.
        warnings.simplefilter("ignore", SecurityWarning)
        # Two lines a bell, and a bell says nothing: the work is in the log.
        for name in ("celery.worker.strategy", "celery.app.trace"):
            logging.getLogger(name).setLevel(logging.WARNING)
        # Celery would put its own handlers in place of ours.
        setup_logging.connect(_keep_our_logging)
        self._app.steps["worker"].add(Serve)
        self._worker = self._app.Worker(
            # Threads: prefork hangs after TensorFlow is initialised. One: a bell sets an event.
            pool="threads",
            concurrency=1,
            queues=list(queues),
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

"""The Celery side both ends agree on: the app's settings, queue names, and the bell's message.

A message says "there is work", nothing else. The row is the truth: a lost message
costs a little latency, a duplicate does nothing.
"""

from typing import Any

from celery import Celery

CLASSIFY = "classify"
EXPAND = "expand"
EXPANDER_QUEUE = "ingest"
_BELL_SECONDS = 10  # an old bell is worth nothing: recovery has looked since


def queue_name(model: str) -> str:
    """The queue in which a model's bells wait."""
    return f"classify.{model}"


def make_celery(broker: str | None, *, socket_timeout_seconds: float) -> Celery:
    """The Celery app. Without a broker it has one that refuses, and everything still works."""
    app = Celery("classifier", broker=broker or "redis://127.0.0.1:1/0", set_as_current=False)
    app.conf.update(
        task_ignore_result=True,  # results are rows of our own
        task_create_missing_queues=True,
        task_serializer="json",
        accept_content=["json"],
        # The default ends the worker after 100 lost connections; ours outlives any broker.
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # A worker that redelivers old bells does nothing useful.
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_enable_remote_control=False,  # nothing here uses it, and it is one more connection
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_transport_options={
            # With the defaults a frozen Redis holds a publisher for minutes.
            "socket_timeout": socket_timeout_seconds,
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "health_check_interval": 25,
        },
    )
    return app


def ring(app: Celery, task: str, queue: str, *arguments: str) -> None:
    """Send one bell.

    Raises:
        kombu.exceptions.OperationalError: The broker is away.
    """
    options: dict[str, Any] = {"max_retries": 1, "interval_start": 0, "interval_step": 0.1}
    app.send_task(
        task,
        args=arguments,
        queue=queue,
        expires=_BELL_SECONDS,
        retry=True,
        retry_policy=options,
        ignore_result=True,
    )

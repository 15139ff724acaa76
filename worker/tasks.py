"""The bell: the one Celery task of a worker. It carries no work; it wakes the lane's loops."""

from collections.abc import Callable

from celery import Celery

from shared.queue import CLASSIFY


def add_bell(app: Celery, wake: Callable[[str], None]) -> None:
    """Register `classify`, which sets the lane's event and returns."""

    @app.task(name=CLASSIFY, ignore_result=True)
    def classify(lane: str) -> None:
        wake(lane)

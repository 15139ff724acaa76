"""The bells: Celery tasks that carry no work. One wakes a lane's loops, one the expanders."""

from collections.abc import Callable

from celery import Celery

from shared.queue import CLASSIFY, EXPAND


def add_bell(app: Celery, wake: Callable[[str], None]) -> None:
    """Register `classify`, which sets the lane's event and returns."""

    @app.task(name=CLASSIFY, ignore_result=True)
    def classify(lane: str) -> None:
        wake(lane)


def add_expander_bell(app: Celery, wake: Callable[[], None]) -> None:
    """Register `expand`, which sets the expanders' event and returns."""

    @app.task(name=EXPAND, ignore_result=True)
    def expand() -> None:
        wake()

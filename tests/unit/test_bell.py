"""The bell: coalesced, delivered by a real broker, and nothing that anybody waits for."""

import base64
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery

from shared.bell import Bell
from shared.queue import CLASSIFY, make_celery, queue_name, ring
from tests.services import BrokerServer, wait_until
from worker.tasks import add_bell

LONG = 3600.0  # seconds that no test waits


@pytest.fixture
def make_app() -> Iterator[Callable[[str | None, float], Celery]]:
    made: list[Celery] = []

    def make(broker: str | None, socket_timeout_seconds: float) -> Celery:
        made.append(make_celery(broker, socket_timeout_seconds=socket_timeout_seconds))
        return made[-1]

    yield make
    for app in made:
        app.close()


def waiting(server: BrokerServer, model: str) -> list[dict[str, Any]]:
    """The messages in a model's queue."""
    with server.client() as client:
        return [json.loads(message) for message in client.lrange(queue_name(model), 0, -1)]


def lanes(server: BrokerServer, model: str) -> Counter[str]:
    """The lanes that a model's bells name."""
    bodies = (json.loads(base64.b64decode(m["body"])) for m in waiting(server, model))
    return Counter(body[0][0] for body in bodies)


def test_a_bell_says_which_lane_and_nothing_else(
    redis_server: BrokerServer, make_app: Callable[..., Celery]
) -> None:
    Bell(make_app(redis_server.url, 5.0)).ring("vgg16", "bulk")
    wait_until(lambda: bool(waiting(redis_server, "vgg16")), seconds=30, what="a bell")
    (message,) = waiting(redis_server, "vgg16")
    args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
    assert (args, kwargs) == (["bulk"], {})
    assert message["headers"]["task"] == CLASSIFY
    assert message["headers"]["expires"] is not None  # an old bell is worth nothing
    assert message["headers"]["ignore_result"]


def test_bells_rung_while_the_broker_hangs_become_one_a_lane(
    redis_server: BrokerServer,
    make_app: Callable[..., Celery],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sending = threading.Event()

    def ring_and_tell(*args: Any) -> None:
        sending.set()
        ring(*args)

    monkeypatch.setattr("shared.bell.ring", ring_and_tell)
    bell = Bell(make_app(redis_server.url, LONG))
    redis_server.freeze()
    bell.ring("first", "interactive")
    assert sending.wait(30)
    for _ in range(50):
        bell.ring("vgg16", "interactive")
        bell.ring("vgg16", "bulk")
        bell.ring("digits", "interactive")
    redis_server.thaw()
    # Rung and sent last, by the order of their names, so that all before it has been sent.
    wait_until(lambda: bool(lanes(redis_server, "vgg16")["interactive"]), seconds=30, what="bells")
    assert lanes(redis_server, "vgg16") == {"interactive": 1, "bulk": 1}
    assert lanes(redis_server, "digits") == {"interactive": 1}
    assert lanes(redis_server, "first") == {"interactive": 1}


def test_ringing_waits_for_no_broker(
    redis_server: BrokerServer, make_app: Callable[..., Celery]
) -> None:
    """One that hangs for an hour would hold whoever waits for it beyond this test's limit."""
    bell = Bell(make_app(redis_server.url, LONG))
    redis_server.freeze()

    def ring() -> None:
        for _ in range(100):
            bell.ring("vgg16", "interactive")

    ringer = threading.Thread(target=ring, daemon=True)
    ringer.start()
    ringer.join(60)
    assert not ringer.is_alive()
    redis_server.thaw()
    wait_until(lambda: bool(waiting(redis_server, "vgg16")), seconds=30, what="a bell")


def kill(server: BrokerServer) -> Callable[[], None]:
    server.kill()
    return server.start


def fill_up(server: BrokerServer) -> Callable[[], None]:
    """A broker without memory answers, and refuses."""
    with server.client() as client:
        client.config_set("maxmemory", "1")

    def empty() -> None:
        with server.client() as client:
            client.config_set("maxmemory", "0")

    return empty


@pytest.mark.parametrize("take_away", [kill, fill_up])
def test_bells_ring_again_when_the_broker_is_back(
    redis_server: BrokerServer,
    make_app: Callable[..., Celery],
    take_away: Callable[[BrokerServer], Callable[[], None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failed = threading.Event()
    monkeypatch.setattr("shared.bell.log.warning", lambda *a, **k: failed.set())
    bell = Bell(make_app(redis_server.url, 5.0))
    bell.ring("before", "interactive")
    wait_until(lambda: bool(waiting(redis_server, "before")), seconds=30, what="the first bell")
    bring_back = take_away(redis_server)
    bell.ring("lost", "interactive")
    try:
        assert failed.wait(60)
    finally:
        bring_back()
    bell.ring("vgg16", "interactive")
    wait_until(lambda: bool(waiting(redis_server, "vgg16")), seconds=60, what="a later bell")


def test_without_any_broker_ringing_is_harmless(make_app: Callable[..., Celery]) -> None:
    bell = Bell(make_app(None, 1.0))
    for _ in range(10):
        bell.ring("vgg16", "interactive")


def test_what_is_rung_is_what_a_worker_hears(
    redis_server: BrokerServer, make_app: Callable[..., Celery]
) -> None:
    """The worker's app finds the task that the message names, and wakes the lane it names."""
    Bell(make_app(redis_server.url, 5.0)).ring("vgg16", "bulk")
    wait_until(lambda: bool(waiting(redis_server, "vgg16")), seconds=30, what="a bell")
    app = make_app(redis_server.url, 5.0)
    woken: list[str] = []
    add_bell(app, woken.append)
    with app.connection_for_read() as connection, connection.SimpleQueue("unused") as _:
        queue = connection.SimpleQueue(app.amqp.queues.new_missing(queue_name("vgg16")))
        message = queue.get(timeout=30)
        args, kwargs, _embed = message.payload
        app.tasks[message.headers["task"]](*args, **kwargs)
        message.ack()
        queue.close()
    assert woken == ["bulk"]

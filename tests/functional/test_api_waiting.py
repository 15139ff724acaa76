"""`Prefer: wait`: the answer comes when the job has ended, and nobody else waits for it."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from tests.functional.conftest import API, picture
from tests.services import wait_until
from web.services import ON_STOP


def _soon(action: Callable[[], object], seconds: float = 0.2) -> threading.Timer:
    timer = threading.Timer(seconds, action)
    timer.start()
    return timer


def test_a_poll_waits_for_the_end(api: API) -> None:
    job = api.job()
    began = time.monotonic()
    timer = _soon(api.work)
    response = api.client.get(job["links"]["self"], headers={"Prefer": "respond-async, wait=20"})
    timer.join()
    assert response.json["status"] == "succeeded"
    assert response.headers["Preference-Applied"] == "wait=20"
    assert "Retry-After" not in response.headers
    assert 0.2 <= time.monotonic() - began < 10


def test_a_submit_waits_for_the_end_and_is_200(api: API) -> None:
    # It looks until the job is there.
    timer = _soon(lambda: wait_until(lambda: bool(api.work()), seconds=60, what="the job"))
    response = api.submit(headers={"Prefer": "wait=20"})
    timer.join()
    assert response.status_code == 200
    assert response.json["status"] == "succeeded"
    assert response.headers["Preference-Applied"] == "wait=20"


def test_after_the_time_the_job_is_told_as_it_is(api: API) -> None:
    began = time.monotonic()
    response = api.submit(headers={"Prefer": "wait=1"})
    assert time.monotonic() - began >= 1
    assert response.status_code == 202
    assert response.headers["Retry-After"]
    assert response.headers["Preference-Applied"] == "wait=1"


def test_a_wait_is_at_most_as_long_as_the_setting(
    make_api: Callable[..., API], prepared: dict[str, Any]
) -> None:
    api = make_api(**prepared, max_wait_seconds=1)
    response = api.submit(headers={"Prefer": "wait=3600"})
    assert response.headers["Preference-Applied"] == "wait=1"


@pytest.mark.parametrize(
    "prefer", ["wait", "wait=", "wait=-1", "wait=x", "waiting=5", '"', "", ","]
)
def test_another_preference_is_ignored(api: API, prefer: str) -> None:
    began = time.monotonic()
    response = api.submit(headers={"Prefer": prefer})
    assert response.status_code == 202
    assert "Preference-Applied" not in response.headers
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("prefer", ['wait="0"', "Wait = 0", "wait=0; x=y", "a=b, wait=0, wait=9"])
def test_a_preference_is_read_as_the_rfc_writes_it(api: API, prefer: str) -> None:
    assert api.submit(headers={"Prefer": prefer}).headers["Preference-Applied"] == "wait=0"


def test_who_waits_for_a_job_that_is_deleted_is_told(api: API) -> None:
    job = api.job()
    timer = _soon(lambda: api.app.test_client().delete(job["links"]["self"]))
    response = api.client.get(job["links"]["self"], headers={"Prefer": "wait=20"})
    timer.join()
    assert response.status_code == 404


def test_at_most_half_of_the_threads_wait(api: API) -> None:
    jobs = [api.job(data=picture(colour=colour)) for colour in range(8)]
    waited: list[bool] = []

    def poll(address: str) -> None:
        response = api.app.test_client().get(address, headers={"Prefer": "wait=20"})
        waited.append("Preference-Applied" in response.headers)

    threads = [threading.Thread(target=poll, args=(job["links"]["self"],)) for job in jobs]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while len(waited) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert waited == [False] * 4  # half of 8 were answered at once
    api.work()
    for thread in threads:
        thread.join()
    assert sorted(waited) == [False] * 4 + [True] * 4


def test_waiting_outlives_a_database_that_was_away(
    api: API, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = api.job()
    connect = Engine.connect
    away = threading.Event()

    def refuse(engine: Engine) -> object:
        if away.is_set() and threading.current_thread().name == "waiting":
            raise OperationalError("SELECT", {}, Exception("gone"))
        return connect(engine)

    monkeypatch.setattr(Engine, "connect", refuse)
    away.set()
    back = _soon(away.clear, 0.3)
    timer = _soon(api.work, 0.5)
    response = api.client.get(job["links"]["self"], headers={"Prefer": "wait=20"})
    back.join()
    timer.join()
    assert response.json["status"] == "succeeded"


def test_a_server_that_stops_lets_nobody_wait(api: API) -> None:
    job = api.job()
    timer = _soon(api.app.extensions[ON_STOP])
    for _ in range(2):
        response = api.client.get(job["links"]["self"], headers={"Prefer": "wait=60"})
        assert response.json["status"] == "queued"
    timer.join()

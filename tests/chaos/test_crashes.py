"""Harm done to single parts: every job still ends in exactly one terminal state."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.functional.service import Service, distinct_image
from tests.services import BrokerServer, wait_until

pytestmark = pytest.mark.chaos

MakeService = Callable[..., Service]


@pytest.fixture
def make_service(tmp_path: Path, database_url: str) -> Iterator[MakeService]:
    made: list[Service] = []

    def make(broker_url: str | None, **settings: Any) -> Service:
        service = Service(tmp_path, database_url, broker_url, **settings)
        made.append(service)
        service.start()
        service.wait_until_served("digits")
        return service

    yield make
    for service in made:
        service.close()


def submit_at_once(service: Service, numbers: range) -> list[str]:
    with ThreadPoolExecutor(16) as pool:
        jobs = pool.map(lambda n: service.submit(distinct_image(n)), numbers)
        return [job["id"] for job in jobs]


def start_until_busy(service: Service) -> None:
    """Start the worker while jobs wait; return in the middle of its work."""
    before = len(service.worker.events("batch"))
    service.worker.start()
    wait_until(
        lambda: len(service.worker.events("batch")) > before, seconds=90, what="a first batch"
    )


def all_succeeded(service: Service, ids: list[str]) -> None:
    jobs = service.wait(ids)
    assert [job["status"] for job in jobs.values()] == ["succeeded"] * len(ids)


def test_worker_killed_in_the_middle_of_batches(
    make_service: MakeService, redis_server: BrokerServer
) -> None:
    service = make_service(redis_server.url)
    service.worker.kill()
    ids = submit_at_once(service, range(300))
    for _ in range(2):
        start_until_busy(service)
        service.worker.kill()
    service.worker.start()
    all_succeeded(service, ids)
    # Its successor in the slot gave them back at once: no lease ran out.
    assert all(service.job(job_id)["attempt"] <= 3 for job_id in ids)
    assert any(event["jobs_taken_over"] for event in service.worker.events("worker_starts"))


def test_broker_killed_and_emptied_while_jobs_wait(
    make_service: MakeService, redis_server: BrokerServer
) -> None:
    service = make_service(redis_server.url)
    service.worker.stop()
    ids = submit_at_once(service, range(100))
    redis_server.kill()
    ids += submit_at_once(service, range(100, 120))  # a broken broker alone is no error
    redis_server.start()
    redis_server.wipe()
    service.worker.start()
    all_succeeded(service, ids)


# What it shows lies in the processes: one database is enough, since it takes long.
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_broker_lost_under_a_running_worker(
    make_service: MakeService, redis_server: BrokerServer
) -> None:
    service = make_service(redis_server.url)
    redis_server.kill()
    all_succeeded(service, submit_at_once(service, range(20)))
    redis_server.start()
    redis_server.wipe()
    all_succeeded(service, submit_at_once(service, range(20, 40)))


def test_no_broker_at_all(make_service: MakeService) -> None:
    service = make_service(None)
    all_succeeded(service, submit_at_once(service, range(30)))
    began = time.monotonic()
    assert service.worker.stop() == 0
    assert time.monotonic() - began < 30  # it ends by itself, it is not waited out


# What it shows lies in the processes: one database is enough, since it takes long.
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_stop_gives_back_without_using_an_attempt_up(
    make_service: MakeService, redis_server: BrokerServer
) -> None:
    service = make_service(redis_server.url)
    service.worker.stop()
    ids = submit_at_once(service, range(300))
    start_until_busy(service)
    assert service.worker.stop() == 0
    service.worker.start()
    all_succeeded(service, ids)
    assert {service.job(job_id)["attempt"] for job_id in ids} == {1}

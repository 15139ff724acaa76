"""Harm done to single parts: every job still ends in exactly one terminal state."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest

from tests.functional.service import Service, distinct_image, running
from tests.services import BrokerServer, PostgresServer, S3Server, wait_until

pytestmark = pytest.mark.chaos


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared_service(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    _broker_server: BrokerServer,
    _postgres_server: PostgresServer,
) -> Iterator[Service]:
    """One service for all tests on a database: to start it takes longer than to do it harm."""
    directory = tmp_path_factory.mktemp(request.param)
    url = f"sqlite:///{directory / 'classifier.db'}"
    _broker_server.start()
    if request.param == "postgresql":
        _postgres_server.start()
        url = _postgres_server.create_database()
    with running(directory, url, _broker_server.url) as service:
        yield service
    if request.param == "postgresql":
        _postgres_server.drop_database(url)


@pytest.fixture
def service(shared_service: Service, redis_server: BrokerServer) -> Service:
    """The service with all its parts running."""
    for part in (shared_service.web, shared_service.worker, shared_service.background):
        if not part.running:
            part.start()
    return shared_service


_numbers = count()


def submit_at_once(service: Service, number: int, *, threads: int = 16) -> list[str]:
    """Hand in so many images that nobody has handed in before; the ids of their jobs."""
    images = [distinct_image(next(_numbers)) for _ in range(number)]
    with ThreadPoolExecutor(threads) as pool:
        return [job["id"] for job in pool.map(service.submit, images)]


def work_is_under_way(service: Service) -> bool:
    return bool(service.jobs(status="running", limit=1))


def all_succeeded(service: Service, ids: list[str]) -> None:
    jobs = service.wait(ids)
    assert [job["status"] for job in jobs.values()] == ["succeeded"] * len(ids)


def test_worker_killed_in_the_middle_of_batches(service: Service) -> None:
    service.worker.kill()
    ids = submit_at_once(service, 300)
    for _ in range(2):
        service.worker.start()
        wait_until(lambda: work_is_under_way(service), seconds=90, what="a first batch")
        service.worker.kill()
    assert work_is_under_way(service)  # as far as anybody knows
    service.worker.start()
    all_succeeded(service, ids)
    # Its successor in the slot gave them back at once: no lease ran out.
    assert all(service.job(job_id)["attempt"] <= 3 for job_id in ids)
    assert any(event["jobs_taken_over"] for event in service.worker.events("worker_starts"))


def test_broker_killed_and_emptied_while_jobs_wait(
    service: Service, redis_server: BrokerServer
) -> None:
    service.worker.stop()
    ids = submit_at_once(service, 100)
    redis_server.kill()
    ids += submit_at_once(service, 20)  # a broken broker alone is no error
    redis_server.start()
    redis_server.wipe()
    service.worker.start()
    all_succeeded(service, ids)


# What it shows lies in the processes: one database is enough, since it takes long.
@pytest.mark.parametrize("shared_service", ["postgresql"], indirect=True)
def test_broker_lost_under_a_running_worker(service: Service, redis_server: BrokerServer) -> None:
    redis_server.kill()
    all_succeeded(service, submit_at_once(service, 20))
    redis_server.start()
    redis_server.wipe()
    all_succeeded(service, submit_at_once(service, 20))


# What it shows lies in the processes: one database is enough, since it takes long.
@pytest.mark.parametrize("shared_service", ["sqlite"], indirect=True)
def test_a_stop_gives_back_without_using_an_attempt_up(service: Service) -> None:
    service.worker.stop()
    ids = submit_at_once(service, 120)
    service.worker.start()
    wait_until(lambda: work_is_under_way(service), seconds=90, what="a first batch")
    assert service.worker.stop() == 0
    service.worker.start()
    all_succeeded(service, ids)
    assert {service.job(job_id)["attempt"] for job_id in ids} == {1}


def test_no_broker_at_all(tmp_path: Path, sqlite_url: str) -> None:
    with running(tmp_path, sqlite_url, None) as service:
        all_succeeded(service, submit_at_once(service, 30))
        began = time.monotonic()
        assert service.worker.stop() == 0
        assert time.monotonic() - began < 30  # it ends by itself, it is not waited out


def test_a_bucket_that_does_not_answer_ends_no_worker_and_loses_no_job(
    tmp_path: Path, sqlite_url: str, redis_server: BrokerServer, s3_server: S3Server
) -> None:
    """Read one after the other, a batch would be at it for longer than the watchdog allows."""
    settings = {
        "storage_url": s3_server.url(),
        "storage_timeout_seconds": 2,
        "fetch_limit_seconds": 12,
        "decode_threads": 1,
        **s3_server.settings,
    }
    with running(tmp_path, sqlite_url, redis_server.url, **settings) as service:
        service.freeze(service.worker)
        ids = submit_at_once(service, 16, threads=2)  # the bucket has little time for each
        s3_server.freeze()
        service.worker.signal(signal.SIGCONT)
        refused = service.post(distinct_image(next(_numbers)))
        assert (refused.status_code, refused.json()["code"]) == (503, "service_unavailable")
        wait_until(lambda: len(service.worker.events("batch")) >= 2, seconds=60, what="two batches")
        assert service.worker.running
        s3_server.thaw()
        all_succeeded(service, ids)
        assert service.worker.running
        assert {service.job(job_id)["attempt"] for job_id in ids} == {1}

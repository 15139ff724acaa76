"""A database that is away for longer than a lease: nobody ends, nobody raves, nobody is robbed."""

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.functional.service import Service, distinct_image, running
from tests.services import BrokerServer, PostgresServer, S3Server, wait_until

# An outage takes as long as it does, and a busy machine starts a worker in a minute.
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(400)]

LEASE_SECONDS, RENEW_SECONDS, RECOVERY_SECONDS = 6.0, 1.5, 0.5
OUTAGE_SECONDS = LEASE_SECONDS + 2 * RENEW_SECONDS  # as 90 s are to 60 and 15
LINES_A_SECOND = 30  # of a log: a process has ten threads, and each may say once a second why


def test_a_database_away_for_longer_than_a_lease_costs_no_job_its_claim(
    tmp_path: Path,
    postgresql_url: str,
    postgres_server: PostgresServer,
    redis_server: BrokerServer,
    s3_server: S3Server,
) -> None:
    settings = {
        "lease_seconds": LEASE_SECONDS,
        "renew_seconds": RENEW_SECONDS,
        "recovery_seconds": RECOVERY_SECONDS,
        "database_timeout_seconds": 2,
        "storage_url": s3_server.url(),
        "storage_timeout_seconds": 600,
        **s3_server.settings,
    }
    with running(tmp_path, postgresql_url, redis_server.url, **settings) as service:
        survive_outage(service, postgres_server, s3_server, OUTAGE_SECONDS)


def survive_outage(
    service: Service, postgres: PostgresServer, s3: S3Server, seconds: float
) -> None:
    """The database hangs, so that connections stay open and nothing answers, and then is gone.

    Meanwhile, and until everybody trusts the leases again, a worker waits for images of its claims.
    """
    service.worker.signal(signal.SIGSTOP)
    with ThreadPoolExecutor(8) as pool:
        ids = [job["id"] for job in pool.map(service.submit, map(distinct_image, range(16)))]
    s3.freeze()
    service.worker.signal(signal.SIGCONT)
    wait_until(lambda: is_held(service, ids), seconds=60, what="claims of all jobs")
    pids = [part.pid for part in service.parts]
    lines = count_lines(service)
    began = time.monotonic()
    postgres.freeze()
    refused_until(service, began + seconds / 2)
    postgres.thaw()
    postgres.kill()
    refused_until(service, began + seconds)
    postgres.start()
    back = time.monotonic()
    wait_until(lambda: answers(service), seconds=60, what="an answer of web")
    while time.monotonic() < back + 2 * RENEW_SECONDS + 4 * RECOVERY_SECONDS:
        assert is_held(service, ids)
        time.sleep(0.1)
    s3.thaw()
    ended = service.wait(ids)
    assert {(job["status"], job["attempt"]) for job in ended.values()} == {("succeeded", 1)}
    assert [part.pid for part in service.parts if part.running] == pids
    assert service.worker.events("leases_not_renewed")
    assert count_lines(service) - lines < LINES_A_SECOND * (time.monotonic() - began)


def is_held(service: Service, ids: list[str]) -> bool:
    jobs = service.jobs(id=ids)
    return {(job["status"], job["attempt"]) for job in jobs} == {("running", 1)}


def answers(service: Service) -> bool:
    return requests.get(f"{service.url}/v1/models", timeout=60).status_code == 200


def refused_until(service: Service, end: float) -> None:
    """Ask on and on: each time one is told that the database cannot be used."""
    calls: list[Callable[[], requests.Response]] = [
        lambda: service.post(distinct_image(1000)),
        lambda: requests.get(f"{service.url}/v1/jobs", timeout=60),
        lambda: requests.get(f"{service.url}/", timeout=60, headers={"Accept": "text/html"}),
    ]
    while time.monotonic() < end:
        with ThreadPoolExecutor(len(calls)) as pool:
            for answer in pool.map(lambda call: call(), calls):
                assert answer.status_code == 503, answer.text
                assert int(answer.headers["Retry-After"]) > 0
        assert requests.get(f"{service.url}/healthz", timeout=60).status_code == 200
        time.sleep(0.1)


def count_lines(service: Service) -> int:
    return sum(
        len(part.log.read_text(encoding="utf-8").splitlines())
        for part in (service.worker, service.background)
    )

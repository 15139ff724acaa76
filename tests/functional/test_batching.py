"""Batches fill by themselves, a lone job waits for nobody, interactive goes before bulk."""

import statistics
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.functional.service import Service, distinct_image, running
from tests.services import BrokerServer

pytestmark = [pytest.mark.slow, pytest.mark.stack("postgresql+s3")]


@pytest.fixture
def service(tmp_path: Path, stack: dict[str, Any], redis_server: BrokerServer) -> Iterator[Service]:
    with running(tmp_path, broker_url=redis_server.url, **stack) as service:
        yield service


def submit_at_once(service: Service, numbers: range, **options: str) -> list[str]:
    with ThreadPoolExecutor(16) as pool:
        jobs = pool.map(lambda n: service.submit(distinct_image(n), **options), numbers)
        return [job["id"] for job in jobs]


def batches(service: Service) -> list[dict[str, Any]]:
    return service.worker.events("batch")


def test_200_jobs_at_once_finish_in_batches(service: Service) -> None:
    service.wait(submit_at_once(service, range(200)))
    sizes = [batch["size"] for batch in batches(service)]
    assert sum(sizes) == 200
    assert statistics.mean(sizes) > 4, sizes


def test_a_lone_job_is_a_batch_of_its_own(service: Service) -> None:
    job = service.submit(distinct_image(1), headers={"Prefer": "wait=30"})
    assert job["status"] == "succeeded"
    assert [batch["size"] for batch in batches(service)] == [1]


def test_interactive_goes_before_bulk(service: Service) -> None:
    service.worker.stop()
    bulk = submit_at_once(service, range(400), lane="bulk")
    interactive = submit_at_once(service, range(1000, 1003))
    service.worker.start()
    jobs = service.wait([*interactive, *bulk])
    passes = [batch["lane"] for batch in batches(service)]
    assert all(job["status"] == "succeeded" for job in jobs.values())
    # Two bulk loops may have claimed before it; its pass is the next but one at the latest.
    assert "interactive" in passes[:3], passes

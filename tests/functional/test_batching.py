"""Batches fill by themselves, a lone job waits for nobody, interactive goes before bulk."""

import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.functional.service import Service, distinct_image, running
from tests.services import BrokerServer

pytestmark = [pytest.mark.slow, pytest.mark.stack("postgresql+s3")]


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory,
    stack_name: str,
    make_stack: Callable[[str, Path], dict[str, Any]],
    _broker_server: BrokerServer,
) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("batching")
    _broker_server.start()
    stack = make_stack(stack_name, directory)
    with running(directory, broker_url=_broker_server.url, **stack) as service:
        yield service


_numbers = count()


def submit_at_once(service: Service, number: int, **options: str) -> list[str]:
    """Hand in so many images that nobody has handed in before; the ids of their jobs."""
    images = [distinct_image(next(_numbers)) for _ in range(number)]
    with ThreadPoolExecutor(16) as pool:
        jobs = pool.map(lambda image: service.submit(image, **options), images)
        return [job["id"] for job in jobs]


class Batches:
    """The batches from now on."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._before = len(service.worker.events("batch"))

    def all(self, field: str) -> list[Any]:
        return [event[field] for event in self._service.worker.events("batch")[self._before :]]


def test_200_jobs_at_once_finish_in_batches(service: Service) -> None:
    batches = Batches(service)
    service.wait(submit_at_once(service, 200))
    sizes = batches.all("size")
    assert sum(sizes) == 200
    assert statistics.mean(sizes) > 4, sizes


def test_a_lone_job_is_a_batch_of_its_own(service: Service) -> None:
    batches = Batches(service)
    image = distinct_image(next(_numbers))
    job = service.submit(image, headers={"Prefer": "wait=30"})
    assert job["status"] == "succeeded"
    assert batches.all("size") == [1]


def test_interactive_goes_before_bulk(service: Service) -> None:
    service.worker.stop()
    batches = Batches(service)
    bulk = submit_at_once(service, 200, lane="bulk")
    interactive = submit_at_once(service, 3)
    service.worker.start()
    jobs = service.wait([*interactive, *bulk])
    passes = batches.all("lane")
    assert all(job["status"] == "succeeded" for job in jobs.values())
    # Two bulk loops may have claimed before it; its pass is the next but one at the latest.
    assert "interactive" in passes[:3], passes

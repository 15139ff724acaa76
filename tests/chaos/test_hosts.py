"""Web, two workers, broker and database on hosts of their own, and the links between them cut."""

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import pytest
import requests

from tests.chaos.hosts import WORKERS, Cut, HostBroker, HostPostgres, HostsService, Network
from tests.functional.service import Part, distinct_image, serving
from tests.services import wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

QUEUE = "classify.digits"
# So that a claim lapses soon.
QUICK = {"lease_seconds": 6, "renew_seconds": 1.5}
_numbers = count(1_000_000)


@dataclass
class Place:
    """The service, and what can be done to it."""

    network: Network
    service: HostsService
    broker: HostBroker

    def cut(self, from_host: str, to_host: str, *, one_way: bool = False) -> Cut:
        return Cut(self.network, from_host, to_host, one_way=one_way)

    def submit(self, number: int = 40) -> list[str]:
        """Hand in so many images that nobody has handed in before; the ids of their jobs."""
        images = [distinct_image(next(_numbers)) for _ in range(number)]
        with ThreadPoolExecutor(4) as pool:
            return [job["id"] for job in pool.map(self.service.submit, images)]

    def all_succeeded(self, ids: list[str]) -> list[dict[str, Any]]:
        jobs = self.service.wait(ids)
        assert {job["status"] for job in jobs.values()} == {"succeeded"}
        return [jobs[job_id] for job_id in ids]

    def works_alone(self, worker: Part) -> None:
        """This worker does what comes while the other stands still."""
        ids = self.service.stop_with_a_batch(worker, self.submit)
        worker.signal(signal.SIGCONT)
        self.all_succeeded(ids)
        self.service.go_on()

    def bells(self) -> int:
        """How many lie in the queue, unheard."""
        with self.broker.client() as client:
            return int(client.llen(QUEUE))

    def answers(self, method: str, path: str, **how: Any) -> requests.Response:
        """What web says, which it does while the test has patience."""
        return requests.request(method, f"{self.service.url}{path}", timeout=90, **how)


@pytest.fixture(scope="module")
def shared_place(
    tmp_path_factory: pytest.TempPathFactory, have: Callable[[Callable[[], Any]], Any]
) -> Iterator[Place]:
    """One service for all tests: to start it takes longer than to cut its links."""
    directory = tmp_path_factory.mktemp("hosts")
    with ExitStack() as stack:
        network = stack.enter_context(closing(have(partial(Network, directory))))
        broker = have(partial(HostBroker, network.place("broker")))
        stack.enter_context(closing(broker)).start()
        postgres = have(partial(HostPostgres, network.place("database")))
        stack.enter_context(closing(postgres)).start()
        url = postgres.create_database()
        service = HostsService(directory, network, url, broker.url, **QUICK)
        stack.enter_context(serving(service))
        yield Place(network, service, broker)


@pytest.fixture
def place(shared_place: Place) -> Iterator[Place]:
    """The same with every link whole and every worker going on, whatever a test did."""
    yield shared_place
    shared_place.network.heal_all()
    shared_place.service.go_on()
    wait_until(shared_place.service.is_ready, seconds=90, what="readiness of web")


@pytest.mark.parametrize("one_way", [False, True], ids=["both-ways", "answers-lost"])
def test_a_worker_cut_off_from_the_database_holds_nothing_up(place: Place, one_way: bool) -> None:
    """What it says too late, or again since no answer came, changes nothing."""
    service, worker = place.service, place.service.workers[0]
    ids = service.stop_with_a_batch(worker, place.submit)
    batches = len(worker.events("batch"))
    with place.cut("database", "worker-1", one_way=one_way):
        service.go_on()
        before = place.all_succeeded(ids)
    wait_until(
        lambda: len(worker.events("batch")) > batches, seconds=90, what="the end of what it held"
    )
    place.works_alone(worker)
    assert place.all_succeeded(ids) == before


def test_workers_cut_off_from_the_broker_find_what_there_is(place: Place) -> None:
    with place.cut(WORKERS[0], "broker"), place.cut(WORKERS[1], "broker"):
        place.all_succeeded(place.submit())
        wait_until(lambda: place.bells() > 0, seconds=60, what="a bell that nobody hears")
    wait_until(lambda: place.bells() == 0, seconds=90, what="somebody who hears the bells")
    place.all_succeeded(place.submit())


def test_web_cut_off_from_the_broker_accepts_jobs(place: Place) -> None:
    with place.cut("web", "broker"):
        place.all_succeeded(place.submit())


def test_web_cut_off_from_the_database_says_so_and_comes_back_by_itself(place: Place) -> None:
    job = place.all_succeeded(place.submit(1))[0]
    image = {"image": ("picture", distinct_image(next(_numbers)))}
    calls: list[Callable[[], requests.Response]] = [
        lambda: place.answers("POST", "/v1/jobs", files=image, data={"model": "digits"}),
        lambda: place.answers("GET", f"/v1/jobs/{job['id']}"),
        lambda: place.answers("GET", f"/v1/jobs/{job['id']}", headers={"Prefer": "wait=60"}),
        lambda: place.answers("GET", "/readyz"),
    ]
    with place.cut("web", "database"), ThreadPoolExecutor(8) as pool:
        for answer in pool.map(lambda call: call(), calls * 4):  # more than one at a time
            assert answer.status_code == 503, answer.text
            assert int(answer.headers["Retry-After"]) > 0
    wait_until(place.service.is_ready, seconds=90, what="readiness of web")
    assert place.service.job(job["id"]) == job
    place.all_succeeded(place.submit(1))

"""Images that end their worker process fail by themselves; kills from outside fail nobody."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.trapped import FEW, Trap, TrappedService, kept_running
from tests.functional.service import distinct_image
from tests.services import wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

BATCH = 8
_numbers = count(10_000)


@pytest.fixture(scope="module")
def shared_service(
    stack_name: str,
    make_stack: Callable[[str, Path], dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[TrappedService]:
    """One service for all of them; without a broker, which takes no part in this."""
    directory = tmp_path_factory.mktemp("poison")
    service = TrappedService(
        directory,
        max_batch_size=BATCH,
        pass_limit_seconds=2,
        trial_calm_seconds=0.5,
        pass_seconds=0.1,
        **make_stack(stack_name, directory),
    )
    try:
        service.start(service.web, service.worker)
        yield service
    finally:
        service.close()


@pytest.fixture
def service(shared_service: TrappedService) -> TrappedService:
    """The service, with its worker stopped."""
    if shared_service.worker.running:
        shared_service.worker.stop()
    return shared_service


def submit(service: TrappedService, number: int) -> list[str]:
    """Hand in so many harmless images that nobody has handed in before; the ids of their jobs."""
    images = [distinct_image(next(_numbers)) for _ in range(number)]
    with ThreadPoolExecutor(4) as pool:
        return [job["id"] for job in pool.map(service.submit, images)]


@pytest.mark.stack("sqlite+local")
def test_poisonous_images_fail_alone(service: TrappedService) -> None:
    poison = [trap.picture() for trap in (Trap.DIES_DECODED, Trap.DIES_PASSED, Trap.HANGS)]
    mates = submit(service, 2)
    guilty = [service.submit(picture)["id"] for picture in poison]
    mates += submit(service, BATCH - 5)
    with kept_running(service.worker):
        jobs = service.wait([*guilty, *mates])
        assert [jobs[job]["error"]["code"] for job in guilty] == ["worker_lost"] * 3
        assert {jobs[mate]["status"] for mate in mates} == {"succeeded"}
        # Known by now: alone at once, and one lapse is enough.
        again, others = service.submit(poison[1])["id"], submit(service, 3)
        jobs = service.wait([again, *others])
        assert (jobs[again]["error"]["code"], jobs[again]["attempt"]) == ("worker_lost", 1)
        assert {jobs[other]["status"] for other in others} == {"succeeded"}
        # Once among the others, then three times each, then once more; and it serves on.
        wait_until(
            lambda: service.worker.times_served() >= 1 + 1 + 3 * 3 + 1,
            seconds=60,
            what="as many starts as there were crashes",
        )
    ends = [event["reason"] for event in service.worker.events("worker_ends")]
    assert len(ends) >= 3
    assert all("past the limit of its pass stage" in reason for reason in ends)


@pytest.mark.stack("sqlite+local")
@pytest.mark.timeout(900)
def test_kills_from_outside_fail_nobody(
    service: TrappedService, pytestconfig: pytest.Config
) -> None:
    kills = int(pytestconfig.getoption("--kills"))
    chance = random.Random(15)
    ids: list[str] = []
    for _ in range(kills):
        ids += submit(service, 12)
        service.worker.start_and_serve()
        time.sleep(chance.uniform(0, 0.5))  # a moment as good as any other
        service.worker.kill()
    service.worker.start()
    jobs = service.wait(ids, seconds=200).values()
    print(  # noqa: T201
        f"{kills} kills, {len(jobs)} jobs, {Counter(job['status'] for job in jobs)}, "
        f"attempts {sorted(Counter(job['attempt'] for job in jobs).items())}"
    )
    assert Counter(job["status"] for job in jobs) == {"succeeded": 12 * kills}


@pytest.mark.stack("sqlite+local")
def test_a_batch_that_memory_cannot_hold_is_halved_from_then_on(service: TrappedService) -> None:
    first = [*submit(service, BATCH - 1), service.submit(Trap.TAKES_MEMORY.picture())["id"]]
    service.worker.start()
    jobs = service.wait(first)
    assert [job["status"] for job in jobs.values()] == ["succeeded"] * BATCH
    halved = [event["limit"] for event in service.worker.events("batch_halved")]
    assert halved == [BATCH // 2, FEW]
    served, batches = service.worker.times_served(), len(service.worker.events("batch"))
    later = submit(service, 2 * BATCH)
    jobs = service.wait(later)
    assert [job["status"] for job in jobs.values()] == ["succeeded"] * 2 * BATCH
    assert service.worker.times_served() == served  # it was the same process all along
    sizes = [event["size"] for event in service.worker.events("batch")[batches:]]
    assert max(sizes) == FEW
    assert [event["limit"] for event in service.worker.events("batch_halved")] == halved

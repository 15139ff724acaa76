"""Ingestions share a lane: whoever comes later is not stuck behind whoever brought more."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from tests.integration.bulk import Bulk
from tests.integration.helpers import SEVEN, Stage

BATCH = 8


@pytest.fixture
def bulk(stage: Stage) -> Bulk:
    return Bulk(stage)


def batches(bulk: Bulk, lane: str = "bulk") -> Iterator[list[UUID | None]]:
    """Work batch after batch; of whom each job was."""
    while (claimed := bulk.stage.claim(BATCH, lane=lane)) is not None:
        owners = bulk.stage.jobs()
        bulk.stage.record(claimed, SEVEN)
        yield [owners[job.id].ingestion for job in claimed.jobs]


def many(name: str, number: int) -> list[str]:
    return [f"{name}{n}" for n in range(number)]


def test_two_ingestions_take_turns(bulk: Bulk) -> None:
    first = bulk.expand(*many("a", 80))
    second = bulk.expand(*many("b", 80))
    worked = [owner for batch in batches(bulk) for owner in batch]
    # At no point has one had more turns than the other, but for those of one batch.
    for until in range(16, len(worked), 8):
        share = worked[:until].count(first) - worked[:until].count(second)
        assert abs(share) <= BATCH, until


def test_a_small_one_that_comes_later_is_not_stuck_behind_a_big_one(bulk: Bulk) -> None:
    bulk.expand(*many("big", 400))
    running = batches(bulk)
    for _ in range(5):
        next(running)
    small = bulk.expand(*many("small", 12))
    seen, passes = 0, 0
    while seen < 12:
        seen += next(running).count(small)
        passes += 1
    assert passes <= 1 + 2 * 12 / BATCH + 1


def test_a_big_one_that_is_expanded_as_it_is_worked_gets_no_more_than_its_turns(
    bulk: Bulk,
) -> None:
    steady = bulk.expand(*many("steady", 60))
    big = bulk.ingest()
    held = bulk.must_claim()
    assert held.id == big
    position, worked = 0, []
    for step, batch in enumerate(batches(bulk)):
        worked += batch
        if step < 12:  # it is always ahead of the worker
            position = bulk.step(held, many(f"big{step}-", 20), position=position)
        if worked.count(steady) == 60:
            break
    assert len(worked) <= 2 * 60 + 2 * BATCH


def test_single_bulk_jobs_take_turns_with_ingestions(bulk: Bulk) -> None:
    ingestion = bulk.expand(*many("a", 60))
    ids = bulk.stage.submit_each(*many("single", 12), lane="bulk")
    worked: list[Any] = []
    for batch in batches(bulk):
        worked += batch
        if not any(bulk.stage.job(id_).status == "queued" for id_ in ids):
            break
    assert worked.count(ingestion) <= 12 + 2 * BATCH


def test_interactive_jobs_do_not_wait_for_an_ingestion(bulk: Bulk) -> None:
    bulk.expand(*many("a", 60))
    bulk.stage.submit("mine")
    assert next(batches(bulk, "interactive")) == [None]

"""What the page of an ingestion shows is found by indexes, and is of the items' own jobs."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, insert, text, update

from bench.plans import captured
from shared.database import new_id
from shared.ingestions import highlights, queries
from shared.tables import ingestion_counts, ingestions, items, jobs
from tests.integration.helpers import Stage, image

ITEMS = 2_000
EVERY = 10  # one in so many failed
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def fill(stage: Stage, ingestion: UUID) -> list[UUID]:
    """An ingestion whose jobs have ended one a second; their ids in order."""
    stage.submit()  # for the image that all of them have
    ids = [new_id() for _ in range(ITEMS)]
    common: dict[str, Any] = {
        "owner": "local",
        "image": image("seven").sha256,
        "model_version": stage.version_id,
        "pinned": True,
        "top_k": 5,
        "metadata": {},
        "lane": "bulk",
        "flow": str(ingestion),
        "sequence": 1,
        "ingestion": ingestion,
        "created_at": BEGAN,
    }
    rows = [
        common
        | {
            "id": id_,
            "position": at,
            "filename": f"{at}.png",
            "status": "succeeded" if at % EVERY else "failed",
            "error_code": None if at % EVERY else "image_unreadable",
            "finished_at": BEGAN + timedelta(seconds=at),
        }
        for at, id_ in enumerate(ids)
    ]

    def work(connection: Connection) -> None:
        connection.execute(
            insert(ingestions).values(
                id=ingestion,
                owner="local",
                status="running",
                source_kind="archive",
                model_version=stage.version_id,
                pinned=True,
                top_k=5,
                metadata={},
                expanded=ITEMS,
                started_at=BEGAN,
                turn_at=BEGAN,
                created_at=BEGAN,
            )
        )
        sums = {"succeeded": ITEMS - ITEMS // EVERY, "failed": ITEMS // EVERY}
        connection.execute(
            insert(ingestion_counts).values(
                ingestion=ingestion, slot=3, canceled=0, expired=0, **sums
            )
        )
        connection.execute(insert(jobs), rows)
        connection.execute(
            insert(items),
            [
                {"ingestion": ingestion, "position": at, "name": f"{at}.png", "job": id_}
                for at, id_ in enumerate(ids)
            ],
        )

    stage.database.transact(work)
    return ids


def test_the_first_failures_and_the_latest_jobs_are_found_among_many(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = new_id()
    ids = fill(stage, wanted)
    fill(stage, new_id())  # and another one
    monkeypatch.setattr("bench.plans.MOST_ROWS", 450)

    def look(connection: Connection) -> tuple[list[int], list[UUID], float | None]:
        seen = queries.find(connection, "local", wanted)
        assert seen is not None
        assert (seen.pending, seen.ended["failed"]) == (0, ITEMS // EVERY)
        failed = highlights.first_failures(connection, wanted, 3)
        latest = highlights.latest_finished(connection, wanted, 3)
        return [item.position for item in failed], latest, seen.images_per_second

    if stage.database.engine.dialect.name == "postgresql":
        stage.database.transact(lambda c: c.execute(text("ANALYZE jobs, items, ingestions")))
        with captured(stage.database) as capture, stage.database.read() as connection:
            found = look(connection)
        assert len(capture.planned) >= 5
        for planned in capture.planned:
            for plan in (planned.custom, planned.generic):
                assert plan.faults(frozenset({"jobs", "items"})) == [], planned.readable
    else:
        with stage.database.read() as connection:
            found = look(connection)
    assert found[:2] == ([0, EVERY, 2 * EVERY], ids[:-4:-1])
    assert found[2] is not None


def test_jobs_that_a_retry_left_behind_are_passed_over(stage: Stage) -> None:
    ingestion = new_id()
    ids = fill(stage, ingestion)
    behind = 60 * EVERY  # more than the first look reads

    def retry(connection: Connection) -> None:
        again = items.c.ingestion == ingestion, items.c.position < behind
        connection.execute(update(items).where(*again).values(job=new_id()))

    stage.database.transact(retry)
    with stage.database.read() as connection:
        failed = highlights.first_failures(connection, ingestion, 2)
        assert [item.position for item in failed] == [behind, behind + EVERY]
        assert [item.job for item in failed] == [ids[behind], ids[behind + EVERY]]

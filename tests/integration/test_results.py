"""The results of an ingestion: in two orders, from any place on, and nothing skipped."""

from typing import Any

import pytest
from sqlalchemy import event, text, update

from shared.errors import ProblemError
from shared.ingestions import results, retrying, transitions
from shared.ingestions.lines import Line
from shared.ingestions.results import Order
from shared.jobs.recording import Embedding, Failure
from shared.tables import jobs
from tests.integration.bulk import Bulk
from tests.integration.helpers import ONE, SEVEN, Stage

UNREADABLE = Failure("image_unreadable", "It is cut off.")


@pytest.fixture
def bulk(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Bulk:
    monkeypatch.setattr("shared.ingestions.results._STAMP_SECONDS", 0)
    return Bulk(stage)


def read(
    bulk: Bulk,
    ingestion: Any,
    order: Order = "source",
    after: Any = None,
    *,
    embeds: bool = False,
) -> list[Line]:
    place = None
    if after is not None:
        with bulk.database.read() as connection:
            place = results.place_of(connection, ingestion, order, str(after))
    pages = results.pages(bulk.database, ingestion, embeds=embeds, order=order, after=place)
    return [line for page in pages for line in page]


def positions(lines: list[Line]) -> list[int]:
    return [line["position"] for line in lines]


def test_a_line_says_what_became_of_an_item(bulk: Bulk) -> None:
    ingestion = bulk.expand("a", None, "b", top_k=1, reference="mine")
    bulk.work(SEVEN, UNREADABLE)
    good, refused, bad = read(bulk, ingestion)
    assert list(good) == [
        "position", "name", "reference", "status", "predictions", "error", "metadata", "job",
    ]  # fmt: skip
    assert good["predictions"] == [{"rank": 1, "class_id": "7", "label": "7", "score": 0.9}]
    assert (good["name"], good["reference"], good["status"]) == ("0.png", "mine", "succeeded")
    assert good["metadata"] == {"of": "all", "number": 0}
    assert refused == {
        "position": 1,
        "name": "1.png",
        "reference": "mine",
        "status": "failed",
        "predictions": None,
        "error": {"code": "unsupported_image", "detail": "It is a text.", "retryable": False},
        "metadata": {"of": "all"},
        "job": None,
    }
    assert (bad["status"], bad["error"]["code"]) == ("failed", "image_unreadable")
    assert bad["job"] == str(bulk.items(ingestion)[2].job)


def test_an_embedding_is_part_of_its_line(bulk: Bulk) -> None:
    ingestion = bulk.expand("a", None, "b")
    bulk.work(Embedding(b"\x00\x00\x80\x3f\x00\x00\x00\x40"), UNREADABLE)
    lines = read(bulk, ingestion, embeds=True)
    assert [list(line)[-1] for line in lines] == ["embedding"] * 3
    assert [line["embedding"] for line in lines] == [[1.0, 2.0], None, None]
    assert [line["predictions"] for line in lines] == [None] * 3


def test_in_source_order_it_stops_at_what_has_not_ended(bulk: Bulk) -> None:
    ingestion = bulk.expand("a", "b", None, "c")
    assert read(bulk, ingestion) == []
    assert positions(read(bulk, ingestion, "finished")) == [2]
    bulk.work(SEVEN)
    assert positions(read(bulk, ingestion)) == [0]
    bulk.work(SEVEN, SEVEN)
    assert positions(read(bulk, ingestion)) == [0, 1, 2, 3]
    assert positions(read(bulk, ingestion, "finished")) == [2, 0, 1, 3]


def test_either_order_goes_on_behind_any_line(bulk: Bulk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.ingestions.results.PAGE_ROWS", 3)
    ingestion = bulk.expand("a", None, "b", "a", "c", None, None, "d")
    bulk.work(SEVEN, ONE, SEVEN, UNREADABLE, ONE)
    orders: tuple[Order, ...] = ("source", "finished")
    for order in orders:
        whole = read(bulk, ingestion, order)
        assert sorted(positions(whole)) == list(range(8))
        for number, line in enumerate(whole, start=1):
            assert read(bulk, ingestion, order, line["position"]) == whole[number:]
            if order == "finished" and line["job"]:
                assert read(bulk, ingestion, order, line["job"]) == whole[number:]


def test_a_place_that_no_line_has_is_refused(bulk: Bulk) -> None:
    ingestion = bulk.expand("a")
    for order, after in (("source", "x"), ("finished", "0"), ("finished", "9"), ("finished", "é")):
        with pytest.raises(ProblemError) as refused:
            read(bulk, ingestion, order, after)  # type: ignore[arg-type]
        assert refused.value.code == "invalid_value"
    assert read(bulk, ingestion, "source", 2**40) == []


def test_an_item_that_is_tried_again_comes_again_as_it_ends(bulk: Bulk) -> None:
    ingestion = bulk.expand("a", "b")
    bulk.work(UNREADABLE, SEVEN)
    bulk.close(ingestion)
    first, second = read(bulk, ingestion, "finished")
    retrying.retry(bulk.database, ingestion)
    assert positions(read(bulk, ingestion)) == []
    assert positions(read(bulk, ingestion, "finished")) == [1]
    bulk.work(SEVEN)
    again = read(bulk, ingestion, "finished", first["job"])
    assert positions(again) == [1, 0]
    assert again[0] == second
    assert again[1]["status"] == "succeeded"
    assert positions(read(bulk, ingestion)) == [0, 1]


# SQLite has one writer at a time: the order of the stamps is that of the commits.
@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
def test_what_commits_late_is_not_skipped(migrated_url: str, bulk: Bulk) -> None:
    ingestion = bulk.expand("a", "b")
    slow, quick = (bulk.stage.must_claim(lane="bulk", limit=1) for _ in range(2))
    connection = bulk.database.engine.connect()
    with connection, connection.begin() as transaction:
        connection.execute(
            update(jobs)
            .where(jobs.c.id == slow.jobs[0].id)
            .values(
                status="failed",
                claim_token=None,
                error_code="image_unreadable",
                finished_at=text("clock_timestamp()"),
            )
        )
        bulk.stage.record(quick, SEVEN)  # stamped later, committed earlier
        assert read(bulk, ingestion, "finished") == []
        transaction.commit()
    assert positions(read(bulk, ingestion, "finished")) == [0, 1]


@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
def test_what_was_stamped_just_now_waits_until_all_has_ended(
    migrated_url: str, bulk: Bulk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction may have stamped a row, and not yet be known to write."""
    monkeypatch.setattr("shared.ingestions.results._STAMP_SECONDS", 3600)
    ingestion = bulk.expand("a", "b")
    bulk.work(SEVEN, SEVEN)
    assert read(bulk, ingestion, "finished") == []
    assert bulk.close(ingestion) == "succeeded"
    assert positions(read(bulk, ingestion, "finished")) == [0, 1]


def test_what_is_deleted_meanwhile_does_not_look_complete(
    bulk: Bulk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.ingestions.results.PAGE_ROWS", 2)
    ingestion = bulk.expand("a", "b", "c")
    bulk.work(SEVEN, SEVEN, SEVEN)
    pages = results.pages(bulk.database, ingestion, embeds=False)
    assert positions(next(pages)) == [0, 1]
    bulk.database.transact(lambda c: transitions.delete(c, "local", ingestion))
    with pytest.raises(ProblemError, match="deleted meanwhile"):
        next(pages)


def test_no_page_scans_a_table(bulk: Bulk, monkeypatch: pytest.MonkeyPatch) -> None:
    # So small against the table that to scan it would be dear.
    monkeypatch.setattr("shared.ingestions.results.PAGE_ROWS", 5)
    ingestion = bulk.expand(*(None if n % 5 == 0 else f"{n}" for n in range(300)))
    for _ in range(3):
        bulk.expand(*(f"x{n}" for n in range(300)))
    for claim in iter(lambda: bulk.stage.claim(lane="bulk", limit=100), None):
        bulk.stage.record(claim, SEVEN)
    plans: list[str] = []
    explain = "EXPLAIN QUERY PLAN " if bulk.database.is_sqlite else "EXPLAIN "

    def explained(connection: Any, _: Any, statement: str, parameters: Any, *__: Any) -> None:
        if "items" in statement and not statement.startswith("EXPLAIN"):
            found = connection.exec_driver_sql(explain + statement, parameters)
            plans.append("\n".join(str(row) for row in found))

    if not bulk.database.is_sqlite:
        bulk.database.transact(lambda c: c.execute(text("ANALYZE")))
    event.listen(bulk.database.engine, "before_cursor_execute", explained)
    assert len(read(bulk, ingestion, "source", 250)) == 49
    assert len(read(bulk, ingestion, "finished", 250)) > 1
    event.remove(bulk.database.engine, "before_cursor_execute", explained)
    assert plans
    for plan in plans:
        assert "SCAN" not in plan.replace("SCAN CONSTANT ROW", ""), plan
        assert "Seq Scan on jobs" not in plan, plan
        assert "Seq Scan on items" not in plan, plan

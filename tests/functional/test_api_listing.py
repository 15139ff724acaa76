"""The list of jobs: its order, its filters, its pages; and many jobs polled at once."""

import threading
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, insert, select, update

from shared import models
from shared.database import new_id
from shared.jobs.recording import Failure
from shared.tables import jobs
from tests.functional.conftest import API, LABELS, PREDICTIONS, SPEC, VERSION, picture
from tests.functional.test_api_refusals import assert_problem

ONE = [("1", "1", 0.8), ("7", "7", 0.1)]


def listed(api: API, **query: Any) -> list[str]:
    """The ids on one page."""
    response = api.client.get("/v1/jobs", query_string=query)
    assert response.status_code == 200, response.text
    assert response.headers["Cache-Control"] == "private, no-cache"
    return [job["id"] for job in response.json["data"]]


def pages(api: API, **query: Any) -> list[list[str]]:
    """The ids on every page, as a client follows the cursors."""
    found, cursor = [], ""
    while cursor is not None:
        response = api.client.get("/v1/jobs", query_string=query | {"cursor": cursor})
        assert response.status_code == 200, response.text
        found.append([job["id"] for job in response.json["data"]])
        cursor = response.json["next_cursor"]
    return found


@pytest.fixture
def six(api: API) -> dict[str, str]:
    """A job in each state; their ids, oldest first."""

    def submit(colour: int, **options: Any) -> str:
        job_id: str = api.job(data=picture(colour=colour), **options)["id"]
        return job_id

    made = {"succeeded": submit(1)}
    api.work()
    made["failed"] = submit(2)
    api.work(Failure("image_unreadable", "Broken."))
    made["canceled"] = submit(3)
    api.client.post(f"/v1/jobs/{made['canceled']}/cancel")
    made["expired"] = submit(4, deadline_seconds=1e-6)
    api.recover()
    made["running"] = submit(5)
    api.claim()
    made["queued"] = submit(6)
    return made


def test_jobs_are_listed_newest_first_as_they_are_told_one_by_one(
    api: API, six: dict[str, str]
) -> None:
    body = api.client.get("/v1/jobs").json
    assert body["next_cursor"] is None
    assert [job["status"] for job in body["data"]] == list(reversed(six))
    for job in body["data"]:
        assert job == api.show(job["id"]) | {"queue": None}


def test_each_state_can_be_asked_for_and_several_at_once(api: API, six: dict[str, str]) -> None:
    for status, job_id in six.items():
        assert listed(api, status=status) == [job_id]
    for some in (["failed", "queued"], ["succeeded", "expired", "running"], list(six)):
        expected = [six[status] for status in reversed(six) if status in some]
        assert listed(api, status=some) == expected
        assert pages(api, status=some, limit=1) == [[id_] for id_ in expected]


def test_pages_hold_every_job_once_while_others_come_and_go(api: API) -> None:
    ids = [api.job()["id"] for _ in range(7)]
    first = api.client.get("/v1/jobs?limit=3").json
    assert [job["id"] for job in first["data"]] == ids[:3:-1]
    # The last one of the page goes, and a new one comes: the next page is the same.
    api.client.delete(f"/v1/jobs/{ids[4]}")
    api.job()
    second = api.client.get(f"/v1/jobs?limit=3&cursor={first['next_cursor']}").json
    assert [job["id"] for job in second["data"]] == [ids[3], ids[2], ids[1]]
    third = api.client.get(f"/v1/jobs?limit=3&cursor={second['next_cursor']}").json
    assert [job["id"] for job in third["data"]] == [ids[0]]
    assert third["next_cursor"] is None


def test_a_page_has_fifty_jobs_unless_told(api: API) -> None:
    job_id = api.job()["id"]

    def copy(connection: Connection) -> None:
        row = connection.execute(select(jobs).where(jobs.c.id == UUID(job_id))).one()
        copies = [{**row._mapping, "id": new_id()} for _ in range(51)]
        connection.execute(insert(jobs), copies)

    api.database.transact(copy)
    assert [len(page) for page in pages(api)] == [50, 2]
    assert [len(page) for page in pages(api, limit=52)] == [52]


def test_a_label_is_the_best_one_that_was_answered(api: API) -> None:
    seven = api.job(data=picture(colour=1))["id"]
    api.work()
    one = api.job(data=picture(colour=2))["id"]
    api.work(ONE)
    again = api.job(data=picture(colour=1))["id"]
    picky = api.job(data=picture(colour=1), min_score=0.9)["id"]
    api.job(data=picture(colour=1), min_score=0.901)  # answers with no label at all
    assert listed(api, label="7") == [picky, again, seven]
    assert listed(api, label="1") == [one]
    assert listed(api, label="7", status="succeeded", limit=2) == [picky, again]
    assert pages(api, label="7", limit=1) == [[picky], [again], [seven]]
    assert listed(api, label="7", status="failed") == []
    assert listed(api, label="") == listed(api)
    assert listed(api, label="8") == []


def test_a_label_is_no_other_states(api: API) -> None:
    """A result may be there of an image whose other job did not get it."""
    canceled = api.job()["id"]
    api.client.post(f"/v1/jobs/{canceled}/cancel")
    succeeded = api.job()["id"]
    api.work()
    assert listed(api, label=PREDICTIONS[0][1]) == [succeeded]


def test_a_reference_is_found_exactly(api: API) -> None:
    mine = [api.job(reference="cat 1 ü")["id"] for _ in range(2)]
    api.job(reference="cat 10")
    api.job()
    assert listed(api, reference="cat 1 ü") == [mine[1], mine[0]]
    api.work()
    assert listed(api, reference="cat 1 ü", label="7", status="succeeded") == [mine[1], mine[0]]
    assert listed(api, reference="cat 1 ü", status="queued") == []
    assert listed(api, reference="cat") == []


def test_a_model_is_found_by_name_and_by_version(api: API) -> None:
    old = api.job()["id"]
    api.work()
    api.database.transact(lambda c: models.install(c, "digits", "f" * 12, SPEC, LABELS))
    new = api.job()["id"]
    assert listed(api, model="digits") == [new, old]
    assert listed(api, model=f"digits@{VERSION}") == [old]
    assert listed(api, model=f"digits@{'f' * 12}", status="queued") == [new]
    assert listed(api, model="vgg16") == []
    for unknown in ("vgg17", "digits@", f"vgg16@{VERSION}"):
        response = api.client.get("/v1/jobs", query_string={"model": unknown})
        assert_problem(response, 422, "model_unknown")


def test_an_ingestion_is_found_by_its_id(api: API) -> None:
    ingestion, job_id = new_id(), api.job()["id"]
    api.database.transact(lambda c: c.execute(update(jobs).values(ingestion=ingestion)))
    api.job()
    assert listed(api, ingestion=ingestion) == [job_id]
    assert listed(api, ingestion=uuid4()) == []


def test_another_owners_jobs_are_not_there(api: API) -> None:
    job = api.job(reference="theirs")
    api.work()
    api.database.transact(lambda c: c.execute(update(jobs).values(owner="somebody")))
    for query in (
        {},
        {"status": "succeeded"},
        {"label": "7"},
        {"reference": "theirs"},
        {"model": "digits"},
        {"id": job["id"]},
    ):
        assert listed(api, **query) == []


def test_a_stretch_without_a_find_is_an_empty_page_that_goes_on(
    api: API, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.jobs.finding._STRETCH", 10)
    monkeypatch.setattr("shared.jobs.finding._RARE_RESULTS", 0)
    monkeypatch.setattr("web.listing._MOST_LOOKS", 1)
    old = [api.job(data=picture(colour=1))["id"] for _ in range(3)]
    api.work()
    for _ in range(16):
        api.job(data=picture(colour=2))
    api.work(ONE)
    newest = old[::-1]
    assert pages(api, label="7") == [[], newest]  # looked through: 10, then 10, then no more
    assert pages(api, label="7", limit=2) == [[], newest[:2], newest[2:]]
    assert pages(api, label="7", status=["succeeded", "queued"]) == [[], newest]
    assert pages(api, status=["failed", "canceled"], model="vgg16") == [[]]
    # So a client rarely sees one:
    monkeypatch.setattr("web.listing._MOST_LOOKS", 2)
    assert pages(api, label="7") == [newest]


def test_a_label_of_many_jobs_is_walked_for(api: API, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few results may belong to many jobs: the same image again and again."""
    ids = [api.job()["id"] for _ in range(5)]
    api.work()
    expected = [[ids[4], ids[3]], [ids[2], ids[1]], [ids[0]]]
    assert pages(api, label="7", limit=2) == expected
    monkeypatch.setattr("shared.jobs.finding._RARE_JOBS", 4)
    assert pages(api, label="7", limit=2) == expected


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("status=done", "status"),
        ("status=queued&status=done", "status"),
        ("ingestion=7", "ingestion"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("cursor=x", "cursor"),
        ("cursor=AAAAAAAAAAAAAAAAAAAAAA%3D%3D", "cursor"),
        ("cursor=AAAAAAAAAAAAAAAAAAAAAB", "cursor"),
        ("cursor=%00%C3%BC", "cursor"),
        ("reference=a&reference=b", "reference"),
        ("reference=a%00", "reference"),
        ("label=a%00", "label"),
        ("lane=bulk", "lane"),
        ("offset=", "offset"),
        ("id=7", "id"),
        ("id=", "id"),
        ("id=01890000-0000-7000-8000-000000000000&limit=5", "limit"),
        ("id=01890000-0000-7000-8000-000000000000&status=queued", "status"),
    ],
)
def test_what_cannot_be_asked_is_422_by_name(api: API, query: str, field: str) -> None:
    body = assert_problem(api.client.get(f"/v1/jobs?{query}"), 422, "invalid_value")
    assert [error["field"] for error in body["errors"]] == [field]


def test_a_cursor_is_a_place_under_any_filter(api: API) -> None:
    ids = [api.job(data=picture(colour=colour))["id"] for colour in range(3)]
    cursor = api.client.get("/v1/jobs?limit=1").json["next_cursor"]
    assert listed(api, cursor=cursor, status="queued") == [ids[1], ids[0]]


def test_many_jobs_are_polled_in_the_order_of_their_ids(api: API) -> None:
    ids = [api.job(data=picture(colour=colour))["id"] for colour in range(5)]
    response = api.client.get(
        "/v1/jobs", query_string={"id": ids + [str(uuid4()) for _ in range(95)]}
    )
    assert response.headers["Retry-After"]
    assert response.json["next_cursor"] is None
    assert [job["id"] for job in response.json["data"]] == ids
    api.work()
    api.client.delete(f"/v1/jobs/{ids[1]}")
    asked = [ids[2], str(uuid4()), ids[1], ids[0], ids[2]]
    response = api.client.get("/v1/jobs", query_string={"id": asked})
    assert "Retry-After" not in response.headers
    assert [(job["id"], job["status"]) for job in response.json["data"]] == [
        (ids[2], "succeeded"),
        (ids[0], "succeeded"),
    ]


def test_more_than_a_hundred_ids_are_refused(api: API) -> None:
    response = api.client.get("/v1/jobs", query_string={"id": [str(uuid4()) for _ in range(101)]})
    assert_problem(response, 422, "invalid_value")


def test_a_poll_of_many_waits_until_the_last_has_ended(api: API) -> None:
    ids = [api.job(data=picture(colour=colour))["id"] for colour in range(3)]
    api.client.post(f"/v1/jobs/{ids[0]}/cancel")

    def end_one_then_the_other() -> None:
        client = api.app.test_client()
        client.post(f"/v1/jobs/{ids[1]}/cancel")
        assert not ended.wait(0.3)  # one is still queued
        client.delete(f"/v1/jobs/{ids[2]}")

    ended = threading.Event()
    other = threading.Timer(0.1, end_one_then_the_other)
    other.start()
    response = api.client.get("/v1/jobs", query_string={"id": ids}, headers={"Prefer": "wait=20"})
    ended.set()
    other.join()
    assert response.headers["Preference-Applied"] == "wait=20"
    assert [job["status"] for job in response.json["data"]] == ["canceled", "canceled"]


def test_a_poll_of_many_tells_them_as_they_are_when_the_time_is_over(api: API) -> None:
    query = {"id": [api.job()["id"]]}
    response = api.client.get("/v1/jobs", query_string=query, headers={"Prefer": "wait=0"})
    assert response.headers["Preference-Applied"] == "wait=0"
    assert response.headers["Retry-After"]
    assert response.json["data"][0]["status"] == "queued"

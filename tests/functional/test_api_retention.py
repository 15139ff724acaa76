"""`delete_at` says when a job or an ingestion goes, and then it is as if it had been deleted."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import update

from shared.database import utc_now
from shared.sweep import Sweep
from shared.tables import ingestions, jobs
from tests.functional.conftest import API
from tests.functional.test_api_ingestions import bulk, expand
from tests.integration.helpers import SEVEN

KEY = {"Idempotency-Key": "order 66"}


def put_back(api: API, table: Any, *columns: Any, days: float) -> None:
    """Let time go by for all rows of a table."""
    then = utc_now() - timedelta(days=days)
    values = {column.name: then for column in columns}
    api.database.transact(lambda connection: connection.execute(update(table).values(**values)))


def sweep(api: API) -> None:
    """Do what a background worker does first."""
    Sweep(api.database, api.services.storage, api.services.settings).step()


def seconds_kept(body: dict[str, Any]) -> float:
    moments = [datetime.fromisoformat(body[name]) for name in ("finished_at", "delete_at")]
    return (moments[1] - moments[0]).total_seconds()


def test_a_job_goes_when_it_says(make_api: Callable[..., API], prepared: dict[str, Any]) -> None:
    api = make_api(**prepared, retention_days=0.5)
    job = api.submit(headers=KEY).json
    assert job["delete_at"] is None
    api.work()
    first = api.client.get(job["links"]["self"])
    assert seconds_kept(first.json) == 12 * 3600
    again = api.client.get(job["links"]["self"], headers={"If-None-Match": first.headers["ETag"]})
    assert again.status_code == 304
    assert "Kept until" in api.client.get(job["links"]["html"]).text
    sweep(api)
    assert api.show(job["id"]) == first.json

    put_back(api, jobs, jobs.c.finished_at, days=0.51)
    sweep(api)
    for place in job["links"].values():
        assert api.client.get(place).status_code == 404
    assert api.client.get("/v1/jobs", query_string={"id": job["id"]}).json["data"] == []
    replay = api.submit(headers=KEY)
    assert (replay.status_code, replay.json["code"]) == (410, "idempotency_gone")
    assert api.submit().status_code == 200  # its image is young, and its result was still there


def test_an_ingestion_goes_with_its_jobs_when_all_of_them_say(
    make_api: Callable[..., API], prepared: dict[str, Any]
) -> None:
    api = make_api(**prepared, retention_days=0.5)
    handed_in = api.hand_in(headers=KEY)
    place = handed_in.headers["Location"]
    expand(api, "a", "b")
    helper = bulk(api)

    def seen() -> tuple[dict[str, Any], list[str | None]]:
        of_it = {"ingestion": handed_in.json["id"]}
        found = api.client.get("/v1/jobs", query_string=of_it).json["data"]
        return api.client.get(place).json, [job["delete_at"] for job in found]

    helper.work(SEVEN)
    ingestion, delete_at = seen()
    assert ingestion["delete_at"] is None
    assert delete_at == [None, None]  # one has ended, and stays as long as the other
    helper.work(SEVEN)
    api.recover()
    ingestion, delete_at = seen()
    assert 12 * 3600 <= seconds_kept(ingestion) < 13 * 3600
    assert delete_at == [ingestion["delete_at"]] * 2
    assert "Kept until" in api.client.get(ingestion["links"]["html"]).text

    put_back(api, jobs, jobs.c.finished_at, days=9)
    put_back(api, ingestions, ingestions.c.created_at, ingestions.c.settled_at, days=0.51)
    sweep(api)
    for gone in ingestion["links"].values():
        assert api.client.get(gone).status_code == 404
    assert seen()[1] == []
    replay = api.hand_in(headers=KEY)
    assert (replay.status_code, replay.json["code"]) == (410, "idempotency_gone")


def test_without_a_retention_nothing_says_when_it_goes(api: API) -> None:
    api.submit()
    api.work()
    [job] = api.client.get("/v1/jobs").json["data"]
    assert (job["status"], job["delete_at"]) == ("succeeded", None)

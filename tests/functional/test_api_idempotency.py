"""`Idempotency-Key`: the same request again is the same job, whatever happens in between."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select
from werkzeug.test import TestResponse

from shared.tables import jobs, models
from tests.functional.conftest import API, data_url, picture

KEY = {"Idempotency-Key": "order 66"}


def count_jobs(api: API) -> int:
    with api.database.read() as connection:
        return connection.scalar(select(func.count()).select_from(jobs)) or 0


def test_a_replay_is_the_same_job(api: API) -> None:
    first = api.submit(headers=KEY)
    again = api.submit(headers=KEY)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json["id"] == again.json["id"]
    assert first.headers["Location"] == again.headers["Location"]
    api.work()
    finished = api.submit(headers=KEY)
    assert finished.status_code == 200
    assert (finished.json["id"], finished.json["reused"]) == (first.json["id"], False)
    assert count_jobs(api) == 1


def test_a_replay_in_another_form_is_the_same_job(api: API) -> None:
    first = api.submit(headers=KEY)
    body = {"image": data_url(picture()), "model": "digits"}
    assert api.client.post("/v1/jobs", json=body, headers=KEY).json["id"] == first.json["id"]


@pytest.mark.parametrize(
    "change", [{"top_k": "4"}, {"data": picture(colour=1)}, {"reference": "r"}, {"lane": "bulk"}]
)
def test_another_request_with_the_key_is_refused(api: API, change: dict[str, Any]) -> None:
    api.submit(headers=KEY)
    response = api.submit(headers=KEY, **change)
    assert (response.status_code, response.json["code"]) == (422, "idempotency_mismatch")
    assert count_jobs(api) == 1


def test_the_key_of_a_deleted_job_is_gone(api: API) -> None:
    api.client.delete(api.submit(headers=KEY).headers["Location"])
    response = api.submit(headers=KEY)
    assert (response.status_code, response.json["code"]) == (410, "idempotency_gone")
    assert count_jobs(api) == 0


def test_a_refusal_is_not_stored(api: API) -> None:
    assert api.submit(headers=KEY, top_k="0").status_code == 422
    assert api.submit(headers=KEY, model="vgg16").status_code == 503
    assert api.submit(headers=KEY).status_code == 202


def test_a_replay_needs_no_model(api: API) -> None:
    first = api.submit(headers=KEY)
    api.database.transact(
        lambda connection: connection.execute(models.update().values(current_version=None))
    )
    assert api.submit().status_code == 503
    again = api.submit(headers=KEY)
    assert (again.status_code, again.json["id"]) == (202, first.json["id"])


@pytest.mark.parametrize("key", ["", "x" * 201, "a\tb", "schlüssel"])
def test_a_key_is_printable_and_short(api: API, key: str) -> None:
    response = api.submit(headers={"Idempotency-Key": key})
    assert (response.status_code, response.json["code"]) == (422, "invalid_value")
    assert response.json["errors"][0]["field"] == "Idempotency-Key"
    assert api.submit(headers={"Idempotency-Key": "x" * 200}).status_code == 202


def test_fifty_concurrent_replays_make_one_job(
    make_api: Callable[..., API], prepared: dict[str, Any]
) -> None:
    api = make_api(**prepared, web_threads=50)

    def replay(_: int) -> TestResponse:
        return api.submit(headers=KEY, client=api.app.test_client())

    with ThreadPoolExecutor(50) as pool:
        responses = list(pool.map(replay, range(50)))
    assert {response.status_code for response in responses} == {202}
    assert len({response.json["id"] for response in responses}) == 1
    assert count_jobs(api) == 1

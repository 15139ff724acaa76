"""Liveness and readiness."""

import io
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text
from werkzeug.test import TestResponse

from tests.functional.conftest import API, VERSION, picture
from tests.services import PostgresServer, S3Server

Call = Callable[[], TestResponse]


def test_a_service_with_everything_is_ready(api: API) -> None:
    response = api.client.get("/readyz")
    assert response.status_code == 200
    assert response.json["checks"] == {"database": "ok", "storage": "ok", "schema": "ok"}


def test_an_empty_database_is_not_ready(
    make_api: Callable[..., API], stack: dict[str, Any]
) -> None:
    api = make_api(**stack)
    response = api.client.get("/readyz")
    assert response.status_code == 503
    assert response.mimetype == "application/problem+json"
    assert response.headers["Retry-After"]
    checks = response.json["checks"]
    assert (checks["database"], checks["storage"]) == ("ok", "ok")
    assert "classify db upgrade" in checks["schema"]
    assert api.client.get("/healthz").status_code == 200


def _stamp(api: API, revision: str) -> None:
    stamp = text("UPDATE alembic_version SET version_num = :revision")
    api.database.transact(lambda c: c.execute(stamp, {"revision": revision}))


def test_an_old_schema_is_not_ready_and_the_next_release_s_is(api: API) -> None:
    _stamp(api, "0001")
    response = api.client.get("/readyz")
    assert response.status_code == 503
    assert response.json["checks"]["schema"] != "ok"
    _stamp(api, "9999")  # it is being rolled out
    assert api.client.get("/readyz").status_code == 200


def test_a_storage_that_takes_no_writes_is_not_ready(
    make_api: Callable[..., API], away: dict[str, Any]
) -> None:
    api = make_api(**away)
    response = api.client.get("/readyz")
    assert response.status_code == 503
    assert response.json["checks"]["storage"] != "ok"
    assert response.json["checks"]["database"] == "ok"
    submitted = api.submit()
    assert (submitted.status_code, submitted.json["code"]) == (503, "service_unavailable")


def test_a_storage_that_is_away_says_so_in_words(
    make_api: Callable[..., API], away: dict[str, Any]
) -> None:
    said = make_api(**away).client.get("/readyz").json["checks"]["storage"]
    assert said.startswith("the storage ")
    assert "NoSuchBucket" in said or "is gone" in said, said
    assert "\n" not in said


@pytest.mark.parametrize("stack_name", ["postgresql+s3"], indirect=True)
def test_a_bucket_that_does_not_answer_is_503_and_no_image_is_taken_for_lost(
    make_api: Callable[..., API], prepared: dict[str, Any], s3_server: S3Server
) -> None:
    job = make_api(**prepared).job()
    api = make_api(**prepared, storage_timeout_seconds=0.2)
    s3_server.freeze()
    for response in (api.submit(picture(colour=9)), api.client.get(job["links"]["image"])):
        assert (response.status_code, response.json["code"]) == (503, "service_unavailable")
    s3_server.thaw()
    assert make_api(**prepared).client.get(job["links"]["image"]).data == picture()


def ask_everything(api: API) -> list[Call]:
    """Calls that need the database, of the interface and of the pages."""
    job, ingestion = api.job()["id"], api.hand_in().json["id"]
    asked = [
        ("GET", f"/v1/jobs/{job}"),
        ("GET", f"/v1/jobs/{job}/image"),
        ("GET", f"/v1/jobs?id={job}"),
        ("GET", "/v1/jobs?label=7"),
        ("POST", f"/v1/jobs/{job}/cancel"),
        ("DELETE", f"/v1/jobs/{job}"),
        ("GET", "/v1/ingestions"),
        ("GET", f"/v1/ingestions/{ingestion}"),
        ("GET", f"/v1/ingestions/{ingestion}/results"),
        ("POST", f"/v1/ingestions/{ingestion}/cancel"),
        ("POST", f"/v1/ingestions/{ingestion}/retry"),
        ("DELETE", f"/v1/ingestions/{ingestion}"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/digits"),
        ("GET", f"/v1/models/digits/versions/{VERSION}"),
        ("GET", "/"),
        ("POST", "/samples/7"),
        ("GET", f"/jobs/{job}"),
        ("GET", f"/jobs?id={job}"),
        ("POST", f"/jobs/{job}/cancel"),
        ("GET", "/history"),
        ("GET", "/ingestions"),
        ("GET", f"/ingestions/{ingestion}"),
        ("GET", "/status"),
    ]

    def ask(method: str, path: str) -> TestResponse:
        accept = "application/json" if path.startswith("/v1/") else "text/html"
        return api.app.test_client().open(path, method=method, headers={"Accept": accept})

    return [
        lambda: api.submit(picture(colour=3), client=api.app.test_client()),
        lambda: api.hand_in(b"PK\x03\x04", client=api.app.test_client()),
        lambda: api.app.test_client().post(
            "/",
            data={"image": (io.BytesIO(picture()), "seven.png"), "model": "digits"},
            headers={"Accept": "text/html"},
        ),
        *(partial(ask, method, path) for method, path in asked),
    ]


def assert_says_come_back(response: TestResponse) -> None:
    path = response.request.path
    assert response.status_code == 503, (path, response.status_code, response.text)
    assert int(response.headers["Retry-After"]) > 0
    if path.startswith("/v1/"):
        assert (response.json["code"], response.json["retryable"]) == ("service_unavailable", True)
    else:
        assert response.mimetype == "text/html", path
        assert "cannot be used right now" in response.text, path


def assert_lives_and_is_not_ready(api: API) -> None:
    assert api.client.get("/healthz").status_code == 200
    ready = api.client.get("/readyz")
    assert ready.status_code == 503
    assert ready.json["checks"]["database"] != "ok"


@pytest.mark.parametrize("stack_name", ["postgresql+s3"], indirect=True)
def test_without_its_database_every_call_says_503_and_when_it_is_back_works(
    api: API, postgres_server: PostgresServer
) -> None:
    calls = ask_everything(api)
    postgres_server.kill()
    try:
        assert_lives_and_is_not_ready(api)
        for call in calls:
            assert_says_come_back(call())
    finally:
        postgres_server.start()
    assert {call().status_code for call in calls} <= {200, 202, 204, 302, 303, 404, 409}
    assert api.client.get("/readyz").status_code == 200


@pytest.mark.parametrize("stack_name", ["postgresql+s3"], indirect=True)
def test_a_database_that_does_not_answer_holds_no_request_for_long(
    make_api: Callable[..., API], prepared: dict[str, Any], postgres_server: PostgresServer
) -> None:
    """Its connections stay open, and the kernel takes what is sent: only we can notice."""
    api = make_api(**prepared, database_timeout_seconds=1)
    calls = ask_everything(api)
    postgres_server.freeze()
    try:
        with ThreadPoolExecutor(len(calls)) as pool:
            for response in pool.map(lambda call: call(), calls):
                assert_says_come_back(response)
        assert api.client.get("/healthz").status_code == 200
    finally:
        postgres_server.thaw()
    assert {call().status_code for call in calls} <= {200, 202, 204, 302, 303, 404, 409}
    assert api.client.get("/readyz").status_code == 200


@pytest.mark.parametrize("stack_name", ["sqlite+local"], indirect=True)
def test_a_database_that_another_process_has_locked_is_503_for_whoever_writes(
    make_api: Callable[..., API], prepared: dict[str, Any]
) -> None:
    api = make_api(**prepared, database_timeout_seconds=0.5)
    job = api.job()
    other = sqlite3.connect(prepared["database_url"].removeprefix("sqlite:///"))
    other.execute("BEGIN IMMEDIATE")
    try:
        for response in (api.submit(picture(colour=3)), api.hand_in()):
            assert_says_come_back(response)
        assert api.show(job["id"])["status"] == "queued"  # who reads is not concerned
        assert api.client.get("/healthz").status_code == 200
    finally:
        other.close()
    assert api.submit(picture(colour=3)).status_code == 202

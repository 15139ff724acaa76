"""Liveness and readiness."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from tests.functional.conftest import API, picture
from tests.services import PostgresServer, S3Server


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


def test_an_old_schema_is_not_ready(api: API) -> None:
    api.database.transact(
        lambda connection: connection.execute(
            text("UPDATE alembic_version SET version_num = '0000'")
        )
    )
    response = api.client.get("/readyz")
    assert response.status_code == 503
    assert response.json["checks"]["schema"] != "ok"


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
    assert "NoSuchBucket" in said or "Not a directory" in said or "File exists" in said, said
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


@pytest.mark.parametrize("stack_name", ["postgresql+s3"], indirect=True)
def test_without_its_database_the_service_lives_and_says_503(
    api: API, postgres_server: PostgresServer
) -> None:
    job = api.job()
    postgres_server.kill()
    try:
        assert api.client.get("/healthz").status_code == 200
        ready = api.client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json["checks"]["database"] != "ok"
        for response in (
            api.submit(),
            api.client.get(job["links"]["self"]),
            api.client.delete(job["links"]["self"]),
            api.client.get("/v1/models"),
        ):
            assert (response.status_code, response.json["code"]) == (503, "service_unavailable")
            assert response.headers["Retry-After"]
            assert response.json["retryable"] is True
    finally:
        postgres_server.start()
    assert api.show(job["id"])["status"] == "queued"

"""What every response carries, and what no page of another site can have done."""

import pytest
import structlog

from tests.functional.conftest import API

PATHS = ("/healthz", "/readyz", "/v1/models", "/v1/nonsense", "/openapi.json")


@pytest.mark.parametrize("path", PATHS)
def test_every_response_has_the_security_headers(api: API, path: str) -> None:
    headers = api.client.get(path).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"]


@pytest.mark.parametrize("path", PATHS)
def test_every_response_has_a_request_id(api: API, path: str) -> None:
    first, second = (api.client.get(path).headers["X-Request-ID"] for _ in range(2))
    assert first != second
    given = api.client.get(path, headers={"X-Request-ID": "mine/1"})
    assert given.headers["X-Request-ID"] == "mine/1"


@pytest.mark.parametrize("given", ["", "x" * 201, "a\tb", "ü"])
def test_a_request_id_that_is_not_sane_is_replaced(api: API, given: str) -> None:
    answered = api.client.get("/healthz", headers={"X-Request-ID": given})
    assert len(answered.headers["X-Request-ID"]) == 36


def test_the_request_id_is_in_the_logs_and_in_the_job(api: API) -> None:
    with structlog.testing.capture_logs(
        processors=[structlog.contextvars.merge_contextvars]
    ) as logs:
        api.job(headers={"X-Request-ID": "mine/2"})
    assert [(event["event"], event["request_id"]) for event in logs] == [("request", "mine/2")]
    claim = api.claim()
    assert claim is not None
    assert [job.request_id for job in claim.jobs] == ["mine/2"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "nonsense", "Origin": "http://localhost"},
        {"Origin": "https://evil.example"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "http://localhost:81"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://[::1"},
    ],
)
def test_a_page_of_another_site_changes_nothing(api: API, headers: dict[str, str]) -> None:
    job = api.job()
    for response in (
        api.submit(headers=headers),
        api.client.delete(job["links"]["self"], headers=headers),
        api.client.post(f"{job['links']['self']}/cancel", headers=headers),
        api.client.post("/", headers=headers),
    ):
        assert (response.status_code, response.json["code"]) == (403, "cross_site")
    assert api.client.get(job["links"]["self"], headers=headers).json["status"] == "queued"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://localhost"},
        {"Origin": "http://LOCALHOST"},
    ],
)
def test_our_own_pages_and_programs_may(api: API, headers: dict[str, str]) -> None:
    assert api.submit(headers=headers).status_code == 202


def test_a_queued_job_is_rung_for_and_an_answered_one_is_not(api: API) -> None:
    api.job()
    api.job(lane="bulk", model="digits@0123456789ab")
    assert api.bell.rung == [("digits", "interactive"), ("digits", "bulk")]
    api.work()
    api.job()
    assert len(api.bell.rung) == 2


def test_the_callers_trace_is_kept(api: API) -> None:
    from sqlalchemy import select

    from shared.tables import jobs

    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    api.job(headers={"traceparent": trace})
    api.job(headers={"traceparent": "nonsense"})
    with api.database.read() as connection:
        kept = connection.scalars(select(jobs.c.trace_parent).order_by(jobs.c.id)).all()
    assert kept == [trace, None]

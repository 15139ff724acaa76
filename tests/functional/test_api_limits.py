"""What is refused when enough waits already, what is not, and when there is room again."""

import io
from collections.abc import Callable
from typing import Any

import pytest

from tests.functional.conftest import API, picture
from tests.functional.test_api_ingestions import ARCHIVE, CALL, bulk, expand
from tests.functional.test_api_refusals import assert_problem
from tests.services import wait_until

KEY = {"Idempotency-Key": "the first"}
on_one_stack = pytest.mark.stack("sqlite+local")


def wait_until_taken(api: API, colour: int, **options: Any) -> None:
    """Submit until there is room: what has ended is noticed with the next count."""
    wait_until(
        lambda: api.submit(picture(colour=colour), **options).status_code == 202,
        seconds=60,
        what="room for a job",
    )


def test_a_full_backlog_is_503_until_some_of_it_is_worked_off(
    make_api: Callable[..., API], prepared: dict[str, Any]
) -> None:
    before = make_api(**prepared)
    before.job(data=picture(colour=0))
    assert before.work()
    api = make_api(**prepared, max_backlog=3)
    first = api.job(data=picture(colour=1), headers=KEY)
    for colour in (2, 3):
        api.job(data=picture(colour=colour))
    refused = api.submit(picture(colour=4), headers={"Idempotency-Key": "the fourth"})
    problem = assert_problem(refused, 503, "backlog_full")
    assert problem["retryable"] is True
    assert int(refused.headers["Retry-After"]) >= 1
    # Another process has counted what is there, and not only what it has accepted itself.
    other = make_api(**prepared, max_backlog=3)
    assert_problem(other.submit(picture(colour=4)), 503, "backlog_full")
    # What needs no room is answered: what was accepted before, and what has a result.
    assert api.job(data=picture(colour=1), headers=KEY)["id"] == first["id"]
    assert api.job(data=picture(colour=0))["reused"] is True
    # The other lane has room of its own, and ingestions take none.
    assert api.hand_in(ARCHIVE).status_code == 202
    expand(api, *"abcde")
    assert api.submit(picture(colour=4), lane="bulk").status_code == 202
    assert api.work()
    # A refusal is not what the key stands for.
    wait_until_taken(api, 4, headers={"Idempotency-Key": "the fourth"})


def test_an_owner_with_too_many_jobs_waiting_is_429(
    make_api: Callable[..., API], prepared: dict[str, Any]
) -> None:
    api = make_api(**prepared, max_queued_per_owner=2)
    api.job(data=picture(colour=1))
    api.job(data=picture(colour=2), lane="bulk")
    for lane in ("interactive", "bulk"):
        refused = api.submit(picture(colour=3), lane=lane)
        assert_problem(refused, 429, "too_many_jobs")
        assert int(refused.headers["Retry-After"]) >= 1
    assert api.work(lane="bulk")
    wait_until_taken(api, 3)


def test_an_owner_with_too_many_unfinished_ingestions_is_429(
    make_api: Callable[..., API], prepared: dict[str, Any]
) -> None:
    api = make_api(**prepared, max_ingestions_per_owner=2)
    first = api.hand_in(ARCHIVE, headers=KEY).json["id"]
    second = api.hand_in(ARCHIVE).json["id"]
    refused = api.hand_in(ARCHIVE)
    assert_problem(refused, 429, "too_many_ingestions")
    assert int(refused.headers["Retry-After"]) >= 1
    assert api.hand_in(ARCHIVE, headers=KEY).json["id"] == first
    assert api.submit().status_code == 202  # jobs are something else
    assert api.client.post(f"{CALL}/{second}/cancel").status_code == 200
    assert api.hand_in(ARCHIVE).status_code == 202
    assert_problem(api.hand_in(ARCHIVE), 429, "too_many_ingestions")
    helper = bulk(api)
    helper.step(helper.must_claim(), ["a"], ended=True)
    assert api.work(lane="bulk")
    api.recover()
    assert api.hand_in(ARCHIVE).status_code == 202


@on_one_stack
def test_the_form_says_that_there_is_no_room_and_keeps_what_was_accepted(
    make_api: Callable[..., API], prepared: dict[str, Any]
) -> None:
    api = make_api(**prepared, max_backlog=1, max_ingestions_per_owner=1)

    def send(*colours: int, **fields: Any) -> Any:
        images = [(io.BytesIO(picture(colour=n)), f"{n}.png") for n in colours]
        data = {"image": images, "model": "digits", **fields}
        return api.client.post("/", data=data, headers={"Accept": "text/html"})

    some = send(1, 2)
    assert "2.png" in some.text
    assert "at most 1 jobs may wait in this lane" in some.text
    assert len(api.client.get("/v1/jobs").json["data"]) == 1
    none = send(3)
    assert none.status_code == 503
    assert int(none.headers["Retry-After"]) >= 1
    assert "The service is full" in none.text
    assert api.hand_in(ARCHIVE).status_code == 202
    archive = send(archive=(io.BytesIO(ARCHIVE), "a.zip"))
    assert archive.status_code == 429
    assert int(archive.headers["Retry-After"]) >= 1
    assert "At most 1 of your ingestions" in archive.text

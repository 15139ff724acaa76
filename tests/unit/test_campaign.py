"""The campaign's checker finds what is wrong: one record for each promise that is broken."""

from typing import Any

import pytest

from tests.chaos.campaign.checker import Checker
from tests.chaos.campaign.ingestion_checker import IngestionChecker
from tests.chaos.campaign.pictures import picture
from tests.chaos.campaign.record import Call, Record, Sent

VERSIONS = ("first", "second")
SCORES = {7: ([0.9, 0.1], [0.2, 0.8])}


def job(status: str = "queued", **values: Any) -> dict[str, Any]:
    return {
        "id": "j",
        "status": status,
        "reference": "r",
        "attempt": 0,
        "model": {"version": "first"},
        "predictions": None,
        "error": None,
        "queue": None,
    } | values


def succeeded(label: str = "0", score: float = 0.9, **values: Any) -> dict[str, Any]:
    return job("succeeded", predictions=[{"label": label, "score": score}], **values)


def promises(*calls: tuple[str, str, int | None, Any], sent: Sent | None = None) -> list[str]:
    """Those that this sequence of calls breaks."""
    record = Record()
    record.send(sent or Sent("r", 1, (7,)))
    for at, (kind, subject, status, body) in enumerate(calls):
        record.add(Call(1, kind, subject, at, at + 0.5, status, body))
    checker = Checker(record, SCORES, VERSIONS)
    checker.run()
    IngestionChecker(checker).run()
    return [violation.promise for violation in checker.found]


ACCEPTED = ("submit", "r", 202, job())
DONE = ("job", "j", 200, succeeded())


def test_a_life_as_it_should_be() -> None:
    assert (
        promises(
            ("submit", "r", None, None),
            ("submit", "r", 503, {"code": "service_unavailable"}),
            ACCEPTED,
            ("job", "j", 200, job("running", attempt=1)),
            DONE,
            ("image", "j", 200, picture(7).hex()),
            ("jobs", "j", 200, {"data": [succeeded()]}),
            ("delete", "j", None, None),
            ("delete", "j", 404, {"code": "not_found"}),
            ("job", "j", 404, {"code": "not_found"}),
        )
        == []
    )


@pytest.mark.parametrize(
    ("calls", "broken"),
    [
        pytest.param([("job", "j", 404, {})], "lost", id="not there"),
        pytest.param([("jobs", "j", 200, {"data": []})], "lost", id="not listed"),
        pytest.param([("image", "j", 410, {"code": "image_missing"})], "lost", id="no image"),
        pytest.param([("delete", "j", 404, {})], "lost", id="nothing to delete"),
        pytest.param([("submit", "r", 202, job(id="k"))], "answered twice", id="two ids"),
        pytest.param(
            [DONE, ("job", "j", 200, job("failed", error={"code": "deadline_passed"}))],
            "answered twice",
            id="two ends",
        ),
        pytest.param([DONE, ("job", "j", 200, job("queued"))], "answered twice", id="back again"),
        pytest.param(
            [DONE, ("job", "j", 200, succeeded(attempt=1))], "changed", id="another attempt"
        ),
        pytest.param([("image", "j", 200, "00")], "changed", id="another image"),
        pytest.param(
            [("delete", "j", 204, None), ("job", "j", 200, job())], "changed", id="undead"
        ),
        pytest.param([("job", "j", 200, succeeded("1", 0.1))], "wrong", id="another label"),
        pytest.param([("job", "j", 200, succeeded("0", 0.7))], "wrong", id="another score"),
        pytest.param([("job", "j", 200, job("canceled"))], "wrong", id="canceled by nobody"),
        pytest.param([("job", "j", 200, job("expired"))], "wrong", id="no deadline"),
        pytest.param(
            [("job", "j", 200, job("failed", error={"code": "worker_lost"}))], "wrong", id="blamed"
        ),
        pytest.param([("job", "j", 500, {})], "wrong", id="our fault"),
        pytest.param([("submit", "r", 415, {})], "refused", id="refused"),
    ],
)
def test_what_is_wrong_is_found(calls: list[Any], broken: str) -> None:
    assert promises(ACCEPTED, *calls) == [broken]


INGESTION = Sent("r", 1, (7, 7), is_ingestion=True)
LINES = [
    {
        "position": position,
        "name": f"{position:04}.png",
        "job": f"j{position}",
        "status": "succeeded",
        "predictions": [{"label": "0", "score": 0.9}],
    }
    for position in range(2)
]


def ingestion(status: str = "succeeded", **counts: int) -> dict[str, Any]:
    none = dict.fromkeys(("pending", "failed", "canceled", "expired"), 0)
    return {
        "id": "i",
        "status": status,
        "reference": "r",
        "model": {"version": "first"},
        "counts": none | {"total": 2, "succeeded": 2} | counts,
    }


def test_an_ingestion_as_it_should_be() -> None:
    assert of_ingestion(("ingestion", "i", 200, ingestion()), ("results", "i", 200, LINES)) == []


def of_ingestion(*calls: Any) -> list[str]:
    accepted = ("ingest", "r", 202, ingestion("queued"))
    return promises(accepted, *calls, sent=INGESTION)


@pytest.mark.parametrize(
    ("body", "lines", "broken"),
    [
        pytest.param(ingestion("running"), LINES, "stuck", id="for ever"),
        pytest.param(ingestion(), LINES[:1], "lost", id="a line is missing"),
        pytest.param(ingestion(total=1, succeeded=1), LINES[:1], "lost", id="an item is missing"),
        pytest.param(ingestion(succeeded=1, failed=1), LINES, "wrong", id="counts"),
        pytest.param(ingestion(), [*LINES, LINES[0]], "answered twice", id="a line twice"),
        pytest.param(ingestion("canceled"), LINES, "wrong", id="canceled by nobody"),
    ],
)
def test_what_is_wrong_with_an_ingestion_is_found(
    body: dict[str, Any], lines: list[Any], broken: str
) -> None:
    calls = (("ingestion", "i", 200, body), ("results", "i", 200, lines))
    assert broken in of_ingestion(*calls)


def test_a_line_that_changes_is_found() -> None:
    other = [LINES[0] | {"status": "canceled"}, LINES[1]]
    end = ("ingestion", "i", 200, ingestion())
    changed = of_ingestion(end, ("results", "i", 200, other), ("results", "i", 200, LINES))
    assert "changed" in changed

"""`GET /v1/ingestions/{id}/results`: JSON lines and CSV, streamed."""

import csv
import io
import json
from typing import Any

import pytest

from shared.models import resolve
from tests.functional.conftest import API
from tests.integration.bulk import Bulk
from tests.integration.helpers import ONE, SEVEN, Stage
from tests.integration.test_results import UNREADABLE


@pytest.fixture
def bulk(api: API) -> Bulk:
    with api.database.read() as connection:
        version_id = resolve(connection, "digits").version_id
    return Bulk(Stage(api.database, version_id))


@pytest.fixture
def ingestion(bulk: Bulk) -> str:
    """Of five items; one is no image, one fails, and the last has not ended."""
    made = bulk.expand("a", None, "b", "c", "d", top_k=2, reference="my, own")
    bulk.work(SEVEN, UNREADABLE, ONE)
    return str(made)


def ask(api: API, ingestion: Any, headers: dict[str, str] | None = None, **options: Any) -> Any:
    return api.client.get(
        f"/v1/ingestions/{ingestion}/results", query_string=options, headers=headers
    )


def rows(answer: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(answer.get_data(as_text=True), newline="")))


def test_json_lines_are_the_default(api: API, ingestion: str) -> None:
    answer = ask(api, ingestion)
    assert (answer.status_code, answer.mimetype) == (200, "application/jsonl")
    assert answer.headers["Cache-Control"].startswith("private")
    lines = [json.loads(line) for line in answer.get_data(as_text=True).splitlines()]
    assert [(line["position"], line["status"]) for line in lines] == [
        (0, "succeeded"),
        (1, "failed"),
        (2, "failed"),
        (3, "succeeded"),
    ]
    limited = ask(api, ingestion, after=0, limit=2).get_data(as_text=True).splitlines()
    assert [json.loads(line)["position"] for line in limited] == [1, 2]


def test_csv_has_a_row_a_line(api: API, ingestion: str) -> None:
    for answer in (
        ask(api, ingestion, format="csv"),
        ask(api, ingestion, headers={"Accept": "text/csv"}),
    ):
        assert answer.mimetype == "text/csv"
        first, refused, failed, last = rows(answer)
        assert (first["label"], first["score"], first["label_2"]) == ("7", "0.9", "1")
        assert (first["reference"], last["label"]) == ("my, own", "1")
        assert json.loads(first["metadata"]) == {"of": "all", "number": 0}
        assert (refused["error_code"], refused["job"]) == ("unsupported_image", "")
        assert (failed["error_detail"], failed["label"]) == ("It is cut off.", "")


def test_a_browser_may_save_them(api: API, ingestion: str) -> None:
    answer = ask(api, ingestion, format="csv", download=1)
    assert answer.headers["Content-Disposition"] == (
        f"attachment; filename=ingestion-{ingestion}.csv"
    )


def test_what_is_not_there_or_not_understood_is_refused(api: API, ingestion: str) -> None:
    assert ask(api, "01890000-0000-7000-8000-000000000000").status_code == 404
    for wrong in ({"format": "xml"}, {"order": "x"}, {"after": "x"}, {"limit": 0}, {"colour": 1}):
        answer = ask(api, ingestion, **wrong)
        assert answer.status_code == 422, wrong
        assert answer.json["errors"][0]["field"] == next(iter(wrong))


def test_nothing_is_no_error(api: API, bulk: Bulk) -> None:
    made = bulk.ingest()
    assert ask(api, made).get_data() == b""
    assert rows(ask(api, made, format="csv")) == []

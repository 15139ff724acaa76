"""Results as gunicorn streams them: what cannot be read to its end is visibly cut off."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from shared import models
from shared.database import Database
from tests.functional.conftest import VERSION
from tests.functional.service import Service
from tests.integration.bulk import Bulk
from tests.integration.helpers import LABELS, SEVEN, SPEC, Stage
from tests.services import PostgresServer

ITEMS = 1000
LARGE = {"text": "x" * 30_000}  # so that the connection cannot hold what was not read


@pytest.fixture
def service(tmp_path: Path, postgresql_url: str) -> Iterator[Service]:
    service = Service(tmp_path, postgresql_url, None)
    yield service
    service.close()


def test_a_stream_is_cut_off_when_the_database_goes_away(
    service: Service, postgres_server: PostgresServer
) -> None:
    service.start(service.web)
    database = Database(service.environment["DATABASE_URL"])
    version = database.transact(lambda c: models.install(c, "digits", VERSION, SPEC, LABELS))
    bulk = Bulk(Stage(database, version))
    # The same picture each time: all but the first are born with its result.
    bulk.expand("a")
    bulk.work(SEVEN)
    ingestion = bulk.expand(*["a"] * ITEMS, metadata=LARGE)
    database.close()
    url = f"{service.url}/v1/ingestions/{ingestion}/results"
    with requests.get(url, stream=True, timeout=60) as answer:
        assert answer.headers["Transfer-Encoding"] == "chunked"
        assert "Content-Length" not in answer.headers
        assert len(list(answer.iter_lines())) == ITEMS
    with requests.get(url, stream=True, timeout=60) as answer:
        assert answer.status_code == 200
        postgres_server.kill()
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            list(answer.iter_lines())
    answer = requests.get(url, timeout=60)
    assert (answer.status_code, answer.json()["code"]) == (503, "service_unavailable")

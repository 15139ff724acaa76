"""Ingestions through the running service: real expanders, a real worker, a real broker."""

import io
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.service import Service, digit_png, digit_targets, distinct_image, running
from tests.services import BrokerServer, wait_until

# On the other stack the commands, the pages and the chaos tests do the same.
pytestmark = pytest.mark.stack("postgresql+s3")


def make_zip(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return packed.getvalue()


@pytest.fixture(scope="module")
def service(
    stack_name: str,
    make_stack: Callable[[str, Path], dict[str, Any]],
    _broker_server: BrokerServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("ingesting")
    _broker_server.start()
    (directory / "pictures").mkdir()
    stack = make_stack(stack_name, directory)
    with running(
        directory, stack.pop("database_url"), _broker_server.url,
        source_roots=directory / "pictures", **stack,
    ) as found:  # fmt: skip
        yield found


def test_an_archive_is_worked_off_and_everything_is_reported(service: Service) -> None:
    files = {f"digits/{n}.png": digit_png(n) for n in range(40)}
    files |= {"twice.png": digit_png(0), "notes.txt": b"no image", "cut.png": digit_png(1)[:90]}
    ingestion = service.ingest(make_zip(files))
    done = service.wait_for_ingestion(ingestion)
    assert done["status"] == "partially_succeeded"
    assert done["counts"] == {
        "total": 43,
        "pending": 0,
        "succeeded": 41,
        "failed": 2,
        "canceled": 0,
        "expired": 0,
        "not_images": 1,
    }
    lines = service.results(ingestion)
    assert [line["name"] for line in lines] == list(files)
    assert [line["position"] for line in lines] == list(range(43))
    labels = [line["predictions"][0]["label"] for line in lines[:40]]
    assert sum(map(str.__eq__, labels, digit_targets())) >= 39
    assert lines[40]["predictions"] == lines[0]["predictions"]
    assert [line["error"]["code"] for line in lines[41:]] == [
        "unsupported_image",
        "image_unreadable",
    ]


def test_a_cut_archive_says_so_and_keeps_what_came_before(service: Service) -> None:
    whole = make_zip({f"{n}.png": digit_png(n) for n in range(10)})
    done = service.wait_for_ingestion(service.ingest(whole[: len(whole) // 2]))
    assert done["status"] == "partially_succeeded"
    assert done["error"]["code"] == "source_damaged"
    assert 0 < done["counts"]["succeeded"] < 10
    done = service.wait_for_ingestion(service.ingest(b"\x1f\x8b" + os.urandom(5000)))
    assert (done["status"], done["error"]["code"]) == ("failed", "source_damaged")


def test_a_cancelled_ingestion_ends_at_once_and_its_jobs_after_it(service: Service) -> None:
    ingestion = service.ingest(make_zip({f"{n}.png": distinct_image(n) for n in range(600)}))
    service.ask("POST", f"/v1/ingestions/{ingestion}/cancel")
    assert service.ingestion(ingestion)["status"] == "canceled"
    wait_until(
        lambda: service.ingestion(ingestion)["counts"]["pending"] == 0, seconds=60, what="its end"
    )


def test_a_deleted_ingestion_is_gone_at_once(service: Service) -> None:
    ingestion = service.ingest(make_zip({"a.png": digit_png(1)}))
    service.wait_for_ingestion(ingestion)
    (line,) = service.results(ingestion)
    answer = service.ask("DELETE", f"/v1/jobs/{line['job']}", status=409)
    assert answer["code"] == "part_of_ingestion"
    service.ask("DELETE", f"/v1/ingestions/{ingestion}", status=202)
    service.ask("GET", f"/v1/ingestions/{ingestion}", status=404)
    service.ask("GET", f"/v1/ingestions/{ingestion}/results", status=404)

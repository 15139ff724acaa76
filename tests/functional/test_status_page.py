"""The page that says how the service is."""

import re
from collections.abc import Callable
from html import unescape
from typing import Any
from uuid import uuid4

from sqlalchemy import event, insert, update

from shared import models
from shared.database import stamp
from shared.jobs.recording import Failure
from shared.storage.local import LocalStorage
from shared.tables import jobs, workers
from tests.functional.conftest import API, LABELS, SPEC, VERSION, picture

UNREADABLE = Failure("image_unreadable", "The image ends in the middle of its data.")


def text_of(api: API) -> str:
    """The page's words, one space between them."""
    response = api.client.get("/status")
    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "private, no-cache"
    words = re.sub(r"<head>.*?</head>|<[^>]+>", " ", response.text, flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(words))


def start_worker(api: API, *versions: int, seconds_ago: float = 0, **told: Any) -> None:
    row = {
        "id": uuid4(),
        "slot": f"test:{uuid4()}",
        "host": "alpha",
        "pid": 4711,
        "device": "NVIDIA H100",
        "versions": list(versions),
        "max_batch_size": 64,
        "images_per_second": 812.4,
        "started_at": stamp(-3600),
        "last_seen": stamp(-seconds_ago),
    }
    api.database.transact(lambda c: c.execute(insert(workers).values(row | told)))


def digits(api: API) -> int:
    with api.database.read() as connection:
        found = models.version_id(connection, "digits", VERSION)
    assert found is not None
    return found


def test_a_service_that_just_began_says_what_is_missing(api: API) -> None:
    text = text_of(api)
    assert "No image is being classified No worker is running." in text
    assert "vgg16 is not installed. Its weights have not been downloaded." in text
    assert "No job has ended in the last hour." in text
    assert "No job waits." in text
    assert "No job has failed or expired in the last hour." in text
    assert "No worker has been seen in the last day." in text
    assert re.search(r"Images 0 counted at \d\d:\d\d UTC Their size 0 bytes", text)
    on_disk = isinstance(api.services.storage, LocalStorage)
    assert bool(re.search(r"Free on the disk [\d.]+ [kMGT]B", text)) is on_disk


def test_a_service_that_is_well_says_so_with_its_figures(
    make_api: Callable[..., API], prepared: dict[str, Any]
) -> None:
    api = make_api(**prepared, default_model="digits")
    start_worker(api, digits(api))
    for colour in range(3):
        api.submit(picture(colour=colour))
    api.work()
    api.submit(picture(colour=0))  # answered from the earlier result
    api.submit(picture(colour=9), lane="bulk")
    text = text_of(api)
    assert "Healthy" in text
    assert "All is well Ready: digits." in text
    assert "Interactive lane 0 waiting" in text
    assert re.search(r"Bulk lane 1 waiting, the oldest for \d+ s", text)
    assert "4 succeeded 4 2 0 Jobs that ended in each minute" in text
    assert re.search(r"Latency median \d[\d.]* m?s 95 % within", text)
    assert re.search(rf"digits@{VERSION} 0 1 \d+ s 1", text)  # waiting, by version
    assert re.search(rf"alpha 4711 NVIDIA H100 digits@{VERSION} 64 812 \d+ s ago", text)
    assert re.search(r"0–5 4 0 0 0 \d", text)


def test_what_fails_is_told_with_its_reason_and_a_job_to_look_at(api: API) -> None:
    ids = [api.job(data=picture(colour=colour))["id"] for colour in range(3)]
    api.work(UNREADABLE)
    page = api.client.get("/status").text
    text = text_of(api)
    assert "3 of the 3 jobs that ended in the last 15 minutes failed." in text
    assert "The most frequent reason: the image cannot be decoded." in text
    assert f"The image cannot be decoded {UNREADABLE.detail} 3 jobs in the last hour" in text
    linked = re.findall(r'href="(/jobs/[^"]+)"', page)
    assert len(linked) == 1
    assert linked[0] in [f"/jobs/{job_id}" for job_id in ids]
    assert api.client.get(linked[0]).status_code == 200
    for job_id in ids:
        api.client.delete(f"/v1/jobs/{job_id}")
    assert "/jobs/" not in api.client.get("/status").text  # nothing leads to a page that is gone


def test_the_jobs_of_others_are_counted_and_not_told(api: API) -> None:
    api.submit()
    api.work(UNREADABLE)
    api.database.transact(lambda c: c.execute(update(jobs).values(owner="somebody else")))
    page = api.client.get("/status").text
    assert "1 job in the last hour" in page
    assert UNREADABLE.detail not in page
    assert "/jobs/" not in page


def test_every_kind_of_trouble_is_a_reason(api: API) -> None:
    older = digits(api)
    api.submit()
    api.submit(picture(colour=9))
    api.database.transact(
        lambda c: c.execute(
            update(jobs)
            .where(jobs.c.sequence > 1)
            .values(not_before=stamp(300), parks=1, parked_at=stamp())
        )
    )
    api.database.transact(
        lambda c: (
            models.install(c, "digits", "ffffffffffff", SPEC, LABELS),
            models.install(c, "spare", "eeeeeeeeeeee", SPEC, LABELS),
            models.register(c, "never-asked-for"),
            models.begin_download(c, "vgg16", uuid4(), 60),
        )
    )
    start_worker(api, trouble="digits@ffffffffffff needs 4 GB, and 1 GB is free.")
    start_worker(api, older, host="beta", seconds_ago=3600)
    text = text_of(api)
    assert "Degraded" in text
    assert "Not everything is well" in text
    assert (
        "digits is not loaded by any worker. digits@ffffffffffff needs 4 GB, and 1 GB is free."
    ) in text
    assert "spare is not loaded by any worker. A worker has yet to load it" in text
    assert "A job waits because the storage could not read the image." in text
    assert "vgg16 is being downloaded: 0 MB so far." in text
    assert "never-asked-for" not in text
    assert re.search(rf"beta 4711 .* digits@{VERSION} 64 812 not since \d\d:\d\d UTC", text)


def test_jobs_that_insist_on_a_version_nobody_serves_are_a_reason(api: API) -> None:
    api.submit(model=f"digits@{VERSION}")
    newer = api.database.transact(
        lambda c: models.install(c, "digits", "ffffffffffff", SPEC, LABELS)
    )
    start_worker(api, newer)
    assert f"A job waits for digits@{VERSION}, which no running worker has loaded." in text_of(api)


def test_the_figures_are_read_once_for_all_who_look(api: API) -> None:
    sent: list[str] = []

    def note(_c: Any, _cur: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    event.listen(api.database.engine, "before_cursor_execute", note)
    api.client.get("/status")
    first = len(sent)
    for _ in range(5):
        assert api.client.get("/status").status_code == 200
    assert first > 60
    assert len(sent) == first


def test_without_its_storage_the_page_is_an_error(
    make_api: Callable[..., API], away: dict[str, Any]
) -> None:
    api = make_api(**away)
    response = api.client.get("/status", headers={"Accept": "text/html"})
    assert response.status_code == 503
    assert "The service cannot do this right now" in response.text

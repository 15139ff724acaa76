"""Handing in a source in each form, and what its ingestion says until it has ended, and after."""

import io
import tarfile
import threading
import zipfile
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select
from werkzeug.test import TestResponse

from shared import models
from shared.database import new_id
from shared.jobs.recording import Failure
from shared.models import resolve
from shared.tables import ingestions
from tests.functional.conftest import API, VERSION, picture
from tests.functional.test_api_refusals import assert_problem
from tests.integration.bulk import Bulk
from tests.integration.helpers import SEVEN, Stage

CALL = "/v1/ingestions"
# Where neither the database nor the storage makes a difference.
on_one_stack = pytest.mark.stack("sqlite+local")
KEY = {"Idempotency-Key": "order 66"}
NOBODYS = f"{CALL}/{new_id()}"
UNREADABLE = Failure("image_unreadable", "It is cut off.")


def zipped(**contents: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in contents.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.png"), data)
    return file.getvalue()


ARCHIVE = zipped(seven=picture())
LIST = b"https://example.org/1.png\nhttps://example.org/2.png\n"


def images(*names: str) -> dict[str, Any]:
    """A form with an image of each name."""
    files = [(io.BytesIO(picture(colour=n)), name) for n, name in enumerate(names)]
    return {"image": files, "model": "digits"}


def bulk(api: API) -> Bulk:
    """What an expander and a worker do."""
    with api.database.read() as connection:
        return Bulk(Stage(api.database, resolve(connection, "digits").version_id))


def expand(api: API, *contents: str | None) -> None:
    """Take the ingestion that waits, in one step."""
    helper = bulk(api)
    helper.step(helper.must_claim(), contents, ended=True)


def row_of(api: API, response: TestResponse) -> Any:
    assert response.status_code == 202, response.text
    with api.database.read() as connection:
        return connection.execute(
            select(ingestions).where(ingestions.c.id == UUID(response.json["id"]))
        ).one()


def stored(api: API, response: TestResponse) -> bytes:
    """What was uploaded, as the expander finds it."""
    return api.services.storage.read(row_of(api, response).object)


def nothing_was_accepted(api: API) -> bool:
    with api.database.read() as connection:
        rows = connection.execute(select(ingestions.c.id)).all()
    return not rows and not list(api.services.storage.list("sources"))


def test_an_archive_becomes_an_ingestion(api: API) -> None:
    response = api.hand_in(
        ARCHIVE, top_k=3, min_score=0.2, reference="mine", metadata='{"a": 1}', max_failures=7
    )
    assert response.status_code == 202
    body = response.json
    assert response.headers["Location"] == f"{CALL}/{body['id']}" == body["links"]["self"]
    assert int(response.headers["Retry-After"]) >= 1
    assert body["status"] == "queued"
    assert body["source"] == {"kind": "archive", "name": "a.zip"}
    assert body["model"] == {"name": "digits", "version": VERSION}
    assert (body["top_k"], body["min_score"], body["max_failures"]) == (3, 0.2, 7)
    assert (body["reference"], body["metadata"]) == ("mine", {"a": 1})
    assert set(body["counts"].values()) == {0}
    assert body["output"] is body["error"] is body["deadline_at"] is body["finished_at"] is None
    assert stored(api, response) == ARCHIVE
    assert row_of(api, response).pinned
    assert api.bell.rung == [("ingest", "expand")]


def test_it_tells_how_far_it_is_until_it_has_ended(api: API) -> None:
    place = api.hand_in().headers["Location"]
    expand(api, "a", None, "b", "c")
    helper = bulk(api)
    helper.work(SEVEN)
    response = api.client.get(place)
    assert response.status_code == 200
    assert "Retry-After" in response.headers
    body = response.json
    assert (body["status"], body["finished_at"]) == ("running", None)
    assert body["expanded_at"] is not None
    assert body["counts"] == {
        "total": 4,
        "pending": 2,
        "succeeded": 1,
        "failed": 1,
        "canceled": 0,
        "expired": 0,
        "not_images": 1,
    }
    helper.work(UNREADABLE, SEVEN)
    api.recover()
    changed = api.client.get(place, headers={"If-None-Match": response.headers["ETag"]})
    assert changed.status_code == 200
    assert "Retry-After" not in changed.headers
    assert changed.json["status"] == "partially_succeeded"
    assert (changed.json["counts"]["failed"], changed.json["counts"]["pending"]) == (2, 0)
    again = api.client.get(place, headers={"If-None-Match": changed.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


def test_images_become_one_tar_with_their_names(api: API) -> None:
    names = ["a.png", "folder/ü 日.png", "folder/a.png"]
    response = api.client.post(CALL, data=images(*names))
    assert response.json["source"]["kind"] == "archive"
    with tarfile.open(fileobj=io.BytesIO(stored(api, response))) as archive:
        found = {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]
    assert found == {name: picture(colour=n) for n, name in enumerate(names)}


@pytest.mark.parametrize(
    ("data", "content_type", "kind"),
    [
        (ARCHIVE, "application/zip", "archive"),
        (zipped(), "application/zip", "archive"),
        (b"\x28\xb5\x2f\xfd and more", "application/zstd", "archive"),
        # As pzstd begins; behind a program that unpacks it; an empty one.
        (b"\x50\x2a\x4d\x18\4\0\0\0size and more", "application/zstd", "archive"),
        (b"MZ" + bytes(600) + ARCHIVE, "application/zip", "archive"),
        (bytes(10_240), "application/x-tar", "archive"),
        # By content, whatever is said.
        (b"\x1f\x8b and more", "text/plain", "archive"),
        (LIST, "text/csv", "list"),
        ('\ufeffurl,reference\nhttps://example.org/ü.png,"1"\n'.encode(), "text/csv", "list"),
        (b'{"url": "https://example.org/1.png"}\n', "application/jsonl", "list"),
        ("ü".encode() * 4000 + b"\n", "text/plain; charset=utf-8", "list"),
    ],
)
@on_one_stack
def test_a_file_itself_is_a_body(api: API, data: bytes, content_type: str, kind: str) -> None:
    response = api.client.post(
        f"{CALL}?model=digits&top_k=2&metadata={{}}", data=data, content_type=content_type
    )
    assert response.status_code == 202, response.text
    assert response.json["source"] == {"kind": kind, "name": None}
    assert response.json["top_k"] == 2
    assert stored(api, response) == data


def test_a_body_of_a_length_that_nobody_knows_yet_is_taken(api: API) -> None:
    response = api.client.post(
        f"{CALL}?model=digits",
        input_stream=io.BytesIO(LIST),
        content_type="text/plain",
        environ_overrides={"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"},
    )
    assert stored(api, response) == LIST


ADDRESSES = [
    ("s3://pictures/2026", "bucket"),
    ("s3://pictures/2026/", "bucket"),
    ("s3://pictures/2026/all.tar.gz", "archive"),
    ("s3://pictures/2026/list.csv", "list"),
    ("https://lists.example/list.txt", "list"),
    ("https://lists.example/all.zip?of=today", "archive"),
]
ALLOWED = {
    "source_prefixes": "s3://pictures/2026",
    "source_hosts": "lists.example",
    "output_prefixes": "s3://pictures/answers",
}


@pytest.mark.parametrize(("url", "kind"), ADDRESSES)
@on_one_stack
def test_json_names_an_address(
    make_api: Callable[..., API], prepared: dict[str, Any], url: str, kind: str
) -> None:
    api = make_api(**prepared, **ALLOWED)
    body = {"source": url, "model": "digits", "output": "s3://pictures/answers/7", "top_k": None}
    response = api.client.post(CALL, json=body)
    assert response.status_code == 202, response.text
    assert response.json["source"] == {"kind": kind, "name": url.rstrip("/")}
    assert response.json["output"] == {
        "url": "s3://pictures/answers/7",
        "parts": 0,
        "written_at": None,
        "error": None,
    }
    assert row_of(api, response).object is None


def test_a_deadline_counts_from_now(api: API) -> None:
    row = row_of(api, api.hand_in(deadline_seconds=60))
    assert 59 < (row.deadline_at - row.created_at).total_seconds() < 61


def test_under_a_model_that_is_downloaded_it_is_not_pinned_yet(api: API) -> None:
    token = new_id()
    assert api.database.transact(
        lambda connection: models.begin_download(connection, "vgg16", token, lease_seconds=60)
    )
    response = api.hand_in(model="vgg16")
    assert response.json["model"] == {"name": "vgg16", "version": None}
    assert not row_of(api, response).pinned


# ---- The same again --------------------------------------------------------------------------


def test_a_replay_is_the_same_ingestion(api: API) -> None:
    first = api.hand_in(ARCHIVE, headers=KEY)
    again = api.hand_in(ARCHIVE, headers=KEY, filename="of another name.zip")
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json["id"] == again.json["id"]
    raw = api.client.post(
        f"{CALL}?model=digits", data=ARCHIVE, content_type="application/zip", headers=KEY
    )
    assert raw.json["id"] == first.json["id"]
    expand(api)
    api.recover()
    finished = api.hand_in(ARCHIVE, headers=KEY)
    assert (finished.status_code, finished.json["status"]) == (200, "succeeded")
    assert finished.json["id"] == first.json["id"]


def test_images_sent_again_are_the_same_ingestion(api: API) -> None:
    first = api.client.post(CALL, data=images("a.png", "b.png"), headers=KEY)
    again = api.client.post(CALL, data=images("a.png", "b.png"), headers=KEY)
    assert first.json["id"] == again.json["id"]
    other = api.client.post(CALL, data=images("b.png", "a.png"), headers=KEY)
    assert_problem(other, 422, "idempotency_mismatch")


@pytest.mark.parametrize("change", [{"top_k": 4}, {"data": LIST}, {"max_failures": 1}])
def test_another_request_with_the_key_is_refused(api: API, change: dict[str, Any]) -> None:
    api.hand_in(headers=KEY)
    assert_problem(api.hand_in(headers=KEY, **change), 422, "idempotency_mismatch")


def test_a_key_of_a_job_is_none_of_an_ingestion(api: API) -> None:
    api.submit(headers=KEY)
    assert_problem(api.hand_in(headers=KEY), 422, "idempotency_mismatch")
    other = {"Idempotency-Key": "another"}
    api.hand_in(headers=other)
    assert_problem(api.submit(headers=other), 422, "idempotency_mismatch")


def test_the_key_of_a_deleted_ingestion_is_gone(api: API) -> None:
    api.client.delete(api.hand_in(headers=KEY).headers["Location"])
    assert_problem(api.hand_in(headers=KEY), 410, "idempotency_gone")


def test_a_refusal_uses_no_key_up(api: API) -> None:
    assert api.hand_in(headers=KEY, top_k=0).status_code == 422
    assert api.hand_in(headers=KEY, model="vgg16").status_code == 503
    assert api.hand_in(headers=KEY).status_code == 202


# ---- The list, cancel, retry, delete ---------------------------------------------------------


def test_ingestions_are_listed_page_by_page_newest_first(api: API) -> None:
    ids = [api.hand_in(reference=str(n)).json["id"] for n in range(3)]
    api.client.post(f"{CALL}/{ids[1]}/cancel")
    api.client.delete(f"{CALL}/{api.hand_in().json['id']}")
    first = api.client.get(f"{CALL}?limit=2").json
    assert [one["id"] for one in first["data"]] == [ids[2], ids[1]]
    second = api.client.get(f"{CALL}?limit=2&cursor={first['next_cursor']}").json
    assert ([one["id"] for one in second["data"]], second["next_cursor"]) == ([ids[0]], None)
    found = api.client.get(f"{CALL}?status=canceled&status=failed").json["data"]
    assert [one["id"] for one in found] == [ids[1]]


@pytest.mark.parametrize(
    "query", ["limit=0", "status=lost", "cursor=x", "colour=1", "limit=1&limit=2"]
)
@on_one_stack
def test_a_list_that_is_not_understood_is_refused(api: API, query: str) -> None:
    body = assert_problem(api.client.get(f"{CALL}?{query}"), 422, "invalid_value")
    assert body["errors"][0]["field"] == query.partition("=")[0]


def test_cancel_ends_it_at_once_and_again_is_no_error(api: API) -> None:
    place = api.hand_in().headers["Location"]
    expand(api, "a", "b")
    for _ in range(2):
        response = api.client.post(f"{place}/cancel")
        assert (response.status_code, response.json["status"]) == (200, "canceled")
        assert "Retry-After" not in response.headers
    api.recover()
    assert api.client.get(place).json["counts"]["canceled"] == 2
    assert_problem(api.client.post(f"{place}/retry"), 409, "already_finished")


def test_what_has_ended_is_not_cancelled(api: API) -> None:
    place = api.hand_in().headers["Location"]
    expand(api)
    api.recover()
    assert_problem(api.client.post(f"{place}/cancel"), 409, "already_finished")


def test_retry_begins_what_failed_again(api: API) -> None:
    place = api.hand_in().headers["Location"]
    assert_problem(api.client.post(f"{place}/retry"), 409, "not_finished")
    expand(api, "a", "b")
    bulk(api).work(SEVEN, UNREADABLE)
    assert_problem(api.client.post(f"{place}/retry"), 409, "not_finished")
    api.recover()
    api.bell.rung.clear()
    again = api.client.post(f"{place}/retry")
    assert (again.status_code, again.json["status"]) == (202, "running")
    assert again.json["counts"]["pending"] == 1
    assert ("digits", "bulk") in api.bell.rung
    bulk(api).work(SEVEN)
    api.recover()
    nothing = api.client.post(f"{place}/retry")
    assert (nothing.status_code, nothing.json["status"]) == (200, "succeeded")


def test_what_is_deleted_is_hidden_at_once(api: API) -> None:
    place = api.hand_in().headers["Location"]
    expand(api, "a")
    [job] = api.client.get(f"/v1/jobs?ingestion={place.rpartition('/')[2]}").json["data"]
    assert_problem(api.client.delete(job["links"]["self"]), 409, "part_of_ingestion")
    response = api.client.delete(place)
    assert (response.status_code, response.data) == (202, b"")
    assert api.client.get(CALL).json["data"] == []
    for path, call in [("", "get"), ("/cancel", "post"), ("/retry", "post"), ("", "delete")]:
        assert_problem(getattr(api.client, call)(place + path), 404, "not_found")


@pytest.mark.parametrize(
    ("path", "call"), [("", "get"), ("/cancel", "post"), ("/retry", "post"), ("", "delete")]
)
@on_one_stack
def test_what_is_not_there_is_404(api: API, path: str, call: str) -> None:
    assert_problem(getattr(api.client, call)(NOBODYS + path), 404, "not_found")
    bulk(api).ingest(owner="somebody else")
    with api.database.read() as connection:
        other = connection.scalar(select(ingestions.c.id))
    assert_problem(getattr(api.client, call)(f"{CALL}/{other}{path}"), 404, "not_found")


def test_a_poll_waits_until_it_has_ended(api: API) -> None:
    place = api.hand_in().headers["Location"]
    expand(api)
    ending = threading.Timer(0.3, api.recover)
    ending.start()
    response = api.client.get(place, headers={"Prefer": "wait=30"})
    ending.join()
    assert response.json["status"] == "succeeded"
    assert response.headers["Preference-Applied"] == "wait=30"


# ---- Refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        picture("PNG"),
        picture("JPEG"),
        picture("GIF"),
        b"",
        b" \n",
        b"%PDF-1.7 \xff\xfe",
        b"<!doctype html><p>",
        bytes(2000),
        "list.png\n".encode("utf-16"),
    ],
    ids=["png", "jpeg", "gif", "empty", "blank", "pdf", "html", "zeros", "utf-16"],
)
@on_one_stack
def test_what_is_neither_archive_nor_list_is_415(api: API, data: bytes) -> None:
    assert_problem(api.hand_in(data), 415, "unsupported_source")
    raw = api.client.post(f"{CALL}?model=digits", data=data, content_type="text/plain")
    assert_problem(raw, 415, "unsupported_source")
    assert nothing_was_accepted(api)


@pytest.mark.parametrize("content_type", ["image/png", "application/x-www-form-urlencoded", ""])
@on_one_stack
def test_another_content_type_is_415(api: API, content_type: str) -> None:
    response = api.client.post(CALL, data=ARCHIVE, content_type=content_type)
    assert "application/zip" in assert_problem(response, 415, "unsupported_media_type")["detail"]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"top_k": 0}, "top_k"),
        ({"max_failures": -1}, "max_failures"),
        ({"max_failures": "many"}, "max_failures"),
        ({"metadata": "{"}, "metadata"),
        ({"lane": "interactive"}, "lane"),
        ({"deadline_seconds": 0}, "deadline_seconds"),
        ({"reference": "x" * 201}, "reference"),
        ({"colour": "red"}, "colour"),
        ({"image": (io.BytesIO(picture()), "a.png")}, "archive"),
        ({"picture": (io.BytesIO(picture()), "a.png")}, "picture"),
    ],
)
@on_one_stack
def test_an_option_that_is_not_valid_is_422(api: API, options: dict[str, Any], field: str) -> None:
    body = assert_problem(api.hand_in(**options), 422, "invalid_value")
    assert body["errors"][0]["field"] == field
    assert nothing_was_accepted(api)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "source"),
        ({"source": 7}, "source"),
        ({"source": "https://lists.example/l.txt", "top_k": "5"}, "top_k"),
        ({"source": "https://lists.example/l.txt", "lane": "bulk"}, "lane"),
    ],
)
@on_one_stack
def test_json_that_is_not_valid_is_422(
    make_api: Callable[..., API], prepared: dict[str, Any], body: dict[str, Any], field: str
) -> None:
    api = make_api(**prepared, **ALLOWED)
    problem = assert_problem(api.client.post(CALL, json=body), 422, "invalid_value")
    assert problem["errors"][0]["field"] == field


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"source": "s3://pictures/2025"}, 403, "source_refused"),
        ({"source": "s3://pictures/2026-secret"}, 403, "source_refused"),
        ({"source": "file:///etc"}, 403, "source_refused"),
        ({"source": "https://elsewhere.example/list.txt"}, 403, "source_refused"),
        ({"source": "ftp://lists.example/list.txt"}, 415, "unsupported_source"),
        ({"source": "list.txt"}, 415, "unsupported_source"),
        ({"source": "s3://pictures/2026/../2025"}, 422, "invalid_value"),
        ({"source": "s3://pictures/2026", "output": "s3://pictures/2026"}, 403, "source_refused"),
        ({"source": "s3://pictures/2026", "output": "http://a/b"}, 415, "unsupported_source"),
        ({"source": "s3://pictures/2026", "model": "nonsense"}, 422, "model_unknown"),
        ({"source": "s3://pictures/2026", "model": "vgg16"}, 503, "model_unavailable"),
    ],
)
@on_one_stack
def test_an_address_that_is_not_allowed_is_refused(
    make_api: Callable[..., API],
    prepared: dict[str, Any],
    body: dict[str, Any],
    status: int,
    code: str,
) -> None:
    api = make_api(**prepared, **ALLOWED)
    response = api.client.post(CALL, json={"model": "digits"} | body)
    assert_problem(response, status, code)
    assert nothing_was_accepted(api)


@on_one_stack
def test_json_that_cannot_be_read_is_400(api: API) -> None:
    for data in (b"{", b"\xff"):
        response = api.client.post(CALL, data=data, content_type="application/json")
        assert_problem(response, 400, "bad_request")


@on_one_stack
def test_too_much_is_413_in_every_form(
    make_api: Callable[..., API], prepared: dict[str, Any]
) -> None:
    api = make_api(**prepared, max_source_bytes=10_000, max_images_per_upload=2)
    large = b"PK\x03\x04".ljust(60_000, b"x")
    assert_problem(api.hand_in(large), 413, "request_too_large")
    raw = api.client.post(f"{CALL}?model=digits", data=large, content_type="application/zip")
    assert_problem(raw, 413, "request_too_large")
    chunked = api.client.post(
        f"{CALL}?model=digits",
        input_stream=io.BytesIO(large),
        content_type="application/zip",
        environ_overrides={"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"},
    )
    assert_problem(chunked, 413, "request_too_large")
    body = {"source": "s3://pictures/2026", "metadata": {"x": "y" * 70_000}}
    assert_problem(api.client.post(CALL, json=body), 413, "request_too_large")
    assert_problem(api.client.post(CALL, data=images("a", "b", "c")), 413, "request_too_large")
    assert api.client.post(CALL, data=images("a", "b")).status_code == 202


def test_without_a_storage_nothing_is_accepted(
    make_api: Callable[..., API], away: dict[str, Any]
) -> None:
    api = make_api(**away)
    assert_problem(api.hand_in(), 503, "service_unavailable")
    with api.database.read() as connection:
        assert connection.execute(select(ingestions.c.id)).first() is None


def test_nothing_of_an_upload_is_left_on_the_disk_of_web(api: API) -> None:
    api.hand_in()
    api.hand_in(b"nothing\0")
    api.client.post(CALL, data=images("a.png"))
    assert list((api.services.settings.data_dir / "uploads").iterdir()) == []

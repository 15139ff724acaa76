"""Handing in an image in each form, and what its job says until it has ended."""

import json
import time
from typing import Any
from uuid import UUID

import pytest
from PIL import Image
from sqlalchemy import update

from shared.database import stamp
from shared.jobs.recording import Failure
from shared.jobs.recovery import requeue
from shared.tables import jobs
from tests.functional.conftest import API, PREDICTIONS, VERSION, data_url, picture
from tests.pictures import several
from web import representation


def test_a_form_becomes_a_job_that_a_worker_finishes(api: API) -> None:
    response = api.submit(reference="mine", metadata='{"a": [1, "ü"]}', top_k=3, min_score=0.04)
    assert response.status_code == 202
    job = response.json
    assert response.headers["Location"] == f"/v1/jobs/{job['id']}" == job["links"]["self"]
    assert int(response.headers["Retry-After"]) >= 1
    assert job["status"] == "queued"
    assert job["model"] == {"name": "digits", "version": VERSION}
    assert job["filename"] == "seven.png"
    assert job["reference"] == "mine"
    assert job["metadata"] == {"a": [1, "ü"]}
    assert job["queue"] == {"position": 0, "eta_seconds": None, "workers": 0}
    assert job["predictions"] is job["error"] is job["timings"] is job["finished_at"] is None
    assert job["created_at"].endswith("Z")

    api.work()
    response = api.client.get(job["links"]["self"])
    assert "Retry-After" not in response.headers
    job = response.json
    assert job["status"] == "succeeded"
    assert job["attempt"] == 1
    assert job["queue"] is None
    assert job["predictions"] == [
        {"rank": 1, "class_id": "7", "label": "7", "score": 0.9},
        {"rank": 2, "class_id": "1", "label": "1", "score": 0.05},
    ]
    assert job["timings"]["decode_ms"] == 1.5
    assert 0 <= job["timings"]["queued_ms"] <= job["timings"]["total_ms"]


def test_an_image_itself_is_a_body(api: API) -> None:
    response = api.client.post(
        "/v1/jobs?model=digits&top_k=2&metadata={}&min_score=",
        data=picture("JPEG"),
        content_type="image/jpeg",
    )
    assert response.status_code == 202
    assert response.json["top_k"] == 2
    assert response.json["filename"] is None


def test_json_carries_an_image_in_a_data_url(api: API) -> None:
    body = {"image": data_url(picture()), "model": f"digits@{VERSION}", "metadata": {"n": 1}}
    response = api.client.post("/v1/jobs", json=body | {"reference": None})
    assert response.status_code == 202
    assert response.json["metadata"] == {"n": 1}
    assert response.json["reference"] is None


_FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO", "AVIF", "HEIF"]


@pytest.mark.parametrize("format_", _FORMATS)
def test_each_format_is_known_by_its_content(api: API, format_: str) -> None:
    data = picture(format_, size=(16, 9))
    job = api.job(data=data, filename="named.jpg")
    response = api.client.get(job["links"]["image"])
    others = {"MPO": "image/jpeg", "HEIF": "image/heic"}
    expected = others.get(format_, f"image/{format_.lower()}")
    assert response.mimetype == expected
    assert response.data == data
    assert job["image"] == {
        "media_type": expected,
        "width": 16,
        "height": 9,
        "size_bytes": len(data),
        "animated": False,
    }


def test_an_animation_is_said_to_be_one(api: API) -> None:
    data = several(Image.new("RGB", (8, 8), "red"), "GIF")
    assert api.job(data=data)["image"]["animated"] is True


def test_an_answer_that_is_there_already_is_reused(api: API) -> None:
    api.job()
    api.work()
    response = api.submit(top_k=2)
    assert response.status_code == 200
    assert "Retry-After" not in response.headers
    job = response.json
    assert job["status"] == "succeeded"
    assert job["reused"] is True
    assert job["attempt"] == 0
    assert job["timings"] is None
    assert [p["label"] for p in job["predictions"]] == ["7", "1"]


def test_five_predictions_are_answered_unless_told(api: API) -> None:
    api.job()
    api.work()
    assert len(api.job()["predictions"]) == 5
    assert len(api.job(top_k=20)["predictions"]) == len(PREDICTIONS)
    assert api.job(min_score=0.95)["predictions"] == []


def test_a_failure_says_its_code_and_whether_to_try_again(api: API) -> None:
    job = api.job()
    api.work(Failure("image_unreadable", "The file is truncated."))
    job = api.show(job["id"])
    assert job["status"] == "failed"
    assert job["error"] == {
        "code": "image_unreadable",
        "detail": "The file is truncated.",
        "retryable": False,
    }
    assert job["predictions"] is None


def test_the_queue_tells_a_position(api: API) -> None:
    positions = [api.job(data=picture(colour=colour))["queue"]["position"] for colour in range(3)]
    assert positions == [0, 1, 2]


def test_a_position_is_counted_at_most_once_a_second(api: API) -> None:
    jobs = [api.job(data=picture(colour=colour)) for colour in range(2)]
    api.client.delete(jobs[0]["links"]["self"])
    assert api.show(jobs[1]["id"])["queue"]["position"] == 1


def test_a_position_that_is_too_old_to_be_told_is_forgotten(
    api: API, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(representation, "_ESTIMATE_SECONDS", 0.0)
    api.job()
    latest = api.job(data=picture(colour=8))
    assert set(representation._estimates) == {UUID(latest["id"])}


def test_bulk_may_be_asked_for(api: API) -> None:
    assert api.job()["lane"] == "interactive"
    job = api.job(lane="bulk", data=picture(colour=9))
    assert job["lane"] == "bulk"
    assert len(api.work(lane="bulk")) == 1


def test_a_job_that_was_never_attempted_expires_at_its_deadline(api: API) -> None:
    later = api.job(deadline_seconds="3600")
    assert later["deadline_at"] > later["created_at"]
    job = api.job(deadline_seconds="0.001")
    time.sleep(0.01)  # a fast machine would be here before it
    api.recover()
    job = api.show(job["id"])
    assert (job["status"], job["attempt"], job["started_at"]) == ("expired", 0, None)
    assert job["finished_at"] >= job["deadline_at"] >= job["created_at"]
    assert job["error"]["code"] == "deadline_passed"
    assert job["timings"]["queued_ms"] is None
    assert api.show(later["id"])["status"] == "queued"


def test_a_deadline_that_passes_after_an_attempt_fails_the_job(api: API) -> None:
    job = api.job(deadline_seconds=3600)
    claim = api.claim(lease_seconds=-1)  # a worker takes it in time, and ends without a word
    assert claim is not None
    assert requeue(api.database, [claim.token]) == 1
    assert api.show(job["id"])["status"] == "queued"
    api.database.transact(lambda c: c.execute(update(jobs).values(deadline_at=stamp(-1))))
    assert api.claim() is None
    api.recover()
    job = api.show(job["id"])
    assert (job["status"], job["attempt"]) == ("failed", 1)
    assert job["error"] == {
        "code": "deadline_passed",
        "detail": "The deadline passed before another attempt.",
        "retryable": False,
    }


def test_scores_below_the_least_are_left_out_and_none_may_be_left(api: API) -> None:
    some, all_, none = (api.job(min_score=score) for score in (0.03, 0, 1))
    api.work()
    assert [p["score"] for p in api.show(some["id"])["predictions"]] == [0.9, 0.05, 0.03]
    assert len(api.show(all_["id"])["predictions"]) == 5
    job = api.show(none["id"])
    assert (job["status"], job["min_score"], job["predictions"]) == ("succeeded", 1, [])


def test_reference_and_metadata_come_back_as_they_were_given(api: API) -> None:
    metadata = {"z": 1, "a": {"ü": [None, True, 1.5, "☃"]}, "n": 10**17}
    job = api.job(reference="order 7/ü", metadata=json.dumps(metadata))
    api.work()
    job = api.show(job["id"])
    assert job["reference"] == "order 7/ü"
    assert json.dumps(job["metadata"]) == json.dumps(metadata)  # in the same order


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("../../etc/passwd", "../../etc/passwd"),
        ("a\x07\u202eb.png", "ab.png"),
        ("Screenshot 10.00\u202fAM.png", "Screenshot 10.00 AM.png"),
        ("<b>.png", "<b>.png"),
        ("ü" * 300, "ü" * 255),
    ],
)
def test_a_file_name_is_kept_as_text(api: API, given: str, kept: str) -> None:
    assert api.job(filename=given)["filename"] == kept


def test_the_image_comes_back_as_it_was_stored(api: API) -> None:
    job = api.job(filename="se ven ü.png")
    response = api.client.get(job["links"]["image"])
    assert response.data == picture()
    assert response.mimetype == "image/png"
    assert response.headers["Content-Disposition"] == (
        "inline; filename*=UTF-8''se%20ven%20%C3%BC.png"
    )
    assert "sandbox" in response.headers["Content-Security-Policy"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    again = api.client.get(
        job["links"]["image"], headers={"If-None-Match": response.headers["ETag"]}
    )
    assert (again.status_code, again.data) == (304, b"")
    head = api.client.head(job["links"]["image"])
    assert head.headers["Content-Length"] == str(len(picture()))
    assert head.data == b""


def test_an_image_that_was_lost_is_410_and_mended_by_the_next_submit(api: API) -> None:
    job = api.job()
    for stored in list(api.services.storage.list("images")):
        api.services.storage.delete(stored.name)
    for _ in range(2):
        response = api.client.get(job["links"]["image"])
        assert (response.status_code, response.json["code"]) == (410, "image_missing")
    api.job()
    assert api.client.get(job["links"]["image"]).data == picture()


def test_cancel_is_idempotent_and_ends_the_job(api: API) -> None:
    job = api.job()
    for _ in range(2):
        response = api.client.post(f"{job['links']['self']}/cancel")
        assert response.status_code == 200
        assert response.json["status"] == "canceled"
    assert response.json["timings"]["queued_ms"] is None
    assert api.work() == []


def test_a_running_job_can_be_canceled(api: API) -> None:
    job = api.job()
    api.claim()
    assert api.show(job["id"])["status"] == "running"
    assert api.client.post(f"{job['links']['self']}/cancel").json["status"] == "canceled"


def test_what_has_finished_otherwise_cannot_be_canceled(api: API) -> None:
    job = api.job()
    api.work()
    response = api.client.post(f"{job['links']['self']}/cancel")
    assert (response.status_code, response.json["code"]) == (409, "already_finished")


@pytest.mark.parametrize("state", ["queued", "running", "succeeded"])
def test_a_job_is_deleted_in_any_state(api: API, state: str) -> None:
    job = api.job()
    if state == "running":
        api.claim()
    elif state == "succeeded":
        api.work()
    address = job["links"]["self"]
    response = api.client.delete(address)
    assert (response.status_code, response.data) == (204, b"")
    assert api.client.delete(address).status_code == 404
    for path in (address, f"{address}/image"):
        assert api.client.get(path).status_code == 404
    assert api.client.post(f"{address}/cancel").status_code == 404


def test_an_etag_stands_for_the_state(api: API) -> None:
    job = api.job()
    address = job["links"]["self"]

    def poll(**headers: str) -> Any:
        return api.client.get(address, headers={k.replace("_", "-"): v for k, v in headers.items()})

    first = poll()
    assert first.headers["Cache-Control"] == "private, no-cache"
    unchanged = poll(If_None_Match=first.headers["ETag"])
    assert (unchanged.status_code, unchanged.data) == (304, b"")
    assert unchanged.headers["ETag"] == first.headers["ETag"]
    assert "Retry-After" in unchanged.headers
    api.claim()
    running = poll(If_None_Match=first.headers["ETag"])
    assert (running.status_code, running.json["status"]) == (200, "running")
    assert running.headers["ETag"] != first.headers["ETag"]


def test_an_etag_does_not_stand_for_the_place_in_the_queue(api: API) -> None:
    jobs = [api.job(data=picture(colour=colour)) for colour in range(2)]
    before = api.client.get(jobs[1]["links"]["self"])
    api.client.delete(jobs[0]["links"]["self"])
    after = api.client.get(jobs[1]["links"]["self"])
    assert before.headers["ETag"] == after.headers["ETag"]


def test_metadata_has_room_for_two_kilobytes(api: API) -> None:
    metadata = {"text": "x" * 2037}
    assert len(json.dumps(metadata, separators=(",", ":"))) == 2048
    assert api.job(metadata=json.dumps(metadata))["metadata"] == metadata
    response = api.submit(metadata=json.dumps({"text": "x" * 2038}))
    assert response.status_code == 422


def test_head_answers_as_get_without_a_body(api: API) -> None:
    job = api.job()
    response = api.client.head(job["links"]["self"])
    assert (response.status_code, response.data) == (200, b"")
    assert response.headers["ETag"]

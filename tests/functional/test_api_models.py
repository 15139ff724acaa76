"""The model calls: what is installed, what is coming, and what mends what is missing."""

from dataclasses import replace
from uuid import uuid4

from sqlalchemy import insert, update

from shared import models
from shared.database import new_id, stamp
from shared.tables import model_versions, workers
from tests.functional.conftest import API, LABELS, SPEC, VERSION


def test_an_installed_model_is_ready(api: API) -> None:
    body = api.client.get("/v1/models/digits").json
    assert body["state"] == "ready"
    assert body["current"] == VERSION
    assert body["versions"] == [VERSION]
    assert body["default"] is False
    assert body["input_size"] == {"width": 24, "height": 32}
    assert body["label_count"] == 10
    assert (body["output"], body["activation"]) == ("scores", "softmax")
    assert (body["engine"], body["precision"]) == ("tensorflow", "float32")
    assert body["workers"] == 0
    assert body["progress"] is body["reason"] is body["mend"] is None


def test_a_model_that_is_not_installed_says_why_and_what_to_do(api: API) -> None:
    body = api.client.get("/v1/models/vgg16").json
    assert body["state"] == "unavailable"
    assert body["default"] is True
    assert body["current"] is None
    assert body["versions"] == []
    assert body["reason"]
    assert "classify models pull vgg16" in body["mend"]


def test_all_models_are_listed_by_name(api: API) -> None:
    body = api.client.get("/v1/models").json
    assert [model["name"] for model in body["data"]] == ["digits", "vgg16"]
    assert body["next_cursor"] is None


def test_jobs_wait_for_a_download_and_see_how_far_it_is(api: API) -> None:
    token = uuid4()
    api.database.transact(lambda c: models.begin_download(c, "vgg16", token, 60))
    api.database.transact(lambda c: models.renew_download(c, token, 100, 528, 60))
    body = api.client.get("/v1/models/vgg16").json
    assert body["state"] == "downloading"
    assert body["progress"] == {"bytes": 100, "total_bytes": 528}
    job = api.job(model="vgg16")
    assert job["status"] == "queued"
    assert job["model"] == {"name": "vgg16", "version": None}
    assert job["queue"]["workers"] == 0

    api.database.transact(lambda c: models.end_download(c, token, "the network is away."))
    assert api.client.get("/v1/models/vgg16").json["reason"] == "the network is away."
    response = api.submit(model="vgg16")
    assert response.status_code == 503
    assert "the network is away." in response.json["detail"]
    assert api.show(job["id"])["status"] == "queued"


def test_a_version_has_its_labels(api: API) -> None:
    body = api.client.get(f"/v1/models/digits/versions/{VERSION}").json
    assert body["current"] is True
    assert body["labels"] == [{"class_id": c, "label": label} for c, label in LABELS]
    assert body["weights"] == {"sha256": SPEC.sha256, "size_bytes": SPEC.size_bytes}
    assert (body["output"], body["activation"]) == ("scores", "softmax")
    assert body["installed_at"]
    assert body["removed_at"] is None


def test_a_model_of_embeddings_has_no_labels(api: API) -> None:
    spec = replace(SPEC, output="embedding", activation="none")
    api.database.transact(lambda c: models.install(c, "digits-avg", "ba9876543210", spec, []))
    body = api.client.get("/v1/models/digits-avg").json
    assert (body["output"], body["activation"]) == ("embedding", "none")
    assert body["label_count"] is None
    version = api.client.get("/v1/models/digits-avg/versions/ba9876543210").json
    assert version["label_count"] is None
    assert version["labels"] == []


def test_a_removed_version_is_still_told(api: API) -> None:
    def renew(connection: models.Connection) -> None:
        models.install(connection, "digits", "ba9876543210", SPEC, LABELS)
        connection.execute(
            update(model_versions)
            .where(model_versions.c.version == VERSION)
            .values(removed_at=stamp())
        )

    api.database.transact(renew)
    assert api.client.get("/v1/models/digits").json["versions"] == ["ba9876543210"]
    body = api.client.get(f"/v1/models/digits/versions/{VERSION}").json
    assert body["removed_at"]
    assert body["current"] is False


def test_live_workers_are_counted_and_give_an_estimate(api: API) -> None:

    def start(connection: models.Connection) -> None:
        served = models.version_id(connection, "digits", VERSION)
        for versions, seen, speed in (([served], 0, 2.0), ([served], -3600, 9.0), ([], 0, 9.0)):
            connection.execute(
                insert(workers).values(
                    id=new_id(),
                    slot="0",
                    host="here",
                    pid=1,
                    versions=versions,
                    images_per_second=speed,
                    started_at=stamp(),
                    last_seen=stamp(seen),
                )
            )

    api.database.transact(start)
    assert api.client.get("/v1/models/digits").json["workers"] == 1
    assert api.job()["queue"] == {"position": 0, "eta_seconds": 0.5, "workers": 1}

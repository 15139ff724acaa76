"""What the pages answer, where no browser is needed to see it."""

import re
import tarfile
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from sqlalchemy import select, update
from werkzeug.test import TestResponse

from shared.errors import Unavailable
from shared.jobs.recording import Embedding
from shared.storage.opening import open_storage
from shared.tables import images, ingestions, jobs
from tests.browser.conftest import TABBY, Site, picture
from web import submission
from web.app import create_app


@pytest.fixture
def client(site: Site) -> FlaskClient:
    return create_app(site.settings).test_client()


def files(*hues: int) -> list[tuple[BytesIO, str]]:
    return [(BytesIO(picture(hue=hue)), f"cat-{hue}.png") for hue in hues]


def test_the_tutorials_field_name_is_taken(site: Site, client: FlaskClient) -> None:
    site.install("vgg16")
    answer = client.post("/", data={"fileImage": files(1)})
    assert answer.status_code == 303
    assert re.fullmatch(r"/jobs/[0-9a-f-]{36}", answer.headers["Location"])


def test_a_model_that_nobody_knows(site: Site, client: FlaskClient) -> None:
    site.install("vgg16")
    answer = client.post("/", data={"image": files(1, 2), "model": "vgg17"})
    assert answer.status_code == 422
    assert answer.text.count("There is no model") == 1


def test_all_images_refused(site: Site, client: FlaskClient) -> None:
    site.install("vgg16")
    letters = [(BytesIO(b"Dear reader"), "a.txt"), (BytesIO(b""), "<b>.txt")]
    answer = client.post("/", data={"image": letters})
    assert answer.status_code == 415
    assert "2 images were" in answer.text
    assert "&lt;b&gt;.txt" in answer.text


def test_a_form_that_is_too_large_as_a_whole(site: Site, client: FlaskClient) -> None:
    site.install("vgg16")
    answer = client.post(
        "/",
        content_type="multipart/form-data; boundary=x",
        environ_overrides={"CONTENT_LENGTH": str(10**11)},
    )
    assert answer.status_code == 413
    assert "That is too much at once" in answer.text


def test_what_was_accepted_before_the_storage_went_away_is_kept(
    site: Site, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = site.install("vgg16")
    calls: list[Any] = []
    accept = submission.accept

    def once(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) > 1:
            raise Unavailable("gone")
        return accept(*args, **options)

    monkeypatch.setattr(submission, "accept", once)
    answer = client.post("/", data={"image": files(1, 2)})
    assert answer.status_code == 200
    assert "cat-2.png" in answer.text
    assert "Upload it again." in answer.text
    [job_id] = site.work(version)
    assert str(job_id) in answer.text


def test_a_service_that_cannot_keep_anything(
    site: Site, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install("vgg16")

    def never(*args: Any, **options: Any) -> Any:
        raise Unavailable("gone")

    monkeypatch.setattr(submission, "accept", never)
    answer = client.post("/", data={"image": files(1)}, headers={"Accept": "text/html"})
    assert answer.status_code == 503
    assert "<h1>The service cannot do this right now</h1>" in answer.text


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"status": "canceled"}, "This job was canceled"),
        ({"status": "expired", "error_code": "deadline_passed"}, "The deadline passed before"),
        (
            {"status": "failed", "error_code": "worker_lost", "error_detail": "Three ended."},
            "Other images are not affected.",
        ),
        ({"min_score": 0.9}, "No label reaches the score that was asked for"),
    ],
)
def test_how_a_job_may_end(
    site: Site, client: FlaskClient, values: dict[str, Any], told: str
) -> None:
    version = site.install("vgg16")
    page = client.post("/", data={"image": files(1)}).headers["Location"]
    site.work(version, TABBY)
    site.database.transact(lambda connection: connection.execute(update(jobs).values(values)))
    answer = client.get(page)
    assert answer.status_code == 200
    assert told in answer.text
    assert "data-pending" not in answer.text
    assert answer.headers["Cache-Control"] == "private, no-cache"


def test_an_embedding_is_told_by_its_length_and_its_beginning(
    site: Site, client: FlaskClient
) -> None:
    version = site.install("vgg16")
    page = client.post("/", data={"image": files(1)}).headers["Location"]
    numbers = np.linspace(-1, 1, 512, dtype="<f4")
    site.work(version, Embedding(numbers.tobytes()))
    told = client.get(page).text
    assert "512 numbers that describe the image" in told
    assert "-1, -0.9961, -0.9922, -0.9883, -0.9843" in told
    assert f'href="/v1{page}"' in told
    assert "512 numbers" in client.get("/history").text


def test_scores_of_any_size_are_no_percentages(site: Site, client: FlaskClient) -> None:
    """Of a model whose last activation is none."""
    version = site.install("vgg16")
    page = client.post("/", data={"image": files(1)}).headers["Location"]
    site.work(version, [("n1", "tabby", 12.5), ("n2", "lynx", 2.5), ("n3", "bag", -3.0)])
    told = client.get(page).text
    assert "The image you uploaded is a tabby (12.5)" in told
    assert 'value="0.2"' in told
    assert "%" not in told.partition('<ol class="scores"')[2].partition("</ol>")[0]


def test_a_model_is_chosen_by_its_address_without_scripts(site: Site, client: FlaskClient) -> None:
    site.install("vgg16")
    site.install("mobilenet_v2")
    assert '<option value="vgg16" selected>' in client.get("/?model=nobody").text
    assert '<option value="mobilenet_v2" selected>' in client.get("/?model=mobilenet_v2").text


def test_a_job_of_a_removed_image_is_still_told(site: Site, client: FlaskClient) -> None:
    version = site.install("vgg16")
    page = client.post("/", data={"image": files(1)}).headers["Location"]
    site.work(version)
    site.database.transact(
        lambda connection: connection.execute(update(images).values(object=None))
    )
    assert "The image is no longer stored." in client.get(page).text


def test_pages_name_no_other_host_and_hold_no_style(site: Site, client: FlaskClient) -> None:
    site.install("digits")
    page = client.get("/").text
    assert re.findall(r'(?:src|href|action)="(?!/|#)', page) == []
    assert "style=" not in page
    assert "onclick=" not in page


def one_ingestion(site: Site, answer: TestResponse) -> tuple[Any, bytes]:
    """Its row, and the file that was kept for it."""
    assert answer.status_code == 303
    assert answer.headers["Location"].startswith("/ingestions/")
    with site.database.read() as connection:
        row = connection.execute(select(ingestions)).one()
    assert answer.headers["Location"] == f"/ingestions/{row.id}"
    assert row.object.startswith(f"sources/{row.id}/")
    return row, open_storage(site.settings).read(row.object)


def entries(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=BytesIO(data)) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]


def test_more_images_than_a_form_takes_become_one_ingestion(
    site: Site, client: FlaskClient
) -> None:
    version = site.install("vgg16")
    hues = range(0, 250, 50)  # one more than are looked at one by one
    answer = client.post("/", data={"image": files(*hues)})
    row, kept = one_ingestion(site, answer)
    assert (row.source_kind, row.source, row.pinned) == ("archive", "5 images", True)
    assert (row.status, row.model_version) == ("queued", version)
    assert entries(kept) == {f"cat-{hue}.png": picture(hue=hue) for hue in hues}


def test_a_folder_is_one_ingestion_with_its_names(site: Site, client: FlaskClient) -> None:
    site.install("vgg16")
    long = "x" * 300 + ".png"
    names = ["trip/a.png", "trip/Übung/日本.png", f"trip/{long}", "trip/../../etc/empty.png"]
    data = [(BytesIO(b"" if "empty" in name else name.encode()), name) for name in names]
    row, kept = one_ingestion(site, client.post("/", data={"image": data}))
    assert row.source == "trip (4 images)"
    found = entries(kept)
    assert list(found) == [*names[:3], "trip/etc/empty.png"]
    assert list(found.values()) == [*(name.encode() for name in names[:3]), b""]


def test_an_image_that_is_too_large_is_kept_so_that_this_shows(site: Site) -> None:
    site.install("vgg16")
    client = create_app(site.settings.model_copy(update={"max_image_bytes": 1000})).test_client()
    data = [(BytesIO(bytes(5000)), "trip/large.png"), (BytesIO(b"small"), "trip/small.png")]
    _, kept = one_ingestion(site, client.post("/", data={"image": data}))
    assert entries(kept) == {"trip/large.png": bytes(1001), "trip/small.png": b"small"}


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"PK\x03\x04 and more", "archive"),
        (b"\x1f\x8b and more", "archive"),
        (b"\x28\xb5\x2f\xfd and more", "archive"),
        (tarfile.TarInfo("a.png").tobuf(), "archive"),
        (b"https://example.org/a.png\n", "list"),
    ],
)
def test_an_archive_or_a_list_is_known_by_its_content(
    site: Site, client: FlaskClient, content: bytes, kind: str
) -> None:
    site.install("vgg16")
    answer = client.post("/", data={"archive": (BytesIO(content), "what.bin"), "model": "vgg16"})
    row, kept = one_ingestion(site, answer)
    assert (row.source_kind, row.source) == (kind, "what.bin")
    assert kept == content
    assert list((site.settings.data_dir / "uploads").iterdir()) == []


@pytest.mark.parametrize(
    ("data", "status", "told"),
    [
        ({"archive": (b"\0\1\2", "a.zip")}, 415, "neither an archive"),
        ({"archive": (b"", "a.zip")}, 415, "neither an archive"),
        ({"archive": (b"PK\3\4", "a.zip"), "image": (b"x", "x.png")}, 422, "or images"),
        ({"archive": (b"PK\3\4", "a.zip"), "model": "vgg17"}, 422, "There is no model"),
        ({"picture": (b"PK\3\4", "a.zip")}, 422, "no such file field"),
    ],
)
def test_a_source_that_is_not_taken(
    site: Site, client: FlaskClient, data: dict[str, Any], status: int, told: str
) -> None:
    site.install("vgg16")
    values = {
        name: (BytesIO(value[0]), value[1]) if isinstance(value, tuple) else value
        for name, value in data.items()
    }
    answer = client.post("/", data=values)
    assert answer.status_code == status
    assert told in answer.text
    with site.database.read() as connection:
        assert connection.execute(select(ingestions)).all() == []


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"--x\r\nContent-Disposition: form-data; name=image; filename=a\r\n\r\nabc", "boundary=x"),
        (b"nothing", "boundary=x"),
        (b"nothing", ""),
    ],
)
def test_a_form_that_is_cut_off_is_refused(
    site: Site, client: FlaskClient, body: bytes, content_type: str
) -> None:
    site.install("vgg16")
    answer = client.post("/", data=body, content_type=f"multipart/form-data; {content_type}")
    assert answer.status_code == 400


def test_an_ingestion_of_a_model_that_is_downloaded_is_pinned_later(
    site: Site, client: FlaskClient
) -> None:
    site.download("vgg16", 1, 2)
    answer = client.post("/", data={"archive": (BytesIO(b"PK\3\4"), "a.zip")})
    row, _ = one_ingestion(site, answer)
    assert not row.pinned
    assert "Waiting for vgg16 to be downloaded" in client.get(answer.headers["Location"]).text

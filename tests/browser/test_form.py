"""What the pages answer, where no browser is needed to see it."""

import re
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from sqlalchemy import update

from shared.errors import Unavailable
from shared.jobs.recording import Embedding
from shared.tables import images, jobs
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
        environ_overrides={"CONTENT_LENGTH": "10000000"},
    )
    assert answer.status_code == 413
    assert "One form takes at most 4 images" in answer.text


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

"""Thumbnails and previews: whose they are, how they are kept, what browsers may do with them."""

import io

import pytest
from PIL import Image
from sqlalchemy import update

from shared.tables import images, jobs
from tests.functional.conftest import API, picture
from tests.pictures import several
from web.renderer import Renderer


def size_of(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data)) as image:
        return image.size


def test_a_tiff_has_a_preview_and_a_thumbnail(api: API) -> None:
    job = api.job(data=picture("TIFF", mode="1", size=(900, 300)))
    for address, size in (("thumbnail", (240, 80)), ("preview", (900, 300))):
        response = api.client.get(f"/jobs/{job['id']}/{address}")
        assert response.status_code == 200
        assert response.mimetype == "image/jpeg"
        assert size_of(response.data) == size
        assert response.headers["Cache-Control"] == "private, max-age=86400"
        assert "sandbox" in response.headers["Content-Security-Policy"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_what_a_browser_has_is_not_rendered_again(
    api: API, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"/jobs/{api.job()['id']}/thumbnail"
    etag = api.client.get(address).headers["ETag"]
    monkeypatch.setattr(Renderer, "render", None)
    response = api.client.get(address, headers={"If-None-Match": etag})
    assert (response.status_code, response.data) == (304, b"")


@pytest.mark.parametrize("address", ["thumbnail", "preview"])
def test_another_owners_image_is_not_shown(api: API, address: str) -> None:
    job = api.job()
    api.database.transact(
        lambda connection: connection.execute(update(jobs).values(owner="somebody"))
    )
    assert api.client.get(f"/jobs/{job['id']}/{address}").status_code == 404


def test_what_cannot_be_shown_is_a_problem_and_no_fault(api: API) -> None:
    cut = api.job(data=picture("PNG", size=(300, 300))[:-40])
    response = api.client.get(f"/jobs/{cut['id']}/thumbnail")
    assert (response.status_code, response.json["code"]) == (422, "image_unreadable")
    gone = api.job()
    api.database.transact(lambda connection: connection.execute(update(images).values(object=None)))
    response = api.client.get(f"/jobs/{gone['id']}/thumbnail")
    assert (response.status_code, response.json["code"]) == (410, "image_missing")
    assert "max-age" not in response.headers["Cache-Control"]


@pytest.mark.parametrize(
    ("format_", "shown"),
    [("PNG", "image"), ("AVIF", "image"), ("TIFF", "preview"), ("HEIF", "preview")],
)
def test_the_page_shows_what_browsers_can(api: API, format_: str, shown: str) -> None:
    job = api.job(data=picture(format_, size=(16, 16)))
    address = job["links"]["image"] if shown == "image" else f"/jobs/{job['id']}/preview"
    page = api.client.get(f"/jobs/{job['id']}").text
    assert f'<img src="{address}"' in page
    assert "several frames" not in page


def test_the_page_says_that_the_first_frame_is_seen(api: API) -> None:
    job = api.job(data=several(Image.new("RGB", (9, 9), "red"), "GIF"))
    page = api.client.get(f"/jobs/{job['id']}").text
    assert "The file has several frames or pages. The model sees the first." in page
    assert "GIF, 9 × 9 pixels" in page

"""From an upload in the browser to the results on one's disk, with a worker and an expander."""

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import upload
from tests.functional.service import Service, digit_png, digit_targets, running

pytestmark = pytest.mark.browser

Visit = Callable[..., Page]
WAIT_MS = 60_000
DIGITS = 8


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("ingesting")
    database = f"sqlite:///{directory / 'classifier.db'}"
    # Without a broker whoever has work looks for it from time to time.
    settings = {"recovery_seconds": 0.3, "default_model": "digits", "max_images_per_form": 4}
    with running(directory, database, None, **settings) as service:
        yield service


def archive() -> bytes:
    """Digits in a folder, one of them cut off, and a text."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        for n in range(DIGITS):
            zipped.writestr(f"digits/{n}.png", digit_png(n))
        zipped.writestr("digits/broken.png", digit_png(0)[:150])
        zipped.writestr("notes.txt", "Dear reader")
    return file.getvalue()


def download(page: Page, format_: str) -> tuple[str, str]:
    """What the button gives: the file's name, and what is in it."""
    with page.expect_download() as downloaded:
        page.get_by_role("link", name=f"Results as {format_}").click()
    return downloaded.value.suggested_filename, Path(downloaded.value.path()).read_text("utf-8")


def test_an_archive_goes_from_the_form_to_its_results(service: Service, visit: Visit) -> None:
    page = visit()
    page.goto(service.url)
    page.get_by_text("A folder, an archive or a list").click()
    page.get_by_label("Archive or list").set_input_files(
        [{"name": "digits.zip", "mimeType": "application/zip", "buffer": archive()}]
    )
    page.get_by_role("button", name="Hand in as one ingestion").click()
    page.wait_for_url("**/ingestions/*")
    page.evaluate("window.unreloaded = true")
    ended = f"{DIGITS} of {DIGITS + 2} images classified"
    expect(page.locator("h1")).to_have_text(ended, timeout=WAIT_MS)
    assert page.evaluate("window.unreloaded")
    failed = page.locator("#failures")
    expect(failed.locator(".failing-title")).to_have_text(["digits/broken.png", "notes.txt"])
    expect(failed).to_contain_text("The image cannot be decoded")
    expect(page.locator("#figures")).to_contain_text("1 had no image")

    name, text = download(page, "JSONL")
    assert name.endswith(".jsonl")
    lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    assert [line["position"] for line in lines] == list(range(DIGITS + 2))
    assert [line["name"] for line in lines[:2]] == ["digits/0.png", "digits/1.png"]
    found = [line["predictions"][0]["label"] for line in lines[:DIGITS]]
    assert found == digit_targets()[:DIGITS]
    assert [line["status"] for line in lines[DIGITS:]] == ["failed", "failed"]
    name, text = download(page, "CSV")
    assert name.endswith(".csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["name"] for row in rows] == [line["name"] for line in lines]

    # What failed is tried again, and fails again.
    page.get_by_role("button", name="Retry what failed").click()
    expect(page.locator("h1")).to_have_text(ended, timeout=WAIT_MS)
    page.locator("#latest .shot-title a").last.click()
    page.get_by_role("link", name="The ingestion that this image came with").click()
    expect(page.locator("h1")).to_have_text(ended)
    page.get_by_role("link", name="All its images").click()
    expect(page.locator(".shot")).to_have_count(DIGITS + 2)  # with the job that was left behind


def test_several_images_become_one_ingestion(service: Service, visit: Visit) -> None:
    page = visit()
    page.goto(service.url)
    page.set_input_files("#image", [upload(f"{n}.png", digit_png(20 + n)) for n in range(5)])
    page.get_by_role("button", name="Hand in as one ingestion").click()
    page.wait_for_url("**/ingestions/*")
    expect(page.locator("h1")).to_have_text("5 images classified", timeout=WAIT_MS)
    assert len(download(page, "JSONL")[1].splitlines()) == 5
    page.get_by_role("link", name="Ingestions").click()
    expect(page.get_by_role("link", name="5 images")).to_be_visible()

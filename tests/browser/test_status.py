"""The page `/status` while things change."""

from collections.abc import Callable

import pytest
import requests
from playwright.sync_api import Page, expect

from shared.jobs.recording import Failure
from tests.browser.conftest import Site, picture

pytestmark = pytest.mark.browser


def test_the_status_refreshes_itself_and_leaves_the_table_open(
    site: Site, visit: Callable[..., Page]
) -> None:
    page = visit()
    page.goto(f"{site.url}/status")
    expect(page.locator("h1")).to_have_text("No image is being classified")
    expect(page.locator("#hour")).to_have_text("No job has ended in the last hour.")
    page.evaluate("window.unreloaded = true")
    page.get_by_text("The hour as a table").click()
    expect(page.locator("#hour-table tbody tr")).to_have_count(12)

    version = site.install("vgg16")
    site.start_worker(version)
    sent = requests.post(f"{site.url}/v1/jobs", files={"image": picture()}, timeout=10)
    assert sent.status_code == 202
    site.work(version, Failure("image_unreadable", "The image ends in its middle."))

    expect(page.locator("h1")).to_have_text("All is well")
    drawing = page.get_by_role("img", name="Jobs that ended in each minute of the last hour")
    expect(drawing).to_be_visible()
    assert drawing.locator("rect.plot-failed").count() == 1
    expect(page.locator("#hour-table tbody tr").first).to_contain_text("0–5010")
    expect(page.locator("#announce")).to_have_text("All is well")
    assert page.evaluate("window.unreloaded")
    page.get_by_role("link", name="look at it").click()
    expect(page.locator("h1")).to_have_text("The image cannot be decoded")

"""The history: what was classified, found again, and deleted."""

import re
from collections.abc import Callable

import pytest
import requests
from flask.testing import FlaskClient
from playwright.sync_api import Page, expect
from sqlalchemy import update

from shared.jobs.recording import Failure
from shared.tables import jobs
from tests.browser.conftest import Site
from web.app import create_app
from web.pages.job_views import BADGES

browser = pytest.mark.browser
Visit = Callable[..., Page]
LYNX = [("n02127052", "lynx", 0.5)]


@pytest.fixture
def client(site: Site) -> FlaskClient:
    return create_app(site.settings).test_client()


@pytest.fixture
def three(site: Site) -> list[str]:
    """A tabby, a lynx and a failure, in this order."""
    version = site.install("vgg16")
    site.start_worker(version)
    ids = [site.submit("tabby.png", hue=1)]
    site.work(version)
    ids.append(site.submit("lynx.png", hue=2, reference="zoo"))
    site.work(version, LYNX)
    ids.append(site.submit("broken.png", hue=3))
    site.work(version, Failure("image_unreadable", "Broken."))
    return ids


def ids_on(page: str) -> list[str]:
    return re.findall(r'id="link-([0-9a-f-]{36})"', page)


@browser
@pytest.mark.usefixtures("three")
def test_jobs_are_found_paged_and_deleted(
    site: Site, visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.pages.history._PAGE_JOBS", 2)
    page = visit()
    page.goto(site.url)
    page.get_by_role("link", name="History").click()
    expect(page.get_by_role("link", name="History")).to_have_attribute("aria-current", "page")
    names = page.locator(".shot .name")
    expect(names).to_have_text(["broken.png", "lynx.png"])
    expect(page.locator(".shot-title").last).to_have_text(re.compile(r"lynx\s+50.00%"))
    expect(page.locator(".state")).to_have_text(["Failed"])
    page.get_by_role("link", name="Older").click()
    expect(names).to_have_text(["tabby.png"])
    page.get_by_role("link", name="Newest").click()
    expect(names).to_have_text(["broken.png", "lynx.png"])

    page.get_by_text("Filter", exact=True).click()
    page.get_by_text("Done", exact=True).click()
    page.get_by_label("Model").select_option("vgg16")
    page.get_by_label("Label").fill("lynx")
    page.get_by_label("Reference").fill("zoo")
    page.get_by_role("button", name="Show").click()
    expect(names).to_have_text(["lynx.png"])
    expect(page.locator("#told")).to_contain_text(
        "Only done, model vgg16, label lynx, reference zoo."
    )
    filtered = page.url

    page.once("dialog", lambda dialog: dialog.dismiss())
    page.get_by_role("button", name="Delete lynx.png").click()
    expect(names).to_have_text(["lynx.png"])
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete lynx.png").click()
    expect(page.get_by_text("No job is like that.")).to_be_visible()
    assert parameters(page.url) == parameters(filtered)
    page.get_by_role("link", name="Show all").click()
    expect(names).to_have_text(["broken.png", "tabby.png"])


def parameters(address: str) -> set[str]:
    """What an address asks for, without what it leaves open."""
    return {each for each in address.partition("?")[2].split("&") if not each.endswith("=")}


@browser
def test_the_history_refreshes_itself_and_keeps_its_pictures(site: Site, visit: Visit) -> None:
    version = site.install("vgg16")
    site.start_worker(version)
    site.submit("one.png")
    page = visit()
    page.goto(f"{site.url}/history")
    expect(page.locator(".state")).to_have_text(["Waiting"])
    page.evaluate("window.shown = document.querySelector('.shot img')")
    site.submit("two.png", hue=90)
    site.work(version)
    expect(page.locator(".shot-title")).to_have_text([re.compile(r"tabby\s+61.23%")] * 2)
    expect(page.locator("#announce")).to_have_text("All jobs are done.")
    assert page.evaluate("window.shown === document.querySelectorAll('.shot img')[1]")


@browser
@pytest.mark.usefixtures("three")
def test_the_history_works_without_scripts(site: Site, visit: Visit) -> None:
    page = visit(java_script_enabled=False)
    page.goto(f"{site.url}/history")
    page.get_by_text("Filter", exact=True).click()
    page.get_by_text("Failed", exact=True).first.click()
    page.get_by_role("button", name="Show").click()
    page.get_by_role("button", name="Delete broken.png").click()
    expect(page.get_by_text("No job is like that.")).to_be_visible()
    page.get_by_role("link", name="Show all").click()
    expect(page.locator(".shot .name")).to_have_text(["lynx.png", "tabby.png"])


@browser
def test_a_job_is_deleted_on_its_own_page(site: Site, visit: Visit, three: list[str]) -> None:
    page = visit()
    page.goto(f"{site.url}/jobs/{three[0]}")
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete").click()
    expect(page).to_have_url(f"{site.url}/history")
    expect(page.locator(".shot .name")).to_have_text(["broken.png", "lynx.png"])


def test_a_deletion_leads_back_to_where_it_was_asked_for(
    site: Site, client: FlaskClient, three: list[str]
) -> None:
    answer = client.post(f"/jobs/{three[2]}/delete?status=failed&status=expired&label=x")
    assert answer.status_code == 303
    assert answer.headers["Location"] == "/history?status=failed&status=expired&label=x"
    again = client.post(f"/jobs/{three[2]}/delete")
    assert (again.status_code, again.headers["Location"]) == (303, "/history")
    # And nowhere else.
    answer = client.post(f"/jobs/{three[1]}/delete?_external=1&_scheme=javascript")
    assert answer.status_code == 422
    assert ids_on(client.get("/history").text) == [three[1], three[0]]


def test_a_deletion_that_another_site_asks_for_is_refused(
    client: FlaskClient, three: list[str]
) -> None:
    address = f"/jobs/{three[0]}/delete"
    answer = client.post(address, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403
    assert three[0] in ids_on(client.get("/history").text)


def test_another_owners_jobs_are_neither_shown_nor_deleted(
    site: Site, client: FlaskClient, three: list[str]
) -> None:
    site.database.transact(lambda c: c.execute(update(jobs).values(owner="somebody")))
    assert "No image has been classified yet." in client.get("/history").text
    client.post(f"/jobs/{three[0]}/delete")
    site.database.transact(lambda c: c.execute(update(jobs).values(owner="local")))
    assert len(ids_on(client.get("/history").text)) == 3


def test_each_empty_page_says_why_it_is(
    site: Site, client: FlaskClient, three: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "No job is like that." in client.get("/history?label=zebra").text
    cursor = requests.get(f"{site.url}/v1/jobs?limit=2", timeout=30).json()["next_cursor"]
    client.post(f"/jobs/{three[0]}/delete")
    assert "There are no older jobs." in client.get(f"/history?cursor={cursor}").text
    monkeypatch.setattr("shared.jobs.finding._STRETCH", 1)
    monkeypatch.setattr("web.listing._MOST_LOOKS", 1)
    page = client.get("/history?status=succeeded").text  # the newest one failed
    assert "Nothing among the newer jobs." in page
    assert 'id="older"' in page


def test_what_an_address_asks_for_is_kept_by_the_form(
    client: FlaskClient, three: list[str]
) -> None:
    page = client.get(f"/history?model=vgg16@0123456789ab&label=%22%3Cb%3E&ingestion={three[0]}")
    assert page.status_code == 200
    assert '<option value="vgg16@0123456789ab" selected>' in page.text
    assert 'value="&#34;&lt;b&gt;"' in page.text
    assert f'name="ingestion" value="{three[0]}"' in page.text
    for wrong in ("status=done", "model=vgg17", "cursor=x", "page=2"):
        answer = client.get(f"/history?{wrong}", headers={"Accept": "text/html"})
        assert answer.status_code == 422
        assert "<h1>" in answer.text


def test_every_state_can_be_chosen(client: FlaskClient) -> None:
    page = client.get("/history").text
    assert re.findall(r'name="status" value="(\w+)"', page) == list(BADGES)

"""The pages of ingestions: how far each is, what failed, and what may be done about it."""

import re
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from playwright.sync_api import Page, expect
from sqlalchemy import select, update

from shared.database import new_id, stamp
from shared.jobs.recording import Failure
from shared.tables import ingestion_counts, ingestions, items, jobs
from tests.browser.conftest import Site
from web.app import create_app
from web.pages.ingestion_views import BADGES

browser = pytest.mark.browser
Visit = Callable[..., Page]
NO_IMAGE = ("notes.txt", "unsupported_image", "The content is not an image.")
ENDED = {"started_at": stamp(-60), "expanded_at": stamp(), "finished_at": stamp()}
SETTLED = {**ENDED, "settled_at": stamp()}


@pytest.fixture
def client(site: Site) -> FlaskClient:
    return create_app(site.settings).test_client()


def of(site: Site, ingestion: str) -> Any:
    with site.database.read() as connection:
        found = select(ingestions).where(ingestions.c.id == UUID(ingestion))
        return connection.execute(found).one()


def change(site: Site, ingestion: str, **values: Any) -> None:
    this = ingestions.c.id == UUID(ingestion)
    site.database.transact(lambda c: c.execute(update(ingestions).where(this).values(**values)))


def two_jobs(site: Site, version: int) -> list[str]:
    """A tabby, and one that failed."""
    ids = [site.submit("trip/tabby.png", hue=1)]
    site.work(version)
    ids.append(site.submit("trip/broken.png", hue=2))
    site.work(version, Failure("image_unreadable", "The image ends in its middle."))
    return ids


@browser
def test_an_ingestion_is_followed_to_its_end_without_a_reload(site: Site, visit: Visit) -> None:
    version = site.install("vgg16")
    site.start_worker(version)
    ingestion = site.ingest(version)
    page = visit()
    page.goto(f"{site.url}/ingestions")
    page.get_by_role("link", name="holiday.zip").click()
    expect(page.locator("h1")).to_have_text("Waiting for its turn")
    page.evaluate("window.unreloaded = true")
    change(site, ingestion, status="running", started_at=stamp(), expanded=3)
    expect(page.locator("h1")).to_have_text("0 images done")
    expect(page.get_by_text("The source is being read: 3 so far.")).to_be_visible()
    change(site, ingestion, status="succeeded", **SETTLED)
    counted = update(ingestion_counts).values(succeeded=3)
    site.database.transact(lambda connection: connection.execute(counted))
    expect(page.locator("h1")).to_have_text("3 images classified")
    expect(page.locator("#announce")).to_have_text("3 images classified.")
    expect(page.get_by_role("progressbar", name="Images done")).to_have_attribute("value", "3")
    expect(page.locator("[data-pending]")).to_have_count(0)
    assert page.evaluate("window.unreloaded")
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete").click()
    expect(page).to_have_url(f"{site.url}/ingestions")
    expect(page.get_by_text("No folder, archive or list has been handed in yet.")).to_be_visible()


@browser
def test_an_ingestion_is_canceled_without_scripts(site: Site, visit: Visit) -> None:
    version = site.install("vgg16")
    ingestion = site.ingest(version, expanded=10, status="running", counts={"succeeded": 4})
    page = visit(java_script_enabled=False)
    page.goto(f"{site.url}/ingestions/{ingestion}")
    assert page.locator("meta[http-equiv=refresh]").count() == 1
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("h1")).to_have_text("This ingestion was canceled")
    expect(page.get_by_text("4 of 10 images had been done")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    assert of(site, ingestion).status == "canceled"


def test_what_failed_and_what_was_done_last_are_shown(site: Site, client: FlaskClient) -> None:
    version = site.install("vgg16")
    ids = two_jobs(site, version)
    ingestion = site.ingest(
        version,
        *ids,
        refused=(NO_IMAGE,),
        counts={"succeeded": 1, "failed": 1},
        status="running",
        reference="trip 12",
    )
    page = client.get(f"/ingestions/{ingestion}").text
    failed = page.partition('id="failures"')[2].partition('id="latest"')[0]
    names = re.findall(r"(?:trip/\w+\.png|notes\.txt)", failed)
    assert names == ["trip/broken.png", "notes.txt"]
    assert "The image ends in its middle." in failed
    assert f'href="/jobs/{ids[1]}"' in failed
    latest = page.partition('id="latest"')[2]
    assert re.findall(r'id="link-([0-9a-f-]{36})"', latest) == [ids[1], ids[0]]
    assert f'href="/history?ingestion={ingestion}"' in page
    for format_ in ("jsonl", "csv"):
        assert f'href="/v1/ingestions/{ingestion}/results?format={format_}&amp;download=1"' in page
    assert "trip 12" in page
    # Each of its images leads back to it, and is deleted only with it.
    of_job = client.get(f"/jobs/{ids[0]}").text
    assert f'href="/ingestions/{ingestion}"' in of_job
    assert 'id="delete"' not in of_job
    history = client.get(f"/history?ingestion={ingestion}").text
    assert re.findall(r'id="link-([0-9a-f-]{36})"', history) == [ids[1], ids[0]]
    assert "shot-delete" not in history
    assert (
        f'images of <a id="ingestion" href="/ingestions/{ingestion}">one ingestion</a>' in history
    )
    for refused in (client.post(f"/jobs/{ids[0]}/delete"), client.delete(f"/v1/jobs/{ids[0]}")):
        assert refused.status_code == 409
        assert refused.json is not None
        assert refused.json["code"] == "part_of_ingestion"


def test_a_job_that_a_retry_left_behind_is_shown_no_more(site: Site, client: FlaskClient) -> None:
    version = site.install("vgg16")
    ids = two_jobs(site, version)
    ingestion = site.ingest(version, *ids, status="partially_succeeded", **SETTLED)
    address = f"/ingestions/{ingestion}"
    assert "trip/broken.png" in client.get(address).text
    again = update(items).where(items.c.job == UUID(ids[1])).values(job=new_id())
    site.database.transact(lambda connection: connection.execute(again))
    page = client.get(address).text
    assert "trip/tabby.png" in page
    assert "trip/broken.png" not in page


STATES: list[tuple[dict[str, Any], str]] = [
    ({"not_before": stamp(60)}, "Waiting for the source"),
    (
        {"status": "running", "expanded": 10, "expanded_at": stamp(), "counts": {"succeeded": 4}},
        "4 of 10 images done",
    ),
    ({"status": "succeeded", **SETTLED}, "There was nothing to classify"),
    (
        {
            "status": "partially_succeeded",
            "expanded": 10,
            "counts": {"succeeded": 9, "failed": 1},
            "error_code": "source_damaged",
            "error_detail": "It ends in the middle.",
            **SETTLED,
        },
        "9 of 10 images classified",
    ),
    (
        {"status": "failed", "expanded": 2, "counts": {"failed": 2}, **SETTLED},
        "No image could be classified",
    ),
    (
        {"status": "failed", "error_code": "source_damaged", **SETTLED},
        "The source is damaged",
    ),
    (
        {
            "status": "failed",
            "expanded": 10,
            "counts": {"failed": 3},
            "error_code": "too_many_failures",
            "error_detail": "3 of 10 images failed; at most 2 may.",
            **ENDED,
        },
        "Stopped, because too many images failed",
    ),
]


@pytest.mark.parametrize(("values", "headline"), STATES, ids=[told for _, told in STATES])
def test_each_state_has_its_words(
    site: Site, client: FlaskClient, values: dict[str, Any], headline: str
) -> None:
    ingestion = site.ingest(site.install("vgg16"), **values)
    page = client.get(f"/ingestions/{ingestion}").text
    assert f"<h1>{headline}</h1>" in page
    assert BADGES[values.get("status", "queued")] in page
    ended = "settled_at" in values
    assert ("data-pending" in page) == (not ended)
    assert ('id="retry"' in page) == (ended and "failed" in str(values.get("counts")))
    if values.get("error_detail"):
        assert values["error_detail"] in page
    if values.get("status") == "partially_succeeded":
        assert "What came before was kept." in page


def test_result_files_are_told_with_what_is_wrong(site: Site, client: FlaskClient) -> None:
    written = {"output": "s3://results/run", "output_parts": 2, "expanded": 1}
    ended = {"status": "succeeded", "counts": {"succeeded": 1}, **SETTLED}
    version = site.install("vgg16")
    ingestion = site.ingest(version, **written, **ended, output_error="Access was denied.")
    page = client.get(f"/ingestions/{ingestion}").text
    assert "2 parts written to s3://results/run so far." in page
    assert "Access was denied." in page
    assert "data-pending" in page
    change(site, ingestion, written_at=stamp(), output_error=None)
    page = client.get(f"/ingestions/{ingestion}").text
    assert "2 parts written to s3://results/run, and the manifest." in page
    assert "data-pending" not in page


def test_what_failed_is_tried_again_by_a_button(site: Site, client: FlaskClient) -> None:
    version = site.install("vgg16")
    ids = two_jobs(site, version)
    ingestion = site.ingest(
        version,
        *ids,
        counts={"succeeded": 1, "failed": 1},
        status="partially_succeeded",
        **SETTLED,
    )
    address = f"/ingestions/{ingestion}"
    assert 'id="retry"' in client.get(address).text
    answer = client.post(f"{address}/retry")
    assert (answer.status_code, answer.headers["Location"]) == (303, address)
    assert "1 of 2 images done" in client.get(address).text
    again = client.post(f"{address}/retry")  # as a second click
    assert again.status_code == 303
    with site.database.read() as connection:
        of_it = select(jobs.c.id).where(jobs.c.ingestion == UUID(ingestion))
        assert len(connection.execute(of_it).all()) == 3


def test_the_list_is_paged_and_has_no_one_elses(
    site: Site, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.pages.ingestions._PAGE_INGESTIONS", 2)
    version = site.install("vgg16")
    ids = [site.ingest(version, source=f"{n}.zip") for n in range(3)]
    others = site.ingest(version, owner="somebody")

    def listed(page: str) -> list[str]:
        return re.findall(r'id="link-([0-9a-f-]{36})"', page)

    newest = client.get("/ingestions").text
    assert listed(newest) == [ids[2], ids[1]]
    found = re.search(r'id="older" href="([^"]+)"', newest)
    assert found is not None
    older = client.get(found[1]).text
    assert listed(older) == [ids[0]]
    assert 'id="newest"' in older
    assert client.get("/ingestions?cursor=x").status_code == 422
    assert client.get(f"/ingestions/{others}").status_code == 404
    for action in ("cancel", "retry"):
        assert client.post(f"/ingestions/{others}/{action}").status_code == 404
    client.post(f"/ingestions/{others}/delete")
    assert of(site, others).deleted_at is None


@pytest.mark.parametrize("action", ["cancel", "retry", "delete"])
def test_what_another_site_asks_for_is_refused(
    site: Site, client: FlaskClient, action: str
) -> None:
    ingestion = site.ingest(site.install("vgg16"))
    answer = client.post(
        f"/ingestions/{ingestion}/{action}", headers={"Sec-Fetch-Site": "cross-site"}
    )
    assert answer.status_code == 403
    row = of(site, ingestion)
    assert (row.status, row.deleted_at) == ("queued", None)

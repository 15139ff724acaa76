"""Every page in its states, at phone and desktop size, light and dark: it fits and is quiet.

The pictures are left in `tests/output/pages/` to be looked at.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from shared.database import stamp
from shared.jobs.recording import Embedding, Failure
from tests.browser.conftest import Site, upload

pytestmark = pytest.mark.browser

OUTPUT = Path(__file__).parents[1] / "output" / "pages"
SIZES = {"phone": (390, 844), "desktop": (1280, 900), "narrow": (360, 740)}
LONG_NAME = "a-rather-long-file-name-without-any-space-as-some-cameras-make-them-20260101-01.png"


class Looker:
    """Goes from page to page, and looks at each."""

    def __init__(self, site: Site, page: Page, size: str, scheme: str) -> None:
        self.site = site
        self.page = page
        self.size = size
        self.scheme = scheme
        OUTPUT.mkdir(parents=True, exist_ok=True)

    def look(self, name: str) -> None:
        expect(self.page.locator("h1")).to_have_count(1)
        expect(self.page.locator("html")).to_have_attribute("data-bs-theme", self.scheme)
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        # Asked once: `wait_for_function` asks again by eval, which the pages' policy stops.
        self.page.evaluate(
            "Promise.all([...document.images].filter((i) => i.loading !== 'lazy')"
            ".map((i) => i.decode().catch(() => 0)))"
        )
        self.page.mouse.move(0, 0)
        path = OUTPUT / f"{name}-{self.size}-{self.scheme}.png"
        self.page.screenshot(path=path, full_page=True)

    def form(self, name: str) -> None:
        self.page.goto(self.site.url)
        self.look(name)

    def send(self, *files: dict[str, object]) -> None:
        self.page.goto(self.site.url)
        self.page.set_input_files("#image", list(files))
        self.page.locator("#predict").click()
        self.page.wait_for_url("**/jobs**")


@pytest.fixture(params=["narrow-light", "phone-dark", "desktop-light", "desktop-dark"])
def looker(request: pytest.FixtureRequest, site: Site, visit: Callable[..., Page]) -> Looker:
    size, _, scheme = request.param.partition("-")
    width, height = SIZES[size]
    page = visit(viewport={"width": width, "height": height}, color_scheme=scheme)
    return Looker(site, page, size, scheme)


def test_the_form_fits_in_every_state(site: Site, looker: Looker) -> None:
    page = looker.page
    looker.form("form-empty")
    site.start_worker(site.install("digits", version="89abcdef0123"))
    site.fail_download(
        "vgg16", "the download failed: storage.googleapis.com could not be reached within 10 s."
    )
    looker.form("form-unavailable")
    page.set_input_files("#image", upload("cat.png"))
    page.locator("#predict").click()
    expect(page.get_by_role("alert")).to_be_visible()
    looker.look("form-refused")
    site.download("vgg16", 132_000_000, 528_000_000)
    looker.form("form-downloading")
    site.start_worker(site.install("mobilenet_v2", version="fedcba987654"))
    looker.form("form-quick")
    vgg16 = site.install("vgg16")
    looker.form("form-loading")
    site.start_worker(vgg16)
    page.goto(site.url)
    page.set_input_files("#image", [upload("cat.png"), upload(LONG_NAME, hue=90)])
    looker.look("form-ready")


def test_jobs_and_errors_fit_in_every_state(site: Site, looker: Looker) -> None:
    page = looker.page
    vgg16 = site.install("vgg16")
    looker.send(upload("cat.png"))
    looker.look("job-loading")
    site.start_worker(vgg16)
    looker.send(upload("dog.png", hue=150))
    looker.look("job-queued")
    site.work(vgg16)
    expect(page.locator(".scores")).to_be_visible()
    looker.look("job-succeeded")
    looker.send(upload("embedding.png", hue=120))
    site.work(vgg16, Embedding(b"\xcd\xcc\x4c\x3e" * 512))
    expect(page.locator("h1")).to_contain_text("512 numbers")
    looker.look("job-embedding")
    looker.send(upload("running.png", hue=180))
    site.work(vgg16, None)
    expect(page.locator("h1")).to_contain_text("Classifying")
    looker.look("job-running")
    looker.send(upload(LONG_NAME, hue=210))
    site.work(vgg16, Failure("image_unreadable", "The image ends in the middle of its data."))
    expect(page.locator(".advice")).to_be_visible()
    looker.look("job-failed")
    looker.send(
        upload("cat.png"),
        upload(LONG_NAME, hue=60),
        upload("letter.txt", b"Dear reader"),
        upload("other.png", hue=240),
    )
    looker.look("jobs")
    page.goto(f"{site.url}/nowhere")
    looker.look("error")


def test_the_status_fits_with_all_that_it_may_show(site: Site, looker: Looker) -> None:
    page = looker.page
    vgg16 = site.install("vgg16")
    looker.send(upload("cat.png"), upload(LONG_NAME, hue=210), upload("other.png", hue=90))
    site.work(vgg16, limit=1)
    site.work(
        vgg16, Failure("image_unreadable", "The image ends in the middle of its data."), limit=1
    )
    site.start_worker(vgg16)
    site.start_worker(trouble="vgg16@0123456789ab does not fit: it needs 2.6 GB, and 1 GB is free.")
    page.goto(f"{site.url}/status")
    expect(page.locator(".plot-drawing")).to_have_count(2)
    page.get_by_text("The hour as a table").click()
    looker.look("status")


def test_the_history_fits_in_every_state(
    site: Site, looker: Looker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.pages.history._PAGE_JOBS", 4)
    page, address = looker.page, f"{site.url}/history"
    page.goto(address)
    looker.look("history-empty")
    vgg16 = site.install("vgg16")
    site.start_worker(vgg16)
    site.submit("cat.png")
    site.work(vgg16)
    site.submit(LONG_NAME, hue=60)
    site.work(vgg16, [("n02107312", "Staffordshire_bullterrier,_Staffordshire_bull_terrier", 0.5)])
    site.submit("broken.png", hue=90)
    site.work(vgg16, Failure("image_unreadable", "The image ends in the middle of its data."))
    site.submit("running.png", hue=120)
    site.work(vgg16, None)
    site.submit("waiting.png", hue=150)
    page.goto(f"{address}?status=failed&status=succeeded&model=vgg16")
    page.locator("summary").click()
    looker.look("history-filtered")
    page.goto(address)
    expect(page.locator("#older")).to_be_visible()
    looker.look("history")


def test_ingestions_fit_in_every_state(site: Site, looker: Looker) -> None:
    page, address = looker.page, f"{site.url}/ingestions"
    page.goto(address)
    looker.look("ingestions-empty")
    vgg16 = site.install("vgg16")
    jobs = [site.submit("trip/cat.png"), site.submit(f"trip/{LONG_NAME}", hue=60)]
    site.work(vgg16)
    jobs.append(site.submit(f"trip/broken-{LONG_NAME}", hue=90))
    site.work(vgg16, Failure("image_unreadable", "The image ends in the middle of its data."))
    notes = ("trip/notes.txt", "unsupported_image", "The content is not an image.")
    counts = {"succeeded": 4200, "failed": 3, "expired": 2, "canceled": 1}
    far = {"expanded": 10_000, "counts": counts, "started_at": stamp(-100)}
    settled = {**far, "expanded_at": stamp(), "finished_at": stamp(), "settled_at": stamp()}
    damaged = {"error_code": "source_damaged", "error_detail": "It ends in the middle of an entry."}
    states: dict[str, dict[str, Any]] = {
        "queued": {"not_before": stamp(60)},
        "running": {"status": "running", "max_failures": 100, "expanded_at": stamp(), **far},
        "ended": {"status": "partially_succeeded", "source": LONG_NAME, **damaged, **settled},
        "failed": {"status": "failed", **far, **damaged, "output": "s3://results/run-7/"},
        "canceled": {"status": "canceled", **settled},
    }
    for name, values in states.items():
        items = jobs if name == "ended" else []
        ingestion = site.ingest(vgg16, *items, refused=(notes,), **values)
        page.goto(f"{address}/{ingestion}")
        looker.look(f"ingestion-{name}")
    page.goto(address)
    looker.look("ingestions")

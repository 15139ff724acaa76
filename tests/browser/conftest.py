"""The pages, served for a browser: SQLite, made-up models, and jobs finished by hand."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import requests
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page
from sqlalchemy import insert, update
from werkzeug.serving import make_server

from shared import models
from shared.database import Database, new_id, stamp
from shared.jobs.claiming import Claimant, LaneCursor, claim_batch
from shared.jobs.recording import Embedding, Failure, Outcome, Predictions, record
from shared.migrations import upgrade
from shared.models import ModelSpec
from shared.settings import Settings
from shared.storage.opening import open_storage
from shared.tables import ingestion_counts, ingestions, items, jobs, workers
from tests.services import free_port
from web.app import create_app

TABBY: Predictions = [
    ("n02123045", "tabby", 0.6123),
    ("n02123159", "tiger_cat", 0.2311),
    ("n02124075", "Egyptian_cat", 0.0987),
    ("n02127052", "lynx", 0.0123),
    ("n03958227", "plastic_bag", 0.0041),
]


def picture(kind: str = "PNG", size: tuple[int, int] = (320, 240), hue: int = 30) -> bytes:
    """Something to look at: a cat of few shapes."""
    image = Image.new("HSV", size, (hue, 60, 235)).convert("RGB")
    draw = ImageDraw.Draw(image)
    w, h = size
    fur = Image.new("HSV", (1, 1), (hue, 170, 160)).convert("RGB").getpixel((0, 0))
    draw.polygon([(w * 0.32, h * 0.5), (w * 0.34, h * 0.15), (w * 0.5, h * 0.35)], fill=fur)
    draw.polygon([(w * 0.68, h * 0.5), (w * 0.66, h * 0.15), (w * 0.5, h * 0.35)], fill=fur)
    draw.ellipse((w * 0.28, h * 0.28, w * 0.72, h * 0.85), fill=fur)
    for x in (0.4, 0.6):
        draw.ellipse((w * (x - 0.03), h * 0.45, w * (x + 0.03), h * 0.55), fill="white")
    file = BytesIO()
    image.save(file, kind)
    return file.getvalue()


def upload(name: str, data: bytes | None = None, hue: int = 30) -> Any:
    """A file as Playwright hands it to a file input."""
    return {
        "name": name,
        "mimeType": "image/png",
        "buffer": picture(hue=hue) if data is None else data,
    }


@dataclass
class Site:
    """The running front end, and the worker's side of it done by hand."""

    url: str
    database: Database
    settings: Settings

    def submit(self, name: str = "cat.png", *, hue: int = 30, **options: Any) -> str:
        """Hand in an image as a program does; the job's id."""
        answer = requests.post(
            f"{self.url}/v1/jobs",
            files={"image": (name, picture(hue=hue))},
            data=options,
            timeout=30,
        )
        assert answer.status_code in (200, 202), answer.text
        return str(answer.json()["id"])

    def register(self, name: str) -> None:
        self.database.transact(lambda connection: models.register(connection, name))

    def install(self, name: str, *, version: str = "0123456789ab") -> int:
        spec = ModelSpec("VGG16", "weights.h5", 224, 224, "vgg16", "00" * 32, 1000)
        labels = [(class_id, label) for class_id, label, _ in TABBY]
        return self.database.transact(
            lambda connection: models.install(connection, name, version, spec, labels)
        )

    def download(self, name: str, done: int, total: int | None) -> None:
        """Say that a download of the model is so far."""
        token = uuid4()

        def work(connection: Any) -> None:
            models.register(connection, name)
            models.begin_download(connection, name, token, 600)
            models.renew_download(connection, token, done, total, 600)

        self.database.transact(work)

    def fail_download(self, name: str, error: str) -> None:
        token = uuid4()

        def work(connection: Any) -> None:
            models.register(connection, name)
            models.begin_download(connection, name, token, 600)
            models.end_download(connection, token, error)

        self.database.transact(work)

    def start_worker(self, *versions: int, trouble: str | None = None) -> None:
        row = {
            "id": uuid4(),
            "slot": f"test:{uuid4()}",
            "host": "test",
            "pid": 1,
            "device": "cpu",
            "versions": list(versions),
            "trouble": trouble,
        }
        self.database.transact(
            lambda connection: connection.execute(
                insert(workers).values(**row, started_at=stamp(), last_seen=stamp())
            )
        )

    def work(
        self,
        version: int,
        result: Predictions | Embedding | Failure | None = TABBY,
        *,
        limit: int = 100,
    ) -> list[UUID]:
        """Claim what waits and record one result for all of it; None: leave it running."""
        claim = claim_batch(
            self.database,
            LaneCursor(),
            version_id=version,
            lane="interactive",
            limit=limit,
            claimant=Claimant(uuid4(), lease_seconds=600),
        )
        if claim is None:
            return []
        if result is not None:
            outcomes = [Outcome(job.id, job.image, result) for job in claim.jobs]
            record(
                self.database,
                claim,
                outcomes,
                decode_ms=8.2,
                inference_ms=131.4,
                unreachable_hours=24,
            )
        return [job.id for job in claim.jobs]

    def ingest(
        self,
        version: int,
        *job_ids: str,
        refused: tuple[tuple[str, str, str], ...] = (),
        counts: dict[str, int] | None = None,
        **values: Any,
    ) -> str:
        """An ingestion as its row says; its id.

        Args:
            version: Of its model.
            job_ids: Jobs that become its items, in this order.
            refused: Of further items the name, the code and the reason.
            counts: How many of its jobs have ended, by status.
            values: Other columns of its row.
        """
        ingestion = new_id()
        made: dict[str, Any] = {
            "id": ingestion,
            "owner": "local",
            "status": "queued",
            "source_kind": "archive",
            "source": "holiday.zip",
            "model_version": version,
            "pinned": True,
            "top_k": 5,
            "metadata": {},
            "expanded": len(job_ids) + len(refused),
            "refused": len(refused),
            "turn_at": stamp(),
            "created_at": stamp(),
        }
        ended = dict.fromkeys(("succeeded", "failed", "canceled", "expired"), 0) | (counts or {})

        def work(connection: Any) -> None:
            connection.execute(insert(ingestions).values(**made | values))
            connection.execute(
                insert(ingestion_counts).values(ingestion=ingestion, slot=0, **ended)
            )
            for position, job_id in enumerate(job_ids):
                connection.execute(
                    update(jobs)
                    .where(jobs.c.id == UUID(job_id))
                    .values(ingestion=ingestion, position=position, lane="bulk")
                )
                connection.execute(
                    insert(items).values(
                        ingestion=ingestion, position=position, name="", job=UUID(job_id)
                    )
                )
            for position, (name, code, detail) in enumerate(refused, len(job_ids)):
                connection.execute(
                    insert(items).values(
                        ingestion=ingestion,
                        position=position,
                        name=name,
                        error_code=code,
                        error_detail=detail,
                        finished_at=stamp(),
                    )
                )

        self.database.transact(work)
        return str(ingestion)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    port = free_port()
    settings = Settings(
        data_dir=tmp_path / "data",
        bind=f"127.0.0.1:{port}",
        redis_url="redis://127.0.0.1:1/0",
        max_images_per_form=4,
        max_image_bytes=2 * 10**6,
    )
    database = Database(settings.database)
    upgrade(database)
    open_storage(settings).begin(is_new=True)
    server = make_server("127.0.0.1", port, create_app(settings), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Site(f"http://127.0.0.1:{port}", database, settings)
    server.shutdown()
    thread.join()
    server.server_close()
    database.close()


class Visitor:
    """Opens browser contexts, and holds every page to an empty console."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        self.complaints: list[str] = []

    def open(self, **options: Any) -> Page:
        options.setdefault("viewport", {"width": 1280, "height": 900})
        context = self._browser.new_context(locale="en-GB", **options)
        context.set_default_timeout(10_000)
        self._contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self._hear(page, message))
        return page

    def _hear(self, page: Page, message: ConsoleMessage) -> None:
        # A page that is a refusal (404, 422, 503) says so in the console: that is its status.
        is_page = message.location.get("url") == page.url
        if message.type in ("error", "warning") and not (
            is_page and message.text.startswith("Failed to load resource")
        ):
            self.complaints.append(f"{message.text} at {message.location}")

    def close(self) -> None:
        for context in self._contexts:
            context.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open a page; a script error, a CSP violation or a missing file fails the test."""
    visitor = Visitor(browser)
    yield visitor.open
    visitor.close()
    assert visitor.complaints == []

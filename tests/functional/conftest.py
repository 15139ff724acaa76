"""The API as a client sees it: the app on an empty database, two models, and a stand-in worker."""

import base64
import io
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from shared import models
from shared.bell import Bell
from shared.database import Database, new_id
from shared.errors import Unavailable
from shared.jobs import recording
from shared.jobs.claiming import Claim, Claimant, LaneCursor, claim_batch
from shared.jobs.recording import Failure, Outcome, Predictions
from shared.jobs.recovery import Recovery
from shared.migrations import upgrade
from shared.models import ModelSpec
from shared.settings import Settings
from shared.storage.opening import open_storage
from tests.services import PostgresServer, S3Server
from web.app import create_app
from web.services import EXTENSION, Services

VERSION = "0123456789ab"
LABELS = tuple((str(digit), str(digit)) for digit in range(10))
SPEC = ModelSpec(
    architecture="directory",
    weights="model.keras",
    height=32,
    width=24,
    preprocessing="scale",
    sha256="0" * 64,
    size_bytes=1000,
)
MAX_IMAGE_BYTES = 100_000  # small enough that no test client needs a temporary file


def picture(
    format_: str = "PNG", *, mode: str = "RGB", size: tuple[int, int] = (8, 8), colour: int = 7
) -> bytes:
    """A small image of one grey; another colour makes another image."""
    plain = Image.new("L", size, colour).convert(mode)
    file = io.BytesIO()
    plain.save(file, format_)
    return file.getvalue()


def data_url(data: bytes, media_type: str = "image/png") -> str:
    """The image as the JSON form takes it."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


class SilentBell(Bell):
    """Notes the bells, and sends none."""

    def __init__(self) -> None:
        self.rung: list[tuple[str, str]] = []

    def ring(self, model: str, lane: str) -> None:
        self.rung.append((model, lane))

    def ring_expander(self) -> None:
        self.rung.append(("ingest", "expand"))


@dataclass
class API:
    """The app and its test client, with the few calls that most tests make."""

    app: Flask
    client: FlaskClient
    bell: SilentBell

    @property
    def services(self) -> Services:
        found: Services = self.app.extensions[EXTENSION]
        return found

    @property
    def database(self) -> Database:
        return self.services.database

    def submit(
        self,
        data: bytes | None = None,
        *,
        headers: dict[str, str] | None = None,
        filename: str = "seven.png",
        client: FlaskClient | None = None,
        **options: Any,
    ) -> TestResponse:
        """Send one image as a form."""
        file = (io.BytesIO(picture() if data is None else data), filename)
        return (client or self.client).post(
            "/v1/jobs", data={"image": file, "model": "digits", **options}, headers=headers
        )

    def hand_in(
        self,
        data: bytes = b"PK\x03\x04",
        *,
        headers: dict[str, str] | None = None,
        filename: str = "a.zip",
        client: FlaskClient | None = None,
        **options: Any,
    ) -> TestResponse:
        """Send an archive, or a list, as a form; nothing of it is looked at but its beginning."""
        form = {"archive": (io.BytesIO(data), filename), "model": "digits", **options}
        return (client or self.client).post("/v1/ingestions", data=form, headers=headers)

    def job(self, **options: Any) -> dict[str, Any]:
        """Send one image, and have the job."""
        response = self.submit(**options)
        assert response.status_code in (200, 202), response.text
        body: dict[str, Any] = response.json
        return body

    def show(self, job_id: str) -> dict[str, Any]:
        response = self.client.get(f"/v1/jobs/{job_id}")
        assert response.status_code == 200, response.text
        body: dict[str, Any] = response.json
        return body

    def claim(self, lane: str = "interactive", *, lease_seconds: float = 60) -> Claim | None:
        """Take what waits for `digits`, as a worker does."""
        with self.database.read() as connection:
            version_id = models.version_id(connection, "digits", VERSION)
        assert version_id is not None
        return claim_batch(
            self.database,
            LaneCursor(),
            version_id=version_id,
            lane=lane,
            limit=100,
            claimant=Claimant(new_id(), lease_seconds),
        )

    def work(
        self,
        result: Predictions | Failure | None = None,
        *,
        lane: str = "interactive",
    ) -> list[UUID]:
        """Do what a worker does: claim what waits, and record the same result for each."""
        claim = self.claim(lane)
        if claim is None:
            return []
        recording.record(
            self.database,
            claim,
            [Outcome(job.id, job.image, result or PREDICTIONS) for job in claim.jobs],
            decode_ms=1.5,
            inference_ms=2.5,
            unreachable_hours=24,
        )
        return [job.id for job in claim.jobs]

    def recover(self) -> None:
        """Do what every worker does from time to time: mend what was left."""
        Recovery(self.database, self.services.settings).step()


PREDICTIONS: Predictions = [
    ("7", "7", 0.9),
    ("1", "1", 0.05),
    ("2", "2", 0.03),
    ("3", "3", 0.01),
    ("4", "4", 0.005),
    ("5", "5", 0.003),
    ("6", "6", 0.002),
]


def make_settings(directory: Path, **values: Any) -> Settings:
    """Settings of a test, whatever the environment says."""
    return Settings(
        _env_file=None,
        **{
            "data_dir": directory,
            "max_image_bytes": MAX_IMAGE_BYTES,
            "max_image_pixels": 1_000_000,
            "web_threads": 8,
        }
        | values,
    )


def install_models(database: Database) -> None:
    """`digits` is installed; `vgg16` is known, and not."""

    def install(connection: Any) -> None:
        models.register(connection, "vgg16")
        models.install(connection, "digits", VERSION, SPEC, LABELS)

    database.transact(install)


def _prepare(url: str) -> str:
    database = Database(url)
    upgrade(database)
    install_models(database)
    database.close()
    return url


@pytest.fixture(scope="session")
def _templates() -> dict[str, str]:
    """Databases with the schema and the models, to be copied: migrating takes longer."""
    return {}


@pytest.fixture
def prepared(
    stack_name: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    _templates: dict[str, str],
) -> Iterator[dict[str, Any]]:
    """Settings that lead to a database with the schema and the models, and an empty storage."""
    if stack_name == "sqlite+local":
        if stack_name not in _templates:
            path = tmp_path_factory.mktemp("prepared") / "classifier.db"
            _templates[stack_name] = _prepare(f"sqlite:///{path}")
        copy = tmp_path / "classifier.db"
        shutil.copy(_templates[stack_name].removeprefix("sqlite:///"), copy)
        yield {"database_url": f"sqlite:///{copy}"}
        return
    postgres: PostgresServer = request.getfixturevalue("postgres_server")
    s3: S3Server = request.getfixturevalue("s3_server")
    if stack_name not in _templates:
        _templates[stack_name] = _prepare(postgres.create_database())
    url = postgres.create_database(template=_templates[stack_name])
    yield {"database_url": url, "storage_url": s3.url(), **s3.settings}
    postgres.drop_database(url)


@pytest.fixture
def make_api(tmp_path: Path) -> Iterator[Callable[..., API]]:
    """Make the app with these settings."""
    made: list[API] = []

    def make(**values: Any) -> API:
        settings = make_settings(tmp_path, **values)
        with suppress(Unavailable):  # what is away is what the test is about
            open_storage(settings).begin(is_new=True)
        app = create_app(settings)
        bell = SilentBell()
        app.extensions[EXTENSION] = replace(app.extensions[EXTENSION], bell=bell)
        api = API(app, app.test_client(), bell)
        made.append(api)
        return api

    yield make
    for api in made:
        api.database.close()


@pytest.fixture
def api(make_api: Callable[..., API], prepared: dict[str, Any]) -> API:
    """The app: the test runs once on each stack."""
    return make_api(**prepared)


@pytest.fixture
def away(prepared: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The same settings, of a storage that takes nothing."""
    if "storage_url" in prepared:
        return prepared | {"storage_url": "s3://nobody"}
    (tmp_path / "in the way").write_text("a file in its place")
    return prepared | {"storage_url": (tmp_path / "in the way").as_uri()}

"""A migrated database of each kind, copied for every test, with one model installed."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import models
from shared.database import Database
from shared.migrations import upgrade
from tests.integration.helpers import LABELS, MODEL, SPEC, VERSION, Stage


def _migrate(url: str) -> str:
    database = Database(url)
    upgrade(database)
    database.close()
    return url


@pytest.fixture(scope="session")
def _templates() -> dict[str, str]:
    """URLs of the databases that were migrated once, to be copied."""
    return {}


@pytest.fixture(params=["sqlite", "postgresql"])
def migrated_url(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    _templates: dict[str, str],
) -> Iterator[str]:
    """The URL of a database at the newest revision, without rows."""
    if request.param == "sqlite":
        if "sqlite" not in _templates:
            path = tmp_path_factory.mktemp("template") / "classifier.db"
            _templates["sqlite"] = _migrate(f"sqlite:///{path}")
        copy = tmp_path / "classifier.db"
        shutil.copy(_templates["sqlite"].removeprefix("sqlite:///"), copy)
        yield f"sqlite:///{copy}"
        return
    server = request.getfixturevalue("postgres_server")
    if "postgresql" not in _templates:
        _templates["postgresql"] = _migrate(server.create_database())
    url = server.create_database(template=_templates["postgresql"])
    yield url
    server.drop_database(url)


@pytest.fixture
def database(migrated_url: str) -> Iterator[Database]:
    """A database at the newest revision, without rows."""
    opened = Database(migrated_url)
    yield opened
    opened.close()


@pytest.fixture
def stage(database: Database) -> Stage:
    """A service with one model installed and no job."""
    version_id = database.transact(lambda c: models.install(c, MODEL, VERSION, SPEC, LABELS))
    return Stage(database, version_id)

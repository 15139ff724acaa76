"""Fixtures for every test: the real services of `tests/services.py`, started when first wanted."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

from tests.services import (
    BrokerServer,
    PostgresServer,
    S3Server,
    ServiceMissing,
    browser_options,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Service = TypeVar("Service")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-services",
        action="store_true",
        default=os.environ.get("CI") == "true",
        help="a service that is missing fails the tests that need it (else they are skipped)",
    )


def _have(make: Callable[[], Service], config: pytest.Config) -> Service:
    try:
        return make()
    except ServiceMissing as missing:
        if config.getoption("--require-services"):
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def _broker_server(pytestconfig: pytest.Config) -> Iterator[BrokerServer]:
    server = _have(BrokerServer, pytestconfig)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def redis_server(_broker_server: BrokerServer) -> BrokerServer:
    """A broker that is up and empty. A test may stop, freeze or kill it."""
    if _broker_server.running:
        _broker_server.thaw()
    _broker_server.start()
    _broker_server.wipe()
    return _broker_server


@pytest.fixture(scope="session")
def _postgres_server(pytestconfig: pytest.Config) -> Iterator[PostgresServer]:
    server = _have(PostgresServer, pytestconfig)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def postgres_server(_postgres_server: PostgresServer) -> PostgresServer:
    """A PostgreSQL that is up. A test may stop, freeze or kill it."""
    if _postgres_server.running:
        _postgres_server.thaw()
    _postgres_server.start()
    return _postgres_server


@pytest.fixture(scope="session")
def _s3_server(pytestconfig: pytest.Config) -> Iterator[S3Server]:
    server = _have(S3Server, pytestconfig)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def s3_server(_s3_server: S3Server) -> S3Server:
    """An S3 that is up and takes any keys. A test may freeze or kill it."""
    if _s3_server.running:
        _s3_server.thaw()
    _s3_server.start()
    return _s3_server


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a database file that isn't there yet."""
    return f"sqlite:///{tmp_path / 'classifier.db'}"


@pytest.fixture
def postgresql_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of an empty database, dropped after the test."""
    url = postgres_server.create_database()
    yield url
    # The test may have taken the server away.
    if postgres_server.running:
        postgres_server.thaw()
    postgres_server.start()
    postgres_server.drop_database(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty database: the test runs once on SQLite and once on PostgreSQL."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(scope="session")
def browser(pytestconfig: pytest.Config) -> "Iterator[Browser]":
    """Chromium, one for all tests; `browser.new_context(viewport=…)` gives a phone or a desktop."""
    from playwright.sync_api import sync_playwright

    options = _have(browser_options, pytestconfig)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(**options)
        yield chromium
        chromium.close()


@pytest.fixture
def browser_page(browser: "Browser") -> "Iterator[Page]":
    """A page in a context of its own, at desktop size. An error in its scripts fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-GB")
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert not errors

"""Fixtures for every test: the real services of `tests/services.py`, started when first wanted."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

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
Server = TypeVar("Server", BrokerServer, PostgresServer, S3Server)

# What a service stands on: a database and a storage, as they go together.
STACKS = ("sqlite+local", "postgresql+s3")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-services",
        action="store_true",
        default=os.environ.get("CI") == "true",
        help="a service that is missing fails the tests that need it (else they are skipped)",
    )
    parser.addoption(
        "--stack", choices=STACKS, help="run all that could run on either stack on this one"
    )
    parser.addoption("--images", default="240", help="images of an ingestion in the chaos tests")
    parser.addoption("--kills", default="25", help="how often its processes are killed")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "stack(name): dear, so on this stack only, unless --stack")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of a stack runs on each, unless it is dear or itself says on which it can."""
    if "stack_name" not in metafunc.fixturenames or _says_itself(metafunc):
        return
    asked = metafunc.config.getoption("--stack")
    mark = metafunc.definition.get_closest_marker("stack")
    names = (asked,) if asked else mark.args if mark else STACKS
    metafunc.parametrize("stack_name", names, indirect=True)


def _says_itself(metafunc: pytest.Metafunc) -> bool:
    return any(
        mark.args[0] == "stack_name" for mark in metafunc.definition.iter_markers("parametrize")
    )


def _have(make: Callable[[], Service], config: pytest.Config) -> Service:
    try:
        return make()
    except ServiceMissing as missing:
        if config.getoption("--require-services"):
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def have(pytestconfig: pytest.Config) -> Callable[[Callable[[], Any]], Any]:
    """Make a service by calling what makes it; where it is missing, skip, or fail if required."""
    return partial(_have, config=pytestconfig)


def _up(server: Server) -> Server:
    """The server, whatever a test has done to it."""
    if server.running:
        server.thaw()
    server.start()
    return server


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
    _up(_broker_server).wipe()
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
    return _up(_postgres_server)


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
    return _up(_s3_server)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a database file that isn't there yet."""
    return f"sqlite:///{tmp_path / 'classifier.db'}"


@pytest.fixture
def postgresql_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of an empty database, dropped after the test."""
    url = postgres_server.create_database()
    yield url
    _up(postgres_server).drop_database(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty database: the test runs once on SQLite and once on PostgreSQL."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(scope="module")
def stack_name(request: pytest.FixtureRequest) -> str:
    """One of `STACKS`: the test runs once on each."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def make_stack(request: pytest.FixtureRequest) -> Callable[[str, Path], dict[str, Any]]:
    """Make the stack of a name, all empty, with its files in a directory; settings lead there."""

    def make(name: str, directory: Path) -> dict[str, Any]:
        if name == "sqlite+local":
            return {"database_url": f"sqlite:///{directory / 'classifier.db'}"}
        postgres = _up(request.getfixturevalue("_postgres_server"))
        s3 = _up(request.getfixturevalue("_s3_server"))
        url = postgres.create_database()
        return {"database_url": url, "storage_url": s3.url(), **s3.settings}

    return make


@pytest.fixture
def stack(
    stack_name: str, make_stack: Callable[[str, Path], dict[str, Any]], tmp_path: Path
) -> dict[str, Any]:
    """Settings that lead to an empty database and an empty storage."""
    return make_stack(stack_name, tmp_path)


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

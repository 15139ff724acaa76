"""The services that all other tests stand on: each is real, isolated, and may be taken away."""

from typing import TYPE_CHECKING

import psutil
import pytest
import redis
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from tests.services import BrokerServer, PostgresServer

if TYPE_CHECKING:
    from playwright.sync_api import Page


def test_broker_keeps_values_until_it_is_wiped(redis_server: BrokerServer) -> None:
    with redis_server.client() as client:
        client.set("word", "bell")
        assert client.get("word") == b"bell"
        redis_server.wipe()
        assert client.get("word") is None


def test_broker_comes_back_empty_at_the_same_address_after_a_kill(
    redis_server: BrokerServer,
) -> None:
    url, pid = redis_server.url, redis_server.pid
    with redis_server.client() as client:
        client.set("word", "bell")
        redis_server.kill()
        with pytest.raises(redis.ConnectionError):
            client.get("word")
        redis_server.start()
        assert client.get("word") is None
    assert redis_server.url == url
    assert redis_server.pid != pid


def test_frozen_broker_accepts_and_never_answers(redis_server: BrokerServer) -> None:
    redis_server.freeze()
    with (
        redis.Redis.from_url(redis_server.url, socket_timeout=0.2) as client,
        pytest.raises(redis.TimeoutError),
    ):
        client.ping()
    redis_server.thaw()
    with redis_server.client() as client:
        assert client.ping()


@pytest.mark.parametrize("form", ["url", "socket_url"])
def test_celery_publishes_over_loopback_and_over_the_socket(
    redis_server: BrokerServer, form: str
) -> None:
    from celery import Celery

    app = Celery(broker=getattr(redis_server, form), set_as_current=False)
    app.send_task("ring", queue="bells", ignore_result=True)
    app.close()
    with redis_server.client() as client:
        assert client.llen("bells") == 1


def test_databases_answer(database_url: str) -> None:
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE words (word TEXT)"))
        connection.execute(text("INSERT INTO words VALUES ('bell')"))
    with engine.connect() as connection:
        assert connection.scalars(text("SELECT word FROM words")).all() == ["bell"]
    engine.dispose()


def test_postgresql_copies_a_database(postgres_server: PostgresServer, postgresql_url: str) -> None:
    engine = create_engine(postgresql_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE words AS SELECT 'bell' AS word"))
    engine.dispose()
    copy = postgres_server.create_database(template=postgresql_url)
    engine = create_engine(copy)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT word FROM words")) == "bell"
    engine.dispose()
    postgres_server.drop_database(copy)


def test_postgresql_comes_back_with_its_rows_after_a_kill(
    postgres_server: PostgresServer, postgresql_url: str
) -> None:
    engine = create_engine(postgresql_url, pool_pre_ping=True)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE words AS SELECT 'bell' AS word"))
    postgres_server.kill()
    with pytest.raises(OperationalError), engine.connect():
        pass
    postgres_server.start()
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT word FROM words")) == "bell"
    engine.dispose()


def test_postgresql_never_runs_as_root(postgres_server: PostgresServer) -> None:
    assert psutil.Process(postgres_server.pid).uids().effective != 0


@pytest.mark.browser
def test_chromium_runs_scripts_and_renders(browser_page: "Page") -> None:
    browser_page.set_content(
        "<h1>waiting</h1><script>document.querySelector('h1').textContent = 'tabby'</script>"
    )
    assert browser_page.locator("h1").inner_text() == "tabby"
    assert browser_page.screenshot().startswith(b"\x89PNG")

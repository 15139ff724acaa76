"""Connections to PostgreSQL that do not live as long as what is done on them."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, text

from shared.database import Database
from shared.errors import Unavailable
from tests.services import wait_until


@pytest.fixture
def database(postgresql_url: str) -> Iterator[Database]:
    opened = Database(postgresql_url)
    yield opened
    opened.close()


def test_a_transaction_that_the_server_gave_up_is_the_database_away(database: Database) -> None:
    """As after a long freeze of the process in the middle of it."""

    def is_gone(session: int) -> bool:
        with database.read() as connection:
            query = "SELECT count(*) FROM pg_stat_activity WHERE pid = :pid"
            return connection.execute(text(query), {"pid": session}).scalar_one() == 0

    def sleep_too_long(connection: Connection) -> None:
        session = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 1"))
        wait_until(lambda: is_gone(session), seconds=60, what="the end of the session")
        connection.execute(text("SELECT 1"))

    with pytest.raises(Unavailable):
        database.transact(sleep_too_long)
    assert database.transact(lambda connection: connection.execute(text("SELECT 1")).scalar()) == 1

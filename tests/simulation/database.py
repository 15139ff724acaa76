"""The real database, with a point of the stage before each statement and around each commit."""

import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from sqlalchemy import Connection, delete, event
from sqlalchemy.exc import OperationalError

from shared import tables
from shared.database import Database
from shared.errors import Unavailable
from tests.simulation.stage import Stage

T = TypeVar("T")

_CONNECTIONS = 60  # an actor that is set aside in the middle of a look holds one


class StagedDatabase(Database):
    """A database whose statements are points of the stage that is set in `stage`."""

    def __init__(self, url: str, *, timeout_seconds: float | None = 10.0) -> None:
        super().__init__(url, pool_size=_CONNECTIONS, timeout_seconds=timeout_seconds)
        self.stage: Stage | None = None
        self._error = sqlite3.OperationalError if self.is_sqlite else psycopg.OperationalError
        event.listen(self.engine, "before_cursor_execute", self._before_statement)
        if self.is_sqlite:
            event.listen(self.engine, "connect", _no_power_fails_here)
        else:
            event.listen(self.engine, "commit", self._before_commit)

    def empty(self) -> None:
        """Make it as it was when it was new."""
        self.transact(_empty)

    def tell_time(self, seconds: float) -> None:
        """SQLite asks us by itself."""

    def is_blocked(self, pid: int) -> bool:
        """On SQLite nobody goes on within another's transaction."""
        raise NotImplementedError

    def transact(self, work: Callable[[Connection], T]) -> T:
        """As in earnest; it may fail on the way, or after a commit that nobody learns of then."""
        stage = self.stage
        if stage is None or (actor := stage.me()) is None:
            return super().transact(work)
        stage.point("transaction")
        actor.in_transaction = True
        try:
            value = super().transact(work)
        finally:
            actor.in_transaction = False
            stage.changed = True
            stage.transactions += 1
        stage.passing("committed")
        if stage.fails():
            raise Unavailable("simulated, after the commit")
        return value

    def _before_statement(self, *context: Any) -> None:
        stage = self.stage
        if stage is None or (actor := stage.me()) is None:
            return
        statement = str(context[2])
        if statement == "ROLLBACK":
            return
        if not actor.in_transaction:
            stage.point(_brief(statement))
        elif not statement.startswith("BEGIN"):
            stage.statement(_brief(statement))
        if stage.fails():
            raise self._error("simulated")

    def _before_commit(self, _connection: Connection) -> None:
        stage = self.stage
        if stage is not None and (actor := stage.me()) is not None and actor.in_transaction:
            stage.statement("COMMIT")
            if stage.fails():
                raise OperationalError("COMMIT", None, self._error("simulated"))


def _empty(connection: Connection) -> None:
    for table in reversed(tables.metadata.sorted_tables):
        connection.execute(delete(table))


def _no_power_fails_here(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA synchronous = OFF")


def _brief(statement: str) -> str:
    return " ".join(statement.split())[:60]

"""PostgreSQL for the simulation: its clock is ours, and who waits for a lock is set aside."""

import select
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.abc import PQGen
from psycopg.waiting import Ready
from sqlalchemy import event

from shared import migrations, tables
from shared.database import Database
from tests.simulation.clock import EPOCH
from tests.simulation.database import StagedDatabase

_ANSWERS_MS = 4  # longer takes a statement that waits for a lock, or that a busy machine holds up
_DEADLOCK_MS = 5

# Before `pg_catalog` in the search path, these are what the service's statements call.
_OUR_CLOCK = f"""
CREATE SCHEMA fake;
CREATE SEQUENCE fake.clock MINVALUE 0 START 0;
CREATE FUNCTION fake.clock_timestamp() RETURNS timestamptz LANGUAGE sql STABLE AS
  $$ SELECT '{EPOCH.isoformat()}'::timestamptz + make_interval(secs => last_value / 1e6)
     FROM fake.clock $$;
CREATE FUNCTION fake.statement_timestamp() RETURNS timestamptz LANGUAGE sql STABLE AS
  $$ SELECT fake.clock_timestamp() $$;
"""
_SESSION = f"""
SET search_path = fake, public, pg_catalog;
SET deadlock_timeout = {_DEADLOCK_MS};
SET idle_in_transaction_session_timeout = 0;
SET lock_timeout = 0
"""


class PostgresqlDatabase(StagedDatabase):
    """A database of which several transactions may be under way."""

    def __init__(self, url: str, monitor: "psycopg.Connection[Any]") -> None:
        super().__init__(url, timeout_seconds=None)  # else it has a class of connections of its own
        self._monitor = monitor
        self._told: float | None = None
        connection_class = _staged(self)
        tables_ = ", ".join(tables.metadata.tables)
        self._empty = f"TRUNCATE {tables_} RESTART IDENTITY"

        def connect(_dialect: Any, _record: Any, args: Any, options: Any) -> Any:
            connection = connection_class.connect(*args, **options)
            connection.execute(_SESSION)
            connection.commit()
            return connection

        event.listen(self.engine, "do_connect", connect)

    def empty(self) -> None:
        """Make it as it was when it was new."""
        self._monitor.execute(self._empty)
        self._told = None

    def tell_time(self, seconds: float) -> None:
        """Set the server's clock."""
        if seconds != self._told:
            self._told = seconds
            self._monitor.execute(f"SELECT setval('fake.clock', {int(seconds * 1_000_000)})")

    def is_blocked(self, pid: int) -> bool:
        """Whether a session waits for another one."""
        row = self._monitor.execute(f"SELECT cardinality(pg_blocking_pids({pid})) > 0").fetchone()
        return bool(row and row[0])

    def terminate(self, pid: int) -> None:
        """End a session."""
        self._monitor.execute(f"SELECT pg_terminate_backend({pid})")


def _staged(database: PostgresqlDatabase) -> "type[psycopg.Connection[Any]]":
    """A connection on which whoever waits for a lock leaves the stage to the others."""

    class Staged(psycopg.Connection[Any]):
        def wait(self, gen: PQGen[Any], interval: float = 0.1, timeout: float | None = None) -> Any:
            stage = database.stage
            actor = None if stage is None else stage.me()
            if stage is None or actor is None:
                return super().wait(gen, interval, timeout)
            pid = self.info.backend_pid
            try:
                state = next(gen)
                while True:
                    ready = _poll(self.pgconn.socket, state, _ANSWERS_MS)
                    # A second look, when the server has looked whether it is a deadlock.
                    if not ready and database.is_blocked(pid):
                        ready = _poll(self.pgconn.socket, state, 2 * _DEADLOCK_MS)
                    if ready:
                        state = gen.send(Ready(ready))
                    elif database.is_blocked(pid):
                        stage.set_aside(pid)
                        if actor.killed:
                            database.terminate(pid)
            except StopIteration as end:
                return end.value

    return Staged


def _poll(descriptor: int, state: int, milliseconds: int) -> int:
    """What of reading (1) and writing (2) is possible now."""
    poll = select.poll()
    poll.register(
        descriptor, (select.POLLIN if state & 1 else 0) | (select.POLLOUT if state & 2 else 0)
    )
    found = poll.poll(milliseconds)
    if not found:
        return 0
    events = found[0][1]
    ended = events & (select.POLLHUP | select.POLLERR)
    return (1 if state & 1 and (events & select.POLLIN or ended) else 0) | (
        2 if state & 2 and (events & select.POLLOUT or ended) else 0
    )


@contextmanager
def postgresql_database(url: str) -> "Iterator[tuple[PostgresqlDatabase, psycopg.Connection[Any]]]":
    """The empty database at `url`, made ready; with a connection for the checker's eye."""
    plain = Database(url)
    migrations.upgrade(plain)
    plain.close()
    with (
        psycopg.connect(url, autocommit=True) as monitor,
        psycopg.connect(url, autocommit=True) as eye,
    ):
        monitor.execute(_OUR_CLOCK)
        for table in tables.metadata.tables:  # what a plan is must not depend on the seeds before
            monitor.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
        database = PostgresqlDatabase(url, monitor)
        try:
            yield database, eye
        finally:
            database.close()

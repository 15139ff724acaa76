"""Connections, transactions, the clock and ids, on PostgreSQL and SQLite alike."""

import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    Float,
    Integer,
    create_engine,
    event,
    literal_column,
    make_url,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from uuid_utils.compat import uuid7

from shared.errors import ConfigurationError, Unavailable
from shared.outage import Outage
from shared.postgresql import Silent, postgresql_engine
from shared.tables import UTCDateTime
from shared.write_lock import write_lock

_SQLITE_TIME = "%Y-%m-%d %H:%M:%S.%f"
_SQLITE_CACHE_KIB = 256  # pages of a connection; any other process's write empties it anyway
_SQLITE_STATEMENTS = 16  # that a connection keeps prepared; one of many rows takes much memory
_UNBOUNDED_LOCK_SECONDS = 10.0  # where statements may take as long as they like
_REPEATED_STATES = frozenset({"40P01", "40001"})  # deadlock, serialization failure
_REPEATS = 5

T = TypeVar("T")


def utc_now() -> datetime:
    """The host's clock: rules on SQLite, and wherever no database is asked."""
    return datetime.now(UTC)


def new_id() -> UUID:
    """A UUIDv7: ids sort by their time of birth, so inserts stay at the end of an index."""
    return uuid7()


class moment(FunctionElement[datetime]):
    """Now plus some seconds, for comparisons: constant within a statement, so indexes serve.

    The seconds are written into the statement: were they bound, PostgreSQL's generic plan would
    expect a third of the table before or after any moment, and scan it.
    """

    type = UTCDateTime()
    inherit_cache = True
    name = "moment"

    def __init__(self, offset_seconds: float = 0) -> None:
        super().__init__(literal_column(repr(float(offset_seconds)), Float))


class stamp(FunctionElement[datetime]):
    """Now plus some seconds, for values that are stored: the wall clock at that instant."""

    type = UTCDateTime()
    inherit_cache = True
    name = "stamp"

    def __init__(self, offset_seconds: float = 0) -> None:
        super().__init__(offset_seconds)


class milliseconds_between(FunctionElement[int]):
    """Whole milliseconds from one time to a later one."""

    type = BigInteger()
    inherit_cache = True
    name = "milliseconds_between"

    def __init__(self, earlier: ColumnElement[Any], later: ColumnElement[Any]) -> None:
        super().__init__(earlier, later)


def at_most(rows: int) -> ColumnElement[int]:
    """A limit written into the statement.

    Were it bound, PostgreSQL's generic plan (psycopg prepares what it sends often) would expect a
    tenth of the table, and join with a scan of it.
    """
    return literal_column(str(int(rows)), Integer)


def _offset(element: FunctionElement[datetime], compiler: SQLCompiler, **kw: Any) -> str:
    return compiler.process(element.clauses, **kw)


@compiles(moment, "postgresql")
def _moment_postgresql(element: moment, compiler: SQLCompiler, **kw: Any) -> str:
    seconds = _offset(element, compiler, **kw)
    return f"(statement_timestamp() + make_interval(secs => {seconds}))"


@compiles(stamp, "postgresql")
def _stamp_postgresql(element: stamp, compiler: SQLCompiler, **kw: Any) -> str:
    return f"(clock_timestamp() + make_interval(secs => {_offset(element, compiler, **kw)}))"


@compiles(moment, "sqlite")
@compiles(stamp, "sqlite")
def _moment_sqlite(element: moment | stamp, compiler: SQLCompiler, **kw: Any) -> str:
    return f"classifier_now({_offset(element, compiler, **kw)})"


def _earlier_and_later(
    element: milliseconds_between, compiler: SQLCompiler, **kw: Any
) -> tuple[str, str]:
    earlier, later = (compiler.process(clause, **kw) for clause in element.clauses)
    return earlier, later


@compiles(milliseconds_between, "postgresql")
def _between_postgresql(element: milliseconds_between, compiler: SQLCompiler, **kw: Any) -> str:
    earlier, later = _earlier_and_later(element, compiler, **kw)
    return f"CAST(extract(epoch FROM {later} - {earlier}) * 1000 AS bigint)"


@compiles(milliseconds_between, "sqlite")
def _between_sqlite(element: milliseconds_between, compiler: SQLCompiler, **kw: Any) -> str:
    earlier, later = _earlier_and_later(element, compiler, **kw)
    days = f"julianday({later}) - julianday({earlier})"
    return f"CAST(round(({days}) * {24 * 3600 * 1000}) AS INTEGER)"


class Database:
    """The one way to the database: `read` for looking, `transact` for every change.

    Args:
        url: As SQLAlchemy takes it.
        pool_size: Most connections at a time.
        timeout_seconds: Longest wait for PostgreSQL to answer a statement; None: without end, as a
            migration may need. Half of it is the longest wait for a lock, on SQLite too.
    """

    def __init__(
        self, url: str, *, pool_size: int = 10, timeout_seconds: float | None = 10
    ) -> None:
        try:
            parsed = make_url(url)
        except ArgumentError as error:
            raise ConfigurationError("DATABASE_URL is not an SQLAlchemy URL") from error
        lock_seconds = _UNBOUNDED_LOCK_SECONDS if timeout_seconds is None else timeout_seconds / 2
        self._lock_seconds = lock_seconds
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self._path = Path(str(parsed.database)).absolute()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._engine = _sqlite_engine(self._path, pool_size, lock_seconds)
            self._turn = threading.Lock()
        else:
            self._engine = postgresql_engine(
                parsed,
                pool_size,
                lock_seconds=lock_seconds,
                timeout_seconds=timeout_seconds,
            )
        self._outage = Outage()

    @property
    def engine(self) -> Engine:
        """The engine itself, for migrations and benchmarks."""
        return self._engine

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection in autocommit: each statement sees what is committed at that moment.

        Raises:
            Unavailable: The database is away.
        """
        with self._translated(), self._connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    def transact(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one write transaction, again from its start after a deadlock.

        Args:
            work: Does only database work; it may be called more than once.

        Raises:
            Unavailable: The database is away, or its write lock was not had in time.
        """
        for repeat in range(_REPEATS):
            try:
                with self._translated():
                    return self._once(work)
            except DBAPIError as error:
                state = getattr(error.orig, "sqlstate", None)
                if state not in _REPEATED_STATES or repeat == _REPEATS - 1:
                    raise
                time.sleep(random.uniform(0, 0.02 * 2**repeat))  # so that two do not meet again
        raise AssertionError("unreachable")

    def _once(self, work: Callable[[Connection], T]) -> T:
        if not self.is_sqlite:
            with self._connect() as connection, connection.begin():
                return work(connection)
        with self._connect() as connection, write_lock(self._path, self._turn, self._lock_seconds):
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                value = work(connection)
            except BaseException:
                connection.exec_driver_sql("ROLLBACK")
                raise
            connection.exec_driver_sql("COMMIT")
            return value

    def _connect(self) -> Connection:
        """A connection that answers, or answered when it was used last, on SQLite."""
        with self._outage.asking():
            try:
                return self._engine.connect()
            except OperationalError as error:
                self._outage.begins(_away(error))
                raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the many ways a database is away into one exception."""
        try:
            yield
        except DBAPIError as error:
            # A connection that the server has closed, for whatever reason, is closed.
            is_away = isinstance(error, OperationalError | InterfaceError)
            if getattr(error.orig, "sqlstate", None) in _REPEATED_STATES or not (
                is_away or error.connection_invalidated
            ):
                raise
            if isinstance(error.orig, Silent):
                self._outage.begins(_away(error))
            raise Unavailable(_away(error)) from error
        except PoolTimeout as error:
            raise Unavailable("the database is busy: no connection is free") from error

    def close(self) -> None:
        """Close every pooled connection."""
        self._engine.dispose()


def _away(error: DBAPIError) -> str:
    return f"the database cannot be used: {error.orig}"


def _sqlite_engine(path: Path, pool_size: int, lock_seconds: float) -> Engine:
    """SQLite in autocommit: a write transaction begins by hand, as BEGIN IMMEDIATE."""
    engine = create_engine(
        f"sqlite:///{path}",
        isolation_level="AUTOCOMMIT",
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=lock_seconds,
        pool_use_lifo=True,  # so that few of them fill their caches
        connect_args={"cached_statements": _SQLITE_STATEMENTS},
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.create_function("classifier_now", 1, _sqlite_now)
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",  # NORMAL may lose the last commits when the power fails
            "foreign_keys = ON",
            f"cache_size = -{_SQLITE_CACHE_KIB}",
            f"busy_timeout = {int(lock_seconds * 1000)}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    return engine


def _sqlite_now(offset_seconds: float) -> str:
    return (utc_now() + timedelta(seconds=offset_seconds)).strftime(_SQLITE_TIME)

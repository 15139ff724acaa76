"""Connections, transactions, the clock and ids, on PostgreSQL and SQLite alike."""

import fcntl
import os
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
from shared.tables import UTCDateTime

_SQLITE_TIME = "%Y-%m-%d %H:%M:%S.%f"
_LOCK_SECONDS = 5.0
_LOCK_POLL_SECONDS = 0.001
_NO_TURN = f"the database is busy: no turn to write in {_LOCK_SECONDS:g} s"
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
    """The one way to the database: `read` for looking, `transact` for every change."""

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        try:
            parsed = make_url(url)
        except ArgumentError as error:
            raise ConfigurationError("DATABASE_URL is not an SQLAlchemy URL") from error
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self._path = Path(str(parsed.database)).absolute()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._engine = _sqlite_engine(self._path, pool_size)
            self._turn = threading.Lock()
        else:
            self._engine = create_engine(
                parsed,
                pool_size=pool_size,
                max_overflow=0,
                pool_timeout=_LOCK_SECONDS,
                # A connection that a restart of the database has cut is noticed before its use.
                pool_pre_ping=True,
                connect_args={
                    "connect_timeout": 3,
                    # Prepared on a short queue, a statement keeps the plan that was right for it
                    # (a scan), and costs 0.3 s once the queue is long.
                    "prepare_threshold": None,
                    # Without these a frozen server or a cut line holds a thread for many minutes.
                    "keepalives_idle": 10,
                    "keepalives_interval": 5,
                    "keepalives_count": 3,
                    "tcp_user_timeout": 20000,
                    "options": "-c statement_timeout=30000 -c lock_timeout=10000"
                    " -c idle_in_transaction_session_timeout=60000",
                },
            )

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
        with _translated(), self._engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    def transact(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one write transaction, again from its start after a deadlock.

        Args:
            work: Does only database work; it may be called more than once.

        Raises:
            Unavailable: The database is away, or its write lock was not had within 5 s.
        """
        for repeat in range(_REPEATS):
            try:
                with _translated():
                    return self._once(work)
            except DBAPIError as error:
                state = getattr(error.orig, "sqlstate", None)
                if state not in _REPEATED_STATES or repeat == _REPEATS - 1:
                    raise
                time.sleep(random.uniform(0, 0.02 * 2**repeat))  # so that two do not meet again
        raise AssertionError("unreachable")

    def _once(self, work: Callable[[Connection], T]) -> T:
        if not self.is_sqlite:
            with self._engine.begin() as connection:
                return work(connection)
        with self._engine.connect() as connection, _write_lock(self._path, self._turn):
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                value = work(connection)
            except BaseException:
                connection.exec_driver_sql("ROLLBACK")
                raise
            connection.exec_driver_sql("COMMIT")
            return value

    def close(self) -> None:
        """Close every pooled connection."""
        self._engine.dispose()


def _sqlite_engine(path: Path, pool_size: int) -> Engine:
    """SQLite in autocommit: a write transaction begins by hand, as BEGIN IMMEDIATE."""
    engine = create_engine(
        f"sqlite:///{path}",
        isolation_level="AUTOCOMMIT",
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=_LOCK_SECONDS,
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.create_function("classifier_now", 1, _sqlite_now)
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",  # NORMAL may lose the last commits when the power fails
            "foreign_keys = ON",
            f"busy_timeout = {int(_LOCK_SECONDS * 1000)}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    return engine


def _sqlite_now(offset_seconds: float) -> str:
    return (utc_now() + timedelta(seconds=offset_seconds)).strftime(_SQLITE_TIME)


@contextmanager
def _write_lock(path: Path, turn: threading.Lock) -> Iterator[None]:
    """One writer at a time, in turn: SQLite's own waiting lets some writers wait for seconds.

    The threads of a process take turns by `turn`, which wakes the next one at once; the processes
    by a lock on a file, which has to be asked again and again. The descriptor is opened for each
    transaction, since two threads on one descriptor do not exclude each other; Python opens it
    close-on-exec.
    """
    give_up = time.monotonic() + _LOCK_SECONDS
    if not turn.acquire(timeout=_LOCK_SECONDS):
        raise Unavailable(_NO_TURN)
    try:
        descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            while not _try_lock(descriptor):
                if time.monotonic() > give_up:
                    raise Unavailable(_NO_TURN)
                time.sleep(_LOCK_POLL_SECONDS)
            yield
        finally:
            os.close(descriptor)
    finally:
        turn.release()


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _translated() -> Iterator[None]:
    """Turn the many ways a database is away into one exception."""
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        if getattr(error.orig, "sqlstate", None) in _REPEATED_STATES:
            raise
        raise Unavailable(f"the database cannot be used: {error.orig}") from error
    except PoolTimeout as error:
        raise Unavailable("the database is busy: no free connection in 5 s") from error

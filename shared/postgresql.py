"""The engine for PostgreSQL, on whose connections nobody waits without end."""

import time
from typing import Any

import psycopg
from psycopg.abc import PQGen
from sqlalchemy import URL, Engine, create_engine, event

_GRACE_SECONDS = 1.0  # the server's own limit comes first, and leaves the connection usable


class Silent(psycopg.OperationalError):
    """The server has said nothing for too long; the connection was closed."""


def postgresql_engine(
    url: URL, pool_size: int, *, lock_seconds: float, timeout_seconds: float | None
) -> Engine:
    """Make it.

    Args:
        url: Of the database.
        pool_size: Most connections at a time.
        lock_seconds: Longest wait for a lock, and for a connection to be free.
        timeout_seconds: Longest wait for the answer to a statement; None: without end.
    """
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=lock_seconds,
        # A connection that a restart of the database has cut is noticed before its use.
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": 3,
            # Prepared on a short queue, a statement keeps the plan that was right for it
            # (a scan), and costs 0.3 s once the queue is long.
            "prepare_threshold": None,
            # Without these a cut line holds a thread for many minutes.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 20000,
            "options": _server_options(lock_seconds, timeout_seconds),
        },
    )
    if timeout_seconds is not None:
        connection_class = _bounded(timeout_seconds)

        @event.listens_for(engine, "do_connect")
        def _connect(_dialect: Any, _record: Any, args: Any, options: Any) -> Any:
            return connection_class.connect(*args, **options)

    return engine


def _bounded(timeout_seconds: float) -> type[psycopg.Connection[Any]]:
    """A connection on which nobody waits longer for an answer, whatever the server does.

    `statement_timeout` needs a server that runs, and TCP's limits one whose kernel does not answer:
    a server that is frozen, or whose disk hangs, is noticed by neither.
    """
    longest = timeout_seconds + _GRACE_SECONDS

    class Bounded(psycopg.Connection[Any]):
        def wait(self, gen: PQGen[Any], interval: float = 0.1, timeout: float | None = None) -> Any:
            if timeout is not None:
                return super().wait(gen, interval, timeout)
            give_up = time.monotonic() + longest
            try:
                return super().wait(gen, interval, longest)
            except psycopg.OperationalError as error:
                if time.monotonic() < give_up:
                    raise
                self.close()  # its answer may still come: nobody may take it for another one's
                raise Silent(f"no answer in {longest:g} s") from error

    return Bounded


def _server_options(lock_seconds: float, timeout_seconds: float | None) -> str:
    """The limits that the server itself keeps, in the form of libpq's `options`."""
    limits = {
        "lock_timeout": int(lock_seconds * 1000),
        # A process that is frozen in the middle of a transaction, or whose host has vanished, holds
        # what it has locked until the server gives it up: a queue's clock, which all claims write.
        "idle_in_transaction_session_timeout": 20_000,
        "tcp_user_timeout": 10_000,
        "tcp_keepalives_idle": 5,
        "tcp_keepalives_interval": 2,
        "tcp_keepalives_count": 3,
    }
    if timeout_seconds is not None:
        limits["statement_timeout"] = int(timeout_seconds * 1000)
    return " ".join(f"-c {name}={value}" for name, value in limits.items())

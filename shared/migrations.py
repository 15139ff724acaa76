"""The schema's revision: bringing a database up to it, also while a service runs on it."""

import time
from collections.abc import Callable
from contextlib import closing
from functools import cache
from itertools import chain, repeat
from pathlib import Path

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError, PendingRollbackError

from shared.database import Database
from shared.errors import Unavailable
from shared.online import LOCK_SECONDS

_SCRIPTS = Path(__file__).parent.parent / "migrations"
_LOCK = 7_231_906_114  # any number that nobody else's advisory lock uses
_TURN_SECONDS = 0.2
# A lock not had in time, a deadlock: what was begun is undone, and begun again.
_AGAIN = frozenset({"55P03", "40P01"})
_PAUSES_SECONDS = (1.0, 2.0, 3.0, *repeat(5.0, 120))  # ten minutes: a backup may hold its locks

log = structlog.get_logger(__name__)


def upgrade(database: Database) -> None:
    """Apply what is missing; safe when several processes start at once, and while others write.

    On SQLite all of it is one transaction. On PostgreSQL each revision commits by itself, and
    nobody waits for it longer than for one of its short locks: see `shared/online.py`.

    Raises:
        Unavailable: The database is away, or somebody kept a lock for ten minutes. What was done
            stays, and the next call goes on there.
    """
    if database.is_sqlite:
        database.transact(_apply)
        return
    # It may take as long as it takes, unlike all that serves somebody.
    url = database.engine.url.render_as_string(hide_password=False)
    with closing(Database(url, timeout_seconds=None)) as patient, patient.read() as connection:
        connection.exec_driver_sql("SET idle_in_transaction_session_timeout = 0")
        _take_turn(connection)
        connection.commit()  # of what was just read: each revision begins its own transaction
        connection.execution_options(isolation_level="READ COMMITTED")
        _patiently(connection, _apply)


def is_new_enough(database: Database) -> bool:
    """Whether this code can work on the database's schema: its own, or a later release's.

    A migration leaves the previous release able to work (see CONTRIBUTING.md), so a revision that
    this code does not know is no reason to stop: the next release is being rolled out.
    """
    head, known = _revisions()
    with database.read() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    return found is not None and (found == head or found not in known)


def _take_turn(connection: Connection) -> None:
    """Be the only one that upgrades, for as long as this connection lives.

    Asked again and again: whoever waits inside a statement is itself waited for by
    CREATE INDEX CONCURRENTLY.
    """
    said = False
    while not connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({_LOCK})").scalar_one():
        if not said:
            log.info("waits_for_upgrade", reason="another process upgrades the database")
            said = True
        time.sleep(_TURN_SECONDS)


def _patiently(connection: Connection, work: Callable[[Connection], None]) -> None:
    """Do it with short waits for locks: behind one that waits, everybody else would wait too."""
    for pause in chain(_PAUSES_SECONDS, (None,)):
        connection.exec_driver_sql(f"SET lock_timeout = '{LOCK_SECONDS}s'")
        connection.commit()
        try:
            work(connection)
        except PendingRollbackError as error:  # all that Alembic leaves of it between two steps
            raise Unavailable("the connection to the database was lost") from error
        except OperationalError as error:
            connection.rollback()
            if getattr(error.orig, "sqlstate", None) not in _AGAIN:
                raise
            if pause is None:
                raise Unavailable(f"a table was in use for ten minutes: {error.orig}") from error
            log.info("waits_for_lock", reason=str(error.orig))
            time.sleep(pause)
        else:
            return


def _apply(connection: Connection) -> None:
    found = MigrationContext.configure(connection).get_current_revision()
    if found is not None and found not in _revisions()[1]:
        return  # a later release was here: see `is_new_enough`
    if connection.dialect.name == "postgresql":
        connection.commit()  # of that read, or Alembic would leave the transactions to us
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


@cache
def _revisions() -> tuple[str | None, frozenset[str]]:
    """The newest revision, and all that this code knows."""
    scripts = ScriptDirectory.from_config(_config())
    return scripts.get_current_head(), frozenset(
        script.revision for script in scripts.walk_revisions()
    )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS))
    return config

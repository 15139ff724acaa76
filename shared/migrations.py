"""The schema's revision: bringing a database up to it, and asking whether it is there."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, select

from shared.database import Database

_SCRIPTS = Path(__file__).parent.parent / "migrations"
_LOCK = 7_231_906_114  # any number that nobody else's advisory lock uses


def upgrade(database: Database) -> None:
    """Apply what is missing; safe when several processes start at once."""

    def apply(connection: Connection) -> None:
        if connection.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

    database.transact(apply)


def is_current(database: Database) -> bool:
    """Whether the database has the revision that this code was written for."""
    with database.read() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    return found == ScriptDirectory.from_config(_config()).get_current_head()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS))
    return config

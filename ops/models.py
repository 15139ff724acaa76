"""What a service knows of before anybody asks: the wanted models, and those that we ship."""

from collections.abc import Iterable
from pathlib import Path

from sqlalchemy import Connection, select

from ops.catalogue import BUNDLED, DOWNLOADS
from ops.directory import install_directory, read_directory
from ops.install import version_of
from shared import migrations, models
from shared.database import Database
from shared.settings import Settings
from shared.storage.protocol import Storage
from shared.tables import images


def wanted(settings: Settings) -> list[str]:
    """Models that are known although they may not be installed, since somebody will ask for them.

    They are those to be downloaded, and the default, if pulling is what would bring it.
    """
    return [
        name
        for name in dict.fromkeys((*settings.download, settings.default_model))
        if name in DOWNLOADS
    ]


def prepare(database: Database, storage: Storage, names: Iterable[str] = ()) -> None:
    """Bring schema and storage up to date, make models known, and install the bundled ones.

    Raises:
        Unavailable: Database or storage is away.
    """
    migrations.upgrade(database)
    with database.read() as connection:
        storage.begin(is_new=_is_empty(connection))
    for name in names:
        database.transact(lambda connection, name=name: models.register(connection, name))  # type: ignore[misc]
    for name, directory in BUNDLED.items():
        if (directory / "model.keras").is_file() and not _is_known(database, name, directory):
            install_directory(database, storage, name, directory)


def _is_empty(connection: Connection) -> bool:
    """Whether no image was ever kept."""
    named = select(images.c.sha256).where(images.c.object.is_not(None)).limit(1)
    return connection.execute(named).first() is None


def _is_known(database: Database, name: str, directory: Path) -> bool:
    """Whether it was installed once: an operator's choice of another version is not undone."""
    version = version_of(*read_directory(directory))
    with database.read() as connection:
        return any(row.version == version for row in models.versions_of(connection, name))

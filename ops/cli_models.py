"""`classify models`: what is installed, fetching more, and switching versions."""

import json
from typing import TYPE_CHECKING, Any

import click

from ops.cli import as_json, with_settings
from shared.errors import ServiceError

if TYPE_CHECKING:
    from shared.database import Database
    from shared.settings import Settings
    from shared.storage.protocol import Storage


@click.group("models")
def models_group() -> None:
    """List, fetch, import and switch models."""


@models_group.command("list")
@as_json
@with_settings(role="models")
def list_models(settings: "Settings", as_json: bool) -> int:
    """Show every known model, its state and its versions."""
    database, _ = open_registry(settings)
    found = _described(database)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return 0
    width = max((len(model["name"]) for model in found), default=0)
    for model in found:
        click.echo(f"{model['name']:<{width}} {model['state']:<12} {model['detail']}")
        for version in model["versions"]:
            mark = "current" if version["version"] == model["current"] else ""
            click.echo(f"  {version['version']}  {version['size_bytes'] / 2**20:8.1f} MiB  {mark}")
    return 0


@models_group.command()
@click.argument("name")
@as_json
@with_settings(role="models")
def pull(settings: "Settings", name: str, as_json: bool) -> int:
    """Download a model's weights and install them."""
    from ops import download
    from ops.catalogue import APPLICATIONS, DOWNLOADS
    from ops.progress import Progress

    if name not in DOWNLOADS:
        raise ServiceError(
            f"{name} cannot be downloaded. These can, also as NAME-avg or NAME-max (embeddings): "
            f"{', '.join(APPLICATIONS)}."
        )
    database, storage = open_registry(settings)
    with Progress(f"Downloading {name}") as progress:
        version = download.pull(
            database,
            storage,
            DOWNLOADS[name],
            settings.weights_url,
            settings.data_dir / "downloads",
            progress=progress,
        )
    return say_installed(name, version, as_json)


@models_group.command()
@click.argument("name")
@click.argument("version")
@as_json
@with_settings(role="models")
def current(settings: "Settings", name: str, version: str, as_json: bool) -> int:
    """Make an installed version the one that new jobs get."""
    from shared import models

    database, _ = open_registry(settings)
    with database.read() as connection:
        found = models.version_id(connection, name, version)
    if found is None:
        raise ServiceError(f"{name} has no installed version {version}; see `classify models list`")
    database.transact(lambda connection: models.make_current(connection, name, found))
    if as_json:
        click.echo(json.dumps({"name": name, "current": version}))
    else:
        click.echo(f"{name} is now answered by {name}@{version}.")
    return 0


def open_registry(settings: "Settings") -> "tuple[Database, Storage]":
    """Database and storage; a database on this machine is brought up to date first."""
    from ops.models import prepare, wanted
    from shared import migrations
    from shared.database import Database
    from shared.storage.opening import open_storage

    database, storage = Database(settings.database, pool_size=3), open_storage(settings)
    if database.is_sqlite:
        prepare(database, storage, wanted(settings))
    elif not migrations.is_new_enough(database):
        raise ServiceError("the database has another schema: run `classify db upgrade` first")
    return database, storage


def _described(database: "Database") -> list[dict[str, Any]]:
    from shared import models

    with database.read() as connection:
        return [
            _description(row, models.versions_of(connection, row.name))
            for row in models.states(connection)
        ]


def _description(row: Any, versions: Any) -> dict[str, Any]:
    from shared import models

    current = next((v.version for v in versions if v.id == row.current_version), None)
    done, total = row.download_bytes or 0, row.download_total_bytes
    if current is not None:
        state, detail = "ready", ""
    elif row.downloading:
        state, detail = "downloading", f"{100 * done // total} %" if total else ""
    else:
        state, detail = "unavailable", f"{models.reason(row)} {models.mend(row.name)}"
    return {
        "name": row.name,
        "state": state,
        "detail": detail,
        "current": current,
        "versions": [
            {
                "version": v.version,
                "size_bytes": v.spec["size_bytes"],
                "installed_at": v.installed_at.isoformat(),
                "removed": v.removed_at is not None,
            }
            for v in versions
        ],
    }


def say_installed(name: str, version: str, as_json: bool) -> int:
    """The end of a command that installed a version."""
    if as_json:
        click.echo(json.dumps({"name": name, "version": version}))
    else:
        click.echo(f"Installed {name}@{version}.")
    return 0

"""The `classify` command. What a command needs it imports when it runs: `--help` is quick."""

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shared.errors import ServiceError

if TYPE_CHECKING:
    from shared.settings import Settings

_FAILED = 1
_INTERRUPTED = 130

Command = Callable[..., int]


def with_settings(*, role: str, bind: bool = False) -> Callable[[Command], Command]:
    """Give a command its settings; flags override the environment."""

    def decorate(command: Command) -> Command:
        @click.option(
            "--data-dir",
            type=click.Path(file_okay=False, path_type=Path),
            help="Directory of all state kept on this machine.  [CLASSIFIER_DATA_DIR]",
        )
        @functools.wraps(command)
        def run(*args: Any, data_dir: Path | None, bind: str | None = None, **kwargs: Any) -> int:
            from shared.logging import configure_logging
            from shared.settings import load_settings

            settings = load_settings(data_dir=data_dir, bind=bind)
            configure_logging(settings, role=role)
            return command(settings, *args, **kwargs)

        if not bind:
            return run
        return click.option(
            "--bind", metavar="HOST:PORT", help="Address of the web server.  [CLASSIFIER_BIND]"
        )(run)

    return decorate


# Given by the supervisor: when the other end of this pipe closes, the process ends itself.
_parent_fd = click.option("--parent-fd", type=int, hidden=True)
as_json = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="image-classifier", prog_name="classify")
def cli() -> None:
    """Image classification as a service. `classify up` starts all of it on this machine."""


@cli.command()
@with_settings(role="supervisor", bind=True)
def up(settings: "Settings") -> int:
    """Run the whole service on this machine: broker, database, web and workers."""
    from ops.up import run_up

    return run_up(settings)


@cli.command()
@_parent_fd
@with_settings(role="web", bind=True)
def web(settings: "Settings", parent_fd: int | None) -> int:
    """Run the web server."""
    from ops.parent import follow_parent
    from ops.web import run_web

    follow_parent(parent_fd)
    return run_web(settings)


@cli.command()
@_parent_fd
@with_settings(role="worker")
def worker(settings: "Settings", parent_fd: int | None) -> int:
    """Run a worker: it holds the models and classifies."""
    from ops.parent import follow_parent

    follow_parent(parent_fd)
    from worker.app import run_worker

    return run_worker(settings)


@cli.command()
@_parent_fd
@click.option("--ends-broker", type=click.Path(path_type=Path), hidden=True)
@with_settings(role="background")
def background(settings: "Settings", parent_fd: int | None, ends_broker: Path | None) -> int:
    """Run the background worker: ingestions, recovery, the sweep, downloads."""
    from ops.background import run_background
    from ops.parent import follow_parent

    def end_broker() -> None:
        if ends_broker is not None:
            from ops.broker import shut_down

            shut_down(ends_broker)

    # The broker is no program of ours and follows nobody, so one of us ends it.
    follow_parent(parent_fd, at_end=end_broker)
    return run_background(settings)


@cli.group()
def db() -> None:
    """Look after the database."""


@db.command()
@as_json
@with_settings(role="db")
def upgrade(settings: "Settings", as_json: bool) -> int:
    """Bring the schema up to date and make the bundled models known."""
    from ops.models import prepare, wanted
    from shared.database import Database
    from shared.storage.opening import open_storage

    database = Database(settings.database, pool_size=2)
    prepare(database, open_storage(settings), wanted(settings))
    database.close()
    click.echo(json.dumps({"upgraded": True}) if as_json else "The database is up to date.")
    return 0


def add_commands() -> None:
    """Make the commands of other modules known, which need this one."""
    from ops.cli_import import import_model
    from ops.cli_ingest import ingest
    from ops.cli_ingestions import ingestions_group
    from ops.cli_models import models_group
    from ops.cli_watch import watch

    models_group.add_command(import_model)
    for command in (models_group, ingest, ingestions_group, watch):
        cli.add_command(command)


def main() -> None:
    """Run the command line; our own errors are one line, and the exit code tells the kind."""
    add_commands()
    try:
        code = cli.main(prog_name="classify", standalone_mode=False)
    except click.Abort:
        code = _INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except ServiceError as error:
        # A database driver's reason may come in several lines.
        click.echo(f"Error: {' '.join(str(error).split())}", err=True)
        code = _FAILED
    sys.exit(code)


if __name__ == "__main__":
    main()

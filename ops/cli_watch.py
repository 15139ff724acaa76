"""`classify watch`: classify what appears in a folder."""

import math
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ops.cli import with_settings
from ops.cli_ingest import url_option
from shared.errors import ServiceError

if TYPE_CHECKING:
    from shared.settings import Settings

_SOME_FAILED = 3


@click.command()
@click.argument(
    "directory", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR"
)
@click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the results here; by default beside each picture, as NAME.json.",
)
@click.option("--model", help="`name` or `name@version`.")
@click.option("--top-k", type=int, help="How many predictions a picture gets.")
@click.option(
    "--interval",
    type=click.FloatRange(0, min_open=True),
    default=2.0,
    help="Seconds between two looks.",
)
@click.option("--once", is_flag=True, help="Classify what is there now, and end: for cron.")
@url_option
@with_settings(role="watch")
def watch(
    settings: "Settings",
    directory: Path,
    results: Path | None,
    interval: float,
    once: bool,
    url: str | None,
    **options: Any,
) -> int:
    """Classify each picture that appears in a folder, once, and write its result.

    A picture is taken when it has stayed the same for one interval. One that is changed later is
    classified anew. Hidden files and those that end in .json are left alone.
    """
    from ops.client import Client, address_of
    from ops.watching import Watch

    # A result file is written completely or not at all, so it may end at any point.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    url = url or address_of(settings)
    # What cron starts ends when the service is away; what watches waits.
    client = Client(url) if once else Client(url, patience_seconds=math.inf)
    looking = Watch(
        client=client,
        directory=directory.resolve(),
        results=(results or directory).resolve(),
        options={name: value for name, value in options.items() if value is not None},
        most_bytes=settings.max_image_bytes,
    )
    try:
        looking.run(interval, once=once)
    except KeyboardInterrupt:
        return 0
    except OSError as error:
        raise ServiceError(f"A result cannot be written: {error}") from error
    return _SOME_FAILED if looking.failed else 0

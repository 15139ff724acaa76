"""`classify ingest`: hand many images in as one ingestion, and have the results."""

import json
from typing import TYPE_CHECKING, Any

import click

from ops.cli import as_json, with_settings

if TYPE_CHECKING:
    from shared.settings import Settings

_SOME_FAILED = 3
_INTERRUPTED = 130
_CODES = {"succeeded": 0, "partially_succeeded": _SOME_FAILED}

url_option = click.option(
    "--url", metavar="URL", help="Address of the service; by default this machine's."
)

order_option = click.option(
    "--order",
    type=click.Choice(["source", "finished"]),
    default="source",
    help="Of the results: as in the source, or as they ended.",
)


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE…")
@click.option("--model", help="`name` or `name@version`.")
@click.option("--top-k", type=int, help="How many predictions an image gets.")
@click.option("--min-score", type=float, help="Leave out predictions below it.")
@click.option("--reference", help="An id of your own.")
@click.option("--metadata", help="JSON of your own.")
@click.option("--max-failures", type=int, help="Stop when more images than these have failed.")
@click.option("--deadline-seconds", type=float, help="Expire what has not begun by then.")
@click.option("--output-url", help="Have the service write result files below this address.")
@click.option("--wait", is_flag=True, help="Wait until it has ended.")
@click.option(
    "--output",
    metavar="FILE",
    help="Wait, and write the results: .jsonl, .csv or .parquet; - for JSON lines to stdout.",
)
@order_option
@click.option("--idempotency-key", help="Sent again, it is the same ingestion.")
@url_option
@as_json
@with_settings(role="ingest")
def ingest(
    settings: "Settings",
    sources: tuple[str, ...],
    *,
    wait: bool,
    output: str | None,
    order: str,
    idempotency_key: str | None,
    url: str | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Classify many images: an archive, a folder, images, a list of addresses, or an address.

    Exits with 3 when it has ended and some images failed. What is interrupted while it waits goes
    on in the service.
    """
    from ops.client import Client, address_of
    from ops.following import wait_for
    from ops.handing_in import hand_in, is_address
    from ops.result_files import STDOUT, check_output, write_results

    if output is not None:
        check_output(output)
    if len(sources) > 1 and any(map(is_address, sources)):
        raise click.UsageError("Give one address, or paths.")
    options["output"] = options.pop("output_url")
    options["metadata"] = _parsed(options["metadata"])
    given = {name: value for name, value in options.items() if value is not None}
    client = Client(url or address_of(settings))
    made = hand_in(client, sources, given, idempotency_key)
    follow = f"{client.url}/ingestions/{made['id']}"
    if not (wait or output):
        _say(made, f"Accepted as {made['id']}. Follow it at {follow}", as_json)
        return 0
    click.echo(f"Accepted: {follow}", err=True)
    try:
        ended = wait_for(client, made["id"])
        if output is not None:
            write_results(client, ended, output, order)
    except KeyboardInterrupt:
        click.echo(
            f"\nThe ingestion goes on. Follow it at {follow}, or have its results with "
            f"`classify ingestions results --wait {made['id']}`.",
            err=True,
        )
        return _INTERRUPTED
    _say(ended, summary(ended, output), as_json, err=output == STDOUT)
    return exit_code(ended)


def exit_code(ended: dict[str, Any]) -> int:
    """Of a command that has waited for an ingestion."""
    return _CODES.get(ended["status"], 1)


def summary(ended: dict[str, Any], output: str | None) -> str:
    """What became of an ingestion, how fast, and where its results are."""
    counts, written = ended["counts"], ended["output"]
    outcomes = ", ".join(
        f"{counts[name]} {name}"
        for name in ("succeeded", "failed", "expired", "canceled")
        if counts[name]
    )
    said = f"{ended['status'].replace('_', ' ')}: {outcomes or 'no images'}"
    if counts["not_images"]:
        said += f" ({counts['not_images']} of them no image)"
    if ended["images_per_second"]:
        said += f", {ended['images_per_second']} images/s"
    if ended["error"]:
        said += f". {ended['error']['detail'].removesuffix('.')}"
    if output not in (None, "-"):
        said += f". Results: {output}"
    if written is not None and written["written_at"]:
        said += f". Result files: {written['url']}"
    elif written is not None and written["error"]:
        said += f". The result files are not written yet: {written['error']}"
    return said


def _parsed(metadata: str | None) -> Any:
    try:
        return None if metadata is None else json.loads(metadata)
    except ValueError as error:
        raise click.UsageError("--metadata is not JSON.") from error


def _say(found: dict[str, Any], sentence: str, as_json: bool, *, err: bool = False) -> None:
    click.echo(json.dumps(found) if as_json else sentence, err=err)

"""`classify ingestions`: look at ingestions of a running service, and steer them."""

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from ops.cli import as_json, with_settings
from ops.cli_ingest import exit_code, order_option, summary, url_option

if TYPE_CHECKING:
    from ops.client import Client
    from shared.settings import Settings


@click.group("ingestions")
def ingestions_group() -> None:
    """List ingestions, cancel one, retry what failed, fetch results."""


@ingestions_group.command("list")
@url_option
@as_json
@with_settings(role="ingestions")
def list_ingestions(settings: "Settings", url: str | None, as_json: bool) -> int:
    """Show the newest ingestions."""
    found = _client(settings, url).json("GET", "/v1/ingestions")["data"]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return 0
    for ingestion in found:
        click.echo(_line(ingestion))
    return 0


@ingestions_group.command()
@click.argument("ingestion")
@url_option
@as_json
@with_settings(role="ingestions")
def show(settings: "Settings", ingestion: str, url: str | None, as_json: bool) -> int:
    """Show how far an ingestion is."""
    found = _client(settings, url).json("GET", _path(ingestion))
    click.echo(json.dumps(found, indent=2) if as_json else _line(found))
    return 0


@ingestions_group.command()
@click.argument("ingestion")
@url_option
@as_json
@with_settings(role="ingestions")
def cancel(settings: "Settings", ingestion: str, url: str | None, as_json: bool) -> int:
    """End an ingestion; what is classified stays."""
    return _steer(settings, ingestion, "cancel", url, as_json)


@ingestions_group.command()
@click.argument("ingestion")
@url_option
@as_json
@with_settings(role="ingestions")
def retry(settings: "Settings", ingestion: str, url: str | None, as_json: bool) -> int:
    """Try the failed images of an ingestion again."""
    return _steer(settings, ingestion, "retry", url, as_json)


@ingestions_group.command()
@click.argument("ingestion")
@click.argument("output", default="-")
@click.option("--wait", is_flag=True, help="Wait until it has ended.")
@order_option
@url_option
@with_settings(role="ingestions")
def results(
    settings: "Settings", ingestion: str, output: str, wait: bool, order: str, url: str | None
) -> int:
    """Write the results to a .jsonl, .csv or .parquet file, or to stdout.

    Of one that has not ended: in the source's order up to the first image that has not.
    """
    from ops.following import wait_for
    from ops.result_files import check_output, write_results

    check_output(output)
    client = _client(settings, url)
    if not wait:
        write_results(client, client.json("GET", _path(ingestion)), output, order)
        return 0
    ended = wait_for(client, ingestion)
    write_results(client, ended, output, order)
    click.echo(summary(ended, output), err=True)
    return exit_code(ended)


def _client(settings: "Settings", url: str | None) -> "Client":
    from ops.client import Client, address_of

    return Client(url or address_of(settings))


def _steer(settings: "Settings", ingestion: str, verb: str, url: str | None, as_json: bool) -> int:
    found = _client(settings, url).json("POST", f"{_path(ingestion)}/{verb}")
    click.echo(json.dumps(found) if as_json else _line(found))
    return 0


def _path(ingestion: str) -> str:
    return f"/v1/ingestions/{quote(ingestion, safe='')}"


def _line(ingestion: dict[str, Any]) -> str:
    counts = ingestion["counts"]
    done = counts["total"] - counts["pending"]
    return (
        f"{ingestion['id']}  {ingestion['status']:<19} {done}/{counts['total']}"
        f"  {ingestion['source']['name'] or ''}"
    )

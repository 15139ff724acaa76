"""`classify ingestions`: look at ingestions of a running service, and steer them."""

import json
from typing import TYPE_CHECKING, Any

import click

from ops.cli import as_json, with_settings
from ops.cli_ingest import url_option, wait_for, write_results

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
@url_option
@with_settings(role="ingestions")
def results(settings: "Settings", ingestion: str, output: str, wait: bool, url: str | None) -> int:
    """Write the results to a .jsonl, .csv or .parquet file, or to stdout."""
    client = _client(settings, url)
    if wait:
        wait_for(client, ingestion)
    write_results(client, ingestion, output)
    return 0


def _client(settings: "Settings", url: str | None) -> "Client":
    from ops.client import Client, address_of

    return Client(url or address_of(settings))


def _steer(settings: "Settings", ingestion: str, verb: str, url: str | None, as_json: bool) -> int:
    found = _client(settings, url).json("POST", f"/v1/ingestions/{ingestion}/{verb}")
    click.echo(json.dumps(found) if as_json else _line(found))
    return 0


def _line(ingestion: dict[str, Any]) -> str:
    counts = ingestion["counts"]
    done = counts["total"] - counts["pending"]
    return (
        f"{ingestion['id']}  {ingestion['status']:<19} {done}/{counts['total']}"
        f"  {ingestion['source']['name'] or ''}"
    )

"""`classify ingest`: hand many images in as one ingestion, and have the results."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import click

from ops.cli import as_json, with_settings
from shared.errors import ServiceError

if TYPE_CHECKING:
    from ops.client import Client
    from shared.settings import Settings

_POLL_SECONDS = 1.0
_LINE_SECONDS = 10.0
_SOME_FAILED = 3
_INTERRUPTED = 130
_HEAD_BYTES = 512
_PIECE_BYTES = 2**20
_CODES = {"succeeded": 0, "partially_succeeded": _SOME_FAILED}
_FORMATS = (".jsonl", ".csv", ".parquet")
_LIST_TYPES = {".csv": "text/csv", ".jsonl": "application/jsonl", ".ndjson": "application/jsonl"}

url_option = click.option(
    "--url", metavar="URL", help="Address of the service; by default this machine's."
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
@click.option("--idempotency-key", help="Sent again, it is the same ingestion.")
@url_option
@as_json
@with_settings(role="ingest")
def ingest(
    settings: "Settings",
    sources: tuple[str, ...],
    wait: bool,
    output: str | None,
    idempotency_key: str | None,
    url: str | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Classify many images: an archive, a folder, images, a list of addresses, or an address.

    Exits with 3 when it has ended and some images failed.
    """
    from ops.client import Client, address_of

    if output is not None and output != "-" and not output.endswith(_FORMATS):
        raise click.UsageError(f"--output takes a file that ends in {', '.join(_FORMATS)}.")
    options["output"] = options.pop("output_url")
    client = Client(url or address_of(settings))
    made = _hand_in(client, sources, options, idempotency_key or str(uuid4()))
    follow = f"{client.url}/ingestions/{made['id']}"
    if not (wait or output):
        _say(made, f"Accepted as {made['id']}. Follow it at {follow}", as_json)
        return 0
    click.echo(f"Accepted: {follow}", err=True)
    try:
        ended = wait_for(client, made["id"])
        if output is not None:
            write_results(client, made["id"], output)
    except KeyboardInterrupt:
        click.echo(f"\nThe ingestion goes on. Follow it at {follow}", err=True)
        return _INTERRUPTED
    _say(ended, _summary(ended, output), as_json, err=output == "-")
    return _CODES.get(ended["status"], 1)


def wait_for(client: "Client", ingestion: str) -> dict[str, Any]:
    """Poll until it has ended, and show how far it is: a bar, or a line now and then."""
    shown: Any = None
    said_at = time.monotonic()
    while True:
        found: dict[str, Any] = client.json("GET", f"/v1/ingestions/{ingestion}")
        counts = found["counts"]
        done = counts["total"] - counts["pending"]
        if sys.stderr.isatty():
            if shown is None:
                shown = click.progressbar(length=0, label="Classifying", file=sys.stderr)
            shown.length = max(counts["total"], 1)
            shown.update(done - shown.pos)
        elif time.monotonic() - said_at >= _LINE_SECONDS:
            said_at = time.monotonic()
            click.echo(f"{done} of {counts['total']}, {counts['failed']} failed", err=True)
        # Of one that was stopped, jobs are still being cancelled.
        if found["status"] not in ("queued", "running") and not counts["pending"]:
            if shown is not None:
                shown.render_finish()
            return found
        time.sleep(_POLL_SECONDS)


def write_results(client: "Client", ingestion: str, output: str) -> None:
    """Write the results; the file has its name once it is complete."""
    if output == "-":
        for line in client.lines(ingestion):
            click.echo(json.dumps(line, ensure_ascii=False))
        return
    unfinished = Path(f"{output}.part")
    if output.endswith(".parquet"):
        from shared.ingestions.parquet import write_parquet

        write_parquet(unfinished, client.lines(ingestion))
    elif output.endswith(".csv"):
        # Not read on in its middle, as JSON lines are: a row may have several lines.
        asked = {"format": "csv"}
        answer = client.ask("GET", f"/v1/ingestions/{ingestion}/results", params=asked, stream=True)
        with unfinished.open("wb") as file:
            for piece in answer.iter_content(_PIECE_BYTES):
                file.write(piece)
    else:
        with unfinished.open("w", encoding="utf-8") as lines:
            for line in client.lines(ingestion):
                lines.write(json.dumps(line, ensure_ascii=False) + "\n")
    unfinished.replace(output)


def _hand_in(
    client: "Client", sources: tuple[str, ...], options: dict[str, Any], key: str
) -> dict[str, Any]:
    """Send the source; sent again under the same key it is the same ingestion."""
    headers = {"Idempotency-Key": key}
    given = {name: value for name, value in options.items() if value is not None}
    if any("://" in source for source in sources):
        if len(sources) > 1:
            raise click.UsageError("One address is taken, or paths.")
        if "metadata" in given:
            given["metadata"] = _parsed(given["metadata"])
        body = {"source": sources[0], **given}
        return dict(client.json("POST", "/v1/ingestions", json=body, headers=headers))
    paths = [Path(source) for source in sources]
    for path in paths:
        if not path.exists():
            raise ServiceError(f"{path} is not there.")
    media_type, make = _body(paths)
    headers["Content-Type"] = media_type
    return dict(client.json("POST", "/v1/ingestions", params=given, body=make, headers=headers))


def _body(paths: list[Path]) -> tuple[str, Callable[[], Any]]:
    """What is sent, and its type: an archive or list as it is, everything else as one tar."""
    from ops.packing import found, packed

    [first, *others] = paths
    if not others and first.is_file():
        with first.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        media_type = _media_type(first, head)
        if media_type is not None:
            return media_type, lambda: first.open("rb")
    if next(found(paths), None) is None:
        raise ServiceError(f"There are no files in {', '.join(map(str, paths))}.")
    return "application/x-tar", lambda: packed(paths)


def _media_type(path: Path, head: bytes) -> str | None:
    """Of an archive, by its content, or a list, by its name; None of an image."""
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "application/zip"
    if head.startswith(b"\x1f\x8b"):
        return "application/gzip"
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return "application/zstd"
    if head[257:].startswith(b"ustar"):
        return "application/x-tar"
    if path.suffix == ".txt":
        return "text/plain"
    return _LIST_TYPES.get(path.suffix)


def _parsed(metadata: str) -> Any:
    try:
        return json.loads(metadata)
    except ValueError as error:
        raise click.UsageError("--metadata is not JSON.") from error


def _summary(ended: dict[str, Any], output: str | None) -> str:
    counts = ended["counts"]
    parts = [f"{counts[name]} {name}" for name in ("succeeded", "failed", "expired", "canceled")]
    said = f"{ended['status'].replace('_', ' ')}: " + ", ".join(
        part for part in parts if not part.startswith("0 ")
    )
    if ended["error"]:
        said += f". {ended['error']['detail']}"
    return f"{said}. Results: {output}" if output not in (None, "-") else said


def _say(found: dict[str, Any], sentence: str, as_json: bool, *, err: bool = False) -> None:
    click.echo(json.dumps(found) if as_json else sentence, err=err)

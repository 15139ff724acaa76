"""The results of an ingestion as a file of this machine, or on stdout."""

import json
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import click

from ops.client import Client
from shared.errors import ServiceError
from shared.ingestions.csv_rows import csv_rows

STDOUT = "-"
_SUFFIXES = (".jsonl", ".csv", ".parquet")


def check_output(output: str) -> None:
    """Refuse at once what could not be written in the end.

    Raises:
        click.UsageError: It has no suffix that is known, or no folder.
    """
    if output == STDOUT:
        return
    if not output.endswith(_SUFFIXES):
        raise click.UsageError(f"Results are written to a file that ends in {_or(_SUFFIXES)}.")
    if not Path(output).absolute().parent.is_dir():
        raise click.UsageError(f"There is no folder {Path(output).absolute().parent}.")


def write_results(
    client: Client, ingestion: dict[str, Any], output: str, order: str = "source"
) -> None:
    """Write the results; a file has its name once it is complete.

    Args:
        client: Of the service that has them.
        ingestion: As the service describes it.
        output: As `check_output` takes it.
        order: `source` or `finished`.

    Raises:
        ServiceError: The file cannot be written.
        Refused, Away: See `Client.lines`.
    """
    lines = client.lines(ingestion["id"], order)
    if output == STDOUT:
        for line in lines:
            click.echo(line)
        return
    unfinished = Path(f"{output}.part")
    try:
        if output.endswith(".jsonl"):
            with unfinished.open("wb") as file:
                file.writelines(line + b"\n" for line in lines)
        elif output.endswith(".csv"):
            with unfinished.open("w", encoding="utf-8", newline="") as text:
                text.writelines(_csv(lines, ingestion["top_k"]))
        else:
            from shared.ingestions.parquet import write_parquet

            write_parquet(unfinished, map(json.loads, lines))
        unfinished.replace(output)
    except OSError as error:
        raise ServiceError(f"{output} cannot be written: {error.strerror or error}") from error


def _csv(lines: Iterable[bytes], top_k: int) -> Iterator[str]:
    read = map(json.loads, lines)
    first = list(islice(read, 1))
    embeds = any("embedding" in line for line in first)
    return csv_rows(chain(first, read), top_k, embeds=embeds)


def _or(words: tuple[str, ...]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}"

"""The results of an ingestion, streamed: JSON lines or CSV, while it runs and afterwards."""

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, Literal
from uuid import UUID

from flask import Blueprint, Response, request
from pydantic import BaseModel, ConfigDict, Field

from shared.ingestions import results
from shared.ingestions.csv_rows import csv_rows
from shared.ingestions.lines import gives_embeddings, json_line
from web.headers import PRIVATE
from web.owners import own_ingestion
from web.services import services
from web.values import invalid, parse

blueprint = Blueprint("results", __name__, url_prefix="/v1/ingestions")

_BLOCK_LINES = 100
JSONL, CSV = "application/jsonl", "text/csv"


class ResultOptions(BaseModel):
    """Which results, in what form."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["jsonl", "csv"] | None = Field(
        None, description="Without it, what `Accept` asks for: `application/jsonl` or `text/csv`."
    )
    order: Literal["source", "finished"] = Field(
        "source",
        description="`source`: as in the source, up to the first item that has not ended. "
        "`finished`: as they ended; one that was tried again comes again.",
    )
    after: str | None = Field(
        None,
        max_length=50,
        description="Go on behind the line with this `position`; with `order=finished` also behind "
        "the one with this `job`.",
    )
    limit: int | None = Field(None, ge=1, description="How many lines at most.")
    download: Literal["1"] | None = Field(None, description="Let a browser save it as a file.")


@blueprint.get("/<uuid:ingestion_id>/results")
def stream(ingestion_id: UUID) -> Response:
    """Every item that has ended, one a line."""
    options = _read_options()
    database = services().database
    with database.read() as connection:
        row = own_ingestion(connection, ingestion_id).row
        place = None
        if options.after is not None:
            place = results.place_of(connection, ingestion_id, options.order, options.after)
        embeds = gives_embeddings(connection, row.model_version)
    pages = results.pages(database, ingestion_id, embeds=embeds, order=options.order, after=place)
    # The first page before the headers: what is away by then is told with a status.
    first = next(pages, [])
    lines = islice(chain(first, chain.from_iterable(pages)), options.limit)
    form = options.format or ("csv" if _prefers_csv() else "jsonl")
    texts = csv_rows(lines, row.top_k, embeds=embeds) if form == "csv" else map(json_line, lines)
    response = Response(_in_blocks(texts), mimetype=CSV if form == "csv" else JSONL)
    response.headers["Cache-Control"] = PRIVATE
    response.vary.add("Accept")
    if options.download:
        name = f"ingestion-{ingestion_id}.{form}"
        response.headers["Content-Disposition"] = f"attachment; filename={name}"
    return response


def _read_options() -> ResultOptions:
    values: dict[str, Any] = {}
    for name, texts in request.args.lists():
        if len(texts) > 1:
            raise invalid(name, "given more than once")
        if texts[0]:
            values[name] = texts[0]
    return parse(ResultOptions, values, strict=False)


def _prefers_csv() -> bool:
    return request.accept_mimetypes.best_match([JSONL, CSV]) == CSV


def _in_blocks(texts: Iterator[str]) -> Iterator[str]:
    """Several lines at a time: sending each by itself costs more than reading it."""
    while block := "".join(islice(texts, _BLOCK_LINES)):
        yield block

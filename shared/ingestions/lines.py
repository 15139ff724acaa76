"""One item of an ingestion as its results have it: the same in an answer and in a file."""

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, Select, select, text

from shared.jobs.answers import embedding_of, error_of, predictions_of
from shared.tables import TERMINAL, items, jobs, model_versions, results

Line = dict[str, Any]


def json_line(line: Line) -> str:
    """A line of JSON lines, with its end."""
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n"


def gives_embeddings(connection: Connection, version_id: int) -> bool:
    """Whether the version's results are embeddings: then each line has one, or null."""
    spec = connection.scalar(select(model_versions.c.spec).where(model_versions.c.id == version_id))
    return spec is not None and spec.get("output") == "embedding"


def rows_at(connection: Connection, ingestion: UUID, first: int, number: int) -> Sequence[Row[Any]]:
    """The items at so many positions, which have no gaps, in order; see `all_rows`."""
    return connection.execute(
        all_rows()
        .where(
            items.c.ingestion == ingestion,
            items.c.position >= first,
            items.c.position < first + number,
        )
        .order_by(items.c.position)
    ).all()


def all_rows() -> Select[Any]:
    """Items with their jobs, where they have one, and those with their results."""
    return (
        select(
            items.c.position,
            items.c.name,
            items.c.reference.label("own_reference"),
            items.c.metadata.label("own_metadata"),
            items.c.error_code.label("own_code"),
            items.c.error_detail.label("own_detail"),
            jobs.c.id,
            jobs.c.status,
            jobs.c.reference,
            jobs.c.metadata,
            jobs.c.error_code,
            jobs.c.error_detail,
            jobs.c.top_k,
            jobs.c.min_score,
            results.c.predictions,
            results.c.embedding,
        )
        .join_from(items, jobs, jobs.c.id == items.c.job, isouter=True)
        .join(
            results,
            (results.c.image == jobs.c.image)
            & (results.c.model_version == jobs.c.model_version)
            & text("jobs.status = 'succeeded'"),
            isouter=True,
        )
    )


def is_over(row: Row[Any]) -> bool:
    """Whether there is a line for it."""
    return row.own_code is not None if row.id is None else row.status in TERMINAL


def line_of(row: Row[Any], embeds: bool) -> Line:
    """One item as its results have it."""
    none = {"embedding": None} if embeds else {}
    if row.id is None:
        return {
            "position": row.position,
            "name": row.name,
            "reference": row.own_reference,
            "status": "failed",
            "predictions": None,
            "error": error_of(row.own_code, row.own_detail),
            "metadata": row.own_metadata or {},
            "job": None,
            **none,
        }
    line: Line = {
        "position": row.position,
        "name": row.name,
        "reference": row.reference,
        "status": row.status,
        "predictions": predictions_of(row),
        "error": error_of(row.error_code, row.error_detail),
        "metadata": row.metadata,
        "job": str(row.id),
        **none,
    }
    if row.embedding is not None:
        line["embedding"] = embedding_of(row)
    return line

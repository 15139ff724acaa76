"""Acceptance: a source and its options become a committed ingestion, whose images come later."""

from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, select

from shared import idempotency
from shared.database import Database, stamp
from shared.errors import ProblemError
from shared.ingestions import transitions
from shared.jobs.intake import Caller
from shared.models import Target
from shared.tables import idempotency_keys, ingestions, model_versions

_RESTARTS = 5  # a key can be forgotten between our two looks at it, but not for ever

_THERE = (
    select(ingestions.c.id)
    .where(ingestions.c.id == idempotency_keys.c.job, ingestions.c.deleted_at.is_(None))
    .exists()
)


@dataclass(frozen=True)
class IngestionOptions:
    """What a client may ask of an ingestion; part of what an Idempotency-Key stands for.

    Attributes:
        max_failures: More of them end it as failed; None: it goes on whatever fails.
        output: Below which address result files are written.
    """

    model: str
    top_k: int = 5
    min_score: float | None = None
    deadline_seconds: float | None = None
    reference: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    max_failures: int | None = None
    output: str | None = None


@dataclass(frozen=True)
class NewSource:
    """Where the images are to come from.

    Attributes:
        kind: One of `SOURCE_KINDS`.
        name: Its address, or the name of the uploaded file, if it has one.
        object: The uploaded file in the storage; None for what an address names.
    """

    kind: str
    name: str | None
    object: str | None = None


def submit(
    database: Database,
    source: NewSource,
    options: IngestionOptions,
    target: Target,
    caller: Caller,
    *,
    ingestion_id: UUID,
    content: str,
    part_rows: int,
) -> UUID:
    """Commit the ingestion; only then does it exist. What was uploaded for it is stored before.

    Args:
        database: The database.
        source: Where its images come from.
        options: What is asked of it.
        target: The version that answers, pinned unless it is still being downloaded.
        caller: Who submits.
        ingestion_id: A new id; below it the uploaded file was stored.
        content: The SHA-256 of what was uploaded, or the address: part of what a key stands for.
        part_rows: Rows of one result file.

    Returns:
        Its id: another one where the Idempotency-Key already stands for an ingestion.

    Raises:
        ProblemError: `idempotency_mismatch` or `idempotency_gone`.
        Unavailable: The database is away; nothing was accepted.
    """
    values: dict[str, Any] = {
        "id": ingestion_id,
        "owner": caller.owner,
        "source_kind": source.kind,
        "source": source.name,
        "object": source.object,
        "model_version": target.version_id,
        "top_k": options.top_k,
        "min_score": options.min_score,
        "reference": options.reference,
        "metadata": options.metadata,
        "deadline_at": None
        if options.deadline_seconds is None
        else stamp(options.deadline_seconds),
        "max_failures": options.max_failures,
        "output": options.output,
        "output_part_rows": part_rows,
        "request_id": caller.request_id,
        "trace_parent": caller.trace_parent,
    }
    print_ = _fingerprint(content, options)

    def insert(connection: Connection) -> UUID | None:
        key = caller.idempotency_key
        if key is not None and not idempotency.keep(
            connection, caller.owner, key, print_, ingestion_id
        ):
            # None: the key went away between the two statements.
            return replayed(connection, caller, content, options)
        version = connection.scalar(
            select(model_versions.c.version).where(model_versions.c.id == target.version_id)
        )
        # So that one run is never a mixture; a placeholder is pinned when its download has ended.
        transitions.accept(connection, values | {"pinned": version is not None})
        return ingestion_id

    for _ in range(_RESTARTS):
        accepted = database.transact(insert)
        if accepted is not None:
            return accepted
    raise ProblemError("service_unavailable", "The ingestion could not be kept. Try again.")


def replayed(
    connection: Connection, caller: Caller, content: str, options: IngestionOptions
) -> UUID | None:
    """The ingestion an Idempotency-Key already stands for, or None for a new key.

    Raises:
        ProblemError: The key stands for another request, or its ingestion was deleted.
    """
    return idempotency.replayed(
        connection,
        caller.owner,
        caller.idempotency_key,
        _fingerprint(content, options),
        there=_THERE,
    )


def _fingerprint(content: str, options: IngestionOptions) -> str:
    return idempotency.fingerprint("ingestion", content, asdict(options))

"""Idempotency-Keys: a request that is sent again is what it made the first time."""

import hashlib
import json
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, select

from shared.database import stamp
from shared.errors import ProblemError
from shared.tables import idempotency_keys
from shared.upserts import insert_if_absent


def fingerprint(kind: str, content: str, options: dict[str, Any]) -> str:
    """What a key stands for: 64 hex digits, other ones for any other request.

    Args:
        kind: What is made: a key of a job is none of an ingestion.
        content: What it is made from: a SHA-256, or an address.
        options: What is asked of it.
    """
    whole = json.dumps([kind, content, options], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()


def keep(connection: Connection, owner: str, key: str, fingerprint: str, made: UUID) -> bool:
    """Note what a key stands for, beside what is made; False where it stands for something."""
    row = {
        "owner": owner,
        "key": key,
        "fingerprint": fingerprint,
        "job": made,
        "created_at": stamp(),
    }
    return insert_if_absent(connection, idempotency_keys, row) == 1


def replayed(
    connection: Connection,
    owner: str,
    key: str | None,
    fingerprint: str,
    *,
    there: ColumnElement[bool],
) -> UUID | None:
    """What a key already stands for, or None for a new key.

    Args:
        connection: Any.
        owner: Whose key it is.
        key: The key.
        fingerprint: Of the request that is being answered.
        there: Whether what a row of `idempotency_keys` names still exists.

    Raises:
        ProblemError: The key stands for another request, or for what was deleted.
    """
    row = connection.execute(
        select(idempotency_keys.c.fingerprint, idempotency_keys.c.job, there.label("there")).where(
            idempotency_keys.c.owner == owner, idempotency_keys.c.key == key
        )
    ).first()
    if row is None:
        return None
    if row.fingerprint != fingerprint:
        raise ProblemError(
            "idempotency_mismatch", "This Idempotency-Key was used for another request."
        )
    if not row.there:
        raise ProblemError(
            "idempotency_gone", "What was made with this Idempotency-Key was deleted."
        )
    return UUID(str(row.job))

"""Whose request this is, and what of it is theirs."""

from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row

from shared.errors import ProblemError
from shared.ingestions import queries as ingestion_queries
from shared.ingestions.queries import Seen
from shared.jobs import queries

LOCAL = "local"


def current_owner() -> str:
    """The owner of what the current request makes and may see: without keys there is one."""
    return LOCAL


def own_job(connection: Connection, job_id: UUID) -> Row[Any]:
    """A job of the current owner, as `queries.job_rows` has it.

    Raises:
        ProblemError: `not_found`, for somebody else's too.
    """
    row = queries.find(connection, current_owner(), job_id)
    if row is None:
        raise no_job(job_id)
    return row


def no_job(job_id: UUID) -> ProblemError:
    """The refusal of a job that is not there, or not theirs."""
    return ProblemError("not_found", f"There is no job {job_id}.")


def own_ingestion(connection: Connection, ingestion_id: UUID) -> Seen:
    """An ingestion of the current owner.

    Raises:
        ProblemError: `not_found`, for somebody else's and a deleted one too.
    """
    seen = ingestion_queries.find(connection, current_owner(), ingestion_id)
    if seen is None:
        raise no_ingestion(ingestion_id)
    return seen


def no_ingestion(ingestion_id: UUID) -> ProblemError:
    """The refusal of an ingestion that is not there, or not theirs."""
    return ProblemError("not_found", f"There is no ingestion {ingestion_id}.")

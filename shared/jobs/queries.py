"""Looking at jobs: what a client may see, and where a queued job stands."""

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    delete,
    func,
    select,
    text,
    tuple_,
)

from shared.database import at_most, moment
from shared.errors import ProblemError
from shared.jobs import transitions
from shared.tables import TERMINAL, images, ingestions, jobs, model_versions, results, workers

POSITION_LIMIT = 1000
LIVE_SECONDS = 30  # a worker says every few seconds that it lives


def owned(owner: str) -> ColumnElement[bool]:
    """The one condition that keeps owners apart; every look for a client goes through it."""
    return jobs.c.owner == owner


def job_rows(owner: str) -> Select[Any]:
    """Jobs with their model, image, result and ingestion, as a client may see them."""
    return (
        select(
            jobs,
            model_versions.c.model,
            model_versions.c.version,
            images.c.object,
            images.c.media_type,
            images.c.width,
            images.c.height,
            images.c.size_bytes,
            images.c.animated,
            results.c.predictions,
            results.c.embedding,
            ingestions.c.settled_at.label("ingestion_settled_at"),
        )
        .join_from(jobs, model_versions, model_versions.c.id == jobs.c.model_version)
        .join(images, images.c.sha256 == jobs.c.image)
        .join(
            results,
            (results.c.image == jobs.c.image)
            & (results.c.model_version == jobs.c.model_version)
            & text("jobs.status = 'succeeded'"),
            isouter=True,
        )
        .join(ingestions, ingestions.c.id == jobs.c.ingestion, isouter=True)
        .where(owned(owner))
    )


def find(connection: Connection, owner: str, job_id: UUID) -> Row[Any] | None:
    """One job, or None, for another owner's too."""
    return connection.execute(job_rows(owner).where(jobs.c.id == job_id)).first()


def find_many(connection: Connection, owner: str, ids: Sequence[UUID]) -> list[Row[Any]]:
    """Those of the jobs that are there, in the order of `ids`; another owner's are not."""
    found = connection.execute(job_rows(owner).where(jobs.c.id.in_(ids)))
    rows = {row.id: row for row in found}
    return [rows[id_] for id_ in ids if id_ in rows]


def finished(connection: Connection, ids: Collection[UUID]) -> set[UUID]:
    """Those among `ids` that wait no longer: in a terminal state, or gone."""
    rows = connection.execute(select(jobs.c.id, jobs.c.status).where(jobs.c.id.in_(ids)))
    live = {row.id for row in rows if row.status not in TERMINAL}
    return set(ids) - live


def position(connection: Connection, row: Row[Any]) -> int | None:
    """How many claimable jobs are ahead in the lane; None beyond 1,000."""
    ahead = (
        select(jobs.c.id)
        .where(
            transitions.CLAIMABLE,
            jobs.c.model_version == row.model_version,
            jobs.c.lane == row.lane,
            tuple_(jobs.c.sequence, jobs.c.id) < tuple_(row.sequence, row.id),
        )
        .order_by(jobs.c.sequence, jobs.c.id)
        .limit(at_most(POSITION_LIMIT + 1))
        .subquery()
    )
    count = connection.scalar(select(func.count()).select_from(ahead)) or 0
    return count if count <= POSITION_LIMIT else None


def serving_workers(connection: Connection) -> list[Row[Any]]:
    """The workers that have been seen lately."""
    return list(
        connection.execute(select(workers).where(workers.c.last_seen > moment(-LIVE_SECONDS)))
    )


def delete_job(connection: Connection, owner: str, job_id: UUID) -> bool:
    """Delete a job in any state; the sweep removes its image once nothing else uses it.

    Raises:
        ProblemError: `part_of_ingestion`: it is deleted only with that.
    """
    this = jobs.c.id == job_id, owned(owner)
    token = connection.execute(
        delete(jobs).where(*this, jobs.c.ingestion.is_(None)).returning(jobs.c.claim_token)
    ).first()
    if token is None:
        ingestion = connection.scalar(select(jobs.c.ingestion).where(*this))
        if ingestion is not None:
            raise ProblemError(
                "part_of_ingestion",
                f"The job belongs to the ingestion {ingestion}, and is deleted only with it.",
            )
    elif token.claim_token is not None:
        transitions.drop_idle_claim(connection, token.claim_token)
    return token is not None

"""How much waits and is worked on, for limits and the status page: by index, and to a limit."""

from collections import Counter
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Select, func, select, text, tuple_

from shared.database import at_most, milliseconds_between, moment
from shared.jobs.flows import QUEUED
from shared.jobs.transitions import CLAIMABLE
from shared.tables import jobs, lanes, model_versions

MOST_COUNTED = 10_000  # in one queue; beyond, it is "more than"

_PARKED = text("jobs.status = 'queued' AND jobs.not_before IS NOT NULL")
_CLAIMED = text("jobs.claim_token IS NOT NULL")


@dataclass(frozen=True)
class Waiting:
    """What waits for one version in one lane, parked jobs aside.

    Attributes:
        version: None for a model that is not installed yet.
        count: At most one more than `MOST_COUNTED`.
        oldest_seconds: Age of the oldest among those.
    """

    version_id: int
    model: str
    version: str | None
    lane: str
    count: int
    oldest_seconds: float


def read_waiting(connection: Connection) -> list[Waiting]:
    """What may be claimed now, for each version and lane that has any."""
    version = model_versions.c
    probe = _queue_of(lanes.c.model_version, lanes.c.lane, most=1).scalar_subquery()
    queues = connection.execute(
        select(version.id, version.model, version.version, lanes.c.lane)
        .join_from(lanes, model_versions, version.id == lanes.c.model_version)
        .where(probe.is_not(None))
        .order_by(version.model, version.id, lanes.c.lane)
    ).all()
    found = []
    for id_, model, name, lane in queues:
        counted = _count_and_age(connection, id_, lane)
        if counted is not None:
            found.append(Waiting(id_, model, name, lane, *counted))
    return found


def count_parked(connection: Connection) -> int:
    """Jobs whose image could not be read just now; at most one more than `MOST_COUNTED`."""
    parked = select(jobs.c.id).where(_PARKED).order_by(jobs.c.not_before)
    return _count(connection, parked.limit(at_most(MOST_COUNTED + 1)))


def count_running(connection: Connection) -> int:
    """Jobs that workers hold; at most one more than `MOST_COUNTED`."""
    running = select(jobs.c.id).where(_CLAIMED).order_by(jobs.c.claim_token)
    return _count(connection, running.limit(at_most(MOST_COUNTED + 1)))


def count_by_owner(connection: Connection, *, most: int) -> Counter[tuple[str, str]]:
    """Queued jobs by lane and owner, parked ones too; those of ingestions aside.

    Args:
        connection: Any.
        most: How far the jobs of one flow and version are counted.
    """
    counted: Counter[tuple[str, str]] = Counter()
    # From flow to flow by the index `jobs_flow`, whatever lies between.
    flow = tuple_(jobs.c.model_version, jobs.c.pinned, jobs.c.lane, jobs.c.flow)
    heads = (
        select(jobs.c.model_version, jobs.c.pinned, jobs.c.lane, jobs.c.flow, jobs.c.ingestion)
        .where(QUEUED)
        .order_by(*flow.clauses, jobs.c.sequence, jobs.c.id)
        .limit(at_most(1))
    )
    head = connection.execute(heads).first()
    while head is not None:
        *this, ingestion = head
        if ingestion is None:
            waiting = (
                select(jobs.c.id)
                .where(
                    QUEUED,
                    *(column == value for column, value in zip(flow.clauses, this, strict=True)),
                )
                .order_by(jobs.c.sequence, jobs.c.id)
                .limit(at_most(most))
            )
            counted[head.lane, head.flow] += _count(connection, waiting)
        head = connection.execute(heads.where(flow > tuple_(*this))).first()
    return counted


def _count_and_age(connection: Connection, version_id: int, lane: str) -> tuple[int, float] | None:
    """The jobs of one queue, and the age of the oldest in seconds; None if there is none any more.

    Ids sort by their time of birth. A flow's oldest job is its first, and the flows' first ones are
    near the head: the oldest of all is among those that are counted.
    """
    queue = _queue_of(version_id, lane, most=MOST_COUNTED + 1).subquery()
    oldest = (
        select(queue.c.id, func.count().over().label("waiting"))
        .order_by(queue.c.id)
        .limit(at_most(1))
        .subquery()
    )
    age_ms = milliseconds_between(jobs.c.created_at, moment())
    row = connection.execute(
        select(oldest.c.waiting, age_ms).join_from(oldest, jobs, jobs.c.id == oldest.c.id)
    ).first()
    return None if row is None else (row[0], row[1] / 1000)


def _queue_of(
    version_id: ColumnElement[int] | int, lane: ColumnElement[str] | str, *, most: int
) -> Select[tuple[UUID]]:
    return (
        select(jobs.c.id)
        .where(CLAIMABLE, jobs.c.model_version == version_id, jobs.c.lane == lane)
        .order_by(jobs.c.sequence, jobs.c.id)
        .limit(at_most(most))
    )


def _count(connection: Connection, limited: Select[tuple[UUID]]) -> int:
    return connection.scalar(select(func.count()).select_from(limited.subquery())) or 0

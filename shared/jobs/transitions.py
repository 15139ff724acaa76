"""The transition table: every statement that sets `jobs.status` is in this module.

Each function runs inside a transaction of its caller. Whatever ends a claim clears the token, so
that a late writer, whose statement is fenced on the token, changes nothing.

    queued  → running     claim
    queued  → succeeded   (born so) insert, where a result was there
    queued  → canceled    cancel, cancel_some
    queued  → expired     end_overdue, never attempted
    queued  → failed      end_overdue after an attempt; end_removed; end_unserved
    running → succeeded   succeed
    running → failed      fail; requeue_lapsed, after the third lapse on trial
    running → canceled    cancel, cancel_some, cancel_claimed
    running → queued      give_back, park, requeue_lapsed

Each that ends jobs of an ingestion counts them for it, in the same transaction.
"""

from collections.abc import Sequence
from math import isfinite
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Connection,
    Row,
    Select,
    and_,
    case,
    delete,
    func,
    insert,
    literal_column,
    or_,
    select,
    text,
    update,
)

from shared.database import at_most, moment, stamp
from shared.ingestions import counts
from shared.jobs.flows import FLOW_ORDER, QUEUED, flow_tail, queued_of
from shared.tables import claims, jobs, lanes, model_versions, models

# A literal, as in `QUEUED`.
CLAIMABLE = text("jobs.status = 'queued' AND jobs.not_before IS NULL")
_LIVE = text("jobs.status IN ('queued', 'running')")

LAPSES_TO_FAIL = 3
STEP_ROWS = 1000  # no transaction changes more rows than this
_PARK_LONGEST_SECONDS = 300.0
_PARK_DOUBLINGS = 10  # more would pass the longest anyway, and overflow in the end

_UNCLAIMED = {"claim_token": None}
LANE_CLOCK = (
    select(lanes.c.clock)
    .where(lanes.c.model_version == jobs.c.model_version, lanes.c.lane == jobs.c.lane)
    .scalar_subquery()
)


def suspicion(*, guilty: bool) -> dict[str, Any]:
    """How a new job begins: of an image found guilty before as a suspect, and one lapse is enough.

    Args:
        guilty: Whether a job of its image has failed with `worker_lost` under its version.
    """
    return {"suspect": guilty, "lapses": LAPSES_TO_FAIL - 1 if guilty else 0}


def insert_job(connection: Connection, values: dict[str, Any], *, result_found: bool) -> None:
    """A job is born: `queued`, or `succeeded` when its image already has a result."""
    connection.execute(insert(jobs).values(**values, **_born(connection, result_found)))


def insert_jobs(connection: Connection, rows: Sequence[dict[str, Any]], *, found: set[str]) -> None:
    """Jobs of an ingestion are born, at most 1,000; those whose image is in `found` succeeded."""
    for result_found in (False, True):
        group = [row for row in rows if (row["image"] in found) == result_found]
        if group:
            connection.execute(insert(jobs).values(**_born(connection, result_found)), group)
        if result_found:
            counts.add(connection, [(row["ingestion"], "succeeded") for row in group])


def _born(connection: Connection, result_found: bool) -> dict[str, Any]:
    if not result_found:
        return {"status": "queued", "created_at": stamp()}
    now = connection.scalar(select(stamp()))  # once: it took no time
    return {"status": "succeeded", "reused": True, "created_at": now, "finished_at": now}


def claimable(version_id: int, lane: str, *, most_lapses: int, from_clock: bool) -> list[Any]:
    """The conditions of a job that may be claimed now.

    With `from_clock` only from the lane's clock on, past the dead entries at the index's head.
    """
    conditions: list[Any] = [
        CLAIMABLE,
        jobs.c.model_version == version_id,
        jobs.c.lane == lane,
        jobs.c.lapses <= at_most(most_lapses),
        # An overdue job is left for `end_overdue`, which knows what becomes of it.
        or_(jobs.c.deadline_at.is_(None), jobs.c.deadline_at > moment()),
    ]
    if from_clock:
        clock = select(lanes.c.clock).where(
            lanes.c.model_version == version_id, lanes.c.lane == lane
        )
        conditions.append(jobs.c.sequence >= clock.scalar_subquery())
    return conditions


def claim(
    connection: Connection,
    *,
    version_id: int,
    lane: str,
    limit: int,
    most_lapses: int,
    from_clock: bool,
    token: UUID,
) -> Sequence[Row[Any]]:
    """Take up to `limit` jobs in order of their sequence; the rows say what the worker needs.

    What lies below the clock (a late commit, a tie) is met by a claim without `from_clock`.
    """
    picked = (
        select(jobs.c.id)
        .where(*claimable(version_id, lane, most_lapses=most_lapses, from_clock=from_clock))
        .order_by(jobs.c.sequence, jobs.c.id)
        .limit(at_most(limit))
        .with_for_update(skip_locked=True)
        .cte("picked")
        .prefix_with("MATERIALIZED")
    )
    statement = (
        update(jobs)
        .where(jobs.c.id == picked.c.id)
        .values(
            status="running",
            claim_token=token,
            attempt=jobs.c.attempt + 1,
            started_at=stamp(),
        )
        .returning(
            jobs.c.id,
            jobs.c.image,
            jobs.c.sequence,
            jobs.c.suspect,
            jobs.c.lapses,
            jobs.c.request_id,
            jobs.c.ingestion,
        )
    )
    return connection.execute(statement).all()


def succeed(
    connection: Connection,
    token: UUID,
    ids: Sequence[UUID],
    *,
    decode_ms: float,
    inference_ms: float,
) -> set[UUID]:
    """End the jobs that the claim still holds; their ids come back."""
    return _fenced(
        connection,
        token,
        ids,
        {
            "status": "succeeded",
            "finished_at": stamp(),
            "decode_ms": decode_ms,
            "inference_ms": inference_ms,
        },
    )


def fail(
    connection: Connection, token: UUID, ids: Sequence[UUID], *, code: str, detail: str
) -> set[UUID]:
    """End the jobs that the claim still holds with an error of `CODES`."""
    return _fenced(connection, token, ids, _failed(code, detail))


def give_back(connection: Connection, token: UUID, ids: Sequence[UUID]) -> set[UUID]:
    """Return jobs that were not worked on; the attempt is not counted."""
    return _fenced(
        connection,
        token,
        ids,
        {"status": "queued", "attempt": jobs.c.attempt - 1, "sequence": LANE_CLOCK},
    )


def give_claim_back(connection: Connection, token: UUID) -> None:
    """Return whatever a claim still holds, and end it; its owner, who asks, works on none of it."""
    held = connection.scalars(select(jobs.c.id).where(jobs.c.claim_token == token)).all()
    give_back(connection, token, held)
    drop_idle_claim(connection, token)


def park(
    connection: Connection, token: UUID, ids: Sequence[UUID], *, unreachable_hours: float
) -> set[UUID]:
    """Keep jobs whose image could not be read, for reasons unknown, out of the claims a while.

    They go to their flow's tail, 1 s at first, doubling to 5 min; the attempt is not counted.
    One that was parked first `unreachable_hours` ago fails; with infinity none does.
    """
    if not ids:
        return set()
    failed: set[UUID] = set()
    if isfinite(unreachable_hours):
        failed = _fenced(
            connection,
            token,
            ids,
            _failed("image_unreachable", f"Not readable for {unreachable_hours:g} hours."),
            jobs.c.parked_at < moment(-unreachable_hours * 3600),
        )
    tail = jobs.alias("tail")
    behind = flow_tail(
        tail,
        text("tail.status = 'queued'"),
        tail.c.model_version == jobs.c.model_version,
        tail.c.lane == jobs.c.lane,
        tail.c.flow == jobs.c.flow,
    )
    parked: set[UUID] = set()
    for seconds, group in _by_pause(connection, token, ids).items():
        parked |= _fenced(
            connection,
            token,
            group,
            {
                "status": "queued",
                "attempt": jobs.c.attempt - 1,
                "sequence": func.coalesce(behind, jobs.c.sequence),
                "parks": jobs.c.parks + 1,
                "parked_at": func.coalesce(jobs.c.parked_at, stamp()),
                "not_before": stamp(seconds),
            },
        )
    return failed | parked


def cancel(connection: Connection, job_id: UUID) -> bool:
    """End a queued or running job at once; False when it had ended already."""
    row = connection.execute(
        select(jobs.c.claim_token, jobs.c.ingestion)
        .where(jobs.c.id == job_id, _LIVE)
        .with_for_update()
    ).first()
    if row is None:
        return False
    connection.execute(update(jobs).where(jobs.c.id == job_id, _LIVE).values(_canceled()))
    counts.add(connection, [(row.ingestion, "canceled")])
    if row.claim_token is not None:
        drop_idle_claim(connection, row.claim_token)
    return True


def cancel_some(connection: Connection, chosen: Select[tuple[UUID]]) -> int:
    """End up to 1,000 of the chosen queued or running jobs; the number of them comes back."""
    rows = connection.execute(
        select(jobs.c.id, jobs.c.claim_token)
        .where(jobs.c.id.in_(chosen.limit(at_most(STEP_ROWS))), _LIVE)
        .order_by(jobs.c.id)
        .with_for_update(skip_locked=True)
    ).all()
    if not rows:
        return 0
    ended = connection.execute(
        update(jobs)
        .where(jobs.c.id.in_([row.id for row in rows]), _LIVE)
        .values(_canceled())
        .returning(jobs.c.ingestion, jobs.c.status)
    ).all()
    _count(connection, ended)
    for token in sorted({row.claim_token for row in rows if row.claim_token}):
        drop_idle_claim(connection, token)
    return len(ended)


def cancel_claimed(connection: Connection, token: UUID, ids: Sequence[UUID]) -> set[UUID]:
    """End jobs that a claim has just taken, of an ingestion that was stopped."""
    return _fenced(connection, token, ids, _canceled())


def requeue_lapsed(connection: Connection, token: UUID, *, wait: bool = False) -> int:
    """Give the jobs of a lapsed claim back as suspects, and end the claim.

    Only the job that was on trial has the lapse counted against it; the third makes it fail. The
    lease is looked at again under the row's lock: its worker may have renewed it meanwhile.

    Unless told to wait, it leaves a claim with a job that is locked for the next round: its worker
    may have vanished in the middle of recording it, and all other claims would wait, too.
    """
    lapsed = connection.execute(
        select(claims.c.trial)
        .where(claims.c.token == token, claims.c.lease_until < moment())
        .with_for_update(skip_locked=True)
    ).first()
    if lapsed is None:
        return 0
    held = jobs.c.claim_token == token
    ids = connection.scalars(
        select(jobs.c.id).where(held).order_by(jobs.c.id).with_for_update(skip_locked=not wait)
    ).all()
    if (
        len(ids)
        < connection.execute(select(func.count()).select_from(jobs).where(held)).scalar_one()
    ):
        return 0
    on_trial = jobs.c.id == lapsed.trial if lapsed.trial is not None else literal_column("1 = 0")
    guilty = and_(on_trial, jobs.c.lapses >= LAPSES_TO_FAIL - 1)
    changed = connection.execute(
        update(jobs)
        .where(held)
        .values(
            status=case((guilty, "failed"), else_="queued"),
            finished_at=case((guilty, stamp()), else_=None),
            error_code=case((guilty, "worker_lost"), else_=None),
            error_detail=case(
                (guilty, "Its worker process ended each time it worked on this image alone."),
                else_=None,
            ),
            lapses=jobs.c.lapses + case((on_trial, 1), else_=0),
            suspect=True,
            sequence=LANE_CLOCK,
            **_UNCLAIMED,
        )
        .returning(jobs.c.ingestion, jobs.c.status)
    ).all()
    _count(connection, changed)
    connection.execute(delete(claims).where(claims.c.token == token))
    return len(ids)


def end_overdue(connection: Connection) -> int:
    """End queued jobs past their deadline: `expired`, or `failed` if there was an attempt."""
    tried = jobs.c.attempt > 0
    return _end_queued(
        connection,
        select(jobs.c.id)
        .where(QUEUED, jobs.c.deadline_at <= moment())
        .order_by(jobs.c.deadline_at),
        {
            "status": case((tried, "failed"), else_="expired"),
            "finished_at": stamp(),
            "error_code": "deadline_passed",
            "error_detail": case(
                (tried, "The deadline passed before another attempt."),
                else_="The deadline passed before the job's turn came.",
            ),
        },
    )


def end_removed(connection: Connection) -> int:
    """Fail queued jobs of a removed version that are pinned, or whose model has no other.

    A version at a time: one statement for all would read every queued job in search of them.
    """
    removed = connection.execute(
        select(model_versions.c.id, models.c.current_version)
        .join_from(model_versions, models, models.c.name == model_versions.c.model)
        .where(model_versions.c.removed_at.is_not(None))
    ).all()
    for row in removed:
        for pinned in (True, False) if row.current_version is None else (True,):
            ended = _end_queued(
                connection,
                select(jobs.c.id).where(queued_of(row.id, pinned=pinned)).order_by(*FLOW_ORDER),
                _failed("model_unavailable", "The model version was removed."),
            )
            if ended:
                return ended  # one step of at most 1,000; the next round goes on
    return 0


def end_unserved(connection: Connection, version_id: int, lane: str, hours: float) -> int:
    """Fail the lane's jobs that have waited so long; called while no worker serves the version.

    Looked for at the head of the queue, where the oldest are: the next step sees what was behind.
    """
    head = (
        select(jobs.c.id)
        .where(CLAIMABLE, jobs.c.model_version == version_id, jobs.c.lane == lane)
        .order_by(jobs.c.sequence, jobs.c.id)
        .limit(at_most(STEP_ROWS))
    )
    waited = jobs.c.created_at < moment(-hours * 3600)
    return _end_queued(
        connection,
        select(jobs.c.id).where(jobs.c.id.in_(head), waited),
        _failed("model_unavailable", f"No worker has served its model version for {hours:g} h."),
    )


def drop_idle_claim(connection: Connection, token: UUID) -> None:
    """Delete the claim if no job is left in it."""
    held = select(jobs.c.id).where(jobs.c.claim_token == token)
    connection.execute(delete(claims).where(claims.c.token == token, ~held.exists()))


def _failed(code: str, detail: str) -> dict[str, Any]:
    return {
        "status": "failed",
        "finished_at": stamp(),
        "error_code": code,
        "error_detail": detail,
    }


def _canceled() -> dict[str, Any]:
    return {"status": "canceled", "finished_at": stamp(), **_UNCLAIMED}


def _count(connection: Connection, changed: Sequence[Row[Any]]) -> None:
    """Count those of the changed jobs that have ended."""
    counts.add(connection, [(row.ingestion, row.status) for row in changed])


def _fenced(
    connection: Connection,
    token: UUID,
    ids: Sequence[UUID],
    values: dict[str, Any],
    *more: Any,
) -> set[UUID]:
    """Change the jobs among `ids` that the claim still holds, locked in the order of their ids."""
    if not ids:
        return set()
    mine = (
        select(jobs.c.id)
        .where(jobs.c.id.in_(ids), jobs.c.claim_token == token, *more)
        .order_by(jobs.c.id)
        .with_for_update()
        .cte("mine")
        .prefix_with("MATERIALIZED")
    )
    statement = (
        update(jobs)
        .where(jobs.c.id == mine.c.id)  # locked, with the token: nobody changes them meanwhile
        .values(values | _UNCLAIMED)
        .returning(jobs.c.id, jobs.c.ingestion, jobs.c.status)
    )
    changed = connection.execute(statement).all()
    _count(connection, changed)
    return {row.id for row in changed}


def _by_pause(connection: Connection, token: UUID, ids: Sequence[UUID]) -> dict[float, list[UUID]]:
    """The claim's jobs by how long they are to be parked, in seconds."""
    rows = connection.execute(
        select(jobs.c.id, jobs.c.parks).where(jobs.c.id.in_(ids), jobs.c.claim_token == token)
    )
    groups: dict[float, list[UUID]] = {}
    for row in rows:
        pause = min(2.0 ** min(row.parks, _PARK_DOUBLINGS), _PARK_LONGEST_SECONDS)
        groups.setdefault(pause, []).append(row.id)
    return groups


def _end_queued(connection: Connection, chosen: Select[tuple[UUID]], values: dict[str, Any]) -> int:
    """End up to 1,000 of the chosen queued jobs; one that somebody else holds is left to it.

    They come in the order of an index: by id, PostgreSQL may read the whole table in search of
    them. Who skips what others hold needs no common order of locking.
    """
    ids = connection.scalars(
        chosen.limit(at_most(STEP_ROWS)).with_for_update(skip_locked=True, of=jobs)
    ).all()
    if ids:
        ended = connection.execute(
            update(jobs)
            .where(jobs.c.id.in_(ids), QUEUED)
            .values(**values)
            .returning(jobs.c.ingestion, jobs.c.status)
        ).all()
        _count(connection, ended)
    return len(ids)

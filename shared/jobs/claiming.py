"""Taking a batch of queued jobs, renewing the claim, and ending it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import Connection, func, insert, select, update

from shared.database import Database, moment, new_id, stamp
from shared.jobs import transitions
from shared.tables import claims, images, jobs, lanes

_LOOK_BELOW_SECONDS = 2.0  # at the latest so often, a claim looks below the clock too
_CLOCK_SECONDS = 1.0  # at most so often, a full claim writes the clock


@dataclass(frozen=True)
class ClaimedJob:
    """One job of a batch, with what is needed to work on it."""

    id: UUID
    image: str
    object: str | None
    suspect: bool
    lapses: int
    request_id: str | None


@dataclass(frozen=True)
class Claim:
    """Jobs taken together, of one version and one lane, in the order of their sequence."""

    token: UUID
    version_id: int
    lane: str
    jobs: tuple[ClaimedJob, ...]


@dataclass
class LaneCursor:
    """What one loop remembers of one version's lane between two claims."""

    short: bool = True
    looked_below_at: float = field(default=float("-inf"))
    clock_written_at: float = field(default=float("-inf"))


def claim_batch(
    database: Database,
    cursor: LaneCursor,
    *,
    version_id: int,
    lane: str,
    limit: int,
    worker: UUID,
    lease_seconds: float,
    only_full: bool = False,
) -> Claim | None:
    """Take up to `limit` queued jobs in one short transaction, or None if none waits.

    With `only_full`, also None while fewer than `limit` wait.
    """
    if only_full and not _fills(database, version_id, lane, limit):
        return None
    now = time.monotonic()
    from_clock = not cursor.short and now - cursor.looked_below_at < _LOOK_BELOW_SECONDS
    token = new_id()

    def take(connection: Connection) -> tuple[list[ClaimedJob], int]:
        picked = sorted(
            transitions.claim(
                connection,
                version_id=version_id,
                lane=lane,
                limit=limit,
                from_clock=from_clock,
                token=token,
            ),
            key=lambda row: (row.sequence, row.id),
        )
        if not picked:
            return [], 0
        connection.execute(
            insert(claims).values(
                token=token, worker=worker, lease_until=stamp(lease_seconds), trial=None
            )
        )
        found = connection.execute(
            select(images.c.sha256, images.c.object).where(
                images.c.sha256.in_({row.image for row in picked})
            )
        )
        objects = {row.sha256: row.object for row in found}
        taken = [
            ClaimedJob(
                row.id, row.image, objects[row.image], row.suspect, row.lapses, row.request_id
            )
            for row in picked
        ]
        return taken, picked[-1].sequence

    taken, highest = database.transact(take)
    cursor.short = len(taken) < limit
    if not from_clock:
        cursor.looked_below_at = now
    if taken and (cursor.short or now - cursor.clock_written_at > _CLOCK_SECONDS):
        cursor.clock_written_at = now
        _advance_clock(database, version_id, lane, highest)
    return Claim(token, version_id, lane, tuple(taken)) if taken else None


def renew(database: Database, tokens: Sequence[UUID], *, lease_seconds: float) -> None:
    """Hold these claims for another lease; one that has been ended stays ended."""
    if tokens:
        database.transact(
            lambda connection: connection.execute(
                update(claims)
                .where(claims.c.token.in_(sorted(tokens)))
                .values(lease_until=stamp(lease_seconds))
            )
        )


def note_trial(database: Database, token: UUID, job_id: UUID) -> bool:
    """Note, before a suspect is touched, that it is on trial; False if the claim lost it."""
    still_held = select(jobs.c.id).where(jobs.c.id == job_id, jobs.c.claim_token == token).exists()

    def note(connection: Connection) -> bool:
        changed = connection.execute(
            update(claims)
            .where(claims.c.token == token, still_held)
            .values(trial=job_id)
            .returning(claims.c.token)
        )
        return changed.first() is not None

    return database.transact(note)


def end_trial(database: Database, token: UUID) -> None:
    """The suspect was recorded, and the process lives: what comes is no longer its doing."""
    database.transact(
        lambda connection: connection.execute(
            update(claims).where(claims.c.token == token).values(trial=None)
        )
    )


def end_leases(connection: Connection, workers: Sequence[UUID]) -> None:
    """Say that the claims of these workers, whose processes have ended, are over now."""
    connection.execute(
        update(claims).where(claims.c.worker.in_(workers)).values(lease_until=stamp(-1))
    )


def lapsed_claims(database: Database) -> Sequence[UUID]:
    """Tokens of the claims whose lease is over, oldest first."""
    with database.read() as connection:
        return connection.scalars(
            select(claims.c.token)
            .where(claims.c.lease_until < moment())
            .order_by(claims.c.lease_until)
            .limit(transitions.STEP_ROWS)
        ).all()


def _fills(database: Database, version_id: int, lane: str, limit: int) -> bool:
    waiting = (
        select(jobs.c.id)
        .where(transitions.CLAIMABLE, jobs.c.model_version == version_id, jobs.c.lane == lane)
        .limit(limit)
        .subquery()
    )
    with database.read() as connection:
        return connection.scalar(select(func.count()).select_from(waiting)) == limit


def _advance_clock(database: Database, version_id: int, lane: str, sequence: int) -> None:
    """The clock never goes back; in a transaction of its own, since every loop writes this row."""
    database.transact(
        lambda connection: connection.execute(
            update(lanes)
            .where(
                lanes.c.model_version == version_id,
                lanes.c.lane == lane,
                lanes.c.clock < sequence,
            )
            .values(clock=sequence)
        )
    )
